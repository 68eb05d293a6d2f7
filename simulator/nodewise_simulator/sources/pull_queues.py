"""Tasks and nodes of a nine-node pull cluster: the shipped queue, random ones, and a variant with real affinities.

Source: repository lluisvalerodelai/distributed-scheduling (979080e). A task has one of four types and a parameter p in
[0, 1]; node i takes base × (1 + 0.1 × i) seconds, so that speed and type are separable and there is nothing to learn
about which task suits which node. The affinity variant is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats

NODES = 9
KINDS = ("matmul", "primes", "array", "file")
_RANGES = ((250, 5000), (240_000, 4_800_000), (500_000, 10_000_000), (100_000, 2_000_000))
_SHIPPED = (
    (0.1, 0.2, 0.4, 0.5, 0.8, 0.9),
    (0.05, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95),
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)

_CPUS = (4.0, 4.0, 4.0, 2.0, 1.0, 0.5, 1.0, 0.5, 0.5)
"""A Raspberry Pi 5, two Pi 4, six containers; as in the source's repository."""
_PI4_TO_PI5 = (2.2, 2.2, 2.0, 3.0)
"""Measured there, by type; the slow disk of container 6 is given the Pi 4's ratio for files."""
_SLOW_DISK = 6
_NOISE = 0.15  # sigma of the log; ours


@dataclass(frozen=True, slots=True)
class Queue:
    """N tasks that all wait at time 0, in the order in which they are listed."""

    kind: np.ndarray[tuple[int], np.dtype[np.int64]]  # [N] index into KINDS
    size: Floats  # [N] p
    told_s: Floats  # [N, 9] run time on each node as policies are told
    time_s: Floats  # [N, 9] as it turns out

    @property
    def typical_s(self) -> Floats:
        """[N] mean told time over the nodes: what orders by length go by."""
        return np.asarray(self.told_s.mean(axis=1))


def base_seconds(kind: int, parameter: int) -> float:
    """Run time on node 0."""
    n = float(parameter)
    return ((n / 1000.0) ** 2.5, 2.0 * n / 1e6, 1.5 * n / 1e6, 0.8 * n / 1e5)[kind]


def _base(kind: int, size: float) -> float:
    low, high = _RANGES[kind]
    return base_seconds(kind, int(low + size * (high - low)))


def least_seconds(kind: int) -> float:
    """Run time of a type's smallest task on node 0."""
    return base_seconds(kind, _RANGES[kind][0])


def _queue(tasks: list[tuple[int, float]], rng: np.random.Generator, affinity: bool) -> Queue:
    listed = [tasks[k] for k in rng.permutation(len(tasks))]
    kind, size = np.array([t[0] for t in listed]), np.array([t[1] for t in listed])
    base_s = np.array([_base(*t) for t in listed])
    if not affinity:
        time_s = base_s[:, None] * (1.0 + 0.1 * np.arange(NODES))
        return Queue(kind, size, time_s, time_s)
    told_s = base_s[:, None] * affinity_factors()[kind]
    return Queue(kind, size, told_s, told_s * np.exp(rng.normal(0.0, _NOISE, told_s.shape)))


def affinity_factors() -> Floats:
    """[4, 9] run time of each type on each node, as a multiple of the Pi 5's.

    Pi 4 as measured. A container's CPU counts as one of the Pi 5's: matmul, the one type that uses all cores, goes by
    cores, the others by the share of one core; files go by the disk alone.
    """
    factors = np.ones((len(KINDS), NODES))
    for node, cpus in enumerate(_CPUS):
        if node in (1, 2):
            factors[:, node] = _PI4_TO_PI5
        elif node:
            factors[:, node] = (4.0 / cpus, max(1.0, 1.0 / cpus), max(1.0, 1.0 / cpus), 1.0)
    factors[3, _SLOW_DISK] = _PI4_TO_PI5[3]
    return factors


def shipped_queue(seed: int, affinity: bool = False) -> Queue:
    """The source's 33 tasks, shuffled by the seed."""
    tasks = [(kind, p) for kind, sizes in enumerate(_SHIPPED) for p in sizes]
    return _queue(tasks, np.random.default_rng([seed, 20]), affinity)


def random_queue(seed: int, count: int = 33, affinity: bool = False) -> Queue:
    """Tasks of any type and any p alike."""
    rng = np.random.default_rng([seed, 21])
    tasks = [(int(rng.integers(len(KINDS))), float(rng.random())) for _ in range(count)]
    return _queue(tasks, rng, affinity)
