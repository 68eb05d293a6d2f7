"""One node where pods may wait, be stopped and be lost: as `nodewise_simulator.engine.machine`, over flat arrays.

`nodes.py` does the same for worlds in which whoever is bound works at once and ends there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nodewise.core.table import OVERDUE
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import ends
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import jit
from nodewise_simulator.compiled.room import take_room
from nodewise_simulator.world import QUANTUM_S


@jit
def later(time_s: float) -> Any:
    """The first simulated time that is not earlier."""
    return math.ceil(time_s / QUANTUM_S - 1e-9) * QUANTUM_S if time_s < np.inf else time_s


@jit
def recount(
    pod_f: Floats, pod_i: Ints, node: Floats, node_i: Ints, resident: Floats, totals: Floats, fifo: bool, p: int,
    row: int, sign: float,
) -> None:  # fmt: skip
    """What is requested on a node and by whom, after a pod came (1) or left (-1); as `nodes._recount`."""
    node[kn.CPU_ASKED, row] += sign * pod_f[p, kn.CPU]
    node[kn.CPU_NZ_ASKED, row] += sign * pod_f[p, kn.CPU_NZ]
    node[kn.MEM_ASKED, row] += sign * pod_f[p, kn.MEM]
    node[kn.MEM_NZ_ASKED, row] += sign * pod_f[p, kn.MEM_NZ]
    node[kn.GPU_ASKED, row] += sign * pod_f[p, kn.GPU]
    node[kn.BY_SLA + pod_i[p, kn.SLA], row] += sign
    if not fifo:
        node[kn.PRESSURE, row] = node[kn.CPU_ASKED, row] / max(node[kn.CPU_HAS, row], 1.0)
    totals[3] += sign * pod_f[p, kn.CPU]
    totals[4] += sign * pod_f[p, kn.MEM]
    totals[5] += sign * pod_f[p, kn.GPU]
    rate = 0.0
    for j in range(node_i[kn.COUNT, row]):
        rate += resident[row, j, kn.OF_RATE]
    node[kn.RATE, row] = rate


@jit
def settle(
    pod_f: Floats, pod_i: Ints, contention: float, node: Floats, node_i: Ints, slot_i: Ints, pod: Floats,
    pod_node: Ints, resident: Floats, totals: Floats, fifo: bool, p: int, row: int, now_s: float,
) -> None:  # fmt: skip
    """A pod is bound to a node: a resident that does not work yet."""
    take_room(pod_f, node, row, p, -1.0)
    pod_node[p] = row
    pod[p, kn.BOUND_S], pod[p, kn.STARTED_S] = now_s, np.nan
    pod[p, kn.SLOWDOWN] = 1.0 if fifo else 1.0 + contention * node[kn.PRESSURE, row]
    last = node_i[kn.COUNT, row]
    at = last
    while at > 0 and pod_i[slot_i[kn.RESIDENT, row, at - 1], kn.RANK] > pod_i[p, kn.RANK]:
        slot_i[kn.RESIDENT, row, at] = slot_i[kn.RESIDENT, row, at - 1]
        for k in range(8):
            resident[row, at, k] = resident[row, at - 1, k]
        at -= 1
    slot_i[kn.RESIDENT, row, at] = p
    dk.put(pod_f, pod_i, pod, resident, p, row, at)
    node_i[kn.COUNT, row] = last + 1
    node_i[kn.CHANGED, row] = 1
    recount(pod_f, pod_i, node, node_i, resident, totals, fifo, p, row, 1.0)


@jit
def leave(
    pod_f: Floats, pod_i: Ints, node: Floats, node_i: Ints, slot_i: Ints, resident: Floats, totals: Floats, fifo: bool,
    p: int, row: int,
) -> None:  # fmt: skip
    """A pod is no resident of a node any more."""
    take_room(pod_f, node, row, p, 1.0)
    at, last = 0, node_i[kn.COUNT, row] - 1
    while slot_i[kn.RESIDENT, row, at] != p:
        at += 1
    for j in range(at, last):
        slot_i[kn.RESIDENT, row, j] = slot_i[kn.RESIDENT, row, j + 1]
        for k in range(8):
            resident[row, j, k] = resident[row, j + 1, k]
    node_i[kn.COUNT, row] = last
    node_i[kn.CHANGED, row] = 1
    recount(pod_f, pod_i, node, node_i, resident, totals, fifo, p, row, -1.0)


@jit
def advance(node: Floats, slot_f: Floats, runs: int, row: int, now_s: float) -> None:
    """Let what works on a node work until now."""
    passed_s = now_s - node[kn.UPDATED, row]
    node[kn.UPDATED, row] = now_s
    for j in range(runs):
        slot_f[kn.LEFT, row, j] -= passed_s * slot_f[kn.SPEED, row, j]


@jit
def begin(
    node: Floats, slot_i: Ints, slot_f: Floats, machine_i: Ints, pod: Floats, resident: Floats, fate: Ints, p: int,
    row: int, run_s: float, now_s: float,
) -> None:  # fmt: skip
    """A resident begins to work: `run_s` if it were alone."""
    runs = machine_i[row, wd.RUNS]
    advance(node, slot_f, runs, row, now_s)
    slot_i[kn.RUNNING, row, runs] = p
    slot_f[kn.LEFT, row, runs], slot_f[kn.SPEED, row, runs] = run_s, 1.0
    machine_i[row, wd.RUNS] = runs + 1
    fate[p, wd.WORKS] = 1
    pod[p, kn.STARTED_S] = now_s
    at = 0
    while slot_i[kn.RESIDENT, row, at] != p:
        at += 1
    resident[row, at, kn.SINCE_S] = now_s


@jit
def stop(
    node: Floats, slot_i: Ints, slot_f: Floats, machine_i: Ints, fate: Ints, p: int, row: int, now_s: float
) -> Any:  # fmt: skip
    """End a pod's work before its time; whether it worked."""
    runs = machine_i[row, wd.RUNS]
    advance(node, slot_f, runs, row, now_s)
    if not fate[p, wd.WORKS]:
        return False
    fate[p, wd.WORKS] = 0
    at = 0
    while slot_i[kn.RUNNING, row, at] != p:
        at += 1
    for j in range(at, runs - 1):
        slot_i[kn.RUNNING, row, j] = slot_i[kn.RUNNING, row, j + 1]
        slot_f[kn.LEFT, row, j], slot_f[kn.SPEED, row, j] = slot_f[kn.LEFT, row, j + 1], slot_f[kn.SPEED, row, j + 1]
    machine_i[row, wd.RUNS] = runs - 1
    return True


@jit
def over(
    node: Floats, slot_i: Ints, slot_f: Floats, machine_i: Ints, fate: Ints, ended: Ints, row: int, now_s: float
) -> Any:  # fmt: skip
    """Take out who has no work left, in order of start, into `ended`; how many."""
    runs, found, kept = machine_i[row, wd.RUNS], 0, 0
    advance(node, slot_f, runs, row, now_s)
    for j in range(runs):
        p = slot_i[kn.RUNNING, row, j]
        if slot_f[kn.LEFT, row, j] <= 1e-9 * max(1.0, now_s):
            fate[p, wd.WORKS] = 0
            ended[found] = p
            found += 1
        else:
            slot_i[kn.RUNNING, row, kept] = p
            slot_f[kn.LEFT, row, kept], slot_f[kn.SPEED, row, kept] = slot_f[kn.LEFT, row, j], slot_f[kn.SPEED, row, j]
            kept += 1
    machine_i[row, wd.RUNS] = kept
    return found


@jit
def reschedule(
    pod_f: Floats, extra: Floats, node: Floats, node_i: Ints, slot_i: Ints, slot_f: Floats, machine_i: Ints,
    fate: Ints, number: Ints, tree: Ints, row: int, now_s: float,
) -> None:  # fmt: skip
    """New speeds after the set of pods that work on a node changed, and when the next of them ends."""
    number[kn.COUNTER] += 1
    node_i[kn.FORESEEN, row] = number[kn.COUNTER]
    runs, next_s, requested, room = machine_i[row, wd.RUNS], np.inf, 0.0, max(node[kn.CPU_HAS, row], 1.0)
    for j in range(runs):
        requested += pod_f[slot_i[kn.RUNNING, row, j], kn.CPU]
    for j in range(runs):
        p = slot_i[kn.RUNNING, row, j]
        pressure = (requested - pod_f[p, kn.CPU]) / room
        speed = 1.0 / (1.0 + pod_f[p, kn.SENSITIVITY] * pressure)
        if extra[p, wd.SHARE] > 0.0:
            shared = 0.0
            for k in range(runs):
                other = slot_i[kn.RUNNING, row, k]
                if extra[other, wd.SHARE] > 0.0 and fate[other, wd.DEVICES] == fate[p, wd.DEVICES]:
                    shared += extra[other, wd.SHARE]
            speed /= 1.0 + extra[p, wd.SHARE_SENSITIVITY] * ((shared - extra[p, wd.SHARE]) / 1000.0)
        slot_f[kn.SPEED, row, j] = speed
        next_s = min(next_s, slot_f[kn.LEFT, row, j] / speed)
    if runs > 0:
        next_s = now_s + max(math.ceil(next_s / QUANTUM_S - 1e-9), 1) * QUANTUM_S
    node[kn.NEXT_END, row] = next_s
    ends.moved(tree, node, node_i, row)


@jit
def tell_time(
    settings: Floats, node: Floats, resident: Floats, cells: Floats, residents: int, c: int, row: int, now_s: float,
    fifo: bool,
) -> None:  # fmt: skip
    """As `desk.tell_time`, where some residents do not work yet, in a dispatcher's world (`fifo`) or Kubernetes."""
    work, longest_s, exposed = 0.0, 0.0, 0.0
    for j in range(residents):
        left_s = settings[kn.HORIZON]
        if resident[row, j, kn.OF_END] > 0.0:
            w, scale = np.int64(resident[row, j, kn.CELL_ROW]), resident[row, j, kn.OF_SCALE]
            since_s = resident[row, j, kn.SINCE_S]
            elapsed_s = now_s - since_s if since_s == since_s else 0.0
            expected_s = cells[bl.MEAN, w, c] * scale - elapsed_s
            left_s = max(expected_s, OVERDUE * cells[bl.STD, w, c] * scale)
            work += left_s * resident[row, j, kn.OF_CPU]
        longest_s = max(longest_s, left_s)
        exposed += left_s * resident[row, j, kn.OF_RATE]
    node[kn.WORK, row] = work / max(node[kn.CPU_HAS, row], 1.0)
    node[kn.LONGEST, row] = longest_s
    node[kn.EXPOSURE, row] = exposed / max(node[kn.RATE, row], 1e-12)
    if fifo:
        node[kn.START_WAIT, row] = node[kn.WORK, row]


# --- shares of accelerators ------------------------------------------------------------------------------------------


@jit
def has_device(device: Floats, extra: Floats, whole: int, p: int, row: int) -> Any:
    """Whether a device has room for the pod's share, or enough whole ones are free."""
    free = 0
    for k in range(device.shape[1]):
        if extra[p, wd.SHARE] > 0.0:
            if device[row, k] >= extra[p, wd.SHARE]:
                return True
        elif device[row, k] >= 1000.0:
            free += 1
    return extra[p, wd.SHARE] == 0.0 and free >= whole


@jit
def take_devices(device: Floats, extra: Floats, whole: int, fate: Ints, p: int, row: int) -> None:
    """Give a pod the fullest device that has room for its share, or the first whole ones that are free."""
    if extra[p, wd.SHARE] > 0.0:
        best = -1
        for k in range(device.shape[1]):
            if device[row, k] >= extra[p, wd.SHARE] and (best < 0 or device[row, k] < device[row, best]):
                best = k
        device[row, best] -= extra[p, wd.SHARE]
        fate[p, wd.DEVICES] = 1 << best
        return
    taken = 0
    for k in range(device.shape[1]):
        if taken < whole and device[row, k] >= 1000.0:
            device[row, k] -= 1000.0
            fate[p, wd.DEVICES] |= 1 << k
            taken += 1


@jit
def give_devices(device: Floats, extra: Floats, fate: Ints, p: int, row: int) -> None:
    """Take them back."""
    for k in range(device.shape[1]):
        if fate[p, wd.DEVICES] >> k & 1:
            device[row, k] += extra[p, wd.SHARE] if extra[p, wd.SHARE] > 0.0 else 1000.0
    fate[p, wd.DEVICES] = 0
