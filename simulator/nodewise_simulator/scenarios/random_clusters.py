"""`random-clusters`: forty nodes of six types in random numbers, eight kinds of tasks with random speed tables.

The clusters and workloads of the learning study: everything but the ranges below is drawn anew for each seed. README.md
of this folder says where each constant comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats, SlaClass
from nodewise_simulator.columns import Ints, PodColumns, Template, told
from nodewise_simulator.scenarios.arrivals import Wave, arrivals
from nodewise_simulator.scenarios.capacity import Capacity, fluid_capacity
from nodewise_simulator.scenarios.draws import NORMAL, UNIFORM, chosen, draws
from nodewise_simulator.world import QUANTUM_S, World, node_manifest, world

_GIB = 2.0**30
MODES = ("immediate", "dispatch")


@dataclass(frozen=True, slots=True)
class _NodeType:
    name: str
    arch: str
    cores: float
    memory_gib: float
    speed: float
    idle_w: float
    peak_w: float
    weight: float
    """Of the Dirichlet distribution of how many there are."""


_TYPES = (
    _NodeType("big", "amd64", 32, 128, 1.25, 110.0, 380.0, 2.0),
    _NodeType("mid", "amd64", 16, 64, 1.0, 60.0, 190.0, 3.0),
    _NodeType("old", "amd64", 12, 48, 0.6, 70.0, 200.0, 2.0),
    _NodeType("arm", "arm64", 16, 32, 0.85, 25.0, 90.0, 2.0),
    _NodeType("high-memory", "amd64", 16, 256, 0.95, 80.0, 220.0, 1.0),
    _NodeType("gpu", "amd64", 8, 64, 1.0, 90.0, 400.0, 1.0),
)
_BIG, _OLD, _ARM, _HIGH_MEMORY, _GPU = 0, 2, 3, 4, 5
_KINDS = 8
_OWN_SPREAD = 0.25
"""Sigma of the log of a kind's speed on a node type that nothing explains."""
_CORES, _CORE_ODDS = (0.5, 1.0, 2.0, 4.0, 8.0), (0.2, 0.3, 0.25, 0.15, 0.1)
_AFFINITIES: dict[str, dict[int, float]] = {
    "plain": {},
    "compute": {_BIG: 1.3, _OLD: 0.75},
    "memory": {_HIGH_MEMORY: 1.6, _ARM: 0.8},
    "vector": {_BIG: 1.2, _ARM: 0.55, _OLD: 0.7},
    "arm": {_ARM: 1.6},
}
"""What a kind of task runs faster or slower on, beside the general speed of a node type."""
_SIZE_SPREAD = 0.5
_SLA = (SlaClass.PRODUCTION, SlaClass.BATCH, SlaClass.BEST_EFFORT)
_SLA_NAMES = ("production", "batch", "best-effort")
_SLA_WEIGHTS = (2.0, 5.0, 3.0)
_PRIORITIES = (1000, 0, -10)
_SLACK = ((3.0, 6.0), (6.0, 15.0))
"""Deadlines of production and batch, as multiples of what the pod's author expects; best effort has none."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task; all but the name and what is requested is hidden."""

    name: str
    base_s: float
    """Median run time of a task of size 1 on a node of speed 1."""
    speed: Floats  # [C]
    noise: float
    """Sigma of the log of what its size does not tell."""
    cores: float
    memory_gib: float
    sensitivity: float
    share: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is drawn before any pod."""

    counts: tuple[int, ...]  # [C] nodes of each type
    kinds: tuple[Kind, ...]
    sla_odds: Floats  # [3]
    capacity: Capacity


def cluster(seed: int, nodes: int, mode: str) -> Cluster:
    """The cluster of a seed and what runs there."""
    rng = np.random.default_rng([seed, 7])
    counts = _counts(rng.dirichlet([t.weight for t in _TYPES]), nodes)
    shares = rng.dirichlet(np.full(_KINDS, 2.0))
    gpu_kinds = set(rng.choice(_KINDS, int(rng.integers(1, 4)), replace=False).tolist())
    kinds = tuple(_kind(k, float(shares[k]), k in gpu_kinds, rng) for k in range(_KINDS))
    sla_odds = rng.dirichlet(_SLA_WEIGHTS)
    return Cluster(counts, kinds, sla_odds, _capacity(kinds, counts, mode))


def random_clusters(
    seed: int, load: float = 0.7, nodes: int = 40, mode: str = "immediate", per_node: int = 150, warm: int = 50,
    burst: float = 2.2, wave: float = 0.3, trace_seed: int = -1,
) -> World:  # fmt: skip
    """A random cluster at `load` of its fluid capacity over the counted part: `per_node` pods a node, after `warm`.

    `mode` immediate: a pod is bound as soon as it fits somewhere; dispatch: it goes to a node's queue when it arrives.
    `burst` and `wave` are the height of bursts and of the sinusoid; 1 and 0 leave Poisson arrivals. `trace_seed` draws
    other arrivals and pods for the cluster of `seed` (-1: the seed's own). Raises UserError for an unknown mode or a
    number that makes no sense.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r} of scenario random-clusters is unknown; choose one of {', '.join(MODES)}")
    if not 0.0 < load < 2.0 or nodes < len(_TYPES) or per_node < 1 or warm < 0:
        raise UserError("scenario random-clusters needs 0 < load < 2, nodes >= 6, per_node >= 1 and warm >= 0")
    if trace_seed < -1:
        raise UserError("scenario random-clusters needs trace_seed >= 0, or -1 for the trace of the seed")
    if not 1.0 <= burst <= 10.0 or not 0.0 <= wave < 1.0:
        raise UserError("scenario random-clusters needs 1 <= burst <= 10 and 0 <= wave < 1")
    drawn = cluster(seed, nodes, mode)
    manifests = [
        node_manifest(
            f"{t.name}-{k:03d}", cpu_milli=t.cores * 1000.0, memory_bytes=t.memory_gib * _GIB, instance_type=t.name,
            arch=t.arch, idle_w=t.idle_w, peak_w=t.peak_w, zone=f"zone-{'abc'[k % 3]}",
            pods=110 if mode == "immediate" else 10**6,
        )
        for t, count in zip(_TYPES, drawn.counts, strict=True) for k in range(count)
    ]  # fmt: skip
    # Streams of their own: whatever the load, a seed has the same pods in the same order.
    stream = [seed, 7] if trace_seed in (-1, seed) else [seed, 7, 3, trace_seed]
    when, rng = np.random.default_rng([*stream, 1]), np.random.default_rng([*stream, 2])
    rhythm = Wave(burst, wave, drawn.capacity.run_s)
    times = arrivals(when, rhythm, load * drawn.capacity.pods_per_s, warm * nodes, per_node * nodes)
    odds = np.array([k.share for k in drawn.kinds])
    of_kind = rng.choice(_KINDS, len(times), p=odds / odds.sum())
    pods = _pods(np.rint(times / QUANTUM_S) * QUANTUM_S, of_kind, drawn, rng)
    names = tuple(t.name for t in _TYPES)
    same = {
        "seed": seed, "load": load, "nodes": nodes, "mode": mode, "per_node": per_node, "warm": warm, "burst": burst,
        "wave": wave,
    }  # fmt: skip
    again = partial(_again, same, max(trace_seed, seed))
    return world(
        "random-clusters", seed, manifests, names, pods, warm=warm * nodes, fifo=mode == "dispatch", again=again
    )


def _again(same: Mapping[str, Any], used: int, number: int) -> World:
    """With another trace than those of the seeds up to `used`."""
    return random_clusters(**same, trace_seed=used + 1 + number)


def _counts(shares: Floats, nodes: int) -> tuple[int, ...]:
    """Whole numbers in about these shares, each at least 1 (largest remainders)."""
    wanted = shares * (nodes - len(shares))
    counts = np.floor(wanted).astype(int)
    for k in np.argsort(counts - wanted, kind="stable")[: nodes - len(shares) - int(counts.sum())]:
        counts[k] += 1
    return tuple(int(c) + 1 for c in counts)


def _kind(index: int, share: float, on_gpu: bool, rng: np.random.Generator) -> Kind:
    character = str(rng.choice(list(_AFFINITIES)))
    speed = np.array([t.speed for t in _TYPES]) * np.exp(rng.normal(0.0, _OWN_SPREAD, len(_TYPES)))
    for column, factor in _AFFINITIES[character].items():
        speed[column] *= factor
    if on_gpu:
        speed[_GPU] *= rng.uniform(3.0, 7.0)
    cores = float(rng.choice(_CORES, p=_CORE_ODDS))
    return Kind(
        name=f"{'gpu' if on_gpu else character}-{index}",
        base_s=math.exp(rng.uniform(*np.log([15.0, 120.0]))),
        speed=speed,
        noise=float(rng.uniform(0.4, 0.9)),
        cores=cores,
        memory_gib=cores * float(rng.choice([4.0, 8.0] if character == "memory" else [1.0, 2.0, 4.0])),
        sensitivity=float(rng.uniform(0.1, 0.6)),
        share=share,
    )


def _capacity(kinds: tuple[Kind, ...], counts: tuple[int, ...], mode: str) -> Capacity:
    """Fluid capacity with nodes whose CPUs are all requested, so that every pod is slowed by full neighbours."""
    shares = np.array([k.share for k in kinds])
    mean_s = np.array([k.base_s * math.exp((_SIZE_SPREAD**2 + k.noise**2) / 2.0) / k.speed for k in kinds])  # [W, C]
    number = np.array(counts, float)
    if mode == "dispatch":  # one pod at a time on each node
        return fluid_capacity(shares, mean_s, np.ones((len(kinds), 1)), number[:, None])
    cores, memory = np.array([t.cores for t in _TYPES]), np.array([t.memory_gib for t in _TYPES])
    wants = np.array([[k.cores, k.memory_gib] for k in kinds])
    sensitivity = np.array([k.sensitivity for k in kinds])
    full = 1.0 + sensitivity[:, None] * (1.0 - wants[:, :1] / cores)
    fits = (wants[:, :1] <= cores) & (wants[:, 1:] <= memory)
    hold_s = np.where(fits, mean_s * full, np.inf)
    return fluid_capacity(shares, hold_s, wants, np.stack([cores, memory], axis=1) * number[:, None])


def _pods(created_s: Floats, of_kind: Ints, drawn: Cluster, rng: np.random.Generator) -> PodColumns:
    size, luck, class_draw, slack = draws(rng, len(created_s), (NORMAL, NORMAL, UNIFORM, UNIFORM)).T

    def per_kind(of: Callable[[Kind], float]) -> Floats:
        return np.array([of(k) for k in drawn.kinds])[of_kind]

    noise = per_kind(lambda k: k.noise)
    median_s = per_kind(lambda k: k.base_s) * np.exp(size * _SIZE_SPREAD)
    factor = np.exp(luck * noise)
    sla = chosen(drawn.sla_odds, class_draw)
    low, high = np.array([*_SLACK, (math.inf, math.inf)])[sla].T
    with np.errstate(invalid="ignore"):  # inf less inf
        after_s = np.where(sla == SlaClass.BEST_EFFORT, math.inf, median_s * (low + (high - low) * slack))
    speed = np.array([k.speed for k in drawn.kinds])[of_kind]
    return PodColumns(
        templates=tuple(_template(k, s) for k in drawn.kinds for s in _SLA),
        template=of_kind * len(_SLA) + sla,
        created_s=created_s,
        cpu_milli=per_kind(lambda k: k.cores * 1000.0),
        memory_bytes=per_kind(lambda k: k.memory_gib * _GIB),
        gpus_milli=np.zeros(len(sla)),
        deadline_after_s=told(after_s),
        expected_s=told(median_s),
        true_run_s=np.maximum((median_s * factor)[:, None] / speed, QUANTUM_S),
        sensitivity=per_kind(lambda k: k.sensitivity),
        noise=noise,
        noise_factor=factor,
        owner=np.arange(len(sla)),
    )


def _template(kind: Kind, sla: SlaClass) -> Template:
    said = {"nodewise.dev/sla-class": _SLA_NAMES[sla], "nodewise.dev/workload": kind.name}
    return Template(kind.name, said, {"priority": _PRIORITIES[sla], "affinity": _ANYWHERE})


_TERM: dict[str, Any] = {
    "matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]}]
}
_ANYWHERE: dict[str, Any] = {
    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM]}}
}
