"""Compiled: fragmentation, power, the policies' scores, and the loop that places one pod after the other.

Integers are the source's int64 and sums are taken in its order: its scores are cut to whole numbers, so that the last
bit of a fragmentation decides between 49 and 50.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.packing.layout import (
    ANY,
    BEST_FIT,
    BY_BEST_FIT,
    BY_NAME,
    CLUSTERING,
    CPU,
    CPU_ROOM,
    DOT_PROD,
    FGD,
    GPU,
    GPUS,
    INFEASIBLE,
    KINDS,
    LEAST,
    MEMORY,
    MEMORY_ROOM,
    MODEL,
    MOST,
    MOST_CPU_MILLI,
    MOST_GPU_MILLI,
    PACKING,
    S_ALLOWED,
    S_CPU,
    S_GPUS,
    S_MILLI,
    SOCKET_CORES,
    SOCKET_FULL_W,
    SOCKET_IDLE_W,
    SOCKETS,
    TIGHTEST,
)

Ints = np.ndarray[Any, np.dtype[np.int64]]

jit: Callable[[Callable[..., Any]], Callable[..., Any]] = nb.njit(error_model="numpy", nogil=True)


@jit
def fragmentation(node: Ints, shapes: Ints, typical: Ints, frequency: Floats) -> Any:
    """GPU milli of the node that typical pods could not use, on average (`NodeGpuShareFragAmountScore`)."""
    count, total = node[GPUS], 0
    for gpu in range(GPU, GPU + count):
        total += node[gpu]
    if total == 0:
        return 0.0
    lacks_both = lacks_gpu = lacks_cpu = no_gpu_pod = no_gpu_pod_lacks_cpu = other_model = 0.0
    for t in range(len(typical)):
        shape, share = shapes[typical[t]], frequency[t]
        enough_cpu, milli = node[CPU] >= shape[S_CPU], shape[S_MILLI]
        if milli == 0:
            if enough_cpu:
                no_gpu_pod += share * total
            else:
                no_gpu_pod_lacks_cpu += share * total
            continue
        if not (shape[S_ALLOWED] & node[MODEL]):
            other_model += share * total
            continue
        enough, too_full = 0, 0
        for gpu in range(GPU, GPU + count):
            if node[gpu] >= milli:
                enough += 1
            else:
                too_full += node[gpu]
        if enough >= shape[S_GPUS]:
            if enough_cpu:
                lacks_gpu += share * too_full
            else:
                lacks_cpu += share * total
        elif enough_cpu:
            lacks_gpu += share * total
        else:
            lacks_both += share * total
    return lacks_both + lacks_gpu + lacks_cpu + no_gpu_pod + no_gpu_pod_lacks_cpu + other_model


@jit
def power_w(node: Ints, watts: Floats) -> Any:
    """PWR's model: a GPU and a CPU socket draw full power as soon as any of them is taken, else idle power."""
    whole = 0
    for gpu in range(GPU, GPU + node[GPUS]):
        whole += node[gpu] == 1000
    cores = np.ceil(node[CPU_ROOM] / 2000.0) - np.floor(node[CPU] / 2000.0)
    active = np.ceil(cores / SOCKET_CORES)
    gpus = whole * watts[0] + (node[GPUS] - whole) * watts[1]
    return SOCKET_IDLE_W * (node[SOCKETS] - active) + SOCKET_FULL_W * active + gpus


@jit
def fits(node: Ints, shape: Ints) -> Any:
    """Whether CPU and GPUs are enough; memory is the pod's, not the shape's."""
    if node[CPU] < shape[S_CPU]:
        return False
    if shape[S_GPUS] == 0:
        return True
    if not (shape[S_ALLOWED] & node[MODEL]):
        return False
    enough = 0
    for gpu in range(GPU, GPU + node[GPUS]):
        enough += node[gpu] >= shape[S_MILLI]
    return enough >= shape[S_GPUS]


@jit
def take(node: Ints, shape: Ints, own: int) -> None:
    """Take the room of a pod that fits; a shared GPU is number `own`, others are the first that are whole."""
    node[CPU] -= shape[S_CPU]
    left = shape[S_GPUS]
    if left == 0:
        return
    if shape[S_MILLI] < 1000:
        node[GPU + own] -= shape[S_MILLI]
        node[KINDS] |= 1
        return
    node[KINDS] |= 1 << left
    for gpu in range(GPU, GPU + node[GPUS]):
        if left > 0 and node[gpu] == 1000:
            node[gpu] = 0
            left -= 1


@jit
def copy(node: Ints, spare: Ints) -> None:
    """`spare[:] = node`, which takes numba a second longer to compile."""
    for at in range(len(node)):
        spare[at] = node[at]


@jit
def tightest(node: Ints, shape: Ints) -> Any:
    """The GPU with least left that has room, the first of several."""
    best = -1
    for gpu in range(node[GPUS]):
        if node[GPU + gpu] >= shape[S_MILLI] and (best < 0 or node[GPU + gpu] < node[GPU + best]):
            best = gpu
    return best


@jit
def gpu_left(node: Ints) -> Any:
    """Milli of all GPUs together."""
    left = 0
    for gpu in range(GPU, GPU + node[GPUS]):
        left += node[gpu]
    return left


@jit
def gpu_packing(node: Ints, shape: Ints) -> Any:
    """`getPackingScore`: shared GPUs first, then whole ones of nodes in use, then of empty ones."""
    if shape[S_MILLI] == 0:
        return 0
    whole = 0
    for gpu in range(GPU, GPU + node[GPUS]):
        whole += node[gpu] == 1000
    if whole == node[GPUS]:
        return max(33 - whole, whole)
    if shape[S_MILLI] == 1000:
        return max(50 - shape[S_GPUS], 33)
    left = node[GPU + tightest(node, shape)]
    return 49 if left == 1000 else max(100 - left * 100 // 1000 // 10, 50)


@jit
def gpu_clustering(node: Ints, shape: Ints) -> Any:
    """`GpuClusteringScore`: beside pods that ask for as many GPUs, fuller nodes first."""
    if shape[S_GPUS] == 0:
        return 0
    kind = 1 if shape[S_MILLI] < 1000 else 1 << shape[S_GPUS]
    full = 25 * (MOST_GPU_MILLI - gpu_left(node)) // MOST_GPU_MILLI
    if node[KINDS] & kind:
        return full + (75 if node[KINDS] == kind else 50)
    return full + (25 if node[KINDS] == 0 else 0)


@jit
def fit(node: Ints, shape: Ints) -> Any:
    """BestFit before it is cut to a whole number: 100 is nothing left."""
    cpu = (node[CPU] - shape[S_CPU]) / MOST_CPU_MILLI * 0.5
    gpu = (gpu_left(node) - shape[S_MILLI] * shape[S_GPUS]) / MOST_GPU_MILLI * 0.5
    return (1.0 - (cpu + gpu)) * 100.0


@jit
def simple(score: int, node: Ints, shape: Ints) -> Any:
    """Scores that look at one state of the node."""
    if score == DOT_PROD:
        cpu = node[CPU] / MOST_CPU_MILLI * (shape[S_CPU] / MOST_CPU_MILLI)
        gpu = gpu_left(node) / MOST_GPU_MILLI * (shape[S_MILLI] * shape[S_GPUS] / MOST_GPU_MILLI)
        return int(100.0 * (1.0 - (cpu + gpu) / 2.0))
    if score == CLUSTERING:
        return gpu_clustering(node, shape)
    if score == PACKING:
        return gpu_packing(node, shape)
    if score == BEST_FIT:  # brought to 0..100 by the source, which keeps all differences
        return int(fit(node, shape))
    return 0


@jit
def fgd(
    node: Ints, shape: Ints, shapes: Ints, typical: Ints, frequency: Floats, before: float, top: float, spare: Ints
) -> Any:
    """FGD's score, 0 to `top`, and its GPU: the less the fragmentation grows, the better."""
    best, own = 0, -1
    shared = shape[S_GPUS] == 1 and shape[S_MILLI] < 1000
    for gpu in range(node[GPUS] if shared else 1):
        if shared:
            if node[GPU + gpu] < shape[S_MILLI]:
                continue
            known = False  # of GPUs with as much left the first is taken
            for other in range(gpu):
                known |= node[GPU + other] == node[GPU + gpu]
            if known:
                continue
        copy(node, spare)
        take(spare, shape, gpu)
        grown = fragmentation(spare, shapes, typical, frequency) - before
        score = int(1.0 / (1.0 + np.exp(grown / 1000.0)) * top)
        if own < 0 or score > best:
            best, own = score, gpu
    return best, own


@jit
def least_allocated(node: Ints, shape: Ints, memory_mib: int) -> Any:
    """`NodeResourcesLeastAllocated` over CPU and memory."""
    cpu = (node[CPU] - shape[S_CPU]) * 100 // node[CPU_ROOM]
    memory = (node[MEMORY] - memory_mib) * 100 // node[MEMORY_ROOM]
    return (cpu + memory) // 2


@jit
def saved_w(node: Ints, shape: Ints, watts: Floats, spare: Ints) -> Any:
    """PWR's score, never above 0: minus the power that the pod adds, on the GPU that adds least."""
    before, best = power_w(node, watts), -1e300
    shared = shape[S_GPUS] == 1 and shape[S_MILLI] < 1000
    for gpu in range(node[GPUS] if shared else 1):
        if shared and node[GPU + gpu] < shape[S_MILLI]:
            continue
        copy(node, spare)
        take(spare, shape, gpu)
        best = max(best, before - power_w(spare, watts))
    return int(best)


@jit
def pack(problem: Any, rule: Any, uniforms: Floats, work: Any, seen: Floats, went: Ints) -> None:
    """Place all arrivals that fit; `problem.nodes` is changed.

    `rule` is score, ties, GPU, weight of PWR in 1000, highest score; `uniforms` [A, 2] in [0, 1) are for random nodes
    and GPUs; `work` is `layout.room_to_work`. `seen` [A, 4] gets, after each arrival: GPU milli that arrived, that are
    taken, that are fragmented, and watts. `went` [A] gets the node's row, or -1.
    """
    nodes, watts, shapes, typical, frequency, arrivals = problem
    score_by, ties, gpu_by, pwr_weight, top = rule
    # Scores change only with the node: each shape keeps them, and how many placements it has looked at.
    known, own, saved, looked, last, marked, spare, fragments, drawn_w = work
    count, placed, arrived, taken, fragmented, all_w = len(nodes), 0, 0, 0, 0.0, 0.0
    for n in range(count):
        fragments[n] = fragmentation(nodes[n], shapes, typical, frequency)
        drawn_w[n] = power_w(nodes[n], watts[n])
        fragmented += fragments[n]
        all_w += drawn_w[n]
    for a in range(len(arrivals)):
        s, memory = arrivals[a, 0], arrivals[a, 1]
        shape = shapes[s]
        arrived += shape[S_MILLI] * shape[S_GPUS]
        first = looked[s]
        for k in range(count if first < 0 else placed - first):
            n = k if first < 0 else last[first + k]
            if marked[n] == a:
                continue
            marked[n] = a
            node = nodes[n]
            if not fits(node, shape):
                known[s, n] = INFEASIBLE
                continue
            if score_by == FGD:
                known[s, n], own[s, n] = fgd(node, shape, shapes, typical, frequency, fragments[n], top, spare)
                if pwr_weight > 0:
                    saved[s, n] = saved_w(node, shape, watts[n], spare)
            else:
                known[s, n] = simple(score_by, node, shape)
        looked[s] = placed

        low, high = MOST, INFEASIBLE
        if pwr_weight > 0:
            for n in range(count):
                if known[s, n] != INFEASIBLE and nodes[n, MEMORY] >= memory:
                    low, high = min(low, saved[s, n]), max(high, saved[s, n])
        best, best_fit, ways, chosen = INFEASIBLE, -1e300, 0, -1
        for again in range(2):
            pick = int(uniforms[a, 0] * ways)
            for n in range(count):
                value = known[s, n]
                if value == INFEASIBLE or nodes[n, MEMORY] < memory:
                    continue
                if score_by == LEAST:
                    value = least_allocated(nodes[n], shape, memory)
                elif pwr_weight > 0:
                    power = 100 if low == high else (saved[s, n] - low) * 100 // (high - low)
                    value = value * (1000 - pwr_weight) + power * pwr_weight
                if value < best:
                    continue
                second = fit(nodes[n], shape) if ties == BY_BEST_FIT else 0.0
                if value == best and second < best_fit:
                    continue
                if value > best or second > best_fit:
                    best, best_fit, ways, chosen = value, second, 1, n
                elif again:
                    if pick == 0:
                        chosen = n
                    pick -= 1
                else:
                    ways += 1
            if ties == BY_NAME:
                break
        went[a] = chosen
        if chosen >= 0:
            node = nodes[chosen]
            gpu = own[s, chosen]
            if gpu_by == TIGHTEST:
                gpu = tightest(node, shape)
            elif gpu_by == ANY and 0 < shape[S_MILLI] < 1000:
                room = 0
                for g in range(node[GPUS]):
                    room += node[GPU + g] >= shape[S_MILLI]
                at = int(uniforms[a, 1] * room)
                for g in range(node[GPUS]):
                    if node[GPU + g] >= shape[S_MILLI]:
                        if at == 0:
                            gpu = g
                        at -= 1
            take(node, shape, gpu)
            node[MEMORY] -= memory
            taken += shape[S_MILLI] * shape[S_GPUS]
            last[placed] = chosen
            placed += 1
            now, now_w = fragmentation(node, shapes, typical, frequency), power_w(node, watts[chosen])
            fragmented += now - fragments[chosen]
            all_w += now_w - drawn_w[chosen]
            fragments[chosen], drawn_w[chosen] = now, now_w
        seen[a, 0], seen[a, 1], seen[a, 2], seen[a, 3] = arrived, taken, fragmented, all_w
