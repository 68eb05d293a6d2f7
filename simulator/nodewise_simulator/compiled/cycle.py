"""kube-scheduler's cycle in numba: which nodes are scored, and which of them wins.

As `nodewise_simulator.scheduler` and `nodewise.core.reply`, over flat arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit
from nodewise_simulator.compiled.room import fits
from nodewise_simulator.scheduler import MIN_FEASIBLE

Bools = NDArray[np.bool_]
Names = NDArray[np.uint8]


@jit
def enqueue(pod_i: Ints, pending: Ints, number: Ints) -> None:
    """The next pod waits: behind all of its priority or a higher one."""
    p, at = number[kn.NEXT], number[kn.PENDING]
    while at > 0 and pod_i[pending[at - 1], kn.PRIORITY] < pod_i[p, kn.PRIORITY]:
        pending[at] = pending[at - 1]
        at -= 1
    pending[at] = p
    number[kn.PENDING] += 1
    number[kn.NEXT] += 1


@jit
def could_fit(pod_f: Floats, pod_i: Ints, masks: Bools, node: Floats, freed: Ints, p: int) -> Any:
    """Whether one of these nodes, where pods ended, has room: the queueing hint that wakes a waiting pod."""
    for row in freed:  # noqa: SIM110  numba has no any()
        if masks[pod_i[p, kn.MASK], row] and fits(pod_f, node, row, p):
            return True
    return False


@jit
def most_scored(n: int) -> Any:
    """How many feasible nodes of n kube-scheduler scores at most."""
    return n if n < MIN_FEASIBLE else max(n * max(50 - n // 125, 5) // 100, MIN_FEASIBLE)


@jit
def sample(pod_f: Floats, pod_i: Ints, masks: Bools, node: Floats, number: Ints, p: int, rows: Ints) -> Any:
    """Rows of the feasible nodes that kube-scheduler scores, in order, into `rows`; returns how many."""
    n = len(rows)
    wanted = most_scored(n)
    mask = masks[pod_i[p, kn.MASK]]
    start = number[kn.START]
    found = _search(pod_f, mask, node, p, start, n, rows, 0, wanted + 1)
    behind = found  # of the start; those before it come after them in the search, and before them in the result
    found = _search(pod_f, mask, node, p, 0, start, rows, found, wanted + 1)
    if found > wanted:
        found = wanted
        number[kn.START] = (rows[wanted - 1] + 1) % n
    behind = min(behind, found)
    if 0 < behind < found:
        for begin, end in ((0, behind), (behind, found), (0, found)):  # turned over, parts and whole: the parts swapped
            _turn(rows, begin, end)
    return found


@jit
def _turn(rows: Ints, begin: int, end: int) -> None:
    for k in range((end - begin) // 2):
        rows[begin + k], rows[end - 1 - k] = rows[end - 1 - k], rows[begin + k]


@jit
def _search(
    pod_f: Floats, mask: Bools, node: Floats, p: int, begin: int, end: int, rows: Ints, found: int, most: int
) -> Any:
    for row in range(begin, end):
        if found == most:
            break
        if mask[row] and fits(pod_f, node, row, p):
            rows[found] = row
            found += 1
    return found


@jit
def best(scores: NDArray[np.float32], rows: Ints, m: int, crc: int, names: Names) -> Any:
    """Index of the winner among m candidates; ties as `nodewise.core.reply.best`."""
    top = 0
    tied = False
    for k in range(1, m):
        if scores[k] > scores[top]:
            top, tied = k, False
        elif scores[k] == scores[top]:
            tied = True
    if not tied:
        return top
    highest = scores[top]
    least = 1 << 40
    for k in range(m):
        if scores[k] == highest:
            value = _tie_break(crc, names[rows[k]])
            if value < least:
                top, least = k, value
    return top


@jit
def _tie_break(crc: Any, name: NDArray[np.uint8]) -> Any:
    """zlib.crc32 continued over a zero-terminated name, then as `nodewise.core.reply.tie_break`."""
    c = (crc ^ 0xFFFFFFFF) & 0xFFFFFFFF
    for byte in name:
        if byte == 0:
            break
        c ^= np.int64(byte)
        for _ in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
    return ((c ^ 0xFFFFFFFF) * 0x9E3779B1) & 0xFFFFFFFF


@jit
def draw(scores: NDArray[np.float32], m: int, sharpness: float, u: float) -> Any:
    """Index drawn from softmax(sharpness × score) by the uniform u, and the log of its probability."""
    highest = scores[0]
    for k in range(1, m):
        highest = max(highest, scores[k])
    total = 0.0
    for k in range(m):
        total += math.exp(sharpness * (np.float64(scores[k]) - highest))
    wanted, so_far, chosen = u * total, 0.0, m - 1
    for k in range(m):
        so_far += math.exp(sharpness * (np.float64(scores[k]) - highest))
        if so_far > wanted:
            chosen = k
            break
    return chosen, sharpness * (np.float64(scores[chosen]) - highest) - math.log(total)


@jit
def inside(values: NDArray[np.float32], low: Floats, high: Floats) -> Any:
    """Whether every value [K] lies within its limits [K]."""
    for k in range(len(values)):  # noqa: SIM110  numba has no all()
        if not low[k] <= values[k] <= high[k]:
            return False
    return True


@inlined
def window(pod_f: Floats, node: Floats, mask: Bools, number: Ints, p: int, ok: Bools) -> Any:
    """As `sample`, as a mark for each node: (how many feasible nodes are scored, first row looked at, how many rows).

    The rows that are looked at follow each other, the first row behind the last; `ok` is false for all others.
    """
    n = len(ok)
    wanted = most_scored(n)
    # What is not asked for is not looked at.
    cpu = pod_f[p, kn.CPU] if pod_f[p, kn.CPU] != 0.0 else -np.inf
    mem = pod_f[p, kn.MEM] if pod_f[p, kn.MEM] != 0.0 else -np.inf
    gpu = pod_f[p, kn.GPU] if pod_f[p, kn.GPU] != 0.0 else -np.inf
    if wanted >= n:
        _mark(node, mask, cpu, mem, gpu, ok, 0, n)
        found = 0
        for row in range(n):
            found += ok[row]
        return found, 0, n
    ok[:] = False
    start, seen, found = number[kn.START], 0, 0
    while seen < n and found <= wanted:
        begin = start + seen if start + seen < n else start + seen - n
        end = min(begin + _CHUNK, n if begin >= start else start)
        _mark(node, mask, cpu, mem, gpu, ok, begin, end)
        for row in range(begin, end):
            found += ok[row]
        seen += end - begin
    if found > wanted:
        row = 0
        while found > wanted:  # back to the last that is wanted
            seen -= 1
            row = start + seen if start + seen < n else start + seen - n
            found -= ok[row]
            ok[row] = False
        while not ok[row]:
            row = row - 1 if row > 0 else n - 1
        number[kn.START] = (row + 1) % n
    return found, start, seen


_CHUNK = 64


@inlined
def _mark(node: Floats, mask: Bools, cpu: float, mem: float, gpu: float, ok: Bools, begin: int, end: int) -> None:
    free_cpu, free_mem = node[kn.FREE], node[kn.FREE + 1]  # as arrays of their own, they are taken four at a time
    free_gpu, free_pods = node[kn.FREE + 2], node[kn.FREE + 3]
    for row in range(np.uint64(begin), np.uint64(end)):
        fits_cpu, fits_mem = free_cpu[row] >= cpu, free_mem[row] >= mem
        ok[row] = mask[row] & fits_cpu & fits_mem & (free_gpu[row] >= gpu) & (free_pods[row] >= 1.0)


@jit
def top(scores: NDArray[np.float32], ok: Bools, crc: int, names: Names) -> Any:
    """Row of the winner among those that are `ok`, which at least one is; ties as `nodewise.core.reply.best`."""
    best_row, tied = -1, False
    for row in range(len(ok)):
        if ok[row]:
            if best_row < 0 or scores[row] > scores[best_row]:
                best_row, tied = row, False
            elif scores[row] == scores[best_row]:
                tied = True
    if not tied:
        return best_row
    highest, least = scores[best_row], 1 << 40
    for row in range(len(ok)):
        if ok[row] and scores[row] == highest:
            value = _tie_break(crc, names[row])
            if value < least:
                best_row, least = row, value
    return best_row
