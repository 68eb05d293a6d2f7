"""`hetero`: 60 nodes of five classes, four mixes of SLA classes, and speeds that depend on what runs where.

Prices, sizes and CoreMark scores are those of real EC2 types (us-east-1 on demand, July 2026; CoreMark by Vantage,
December 2025), power that of the Teads and Cloud Carbon Footprint estimates. The hidden table is drawn anew for each
seed: the class's CoreMark, an exponent for how much a workload follows it, and a part of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats, SlaClass
from nodewise_simulator.columns import PodColumns, Template, told
from nodewise_simulator.scenarios.draws import chosen
from nodewise_simulator.world import QUANTUM_S, World, node_manifest, world

_GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class _Machine:
    instance_type: str
    count: int
    arch: str
    memory_gib: float  # allocatable
    price_usd_per_h: float
    idle_w: float
    peak_w: float
    coremark: float  # iterations/s of all 16 vCPU
    gpu: str = ""


_MACHINES = (
    # Broadwell of 2015; Teads
    _Machine("m4.4xlarge", 14, "amd64", 56.3, 0.800, 12.9, 113.8, 251243.1),
    # Sapphire Rapids; no Teads row, so 1.036..4.160 W per vCPU of its micro-architecture
    _Machine("c7i.4xlarge", 16, "amd64", 26.7, 0.714, 16.6, 66.6, 382775.1),
    # Graviton3; the published coefficient is a copy of EPYC 2nd generation's, 0.474..1.693 W per vCPU
    _Machine("c7g.4xlarge", 14, "arm64", 26.7, 0.580, 7.6, 27.1, 413329.9),
    # Graviton of 2018; Teads
    _Machine("a1.4xlarge", 8, "arm64", 26.7, 0.408, 8.0, 67.9, 190136.7),
    # Cascade Lake with one T4; Teads, GPU included
    _Machine("g4dn.4xlarge", 8, "amd64", 58.5, 1.204, 14.0, 202.0, 230991.3, "Tesla-T4"),
)
_CPU_MILLI = 15890.0
"""Allocatable of every 4xlarge under Kubernetes."""
_REFERENCE = 1
"""Index of the class whose run times `expected-seconds` speaks of."""
_FOUR = 15
"""Nodes of each class when there are four."""
_THOUSAND = (233, 267, 233, 133, 134)
"""Nodes of each class of `hetero-1000`."""

MIXES = {
    "mixed": (0.3, 0.5, 0.2),
    "production": (0.6, 0.3, 0.1),
    "batch": (0.1, 0.8, 0.1),
    "best-effort": (0.1, 0.3, 0.6),
}
"""Shares of production, batch and best-effort pods."""

PRIORITY_CLASSES = {"production": 1000, "batch": 0, "best-effort": -10}
"""Priority of the pods of each SLA class."""
_SLA_NAME = {SlaClass.PRODUCTION: "production", SlaClass.BATCH: "batch", SlaClass.BEST_EFFORT: "best-effort"}
_WORKLOADS = 10
_GPU_WORKLOADS = (8, 9)
_AMD64_ONLY = (2, 6)
_DESCRIBED = (0, 2, 4, 5, 8)
"""Workloads whose authors tell `expected-seconds`."""
_PERIOD_S = 1800.0


@dataclass(frozen=True, slots=True)
class _Workload:
    name: str
    base_s: float  # median run time on the reference class
    speed: Floats  # [C] relative to the reference class; hidden
    noise: float  # sigma of one run, log
    size_spread: float  # sigma of what the author knows of a run's size, log
    cpu_milli: float
    memory_gib: float
    sensitivity: float
    share: float


def hetero(
    seed: int,
    load: float = 0.7,
    mix: str = "rotate",
    pods: int = 2000,
    warm: int = 3000,
    pace: float = 1.0,
    classes: int = 5,
    size: float = 1.0,
) -> World:
    """60 nodes at `load` of their CPU; `pods` counted after `warm`. `mix` is one of MIXES, or `rotate`: by seed.

    For runs in real time: `pace` makes everything that many times faster (shorter runs, more arrivals), `classes` 4
    leaves out GPUs and takes 15 nodes of each other class, `size` 0.5 halves every node.

    Raises UserError for an unknown mix or a load or number that makes no sense.
    """
    if classes not in (4, 5) or not 0.3 <= size <= 4.0:  # the largest pod wants 4 CPU
        raise UserError("scenario hetero has 4 or 5 classes, and nodes of 0.3 to 4 times their size")
    machines = _MACHINES if classes == 5 else tuple(replace(m, count=_FOUR) for m in _MACHINES if not m.gpu)
    return _cluster("hetero", seed, machines, load, mix, pods, warm, pace, size)


def hetero_1000(seed: int, load: float = 0.7, mix: str = "rotate", pods: int = 10_000, warm: int = 10_000) -> World:
    """`hetero` with a thousand nodes, each class having its share of them. Raises UserError as `hetero` does."""
    machines = tuple(replace(m, count=count) for m, count in zip(_MACHINES, _THOUSAND, strict=True))
    return _cluster("hetero-1000", seed, machines, load, mix, pods, warm, 1.0, 1.0)


def _cluster(
    scenario: str, seed: int, machines: tuple[_Machine, ...], load: float, mix: str, pods: int, warm: int, pace: float,
    size: float,
) -> World:  # fmt: skip
    if mix != "rotate" and mix not in MIXES:
        raise UserError(f"mix {mix!r} of scenario {scenario} is unknown; choose rotate or one of {', '.join(MIXES)}")
    if not 0.0 < load < 2.0 or pods < 1 or warm < 0 or not pace > 0.0:
        raise UserError(f"scenario {scenario} needs 0 < load < 2, pods >= 1, warm >= 0 and pace > 0")
    rng = np.random.default_rng([seed, 3])
    workloads = [_workload(k, rng, pace) for k in range(_WORKLOADS)]
    if not any(m.gpu for m in machines):
        workloads = [_without_gpus(w) for k, w in enumerate(workloads) if k not in _GPU_WORKLOADS]
    shares = MIXES[mix if mix != "rotate" else list(MIXES)[seed % len(MIXES)]]
    nodes = [
        node_manifest(
            f"{m.instance_type.replace('.', '-')}-{k:02d}", cpu_milli=_CPU_MILLI * size,
            memory_bytes=m.memory_gib * _GIB * size, instance_type=m.instance_type, arch=m.arch,
            gpus=1 if m.gpu else 0, gpu_product=m.gpu, zone=f"zone-{'abc'[k % 3]}",
            price_usd_per_h=m.price_usd_per_h * size, idle_w=m.idle_w * size, peak_w=m.peak_w * size,
        )
        for m in machines for k in range(m.count)
    ]  # fmt: skip
    names = tuple(f"{m.instance_type}/{m.gpu}" if m.gpu else m.instance_type for m in machines)
    rate = _arrivals_per_s(workloads, machines, load) * size
    made = _pods(workloads, shares, rate, pace, warm + pods, rng)
    return world(scenario, seed, nodes, names, made, warm=warm)


def _workload(index: int, rng: np.random.Generator, pace: float) -> _Workload:
    gpu = index in _GPU_WORKLOADS
    relative = np.array([m.coremark for m in _MACHINES]) / _MACHINES[_REFERENCE].coremark
    follows, own = rng.uniform(0.5, 1.5), rng.normal(0.0, 0.3, len(_MACHINES))
    speed = relative**follows * np.exp(own - own[_REFERENCE])
    return _Workload(
        name=f"gpu-job-{index}" if gpu else f"job-{index}",
        # GPU jobs are short and few: they fit only eight devices, whose queue must not rule the averages.
        base_s=math.exp(rng.uniform(*np.log([15.0, 45.0] if gpu else [30.0, 300.0]))) / pace,
        speed=speed,
        noise=float(rng.uniform(0.1, 0.4)),
        size_spread=0.6 if index in _DESCRIBED else 0.2,
        cpu_milli=float(rng.choice([500, 1000, 2000, 4000], p=[0.2, 0.35, 0.3, 0.15])),
        memory_gib=float(rng.choice([0.5, 1, 2, 4])),
        sensitivity=float(rng.uniform(0.1, 0.6)),
        share=0.01 if gpu else 0.98 / (_WORKLOADS - len(_GPU_WORKLOADS)),
    )


def _without_gpus(workload: _Workload) -> _Workload:
    """The same, for a cluster without the machines that have any."""
    return replace(workload, speed=workload.speed[[not m.gpu for m in _MACHINES]])


def _arrivals_per_s(workloads: list[_Workload], machines: tuple[_Machine, ...], load: float) -> float:
    """Arrivals at which pods placed regardless of class would keep `load` of all CPU requested."""
    counts = np.array([m.count for m in machines], float)
    open_to = [np.array([m.arch == "amd64" or k not in _AMD64_ONLY for m in machines]) for k in range(len(workloads))]
    for k in _GPU_WORKLOADS[: max(len(workloads) - _GPU_WORKLOADS[0], 0)]:
        open_to[k] = np.array([bool(m.gpu) for m in machines])
    core_s = sum(
        w.share * w.cpu_milli * w.base_s * math.exp((w.size_spread**2 + w.noise**2) / 2.0)
        * float(np.average(1.0 / w.speed, weights=counts * open_to[k])) * (1.0 + w.sensitivity * load)
        for k, w in enumerate(workloads)
    )  # fmt: skip
    return load * _CPU_MILLI * float(counts.sum()) / core_s


def _pods(
    workloads: list[_Workload], shares: tuple[float, ...], rate: float, pace: float, pods: int,
    rng: np.random.Generator,
) -> PodColumns:  # fmt: skip
    odds = np.array([w.share for w in workloads])
    share_draw, size, luck, guess, class_draw, slack = (made := _draws(rate, pace, pods, rng)).T[1:]
    of = chosen(odds / odds.sum(), share_draw)

    def per_workload(value: Callable[[_Workload], float]) -> Floats:
        return np.array([value(w) for w in workloads])[of]

    noise = per_workload(lambda w: w.noise)
    usual_s = per_workload(lambda w: w.base_s) * np.exp(size * per_workload(lambda w: w.size_spread))
    factor = np.exp(luck * noise)
    sla = chosen(np.array(shares), class_draw)
    after = np.where(sla == SlaClass.PRODUCTION, 1.5 + (3.5 - 1.5) * slack, 3.0 + (8.0 - 3.0) * slack)
    deadline_s = np.where(sla == SlaClass.BEST_EFFORT, math.inf, usual_s * after)
    expected_s = np.where(np.isin(of, _DESCRIBED), usual_s * np.exp(guess * 0.15), math.nan)
    speed = np.array([w.speed for w in workloads])[of]
    return PodColumns(
        templates=tuple(_template(k, w, s) for k, w in enumerate(workloads) for s in SlaClass),
        template=of * len(SlaClass) + sla,
        created_s=np.rint(made[:, 0] / QUANTUM_S) * QUANTUM_S,
        cpu_milli=per_workload(lambda w: w.cpu_milli),
        memory_bytes=per_workload(lambda w: w.memory_gib * _GIB),
        gpus_milli=np.where(np.isin(of, _GPU_WORKLOADS), 1000.0, 0.0),
        deadline_after_s=told(deadline_s),
        expected_s=told(expected_s),
        true_run_s=np.maximum((usual_s * factor)[:, None] / speed, QUANTUM_S),
        sensitivity=per_workload(lambda w: w.sensitivity),
        noise=noise,
        noise_factor=factor,
        owner=np.arange(pods),
    )


def _draws(rate: float, pace: float, pods: int, rng: np.random.Generator) -> Floats:
    """When each pod arrives, and what is drawn for it: workload, size, noise, the author's error, SLA class, slack."""
    normal, uniform, gap, scale_s = rng.standard_normal, rng.random, rng.standard_exponential, 1.0 / (1.3 * rate)
    made, now_s = np.empty((pods, 7)), 0.0
    for k in range(pods):
        # Thinning: arrivals follow a wave of ±30 % (Lewis and Shedler 1979).
        while True:
            now_s += scale_s * gap()
            if uniform() * 1.3 < 1.0 + 0.3 * math.sin(2.0 * math.pi * now_s * pace / _PERIOD_S):
                break
        made[k] = now_s, uniform(), normal(), normal(), normal(), uniform(), uniform()
    return made


def _template(index: int, workload: _Workload, sla: SlaClass) -> Template:
    said = {"nodewise.dev/sla-class": _SLA_NAME[sla], "nodewise.dev/workload": workload.name}
    archs = ["amd64"] if index in (*_AMD64_ONLY, *_GPU_WORKLOADS) else ["amd64", "arm64"]
    spec = {"priority": PRIORITY_CLASSES[_SLA_NAME[sla]], "affinity": _runs_on(archs)}
    return Template(workload.name, said, spec)


def _runs_on(archs: list[str]) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": archs}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
