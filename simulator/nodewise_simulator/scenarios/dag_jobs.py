"""What scenarios of DAG jobs share: a heterogeneous cluster, and jobs whose stages become pods with parents.

- Nodes: `nodes` machines of `hetero`'s four CPU classes in equal parts, half as large, dear and hungry as there
  (8 vCPU), amd64 and arm64: 8 of them are about the 50 executors of Decima's experiments.
- Speed: durations of the traces are taken as those on a c7i.4xlarge. How much slower or faster a workload is on the
  other classes is hidden and drawn by seed as in `hetero`: CoreMark to a power of 0.5 to 1.5, and 30 % of its own.
- A stage of many tasks becomes at most `width` pods, which run its tasks one after another, as executors do: the work
  stays, the number of pods does not explode.
- SLA classes are drawn by job; each pod's deadline follows from its own run time, from when its parents have ended.
  All pods tell `expected-seconds`, with an error of 15 %. No priorities. What a pod hands to its children takes no
  time, for no trace says how much it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.scenarios.hetero import hetero
from nodewise_simulator.scenarios.traced import deadline_of, drawn_sla, pod, requests
from nodewise_simulator.world import Json, SimPod

# Iterations/s of all 16 vCPU (Vantage, December 2025), as in `hetero`; the first is what durations are of.
COREMARK = {"c7i.4xlarge": 382775.1, "a1.4xlarge": 190136.7, "c7g.4xlarge": 413329.9, "m4.4xlarge": 251243.1}
CLASSES = tuple(COREMARK)
TOLD_ERROR = 0.15
_ARCHS = ("amd64", "arm64")
_SIZE = 0.5
ROOM_MILLI, ROOM_MIB = 15_890.0 * _SIZE, 26.7 * 1024.0 * _SIZE
"""Of the smallest node."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stage of a job, or a task of many instances, as pods."""

    run_s: Floats  # [n] of each of its pods, on the reference class
    workload: str
    cpu_milli: float
    memory_mib: float
    parents: tuple[int, ...]  # parts of the same job


def cluster(nodes: int) -> tuple[list[Json], float]:
    """`nodes` machines in equal parts of each class, and their CPU milli."""
    found = hetero(0, pods=1, warm=0, classes=4, size=_SIZE)
    each = nodes // len(CLASSES)
    made: list[Json] = []
    milli = 0.0
    for kind in CLASSES:
        rows = [k for k, n in enumerate(found.nodes) if n.node_class == kind][:each]
        made += [found.node_manifests[k] for k in rows]
        milli += sum(found.nodes[k].cpu_allocatable_milli for k in rows)
    return made, milli


class Speeds:
    """Hidden speed of each workload on each class, relative to the first [C]; drawn as it is first asked for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._drawn: dict[str, Floats] = {}

    def of(self, workload: str) -> Floats:
        """Of one workload [C]."""
        if workload not in self._drawn:
            relative = np.array(list(COREMARK.values())) / COREMARK[CLASSES[0]]
            follows, own = self._rng.uniform(0.5, 1.5), self._rng.normal(0.0, 0.3, len(CLASSES))
            self._drawn[workload] = relative**follows * np.exp(own - own[0])
        return self._drawn[workload]


def split(run_s: Floats, width: int) -> Floats:
    """Tasks [n] dealt to at most `width` pods in turn: how long each pod takes."""
    slots = min(len(run_s), width)
    return np.array([run_s[k::slots].sum() for k in range(slots)])


def core_s(parts: list[Part]) -> float:
    """CPU that a job's pods hold on the reference class, in core-seconds."""
    return sum(float(part.run_s.sum()) * part.cpu_milli / 1000.0 for part in parts)


def arrivals(works: list[float], gaps: Floats, load: float, milli: float) -> Floats:
    """Arrivals of jobs of this much work [core-s], `gaps` [J] apart from one another, stretched to offer `load`."""
    span_s = sum(works) / (load * milli / 1000.0)
    at = np.concatenate([[0.0], np.cumsum(gaps[1:])])
    return at * (span_s / float(at[-1])) if at[-1] > 0.0 else at


def pods_of(
    job: int, at_s: float, parts: list[Part], first: int, speeds: Speeds, rng: np.random.Generator
) -> list[SimPod]:
    """The pods of a job, part by part in the order given; `first` is the position of its first pod in the world."""
    begins = np.concatenate([[0], np.cumsum([len(part.run_s) for part in parts])]) + first
    sla, made = drawn_sla(rng), []
    for at, part in enumerate(parts):
        parents = tuple(p for parent in part.parents for p in range(int(begins[parent]), int(begins[parent + 1])))
        for k, run_s in enumerate(part.run_s):
            usual_s = float(run_s)
            told_s = usual_s * math.exp(rng.normal(0.0, TOLD_ERROR))
            made.append(
                pod(
                    f"job-{job:04d}-{at:02d}-{k:02d}", at_s, part.workload, sla, usual_s / speeds.of(part.workload),
                    requests(part.cpu_milli, part.memory_mib), deadline_s=deadline_of(sla, usual_s),
                    expected_s=told_s, job=f"job-{job:04d}", archs=_ARCHS, parents=parents,
                )
            )  # fmt: skip
    return made
