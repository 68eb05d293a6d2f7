"""The compiled engine's loop for all that a world may have: as `nodewise_simulator.engine.loop`, over flat arrays.

`loop.py` does the same, several times faster, for worlds in which every pod that is bound works at once and ends there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise_simulator.compiled import agenda, changes, cycle, ends, instant, machine, queue
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.fuse import Kernel, borrowed, jit, spliced
from nodewise_simulator.compiled.whole import gathered
from nodewise_simulator.engine.loop import FRUITLESS

PAUSE = -2
"""As the row of a node: nobody has decided yet."""


def played(choose: Kernel, deferral: tuple[Kernel, Kernel, Kernel]) -> Kernel:
    """`play(flat, state, policy, wide, books, held, learns)`: plays on until all is over, or a decision is wanted.

    `choose(flat, state, desk, policy, p, now_s, ok, fifo)` gives the row of the node for pod `p` among the rows that
    are `ok` [N], of which there are at least two, or `PAUSE`. `deferral` is the extender's filter with the books of
    `nodewise.policies.waiting` in `held`: `queued(flat, state, desk, held, p, now_s)` when a pod is created,
    `ask(flat, state, desk, held, p, now_s, ok, m)`, which takes marks off `ok` and gives (how many are left, when the
    pod asks again), and `gone(flat, state, desk, held, p)` when it has a node. Books.no[ENDED] says why play ended;
    after `wide.PAUSED` it goes on with the very question, after `wide.FULL` with books that have grown.
    """
    queued_up, ask, gone = deferral

    @jit
    def on(flat: Any, state: Any, desk: Any, policy: Any, held: Any, learns: bool, h: Any) -> None:
        flat, state, desk = borrowed(flat), borrowed(state), borrowed(desk)
        policy, held = borrowed(policy), borrowed(held)
        pod_f, pod_i, _, node_f, _, masks, settings, described, _ = flat
        node, node_i, _, _, pod, _, _, queued, number = state[:9]
        cells, row_factor, col_factor, row_var, col_var = state[9:]
        _, tree, _, in_row, in_column, _, ended, _ = desk[:8]
        ok = h.ok
        if number[kn.STALE]:
            for v in range(len(in_row)):
                in_row[v] = True
        no, size, clock, fifo, changing = h.no, h.size, h.clock, h.flags[wd.FIFO], h.flags[wd.CHANGES]
        sizes, at_s, event = h.sizes, h.at_s, h.event
        margin = 8 * (len(pod_f) + len(node_f)) + 1024
        while True:
            p = no[wd.CURRENT]
            if p >= 0:
                number[kn.START] = no[wd.START_WAS]
                no[wd.CYCLES] -= 1
            else:
                if max(size[agenda.IN_HEAP], no[wd.LOST], no[wd.UPS]) + margin > len(at_s):
                    no[wd.ENDED] = wd.FULL
                    return
                now_s = instant.following(h)
                if now_s == np.inf or no[wd.FRUITLESS] >= FRUITLESS:
                    instant.close(h)
                    no[wd.ENDED] = wd.OVER
                    return
                clock[wd.NOW] = now_s
                no[wd.FRUITLESS] = 0 if instant.at_work(h) else no[wd.FRUITLESS] + 1
                while node[kn.NEXT_END, tree[ends.FIRST]] == now_s:
                    row = tree[ends.FIRST]
                    over = instant.end(h, row, now_s)
                    for k in range(over):
                        p = ended[k]
                        if learns and pod_i[p, kn.TEACHES]:
                            v, c = pod_i[p, kn.WORKLOAD], node_i[kn.CLASS, row]
                            run_s = (now_s - pod[p, kn.STARTED_S]) / pod_f[p, kn.SCALE]
                            bl.observe(
                                settings, described, cells, row_factor, col_factor, row_var, col_var,
                                v, c, run_s, pod[p, kn.SLOWDOWN],
                            )  # fmt: skip
                            in_row[v] = in_column[c] = True
                            number[kn.STALE] = 1
                arrived = 0
                while (
                    no[wd.NEXT_ARRIVAL] < len(h.arrivals)
                    and pod_f[h.arrivals[no[wd.NEXT_ARRIVAL]], kn.CREATED] == now_s
                ):
                    h.arrived[arrived] = h.arrivals[no[wd.NEXT_ARRIVAL]]
                    no[wd.NEXT_ARRIVAL] += 1
                    arrived += 1
                arrived, tick = instant.other_events(h, now_s, arrived)
                for k in range(arrived):
                    instant.arrive(h, h.arrived[k], now_s)
                    queued_up(flat, state, desk, held, h.arrived[k], now_s)
                if h.times[wd.TICK_S] > 0.0:
                    if arrived > 0 or sizes[queue.WAITING] > 0:
                        tick = instant.ticks(h, now_s, tick)
                    if tick:
                        for row in range(len(node_f)):
                            changes.freed(h, row)
                p = -1
                no[wd.ANY_BOUND] = 0
                if tick or h.times[wd.TICK_S] == 0.0:
                    instant.wake(h, now_s)
                    p = queue.pop(h, now_s)
            now_s = clock[wd.NOW]
            while p >= 0:
                no[wd.CURRENT], no[wd.START_WAS] = p, number[kn.START]
                no[wd.CYCLES] += 1
                row, patched_s, is_held = -1, np.inf, False
                if fifo or changing or no[wd.SHARING]:
                    m = instant.sample(h, p)
                else:  # nothing but room is asked for
                    m, _, _ = cycle.window(pod_f, node, masks[pod_i[p, kn.MASK]], number, p, ok)
                if m > 0:
                    m, patched_s = ask(flat, state, desk, held, p, now_s, ok, m)
                    is_held = m == 0
                if m == 1:  # a single feasible node is taken without asking
                    row = 0
                    while not ok[row]:
                        row += 1
                elif m > 1:
                    row = choose(flat, state, desk, policy, p, now_s, ok, fifo)
                    if row == PAUSE:
                        no[wd.ENDED] = wd.PAUSED
                        return
                if row < 0:
                    no[wd.HELD] += is_held
                    queue.refused(h, p, now_s, is_held, machine.later(patched_s))
                else:
                    queue.placed(h, p)
                    instant.bind(h, p, row, now_s)
                    queued[pod_i[p, kn.SLA]] -= 1.0
                    gone(flat, state, desk, held, p)
                    queue.wake_held(h, now_s, False)
                no[wd.CURRENT] = -1
                p = queue.pop(h, now_s)
            if no[wd.ANY_BOUND]:
                no[wd.FRUITLESS] = 0
            if no[wd.SCAN_DUE]:
                no[wd.SCAN_DUE] = 0
                changes.scan(h, now_s)
                if instant.at_work(h):
                    agenda.push(at_s, event, size, now_s + h.times[wd.SCAN_S], agenda.SCAN, 0, 0, 0)

    @spliced
    def play(flat: Any, state: Any, policy: Any, w: Any, b: Any, held: Any, learns: bool) -> None:
        pod_f, pod_i = flat[:2]
        node, node_i, slot_i, _, pod = state[:5]
        desk = dk.laid(pod_f, pod_i, node, node_i, slot_i, pod, state[9].shape[1], state[9].shape[2])
        # Borrowed, for `on` is given it once more: until it returns nothing of the desk is freed.
        h = gathered(flat, state, borrowed(desk), np.zeros(node.shape[1], np.bool_), w, b)
        on(flat, state, desk, policy, held, learns, h)

    return play
