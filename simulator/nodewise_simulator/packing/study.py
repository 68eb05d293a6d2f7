"""`openb-static` as a study: policies by name, one seed's run, what is measured of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.packing import layout as kn
from nodewise_simulator.packing.problem import Problem, loaded, problem
from nodewise_simulator.studies import Study
from nodewise_simulator.traces.table import Array

MARKS = (80, 90, 95, 100, 130)
"""GPU demand arrived, % of the cluster's GPUs, at which a run is measured."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy is, in the kernels' words."""

    says: str
    score: int
    ties: int = kn.BY_NAME
    gpu: int = kn.TIGHTEST
    pwr_weight: int = 0
    """Of 1000; the rest is FGD's."""
    top: float = 100.0
    """The highest score: 100 in the scheduler, 10 in an extender's reply."""


_FGD = Rule("fragmentation gradient descent, ties by name, as published", kn.FGD, gpu=kn.OWN)
POLICIES: dict[str, Rule] = {
    "random": Rule("a random node and GPU", kn.RANDOM, kn.AT_RANDOM, kn.ANY),
    "dot-prod": Rule("the least dot product of what is left and what is asked for", kn.DOT_PROD),
    "gpu-clustering": Rule("beside pods with as many GPUs", kn.CLUSTERING),
    "gpu-packing": Rule("shared GPUs, then used nodes, then empty ones", kn.PACKING),
    "best-fit": Rule("least CPU and GPU left", kn.BEST_FIT),
    "fgd": _FGD,
    "least-allocated": Rule("most CPU and memory left: kube-scheduler's idea, its random ties", kn.LEAST, kn.AT_RANDOM),
    "fgd-random-ties": replace(_FGD, says="FGD in a stock kube-scheduler: ties at random", ties=kn.AT_RANDOM),
    "fgd-best-fit": replace(_FGD, says="FGD, ties by BestFit, then at random", ties=kn.BY_BEST_FIT),
    "fgd-0-10": replace(_FGD, says="FGD in whole numbers from 0 to 10, ties by name", top=10.0),
    "fgd-0-10-random-ties": replace(
        _FGD, says="FGD as an extender replies and kube-scheduler takes it: 0 to 10, ties at random", top=10.0,
        ties=kn.AT_RANDOM,
    ),
    **{
        f"fgd-pwr-{weight}": replace(_FGD, says=f"{1000 - weight} parts FGD, {weight} parts PWR", pwr_weight=weight)
        for weight in (50, 100, 200, 500)
    },
}  # fmt: skip

UNITS: Mapping[str, str] = {
    **{f"allocated_{mark}_pct": "% of the GPUs" for mark in MARKS},
    "unallocated_100_gpus": "GPUs",
    **{f"fragmented_{mark}_pct": "% of the GPUs" for mark in MARKS},
    **{f"power_{mark}_w": "W" for mark in MARKS},
    "placed_pods": "pods",
    "arrived_pods": "pods",
}

_KERNEL = """# Written by nodewise_simulator.packing.study; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.packing.kernels import pack


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(problem, rule, uniforms, work, seen, went):
    pack(problem, rule, uniforms, work, seen, went)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of each arrival."""

    arrived_milli: Floats  # [A] GPU demand so far
    taken_milli: Floats  # [A]
    fragmented_milli: Floats  # [A]
    power_w: Floats  # [A]
    node: Array  # [A] row of the node, -1: did not fit


def pack(given: Problem, rule: Rule, seed: int) -> Run:
    """Place the arrivals of a problem. Random ties and GPUs are the seed's, the same for every policy."""
    arrivals = len(given.arrivals)
    uniforms = np.random.default_rng([seed, 1]).random((arrivals, 2))
    seen, went = np.empty((arrivals, 4)), np.empty(arrivals, np.int64)
    arrays = (given.nodes.copy(), given.watts, given.shapes, given.typical, given.frequency, given.arrivals)
    work = kn.room_to_work(len(given.nodes), len(given.shapes), arrivals)
    _compiled()(arrays, (rule.score, rule.ties, rule.gpu, rule.pwr_weight, rule.top), uniforms, work, seen, went)
    return Run(seen[:, 0], seen[:, 1], seen[:, 2], seen[:, 3], went)


@cache
def _compiled() -> Any:
    # numba takes half a second to load, which whoever only asks for names need not wait for
    from nodewise_simulator.compiled.kept import kept
    from nodewise_simulator.packing import kernels

    return kept(_KERNEL, kernels.pack).kernel


def measured(given: Problem, run: Run) -> dict[str, float]:
    """Metrics of `UNITS`: at each mark the mean over arrivals within half a point of it, as published."""
    part = np.round(100.0 * run.arrived_milli / given.capacity_milli)
    out: dict[str, float] = {}
    for mark in MARKS:
        near = part == mark
        near = near if near.any() else np.abs(part - mark) <= 1
        if not near.any():  # a list so short that single pods step over the mark
            near = np.arange(len(part)) == np.argmin(np.abs(part - mark))
        out[f"allocated_{mark}_pct"] = float(100.0 * run.taken_milli[near].mean() / given.capacity_milli)
        out[f"fragmented_{mark}_pct"] = float(100.0 * run.fragmented_milli[near].mean() / given.capacity_milli)
        out[f"power_{mark}_w"] = float(run.power_w[near].mean())
    out["unallocated_100_gpus"] = (100.0 - out["allocated_100_pct"]) / 100.0 * given.capacity_milli / 1000.0
    out["placed_pods"] = float((run.node >= 0).sum())
    out["arrived_pods"] = float(len(run.node))
    return {name: out[name] for name in UNITS}


def play(policy: str, seed: int, *, list: str = "default", trace: str = "") -> dict[str, float]:  # noqa: A002 - user's word
    """One policy on one seed's arrivals.

    `list` is the pod list's name, as `cpu050`; `trace` the folder of openb's files (default: `openb` in the folder
    that NODEWISE_TRACES names). Raises UserError for an unknown policy or list and for bad files.
    """
    if policy not in POLICIES:
        raise UserError(f"openb-static has no policy {policy!r}; take one of {', '.join(POLICIES)}")
    given = problem(*loaded(folder(trace), list), seed)
    return measured(given, pack(given, POLICIES[policy], seed))


def folder(trace: str) -> Path:
    """The folder of openb's files. Raises UserError if nothing names one."""
    if trace:
        return Path(trace)
    home = os.environ.get("NODEWISE_TRACES")
    if not home:
        raise UserError(
            "openb-static needs Alibaba's GPU trace of 2023: fetch cluster-trace-gpu-v2023/csv of "
            "github.com/alibaba/clusterdata and name its folder with trace=PATH"
        )
    return Path(home) / "openb"


STUDY = Study(
    name="openb-static",
    says="GPU packing on Alibaba's GPU trace: pods arrive one by one up to 130 % of 6,212 GPUs and never leave",
    source="FGD (USENIX ATC'23), hkust-adsl/kubernetes-scheduler-simulator; power: PWR (CCGrid'25)",
    policies={name: rule.says for name, rule in POLICIES.items()},
    units=UNITS,
    headline="allocated_100_pct",
    play=play,
    higher_is_better=True,
)
