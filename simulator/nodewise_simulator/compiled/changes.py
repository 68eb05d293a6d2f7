"""Nodes that join, leave, fail, come back and are drained, the autoscaler, and pods that are lost by it.

As `nodewise_simulator.engine.changes` and `.autoscaler`, over flat arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.compiled import agenda, machine, queue
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import jit
from nodewise_simulator.physics import Change

_ADD, _REMOVE, _FAIL, _RESTORE, _CORDON, _UNCORDON, _DRAIN = (list(Change).index(c) for c in Change)


@jit
def later(h: Any, at_s: float, what: int, who: int, which: int) -> None:
    """Have something done to a node or a pod later."""
    agenda.push(h.at_s, h.event, h.size, at_s, agenda.CHANGE, who, which, what)


@jit
def freed(h: Any, row: int) -> None:
    """A node has more room, or takes pods again."""
    if not h.is_freed[row]:
        h.is_freed[row] = True
        h.freed[h.no[wd.FREED]] = row
        h.no[wd.FREED] += 1


@jit
def reschedule(h: Any, row: int, now_s: float) -> None:
    machine.reschedule(
        h.pod_f, h.more_f, h.node, h.node_i, h.slot_i, h.slot_f, h.machine_i, h.fate, h.number, h.tree, row, now_s
    )


@jit
def stopped(h: Any, p: int, now_s: float, evicted: bool) -> None:
    """Note, once, that a pod's work so far is lost."""
    fate, number, lost = h.fate, h.no, h.lost
    if fate[p, wd.LOST_LIFE] == fate[p, wd.LIFE]:
        return
    fate[p, wd.LOST_LIFE] = fate[p, wd.LIFE]
    k = number[wd.LOST]
    number[wd.LOST] += 1
    lost[k, 0], lost[k, 1], lost[k, 2] = p, h.pod_node[p], h.pod[p, kn.BOUND_S]
    lost[k, 3], lost[k, 4], lost[k, 5] = h.pod[p, kn.STARTED_S], now_s, evicted


@jit
def gone(h: Any, p: int, now_s: float, evicted: bool) -> None:
    """A pod left its node without success; its owner creates another after a back-off."""
    row, times = h.pod_node[p], h.times
    if machine.stop(h.node, h.slot_i, h.slot_f, h.machine_i, h.fate, p, row, now_s):
        reschedule(h, row, now_s)
    stopped(h, p, now_s, evicted)
    machine.leave(
        h.pod_f, h.pod_i, h.node, h.node_i, h.slot_i, h.resident, h.totals, h.flags[wd.FIFO], p, row
    )  # fmt: skip
    machine.give_devices(h.device, h.more_f, h.fate, p, row)
    h.fate[p, wd.TERMINATING] = 0
    h.fate[p, wd.DOWN_FOR] = h.more_i[p, wd.BUDGET]
    freed(h, row)
    delay_s = min(times[wd.BACKOFF] * 2.0 ** min(h.fate[p, wd.LIFE] - 1, 60), times[wd.MAX_BACKOFF])
    h.fate[p, wd.LIFE] += 1
    h.pod_node[p] = -1
    h.pod[p, kn.BOUND_S] = h.pod[p, kn.STARTED_S] = np.nan
    # A ReplicaSet replaces what it lost at once.
    back_s = machine.later(now_s + (delay_s if h.pod_i[p, kn.ENDS] else 0.0))
    agenda.push(h.at_s, h.event, h.size, back_s, agenda.ARRIVAL, p, 0, 0)


@jit
def _residents(h: Any, row: int, out: Ints) -> Any:
    """The pods on a node in the order in which they were bound, into `out`; how many."""
    count = h.node_i[kn.COUNT, row]
    for k in range(count):
        p, at = h.slot_i[kn.RESIDENT, row, k], k
        while at > 0 and h.fate[out[at - 1], wd.TURN] > h.fate[p, wd.TURN]:
            out[at] = out[at - 1]
            at -= 1
        out[at] = p
    return count


@jit
def _lose_all(h: Any, row: int, now_s: float) -> None:
    here = np.empty(h.slot_i.shape[2], np.int64)
    for k in range(_residents(h, row, here)):
        gone(h, here[k], now_s, False)


@jit
def classes(h: Any) -> None:
    """Which classes the extender knows a node of, and what all its nodes offer."""
    h.present[:] = False
    h.totals[:3] = 0.0
    for row in range(h.node.shape[1]):
        if h.machine_i[row, wd.PRESENT]:
            h.present[h.node_i[kn.CLASS, row]] = True
            h.totals[0] += h.node[kn.CPU_HAS, row]
            h.totals[1] += h.node[kn.MEM_HAS, row]
            h.totals[2] += h.node[kn.GPU_HAS, row]


@jit
def _add(h: Any, row: int, launched_s: float) -> None:
    m = h.machine_i
    m[row, wd.HAPPENED] += 1
    m[row, wd.UP] = m[row, wd.PRESENT] = 1
    m[row, wd.CORDONED] = m[row, wd.RUNS] = 0
    h.node[kn.UPDATED, row] = 0.0
    h.images[row] = np.nan
    h.machine_f[row, wd.SINCE] = launched_s
    classes(h)
    freed(h, row)


@jit
def _remove(h: Any, row: int, now_s: float) -> None:
    h.machine_i[row, wd.UP] = h.machine_i[row, wd.PRESENT] = 0
    _lose_all(h, row, now_s)
    classes(h)
    k = h.no[wd.UPS]
    h.no[wd.UPS] += 1
    h.up[k, 0], h.up[k, 1], h.up[k, 2] = row, h.machine_f[row, wd.SINCE], now_s
    h.machine_f[row, wd.SINCE] = np.nan


@jit
def _cordon(h: Any, row: int) -> None:
    h.machine_i[row, wd.CORDONED] = 1
    h.no[wd.STIRRED] = 1


@jit
def _uncordon(h: Any, row: int) -> None:
    h.machine_i[row, wd.CORDONED] = 0
    freed(h, row)


@jit
def _fail(h: Any, row: int, now_s: float) -> None:
    if not h.machine_i[row, wd.UP]:
        return
    h.machine_i[row, wd.UP] = 0
    while h.machine_i[row, wd.RUNS] > 0:
        p = h.slot_i[kn.RUNNING, row, 0]
        machine.stop(h.node, h.slot_i, h.slot_f, h.machine_i, h.fate, p, row, now_s)
        stopped(h, p, now_s, False)
    reschedule(h, row, now_s)  # nothing ends there
    later(h, now_s + h.times[wd.DETECT], agenda.UNREACHABLE, row, h.machine_i[row, wd.HAPPENED])


@jit
def _drain(h: Any, row: int, now_s: float) -> None:
    """Ask every pod to go whose budget allows it, and again later if any is left."""
    left = False
    here = np.empty(h.slot_i.shape[2], np.int64)
    for k in range(_residents(h, row, here)):
        p = here[k]
        if h.fate[p, wd.TERMINATING]:
            continue
        budget = h.more_i[p, wd.BUDGET]
        if budget >= 0:
            down = 0
            for other in range(len(h.fate)):
                down += h.fate[other, wd.DOWN_FOR] == budget
            if down >= h.budget[budget]:
                left = True
                continue
        if machine.stop(h.node, h.slot_i, h.slot_f, h.machine_i, h.fate, p, row, now_s):
            reschedule(h, row, now_s)
        stopped(h, p, now_s, True)
        h.fate[p, wd.DOWN_FOR] = budget
        h.fate[p, wd.TERMINATING] = 1
        later(h, now_s + h.times[wd.GRACE], agenda.LEAVE, p, h.fate[p, wd.LIFE])
    if left:
        again_s = now_s + h.times[wd.DRAIN_RETRY]
        happened = h.machine_i[row, wd.HAPPENED]
        agenda.push(h.at_s, h.event, h.size, again_s, agenda.AGAIN, row, happened, agenda.DRAIN_AGAIN)


@jit
def apply(h: Any, change: int, row: int, now_s: float) -> None:
    """Let it happen; what is no change any more (a machine that is gone already fails) is passed over."""
    m = h.machine_i
    if m[row, wd.PRESENT] == (change == _ADD):
        return
    m[row, wd.HAPPENED] += 1
    if change == _ADD:
        _add(h, row, now_s)
    elif change == _REMOVE:
        _remove(h, row, now_s)
    elif change == _FAIL:
        _fail(h, row, now_s)
    elif change == _RESTORE:
        if not m[row, wd.UP]:
            m[row, wd.UP] = 1
            _lose_all(h, row, now_s)
            _uncordon(h, row)
    elif change == _CORDON:
        _cordon(h, row)
    elif change == _UNCORDON:
        _uncordon(h, row)
    elif change == _DRAIN:
        _cordon(h, row)
        _drain(h, row, now_s)


@jit
def planned(h: Any, what: int, who: int, which: int, now_s: float) -> None:
    """What was foreseen when a node failed or was drained, a pod evicted, or a machine launched."""
    if what == agenda.LEAVE:
        if h.fate[who, wd.TERMINATING] and h.fate[who, wd.LIFE] == which:
            gone(h, who, now_s, True)
    elif what == agenda.JOINED:
        h.machine_i[who, wd.BOOTING] = 0
        h.clock[wd.ADDED] = now_s
        if not h.machine_i[who, wd.PRESENT]:
            _add(h, who, h.machine_f[who, wd.LAUNCHED])
    elif h.machine_i[who, wd.HAPPENED] == which:
        if what == agenda.UNREACHABLE:
            _cordon(h, who)
            later(h, now_s + h.times[wd.EVICT], agenda.DELETED, who, which)
        elif what == agenda.DELETED:
            _lose_all(h, who, now_s)
        else:
            _drain(h, who, now_s)


@jit
def scan(h: Any, now_s: float) -> None:
    """One look of the autoscaler."""
    _grow(h, now_s)
    _shrink(h, now_s)


@jit
def _grow(h: Any, now_s: float) -> None:
    pool, n = h.pool, len(h.pool)
    order, free = np.empty(n, np.int64), np.empty((n, 4))  # machines that boot, the oldest launch first
    booting = 0
    for k in range(n):
        if h.machine_i[pool[k], wd.BOOTING]:
            at = booting
            while at > 0 and h.machine_i[order[at - 1], wd.BOOTING] > h.machine_i[pool[k], wd.BOOTING]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = pool[k]
            booting += 1
    for k in range(booting):
        free[k] = h.node_f[order[k], :4]
    waiting = np.empty(len(h.q_i), np.int64)
    found = 0
    for p in range(len(h.q_i)):  # who waits, was tried and is not held; in order of coming
        if h.pod_node[p] < 0 and h.q_i[p, queue.WAITS] and h.q_i[p, queue.TRIES] > 0 and not h.q_i[p, queue.HELD]:
            at = found
            while at > 0 and h.q_i[waiting[at - 1], queue.CAME] > h.q_i[p, queue.CAME]:
                waiting[at] = waiting[at - 1]
                at -= 1
            waiting[at] = p
            found += 1
    for i in range(found):
        p, at = waiting[i], -1
        for k in range(booting):
            if _hosts(h, p, order[k], free[k]):
                at = k
                break
        if at < 0:
            for k in range(n):
                row = pool[k]
                idle = not h.machine_i[row, wd.BOOTING] and not h.machine_i[row, wd.PRESENT]
                if idle and _hosts(h, p, row, h.node_f[row, :4]):
                    at = booting
                    order[at], free[at] = row, h.node_f[row, :4]
                    booting += 1
                    h.no[wd.LAUNCHES] += 1
                    h.machine_i[row, wd.BOOTING] = h.no[wd.LAUNCHES]
                    h.machine_f[row, wd.LAUNCHED] = now_s
                    later(h, now_s + h.times[wd.BOOT], agenda.JOINED, row, 0)
                    break
        if at >= 0:
            free[at, 0] -= h.pod_f[p, kn.CPU]
            free[at, 1] -= h.pod_f[p, kn.MEM]
            free[at, 2] -= h.pod_f[p, kn.GPU]
            free[at, 3] -= 1.0


@jit
def _hosts(h: Any, p: int, row: int, free: Floats) -> Any:
    """Whether a node would take the pod if it had `free` [4] left, be it there or not."""
    cpu, mem, gpu = h.pod_f[p, kn.CPU], h.pod_f[p, kn.MEM], h.pod_f[p, kn.GPU]
    fits = (free[0] >= cpu or cpu == 0.0) and (free[1] >= mem or mem == 0.0) and (free[2] >= gpu or gpu == 0.0)
    return h.masks[h.pod_i[p, kn.MASK], row] and fits and free[3] >= 1.0


@jit
def _shrink(h: Any, now_s: float) -> None:
    times = h.times
    for row in h.pool:
        if not h.machine_i[row, wd.PRESENT] or h.node_i[kn.COUNT, row] > 0:
            h.machine_f[row, wd.IDLE_SINCE] = np.nan
            continue
        if np.isnan(h.machine_f[row, wd.IDLE_SINCE]):
            h.machine_f[row, wd.IDLE_SINCE] = now_s
        idle_s = now_s - h.machine_f[row, wd.IDLE_SINCE]
        if idle_s >= times[wd.UNNEEDED] and now_s - h.clock[wd.ADDED] >= times[wd.AFTER_ADD]:
            h.machine_f[row, wd.IDLE_SINCE] = np.nan
            apply(h, _REMOVE, row, now_s)
