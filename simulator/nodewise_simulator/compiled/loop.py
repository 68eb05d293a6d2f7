"""The compiled engine's loop: `nodewise_simulator.engine`, for immediate binding, around any way to choose a node.

The reference engine is its oracle: tests play random worlds through both and find the same node for every pod.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import cycle, ends, nodes
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.fuse import Kernel, borrowed, fetch, inlined, jit, spliced


@inlined
def _foresee(pod_f: Any, pod_i: Any, pod: Any, slot_i: Any, slot_f: Any, order: Any, row: Any) -> None:
    """Fetch what the next end will look at: most of it was last used when that pod started. Lines are of 64 bytes."""
    rank, rate, _, soonest, _ = order
    row = np.uint64(row)
    p = np.uint64(soonest[row])
    for at in (0, 8):
        fetch(pod_f[p], at)
        fetch(pod_i[p], at)
        fetch(rank[row], at)
        fetch(rate[row], at)
        fetch(slot_i[kn.RUNNING, row], at)
        fetch(slot_i[kn.RESIDENT, row], at)
        for k in (kn.LEFT, kn.SPEED, kn.OWN_CPU, kn.OWN_SENSITIVITY):
            fetch(slot_f[k, row], at)
    fetch(pod[p], 0)


def looped(pick: Kernel, *, residents: bool = True, credit: bool = False) -> Kernel:
    """`play(flat, state, policy, record, until, learns)`: plays on until all is over, or the pods before
    `until` have arrived.

    `pick(flat, state, desk, policy, record, until, p, now_s)` gives the row of the node for pod `p`, or -1 if none is
    feasible; it may keep what it saw in `record`. `learns`: the estimator is told of every end. `credit`: what pods do
    to each other is added up.

    Without `residents` the pick never looks at who is on a node; nor does it if it does not learn.
    """

    @jit
    def on(flat: Any, state: Any, desk: Any, policy: Any, record: Any, until: int, learns: bool) -> None:
        flat, state, desk = borrowed(flat), borrowed(state), borrowed(desk)
        policy, record = borrowed(policy), borrowed(record)
        # Once: each look into a tuple of arrays is compiled to a copy of all of it.
        pod_f, pod_i, true_s, node_f, _, masks, settings, described, _ = flat
        node, node_i, slot_i, slot_f, pod, pod_node, pending, queued, number = state[:9]
        cells, row_factor, col_factor, row_var, col_var = state[9:]
        resident, tree, totals, in_row, in_column, _, ended, freed_rows = desk[:8]
        order = desk[8:]
        looked_at = residents and learns
        if number[kn.STALE]:
            for w in range(len(in_row)):
                in_row[w] = True
        pods = len(pod_f)
        while True:
            arrival_s = pod_f[number[kn.NEXT], kn.CREATED] if number[kn.NEXT] < pods else np.inf
            end_s = node[kn.NEXT_END, tree[ends.FIRST]]
            now_s = min(arrival_s, end_s)
            if now_s == np.inf or (arrival_s <= end_s and number[kn.NEXT] >= until):
                return
            freed = 0
            while node[kn.NEXT_END, tree[ends.FIRST]] == now_s:
                row = tree[ends.FIRST]
                freed_rows[freed] = row
                freed += 1
                over = nodes.end(
                    pod_f, pod_i, node_f, node, node_i, slot_i, slot_f, pod, number, resident, order, tree, totals,
                    ended, row, now_s, credit, looked_at,
                )  # fmt: skip
                _foresee(pod_f, pod_i, pod, slot_i, slot_f, order, tree[ends.FIRST])
                for k in range(over):
                    p = ended[k]
                    if learns and pod_i[p, kn.TEACHES]:
                        w, c = pod_i[p, kn.WORKLOAD], node_i[kn.CLASS, row]
                        run_s = (now_s - pod[p, kn.STARTED_S]) / pod_f[p, kn.SCALE]
                        bl.observe(
                            settings, described, cells, row_factor, col_factor, row_var, col_var,
                            w, c, run_s, pod[p, kn.SLOWDOWN],
                        )  # fmt: skip
                        in_row[w] = in_column[c] = True
                        number[kn.STALE] = 1
            fresh = number[kn.NEXT]
            while number[kn.NEXT] < pods and pod_f[number[kn.NEXT], kn.CREATED] == now_s:
                queued[pod_i[number[kn.NEXT], kn.SLA]] += 1.0
                cycle.enqueue(pod_i, pending, number)
            waiting, kept = number[kn.PENDING], 0
            number[kn.CYCLES] += number[kn.NEXT] - fresh
            if freed > 0:  # who is woken is settled before anybody is placed; some find the room taken
                for at in range(waiting):
                    p = pending[at]
                    if p < fresh:
                        number[kn.CYCLES] += cycle.could_fit(pod_f, pod_i, masks, node, freed_rows[:freed], p)
            for at in range(waiting):
                p = pending[at]
                row = -1
                if p >= fresh or (freed > 0 and cycle.could_fit(pod_f, pod_i, masks, node, freed_rows[:freed], p)):
                    pod[p, kn.HARM] = pod[p, kn.DISPLACED] = pod[p, kn.TAUGHT] = 0.0
                    pod[p, kn.ROOM_TAKEN_S] = -np.inf
                    row = pick(flat, state, desk, policy, record, until, p, now_s)
                if row < 0:
                    pending[kept] = p
                    kept += 1
                    continue
                nodes.start(
                    pod_f, pod_i, true_s, node_f, settings[kn.CONTENTION], node, node_i, slot_i, slot_f,
                    pod, pod_node, number, resident, order, tree, totals, p, row, now_s, credit, looked_at,
                )  # fmt: skip
                queued[pod_i[p, kn.SLA]] -= 1.0
                _foresee(pod_f, pod_i, pod, slot_i, slot_f, order, tree[ends.FIRST])
            number[kn.PENDING] = kept

    @spliced
    def play(flat: Any, state: Any, policy: Any, record: Any, until: int, learns: bool) -> None:
        pod_f, pod_i = flat[:2]
        node, node_i, slot_i, _, pod = state[:5]
        cells, looked_at = state[9], residents and learns
        desk = dk.laid(pod_f, pod_i, node, node_i, slot_i, pod, cells.shape[1], cells.shape[2], looked_at)
        on(flat, state, desk, policy, record, until, learns)

    return play
