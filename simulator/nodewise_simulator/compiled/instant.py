"""Everything that happens at one instant but scheduling, and what becomes of a pod that is bound.

As `nodewise_simulator.engine.loop`, over flat arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nodewise_simulator.compiled import agenda, changes, cycle, ends, machine, queue
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.fuse import jit
from nodewise_simulator.compiled.room import fits

Learn = tuple[Any, ...]


@jit
def following(h: Any) -> Any:
    """When something happens next; inf if nothing does."""
    no = h.no
    next_s = h.node[kn.NEXT_END, h.tree[ends.FIRST]]
    if no[wd.NEXT_ARRIVAL] < len(h.arrivals):
        next_s = min(next_s, h.pod_f[h.arrivals[no[wd.NEXT_ARRIVAL]], kn.CREATED])
    if no[wd.NEXT_CHANGE] < len(h.change_s):
        next_s = min(next_s, h.change_s[no[wd.NEXT_CHANGE]])
    if h.size[agenda.IN_HEAP] > 0:
        next_s = min(next_s, h.at_s[0])
    return next_s


@jit
def at_work(h: Any) -> Any:
    """Whether anything but timers, scans and ticks is still to come."""
    no = h.no
    to_come = no[wd.NEXT_ARRIVAL] < len(h.arrivals) or no[wd.NEXT_CHANGE] < len(h.change_s)
    return to_come or h.size[agenda.WORK] > 0 or h.node[kn.NEXT_END, h.tree[ends.FIRST]] < np.inf


@jit
def other_events(h: Any, now_s: float, arrived: int) -> Any:
    """Changes of nodes, containers that start and timers of this instant: (pods that arrived, whether a tick came)."""
    no, tick, timed = h.no, False, False
    while no[wd.NEXT_CHANGE] < len(h.change_s) and h.change_s[no[wd.NEXT_CHANGE]] == now_s:
        k = no[wd.NEXT_CHANGE]
        no[wd.NEXT_CHANGE] = k + 1
        changes.apply(h, h.change[k, 0], h.change[k, 1], now_s)
    while h.size[agenda.IN_HEAP] > 0 and h.at_s[0] == now_s:
        kind, who, which, what = agenda.pop(h.at_s, h.event, h.size)
        if kind in (agenda.CHANGE, agenda.AGAIN):
            changes.planned(h, what, who, which, now_s)
        elif kind == agenda.BEGIN:
            row = h.pod_node[who]
            alive = h.fate[who, wd.LIFE] == which and row >= 0 and not h.fate[who, wd.TERMINATING]
            if alive and h.machine_i[row, wd.UP]:
                _work(h, who, row, now_s)
        elif kind == agenda.ARRIVAL:
            h.arrived[arrived] = who
            arrived += 1
        elif kind == agenda.TIMER:
            if not timed:  # once is for all that are to be woken now
                queue.timed(h, now_s)
            timed = True
        elif kind == agenda.SCAN:
            no[wd.SCAN_DUE] = 1
        else:
            tick = True
    return arrived, tick


@jit
def arrive(h: Any, p: int, now_s: float) -> None:
    """A pod is created, for the first time or again."""
    life = h.fate[p, wd.LIFE]
    if life > 1 or h.pod_f[p, kn.CREATED] != now_s:
        h.pod_f[p, kn.CREATED], h.pod_f[p, kn.DEADLINE] = now_s, now_s + h.more_f[p, wd.DEADLINE_AFTER]
        if life == 1:
            h.own_s[p, 0], h.own_s[p, 1] = now_s, h.pod_f[p, kn.DEADLINE]
        else:
            h.pod_i[p, kn.CRC] = _crc(h.more_i[p, wd.FIRST_CRC], life)
            first = h.pod_i[p, kn.RANK] // (wd.LIVES + 1) * (wd.LIVES + 1)
            h.pod_i[p, kn.RANK] = first + 1 + h.life_rank[min(life, wd.LIVES - 1)]
    queue.add(h, p, now_s)
    h.queued[h.pod_i[p, kn.SLA]] += 1.0


@jit
def _crc(first: int, life: int) -> Any:
    """zlib.crc32 continued over "-" and the number of the life."""
    c, digits, left = (first ^ 0xFFFFFFFF) & 0xFFFFFFFF, 0, life
    while left > 0:
        digits, left = digits + 1, left // 10
    for k in range(digits + 1):
        c ^= 45 if k == 0 else 48 + life // 10 ** (digits - k) % 10
        for _ in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
    return c ^ 0xFFFFFFFF


@jit
def ticks(h: Any, now_s: float, due: bool) -> Any:
    """Whether pods are placed now; sees to it that the next multiple of the tick comes."""
    step = h.times[wd.TICK_S]
    next_s = (math.floor(now_s / step) + 1.0) * step
    if next_s > h.clock[wd.NEXT_TICK]:
        h.clock[wd.NEXT_TICK] = next_s
        agenda.push(h.at_s, h.event, h.size, next_s, agenda.TICK, 0, 0, 0)
    return due or now_s % step == 0.0


@jit
def wake(h: Any, now_s: float) -> None:
    """Wake who may hope, after what happened."""
    no = h.no
    if no[wd.FREED] > 0:
        queue.wake_held(h, now_s, True)
        hinted = h.retry[queue.AT_ONCE] > 0.0 and h.retry[queue.BY_CREATION] > 0.0
        for k in range(h.sizes[queue.UNFIT] - 1, -1, -1):
            p = h.lists[queue.UNFIT, k]
            hope = not hinted
            for i in range(no[wd.FREED]):
                if hope:
                    break
                hope = passes(h, p, h.freed[i])
            if hope:
                queue.wake(h, p, now_s, True)
    elif no[wd.STIRRED]:
        queue.wake_held(h, now_s, True)
    for i in range(no[wd.FREED]):
        h.is_freed[h.freed[i]] = False
    no[wd.FREED] = no[wd.STIRRED] = 0


@jit
def passes(h: Any, p: int, row: int) -> Any:
    """Whether a node passes every filter."""
    if not h.masks[h.pod_i[p, kn.MASK], row] or h.machine_i[row, wd.CORDONED] or not h.machine_i[row, wd.PRESENT]:
        return False
    if not h.flags[wd.FIFO] and not fits(h.pod_f, h.node, row, p):
        return False
    shared = h.pod_f[p, kn.GPU] > 0.0 and h.no[wd.SHARING]
    return not shared or machine.has_device(h.device, h.more_f, h.more_i[p, wd.WANTS_WHOLE], p, row)


@jit
def sample(h: Any, p: int) -> Any:
    """Mark the feasible nodes that kube-scheduler scores, from a start that rotates; how many."""
    n, here, ok = 0, h.here, h.ok
    for row in range(len(ok)):
        ok[row] = False
        if h.machine_i[row, wd.PRESENT]:
            here[n] = row
            n += 1
    wanted = cycle.most_scored(n)
    start, found, last = h.number[kn.START], 0, 0
    for k in range(n):
        row = here[(start + k) % n]
        if passes(h, p, row):
            if found == wanted:
                h.number[kn.START] = (start + last + 1) % n
                break
            ok[row] = True
            found, last = found + 1, k
    return found


@jit
def bind(h: Any, p: int, row: int, now_s: float) -> None:
    """The pod gets its room and devices, and works as soon as it can."""
    no, fifo = h.no, h.flags[wd.FIFO]
    machine.settle(
        h.pod_f, h.pod_i, h.settings[kn.CONTENTION], h.node, h.node_i, h.slot_i, h.pod, h.pod_node, h.resident,
        h.totals, fifo, p, row, now_s,
    )  # fmt: skip
    no[wd.BOUND] += 1
    no[wd.ANY_BOUND] = 1
    h.fate[p, wd.TURN] = no[wd.BOUND]
    if h.pod_f[p, kn.GPU] > 0.0:
        machine.take_devices(h.device, h.more_f, h.more_i[p, wd.WANTS_WHOLE], h.fate, p, row)
        if h.more_f[p, wd.SHARE] > 0.0:
            no[wd.SHARING] = 1
    if fifo and h.machine_i[row, wd.RUNS] > 0:
        last = h.machine_i[row, wd.LAST]
        h.fate[p, wd.BEHIND] = -1
        if h.machine_i[row, wd.FIRST] < 0:
            h.machine_i[row, wd.FIRST] = p
        else:
            h.fate[last, wd.BEHIND] = p
        h.machine_i[row, wd.LAST] = p
        return
    ready_s = _ready_s(h, p, row, now_s)
    if ready_s <= now_s and h.machine_i[row, wd.UP]:
        _work(h, p, row, now_s)
    elif h.machine_i[row, wd.UP]:
        agenda.push(h.at_s, h.event, h.size, ready_s, agenda.BEGIN, p, h.fate[p, wd.LIFE], 0)


@jit
def _ready_s(h: Any, p: int, row: int, now_s: float) -> Any:
    """When the image is there, the container has started and what the parents left has come over."""
    ready_s, image = now_s, h.more_i[p, wd.IMAGE]
    if image >= 0:
        if np.isnan(h.images[row, image]):
            h.images[row, image] = now_s + h.more_f[p, wd.PULL]
        ready_s = max(now_s, h.images[row, image])
    longest_s = 0.0
    for k in range(h.parent_from[p], h.parent_from[p + 1]):
        parent = h.parents[k]
        source = h.pod_node[parent]
        if source != row:
            near = h.zone[source] == h.zone[row]
            latency_s, speed = (
                h.times[wd.LATENCY if near else wd.ZONE_LATENCY],
                h.times[wd.SPEED if near else wd.ZONE_SPEED],
            )
            longest_s = max(longest_s, latency_s + h.more_f[parent, wd.OUTPUT] / speed)
    ready_s += h.more_f[p, wd.START] + longest_s
    return machine.later(ready_s) if ready_s > now_s else now_s


@jit
def _work(h: Any, p: int, row: int, now_s: float) -> None:
    """A resident begins to work."""
    c = h.node_i[kn.CLASS, row]
    run_s = h.true_s[p, c]
    for k in range(len(h.drift)):
        if now_s >= h.drift[k, 0] and h.drift_class[k, c] and h.drift_pod[k, p]:
            run_s *= h.drift[k, 1]
    machine.begin(h.node, h.slot_i, h.slot_f, h.machine_i, h.pod, h.resident, h.fate, p, row, run_s, now_s)
    h.fate[p, wd.DOWN_FOR] = wd.NOT_DOWN
    changes.reschedule(h, row, now_s)


@jit
def end(h: Any, row: int, now_s: float) -> Any:
    """Take the pods that are done now from a node; writes which they are to `ended`, in order of start: how many."""
    fifo = h.flags[wd.FIFO]
    over = machine.over(h.node, h.slot_i, h.slot_f, h.machine_i, h.fate, h.ended, row, now_s)
    for k in range(over):
        p = h.ended[k]
        h.pod[p, kn.FINISHED_S] = now_s
        machine.leave(h.pod_f, h.pod_i, h.node, h.node_i, h.slot_i, h.resident, h.totals, fifo, p, row)
        machine.give_devices(h.device, h.more_f, h.fate, p, row)
        for j in range(h.child_from[p], h.child_from[p + 1]):
            child = h.children[j]
            h.fate[child, wd.PARENTS_LEFT] -= 1
            if h.fate[child, wd.PARENTS_LEFT] == 0:
                at_s = max(now_s, h.pod_f[child, kn.CREATED])
                agenda.push(h.at_s, h.event, h.size, at_s, agenda.ARRIVAL, child, 0, 0)
    changes.freed(h, row)
    first = h.machine_i[row, wd.FIRST]
    if first >= 0 and h.machine_i[row, wd.RUNS] == 0:
        h.machine_i[row, wd.FIRST] = h.fate[first, wd.BEHIND]
        _work(h, first, row, now_s)
    else:
        changes.reschedule(h, row, now_s)
    return over


@jit
def close(h: Any) -> None:
    """The run is over: nodes that are there cost until now."""
    no = h.no
    for row in range(len(h.machine_i)):
        if h.flags[wd.CHANGES] and h.machine_i[row, wd.PRESENT]:
            k = no[wd.UPS]
            no[wd.UPS] += 1
            h.up[k, 0], h.up[k, 1], h.up[k, 2] = row, h.machine_f[row, wd.SINCE], h.clock[wd.NOW]
