"""The published protocol as arrays: nodes in the order of their drawn names, pods in the order of their arrival.

Followed is `hkust-adsl/kubernetes-scheduler-simulator` (Apache-2.0), `pkg/simulator/{core,simulator}.go` and
`pkg/utils/frag.go`. Its random numbers are Go's and these are numpy's: seeds name other draws of the same law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.packing import layout as kn
from nodewise_simulator.traces import openb
from nodewise_simulator.traces.table import Array

TOPPED_UP = 1.3
"""GPU demand of all arrivals, as a share of the cluster's GPUs."""
TYPICAL = 0.95
"""Share of the pods whose shapes fragmentation is measured by: the most frequent ones (`podPopularityThreshold`)."""
GPU_W = {
    "T4": (10.0, 70.0),
    "A10": (30.0, 150.0),
    "P100": (25.0, 250.0),
    "V100M16": (30.0, 300.0),
    "V100M32": (30.0, 300.0),
    "G2": (30.0, 150.0),
    "G3": (50.0, 400.0),
}
"""Idle and full, as `Fr4nz83/PWR-plugin-kubernetes:pkg/type/open-gpu-share/utils/const.go`: G2 taken for an A10, G3 for
an A100."""
_UNKNOWN_GPU_W = (30.0, 250.0)

Shape = tuple[int, int, int, str]
"""CPU milli, GPU milli, GPUs, allowed models as written; sorted as the source sorts shapes of the same frequency."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One seed's cluster and arrivals; indices of the columns are in `layout`."""

    nodes: Array  # [N, kn.NODE_WIDTH] int64, empty
    watts: Floats  # [N, 2] a GPU of the node: idle, full
    shapes: Array  # [S, kn.SHAPE_WIDTH] int64
    typical: Array  # [T] index of shape, most frequent first
    frequency: Floats  # [T], sums to 1
    arrivals: Array  # [A, 2] int64: shape, memory MiB
    capacity_milli: int


@lru_cache(maxsize=4)
def loaded(folder: Path, which: str) -> tuple[openb.Nodes, openb.Pods]:
    """Node list and pod list of a folder of openb's files. Raises UserError for bad ones."""
    nodes, pods = openb.load_nodes(openb.node_list(folder)), openb.load_pods(openb.pod_list(folder, which))
    if not pods.gpus.any():
        raise UserError(f"{openb.pod_list(folder, which)}: no pod asks for a GPU; give a list with GPU pods")
    if not nodes.gpus.any():
        raise UserError(f"{openb.node_list(folder)}: no node has a GPU; give a list with GPU nodes")
    return nodes, pods


def problem(nodes: openb.Nodes, pods: openb.Pods, seed: int) -> Problem:
    """Names drawn, the list shuffled and topped up or cut to 130 % of the GPUs."""
    rng = np.random.default_rng([seed, 0])
    kinds = [
        (int(cpu), int(milli), int(gpus), str(spec) if gpus else "")
        for cpu, milli, gpus, spec in zip(pods.cpu_milli, pods.gpu_milli, pods.gpus, pods.gpu_spec, strict=True)
    ]
    shapes = sorted(set(kinds))
    place = {shape: at for at, shape in enumerate(shapes)}
    models = {model: bit for bit, model in enumerate(sorted(set(map(str, nodes.model))))}
    typical, frequency = _typical(kinds, place)
    capacity = int(nodes.gpus.sum()) * 1000
    order = _arriving(pods.gpus * pods.gpu_milli, pods.gpu_milli, TOPPED_UP * capacity, rng)
    of_pod = np.array([place[kind] for kind in kinds])
    named = rng.permutation(len(nodes.name))  # names start with a number drawn for the node
    return Problem(
        nodes=_empty(nodes, models)[named],
        watts=np.array([GPU_W.get(str(model), _UNKNOWN_GPU_W) for model in nodes.model])[named],
        shapes=np.array([_row(shape, models) for shape in shapes]),
        typical=typical,
        frequency=frequency,
        arrivals=np.column_stack([of_pod[order], pods.memory_mib[order]]),
        capacity_milli=capacity,
    )


def _typical(kinds: Iterable[Shape], place: dict[Shape, int]) -> tuple[Array, Floats]:
    counted = Counter(kinds)
    ranked = sorted(counted, key=lambda shape: (counted[shape], shape), reverse=True)
    total, taken, covered = counted.total(), [], 0
    for shape in ranked:
        if covered >= TYPICAL * 100 * total / 100.0:
            break
        taken.append(shape)
        covered += counted[shape]
    share = covered / total
    frequency = np.array([counted[shape] / total / share for shape in taken])
    return np.array([place[shape] for shape in taken]), frequency


def _arriving(demand: Array, milli: Array, wanted: float, rng: np.random.Generator) -> Array:
    """Pods in order of arrival: the list shuffled, then drawn again until full, or drawn out of it until it fits."""
    order = rng.permutation(len(demand)).tolist()
    total = int(demand.sum())
    if total > wanted:
        while total > wanted:
            total -= int(demand[order.pop(int(rng.integers(len(order))))])
    elif total < wanted:
        while True:
            drawn = int(rng.integers(len(demand)))
            if total + int(milli[drawn]) > wanted:  # of one GPU: the source's slip, kept
                break
            total += int(demand[drawn])
            order.append(drawn)
    return np.array(order)


def _empty(nodes: openb.Nodes, models: dict[str, int]) -> Array:
    rows = np.zeros((len(nodes.name), kn.NODE_WIDTH), np.int64)
    rows[:, kn.CPU], rows[:, kn.MEMORY] = nodes.cpu_milli, nodes.memory_mib
    rows[:, kn.CPU_ROOM], rows[:, kn.MEMORY_ROOM] = nodes.cpu_milli, nodes.memory_mib
    rows[:, kn.GPUS] = nodes.gpus
    rows[:, kn.MODEL] = [1 << models[str(model)] for model in nodes.model]
    cores = np.ceil(nodes.cpu_milli / 1000 / 2)
    rows[:, kn.SOCKETS] = np.ceil(cores / (kn.SOCKET_CORES))
    for gpu in range(openb.MOST_GPUS):
        rows[:, kn.GPU + gpu] = np.where(nodes.gpus > gpu, 1000, 0)
    return rows


def _row(shape: Shape, models: dict[str, int]) -> list[int]:
    cpu_milli, gpu_milli, gpus, spec = shape
    allowed = sum(1 << bit for model, bit in models.items() if model in spec.split("|")) if spec else -1
    return [cpu_milli, gpu_milli, gpus, allowed]
