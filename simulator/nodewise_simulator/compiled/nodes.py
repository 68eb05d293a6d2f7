"""What happens on a node: pods start, slow each other, and end; as `nodewise_simulator.engine`, over flat arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.credit import worth_of_a_second
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import jit
from nodewise_simulator.compiled.room import take_room
from nodewise_simulator.world import QUANTUM_S


@jit
def advance(
    pod_f: Floats, node_f: Floats, node: Floats, slot_i: Ints, slot_f: Floats, count: Ints, pod: Floats, row: int,
    now_s: float,
) -> None:  # fmt: skip
    """Let what runs on a node run until now, and charge each pod with what it did to the others meanwhile.

    Without pod i, pod j of sensitivity s beside the share P would have gained s × (share of i) ÷ (1 + s × P) of the
    time that passed; HARM adds up what that was worth to all j, in cents.
    """
    passed_s = now_s - node[row, kn.UPDATED]
    hurt = 0.0
    for j in range(count[row]):
        slot_f[kn.LEFT, row, j] -= passed_s * slot_f[kn.SPEED, row, j]
        hurt += slot_f[kn.HURT, row, j]
    room = max(node_f[row, kn.CPU_ROOM], 1.0)
    for j in range(count[row]):
        p = slot_i[kn.RUNNING, row, j]
        pod[p, kn.HARM] += passed_s * (pod_f[p, kn.CPU] / room) * (hurt - slot_f[kn.HURT, row, j])
    node[row, kn.UPDATED] = now_s


@jit
def reschedule(
    pod_f: Floats, node_f: Floats, node: Floats, slot_i: Ints, slot_f: Floats, count: Ints, counters: Ints, pod: Floats,
    number: Ints, row: int, now_s: float,
) -> None:  # fmt: skip
    """New speeds after the set of pods on a node changed, and when the next of them ends."""
    number[kn.COUNTER] += 1
    counters[row] = number[kn.COUNTER]
    if count[row] == 0:
        node[row, kn.NEXT_END] = np.inf
        return
    requested = 0.0
    for j in range(count[row]):
        requested += pod_f[slot_i[kn.RUNNING, row, j], kn.CPU]
    room = max(node_f[row, kn.CPU_ROOM], 1.0)
    next_s = np.inf
    for j in range(count[row]):
        p = slot_i[kn.RUNNING, row, j]
        speed = 1.0 / (1.0 + pod_f[p, kn.SENSITIVITY] * ((requested - pod_f[p, kn.CPU]) / room))
        slot_f[kn.SPEED, row, j] = speed
        left_s = slot_f[kn.LEFT, row, j] / speed
        next_s = min(next_s, left_s)
        worth = worth_of_a_second(pod_f, node_f, pod, p, row, now_s, left_s)
        slot_f[kn.HURT, row, j] = worth * pod_f[p, kn.SENSITIVITY] * speed
    ticks = max(math.ceil(next_s / QUANTUM_S - 1e-9), 1)
    node[row, kn.NEXT_END] = now_s + ticks * QUANTUM_S


@jit
def sum_residents(
    pod_f: Floats, pod_i: Ints, node_f: Floats, delay_rate: Floats, node: Floats, slot_i: Ints, count: Ints, row: int
) -> None:
    """What is requested on a node and by whom, added up in order of uid."""
    for k in range(kn.SUMS, kn.UPDATED):
        node[row, k] = 0.0
    for j in range(count[row]):
        p = slot_i[kn.RESIDENT, row, j]
        for k in range(5):
            node[row, kn.SUMS + k] += pod_f[p, kn.CPU + k]
        node[row, kn.RATE] += delay_rate[pod_i[p, kn.SLA]]
        node[row, kn.BY_SLA + pod_i[p, kn.SLA]] += 1.0
    node[row, kn.PRESSURE] = node[row, kn.SUMS] / max(node_f[row, kn.CPU_ROOM], 1.0)


@jit
def start(
    pod_f: Floats, pod_i: Ints, true_s: Floats, node_f: Floats, node_class: Ints, settings: Floats, delay_rate: Floats,
    node: Floats, slot_i: Ints, slot_f: Floats, count: Ints, counters: Ints, pod: Floats, pod_node: Ints, number: Ints,
    p: int, row: int, now_s: float,
) -> None:  # fmt: skip
    """Put a pod on a node, where it starts at once."""
    take_room(pod_f, node, row, p, -1.0)
    pod_node[p] = row
    pod[p, kn.BOUND_S] = pod[p, kn.STARTED_S] = now_s
    pod[p, kn.SLOWDOWN] = 1.0 + settings[kn.CONTENTION] * node[row, kn.PRESSURE]
    pod[p, kn.HARM] = pod[p, kn.DISPLACED] = pod[p, kn.TAUGHT] = 0.0
    pod[p, kn.ROOM_TAKEN_S] = -np.inf
    advance(pod_f, node_f, node, slot_i, slot_f, count, pod, row, now_s)
    last = count[row]
    slot_i[kn.RUNNING, row, last] = p
    slot_f[kn.LEFT, row, last] = true_s[p, node_class[row]]
    at = last
    while at > 0 and pod_i[slot_i[kn.RESIDENT, row, at - 1], kn.RANK] > pod_i[p, kn.RANK]:
        slot_i[kn.RESIDENT, row, at] = slot_i[kn.RESIDENT, row, at - 1]
        at -= 1
    slot_i[kn.RESIDENT, row, at] = p
    count[row] = last + 1
    sum_residents(pod_f, pod_i, node_f, delay_rate, node, slot_i, count, row)
    reschedule(pod_f, node_f, node, slot_i, slot_f, count, counters, pod, number, row, now_s)


@jit
def end(
    pod_f: Floats, pod_i: Ints, node_f: Floats, delay_rate: Floats, node: Floats, slot_i: Ints, slot_f: Floats,
    count: Ints, counters: Ints, pod: Floats, number: Ints, row: int, now_s: float, ended: Ints,
) -> Any:  # fmt: skip
    """Take the pods that are done now from a node; writes which they are to `ended`, in order of start: how many."""
    advance(pod_f, node_f, node, slot_i, slot_f, count, pod, row, now_s)
    over, kept = 0, 0
    for j in range(count[row]):
        p = slot_i[kn.RUNNING, row, j]
        if slot_f[kn.LEFT, row, j] <= 1e-9 * max(1.0, now_s):
            pod[p, kn.FINISHED_S] = now_s
            take_room(pod_f, node, row, p, 1.0)
            _leave(slot_i, count[row] - over, row, p)
            ended[over] = p
            over += 1
        else:
            slot_i[kn.RUNNING, row, kept] = p
            for k in range(3):
                slot_f[k, row, kept] = slot_f[k, row, j]
            kept += 1
    count[row] = kept
    sum_residents(pod_f, pod_i, node_f, delay_rate, node, slot_i, count, row)
    reschedule(pod_f, node_f, node, slot_i, slot_f, count, counters, pod, number, row, now_s)
    return over


@jit
def _leave(slot_i: Ints, residents: int, row: int, p: int) -> None:
    """Take a pod out of the residents of a node, of which there are that many."""
    at = 0
    while slot_i[kn.RESIDENT, row, at] != p:
        at += 1
    for j in range(at, residents - 1):
        slot_i[kn.RESIDENT, row, j] = slot_i[kn.RESIDENT, row, j + 1]
