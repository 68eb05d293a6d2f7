"""What happens on a node: pods start, slow each other, and end; as `nodewise_simulator.engine`, over flat arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import ends
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.credit import worth_of_a_second
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit
from nodewise_simulator.world import QUANTUM_S

Order = tuple[Ints, Floats, Floats, Ints, Ints]
"""What of `desk.Desk` is for here: its fields from `rank` on."""


@inlined
def _advance(
    pod_f: Floats, node: Floats, slot_i: Ints, slot_f: Floats, count: int, pod: Floats, row: int, now_s: float,
    credit: bool,
) -> None:  # fmt: skip
    """Let what runs on a node run until now, and charge each pod with what it did to the others meanwhile.

    Without pod i, pod j of sensitivity s beside the share P would have gained s × (share of i) ÷ (1 + s × P) of the
    time that passed; HARM adds up what that was worth to all j, in cents.
    """
    passed_s = now_s - node[kn.UPDATED, row]
    node[kn.UPDATED, row] = now_s
    left_s, speed = slot_f[kn.LEFT, row], slot_f[kn.SPEED, row]  # as arrays of their own, they are taken four at a time
    for j in range(np.uint64(count)):
        left_s[j] -= passed_s * speed[j]
    if credit:
        hurt = 0.0
        for j in range(count):
            hurt += slot_f[kn.HURT, row, j]
        room = max(node[kn.CPU_HAS, row], 1.0)
        for j in range(count):
            p = slot_i[kn.RUNNING, row, j]
            pod[p, kn.HARM] += passed_s * (pod_f[p, kn.CPU] / room) * (hurt - slot_f[kn.HURT, row, j])


@inlined
def _reschedule(
    pod_f: Floats, node_f: Floats, node: Floats, node_i: Ints, slot_i: Ints, slot_f: Floats, pod: Floats, number: Ints,
    order: Order, tree: Ints, row: int, now_s: float, credit: bool,
) -> None:  # fmt: skip
    """New speeds after the set of pods on a node changed, and when the next of them ends."""
    _, _, needs_s, soonest, changed = order
    number[kn.COUNTER] += 1
    node_i[kn.FORESEEN, row] = number[kn.COUNTER]
    changed[changed[-1]] = row
    changed[-1] += 1 - node_i[kn.CHANGED, row]
    node_i[kn.CHANGED, row] = 1
    count = np.uint64(node_i[kn.COUNT, row])
    requested, room = node[kn.CPU_ASKED, row], max(node[kn.CPU_HAS, row], 1.0)
    left_s, speed = slot_f[kn.LEFT, row], slot_f[kn.SPEED, row]
    own_cpu, sensitivity = slot_f[kn.OWN_CPU, row], slot_f[kn.OWN_SENSITIVITY, row]
    for j in range(count):
        speed[j] = 1.0 / (1.0 + sensitivity[j] * ((requested - own_cpu[j]) / room))
    for j in range(count):
        needs_s[j] = left_s[j] / speed[j]
    next_s = _least(needs_s, count)
    if credit:
        _worth(pod_f, node_f, slot_i, slot_f, node_i[kn.COUNT, row], pod, row, now_s)
    if count > 0:
        first = np.uint64(0)
        while needs_s[first] != next_s:
            first += np.uint64(1)
        soonest[row] = slot_i[kn.RUNNING, row, first]
        next_s = now_s + max(math.ceil(next_s / QUANTUM_S - 1e-9), 1) * QUANTUM_S
    node[kn.NEXT_END, row] = next_s
    ends.moved(tree, node, node_i, np.int64(row))


@inlined
def _least(values: Floats, count: Any) -> Any:
    """The least of so many values; four chains of comparisons side by side."""
    a = b = c = d = np.inf
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    whole = count // four * four
    for j in range(np.uint64(0), whole, four):
        a, b = min(a, values[j]), min(b, values[j + one])
        c, d = min(c, values[j + two]), min(d, values[j + three])
    for j in range(whole, count):
        a = min(a, values[j])
    return min(a, b, c, d)


@jit
def _worth(
    pod_f: Floats, node_f: Floats, slot_i: Ints, slot_f: Floats, count: int, pod: Floats, row: int, now_s: float
) -> None:
    """What a second that a neighbour takes from each of a node's pods is worth."""
    for j in range(count):
        p, speed = slot_i[kn.RUNNING, row, j], slot_f[kn.SPEED, row, j]
        worth = worth_of_a_second(pod_f, node_f, pod, p, row, now_s, slot_f[kn.LEFT, row, j] / speed)
        slot_f[kn.HURT, row, j] = worth * pod_f[p, kn.SENSITIVITY] * speed


@inlined
def _recount(
    pod_f: Floats, pod_i: Ints, node: Floats, node_i: Ints, rate: Floats, totals: Floats, p: int, row: int, sign: float
) -> None:
    """What is requested on a node and by whom, after a pod came (1) or left (-1).

    Requests are whole numbers below 2^53, whose sum is the same in any order; delay rates are added in order of uid.
    """
    cpu, mem, gpu = sign * pod_f[p, kn.CPU], sign * pod_f[p, kn.MEM], sign * pod_f[p, kn.GPU]
    node[kn.FREE, row] -= cpu
    node[kn.FREE + 1, row] -= mem
    node[kn.FREE + 2, row] -= gpu
    node[kn.FREE + 3, row] -= sign
    node[kn.CPU_ASKED, row] += cpu
    node[kn.CPU_NZ_ASKED, row] += sign * pod_f[p, kn.CPU_NZ]
    node[kn.MEM_ASKED, row] += mem
    node[kn.MEM_NZ_ASKED, row] += sign * pod_f[p, kn.MEM_NZ]
    node[kn.GPU_ASKED, row] += gpu
    node[kn.BY_SLA + pod_i[p, kn.SLA], row] += sign
    node[kn.PRESSURE, row] = node[kn.CPU_ASKED, row] / max(node[kn.CPU_HAS, row], 1.0)
    totals[3] += cpu
    totals[4] += mem
    totals[5] += gpu
    of_all = 0.0
    for j in range(node_i[kn.COUNT, row]):
        of_all += rate[row, j]
    node[kn.RATE, row] = of_all


@inlined
def start(
    pod_f: Floats, pod_i: Ints, true_s: Floats, node_f: Floats, contention: float, node: Floats, node_i: Ints,
    slot_i: Ints, slot_f: Floats, pod: Floats, pod_node: Ints, number: Ints, resident: Floats,
    order: Order, tree: Ints, totals: Floats, p: Any, row: Any, now_s: float, credit: bool, looked_at: bool,
) -> None:  # fmt: skip
    """Put a pod on a node, where it starts at once. `looked_at`: `resident` is kept up."""
    row, p = np.uint64(row), np.uint64(p)  # which cannot be negative
    rank, rate, _, _, _ = order
    pod_node[p] = row
    pod[p, kn.BOUND_S] = pod[p, kn.STARTED_S] = now_s
    pod[p, kn.SLOWDOWN] = 1.0 + contention * node[kn.PRESSURE, row]
    last = node_i[kn.COUNT, row]
    _advance(pod_f, node, slot_i, slot_f, last, pod, row, now_s, credit)
    slot_i[kn.RUNNING, row, last] = p
    slot_f[kn.LEFT, row, last] = true_s[p, node_i[kn.CLASS, row]]
    slot_f[kn.OWN_CPU, row, last], slot_f[kn.OWN_SENSITIVITY, row, last] = pod_f[p, kn.CPU], pod_f[p, kn.SENSITIVITY]
    at, own = last, pod_i[p, kn.RANK]
    while at > 0 and rank[row, at - 1] > own:
        rank[row, at], rate[row, at] = rank[row, at - 1], rate[row, at - 1]
        slot_i[kn.RESIDENT, row, at] = slot_i[kn.RESIDENT, row, at - 1]
        at -= 1
    rank[row, at], rate[row, at] = own, pod_f[p, kn.DELAY]
    slot_i[kn.RESIDENT, row, at] = p
    if looked_at:
        for j in range(last, at, -1):
            for k in range(8):
                resident[row, j, k] = resident[row, j - 1, k]
        dk.put(pod_f, pod_i, pod, resident, p, row, at)
    node_i[kn.COUNT, row] = last + 1
    _recount(pod_f, pod_i, node, node_i, rate, totals, p, row, 1.0)
    _reschedule(pod_f, node_f, node, node_i, slot_i, slot_f, pod, number, order, tree, row, now_s, credit)


@inlined
def end(
    pod_f: Floats, pod_i: Ints, node_f: Floats, node: Floats, node_i: Ints, slot_i: Ints, slot_f: Floats, pod: Floats,
    number: Ints, resident: Floats, order: Order, tree: Ints, totals: Floats, ended: Ints, row: Any, now_s: float,
    credit: bool, looked_at: bool,
) -> Any:  # fmt: skip
    """Take the pods that are done now from a node; writes which they are to `ended`, in order of start: how many."""
    row = np.uint64(row)  # which cannot be negative
    rank, rate, _, _, _ = order
    count, over, j = node_i[kn.COUNT, row], 0, 0
    _advance(pod_f, node, slot_i, slot_f, count, pod, row, now_s, credit)
    done_s = 1e-9 * max(1.0, now_s)
    while j < count:
        if slot_f[kn.LEFT, row, j] > done_s:
            j += 1
            continue
        p = np.uint64(slot_i[kn.RUNNING, row, j])
        pod[p, kn.FINISHED_S] = now_s
        ended[over] = p
        over += 1
        count -= 1
        at, own = 0, pod_i[p, kn.RANK]
        while rank[row, at] != own:
            at += 1
        _close(rank[row], at, count)
        _close(rate[row], at, count)
        _close(slot_i[kn.RESIDENT, row], at, count)
        _close(slot_i[kn.RUNNING, row], j, count)
        for k in (kn.LEFT, kn.OWN_CPU, kn.OWN_SENSITIVITY):  # what else there is of it is made anew below
            _close(slot_f[k, row], j, count)
        if looked_at:
            for k in range(at, count):
                for field in range(8):
                    resident[row, k, field] = resident[row, k + 1, field]
    node_i[kn.COUNT, row] = count
    for k in range(over):
        _recount(pod_f, pod_i, node, node_i, rate, totals, np.uint64(ended[k]), row, -1.0)
    _reschedule(pod_f, node_f, node, node_i, slot_i, slot_f, pod, number, order, tree, row, now_s, credit)
    return over


@inlined
def _close(values: Any, at: int, count: int) -> None:
    """Close the gap at this place, behind which there were others up to `count`."""
    for k in range(np.uint64(at), np.uint64(count)):
        values[k] = values[k + np.uint64(1)]
