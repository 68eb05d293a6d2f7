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
from nodewise_simulator.compiled.room import take_room
from nodewise_simulator.world import QUANTUM_S


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
    for j in range(count):
        slot_f[kn.LEFT, row, j] -= passed_s * slot_f[kn.SPEED, row, j]
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
    tree: Ints, row: int, now_s: float, credit: bool,
) -> None:  # fmt: skip
    """New speeds after the set of pods on a node changed, and when the next of them ends."""
    number[kn.COUNTER] += 1
    node_i[kn.FORESEEN, row], node_i[kn.CHANGED, row] = number[kn.COUNTER], 1
    count, next_s = node_i[kn.COUNT, row], np.inf
    requested, room = node[kn.CPU_ASKED, row], max(node[kn.CPU_HAS, row], 1.0)
    for j in range(count):
        pressure = (requested - slot_f[kn.OWN_CPU, row, j]) / room
        speed = 1.0 / (1.0 + slot_f[kn.OWN_SENSITIVITY, row, j] * pressure)
        slot_f[kn.SPEED, row, j] = speed
        next_s = min(next_s, slot_f[kn.LEFT, row, j] / speed)
    if credit:
        _worth(pod_f, node_f, slot_i, slot_f, count, pod, row, now_s)
    if count > 0:
        next_s = now_s + max(math.ceil(next_s / QUANTUM_S - 1e-9), 1) * QUANTUM_S
    node[kn.NEXT_END, row] = next_s
    ends.moved(tree, node, node_i, row)


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
    pod_f: Floats, pod_i: Ints, node: Floats, node_i: Ints, resident: Floats, totals: Floats, p: int, row: int,
    sign: float,
) -> None:  # fmt: skip
    """What is requested on a node and by whom, after a pod came (1) or left (-1).

    Requests are whole numbers below 2^53, whose sum is the same in any order; delay rates are added in order of uid.
    """
    node[kn.CPU_ASKED, row] += sign * pod_f[p, kn.CPU]
    node[kn.CPU_NZ_ASKED, row] += sign * pod_f[p, kn.CPU_NZ]
    node[kn.MEM_ASKED, row] += sign * pod_f[p, kn.MEM]
    node[kn.MEM_NZ_ASKED, row] += sign * pod_f[p, kn.MEM_NZ]
    node[kn.GPU_ASKED, row] += sign * pod_f[p, kn.GPU]
    node[kn.BY_SLA + pod_i[p, kn.SLA], row] += sign
    node[kn.PRESSURE, row] = node[kn.CPU_ASKED, row] / max(node[kn.CPU_HAS, row], 1.0)
    totals[3] += sign * pod_f[p, kn.CPU]
    totals[4] += sign * pod_f[p, kn.MEM]
    totals[5] += sign * pod_f[p, kn.GPU]
    rate = 0.0
    for j in range(node_i[kn.COUNT, row]):
        rate += resident[row, j, kn.OF_RATE]
    node[kn.RATE, row] = rate


@jit
def start(
    pod_f: Floats, pod_i: Ints, true_s: Floats, node_f: Floats, contention: float, node: Floats, node_i: Ints,
    slot_i: Ints, slot_f: Floats, pod: Floats, pod_node: Ints, number: Ints, resident: Floats, tree: Ints,
    totals: Floats, p: int, row: int, now_s: float, credit: bool,
) -> None:  # fmt: skip
    """Put a pod on a node, where it starts at once."""
    take_room(pod_f, node, row, p, -1.0)
    pod_node[p] = row
    pod[p, kn.BOUND_S] = pod[p, kn.STARTED_S] = now_s
    pod[p, kn.SLOWDOWN] = 1.0 + contention * node[kn.PRESSURE, row]
    last = node_i[kn.COUNT, row]
    _advance(pod_f, node, slot_i, slot_f, last, pod, row, now_s, credit)
    slot_i[kn.RUNNING, row, last] = p
    slot_f[kn.LEFT, row, last] = true_s[p, node_i[kn.CLASS, row]]
    slot_f[kn.OWN_CPU, row, last], slot_f[kn.OWN_SENSITIVITY, row, last] = pod_f[p, kn.CPU], pod_f[p, kn.SENSITIVITY]
    at = last
    while at > 0 and pod_i[slot_i[kn.RESIDENT, row, at - 1], kn.RANK] > pod_i[p, kn.RANK]:
        slot_i[kn.RESIDENT, row, at] = slot_i[kn.RESIDENT, row, at - 1]
        for k in range(8):
            resident[row, at, k] = resident[row, at - 1, k]
        at -= 1
    slot_i[kn.RESIDENT, row, at] = p
    dk.put(pod_f, pod_i, pod, resident, p, row, at)
    node_i[kn.COUNT, row] = last + 1
    _recount(pod_f, pod_i, node, node_i, resident, totals, p, row, 1.0)
    _reschedule(pod_f, node_f, node, node_i, slot_i, slot_f, pod, number, tree, row, now_s, credit)


@jit
def end(
    pod_f: Floats, pod_i: Ints, node_f: Floats, node: Floats, node_i: Ints, slot_i: Ints, slot_f: Floats, pod: Floats,
    number: Ints, resident: Floats, tree: Ints, totals: Floats, ended: Ints, row: int, now_s: float, credit: bool,
) -> Any:  # fmt: skip
    """Take the pods that are done now from a node; writes which they are to `ended`, in order of start: how many."""
    before, over, kept = node_i[kn.COUNT, row], 0, 0
    _advance(pod_f, node, slot_i, slot_f, before, pod, row, now_s, credit)
    for j in range(before):
        p = slot_i[kn.RUNNING, row, j]
        if slot_f[kn.LEFT, row, j] <= 1e-9 * max(1.0, now_s):
            pod[p, kn.FINISHED_S] = now_s
            take_room(pod_f, node, row, p, 1.0)
            _leave(slot_i, resident, before - over, row, p)
            ended[over] = p
            over += 1
        else:
            if over > 0:
                slot_i[kn.RUNNING, row, kept] = p
                for k in range(5):
                    slot_f[k, row, kept] = slot_f[k, row, j]
            kept += 1
    node_i[kn.COUNT, row] = kept
    for k in range(over):
        _recount(pod_f, pod_i, node, node_i, resident, totals, ended[k], row, -1.0)
    _reschedule(pod_f, node_f, node, node_i, slot_i, slot_f, pod, number, tree, row, now_s, credit)
    return over


@inlined
def _leave(slot_i: Ints, resident: Floats, residents: int, row: int, p: int) -> None:
    """Take a pod out of the residents of a node, of which there are that many."""
    at = 0
    while slot_i[kn.RESIDENT, row, at] != p:
        at += 1
    for j in range(at, residents - 1):
        slot_i[kn.RESIDENT, row, j] = slot_i[kn.RESIDENT, row, j + 1]
        for k in range(8):
            resident[row, j, k] = resident[row, j + 1, k]
