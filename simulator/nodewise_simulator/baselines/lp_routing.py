"""`lp-routing`: pods follow the fractions of the static planning program, least work remaining inside a node class.

The program (Harrison, Annals of Applied Probability 2000; the fluid capacity of `scenarios.capacity`) finds what
share of each workload should go to each node class such that arrivals in these proportions could grow the most before
CPU, memory or accelerators run out. It knows what an operator could know at that time: shares and requests of pods that
have come, believed run times as they are. A deficit counter makes the pods of a workload follow its shares; it begins
anew with each solution. A pod whose class has no room takes the feasible class that is behind its share most; with
`waits` it waits for room on one that has a share, however far that is ahead of it already (to wait for the very class
that is behind most was tried, and did not end in two minutes where this takes one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows, Scores
from nodewise.policies import defer
from nodewise.policies.timed import LEAST_WORK_REMAINING
from nodewise_simulator.scenarios.capacity import fluid_capacity

EVERY = 300
"""Pods from one solution to the next."""
_FIRST = 30
"""Pods until the first."""
_KEPT = 0.7
"""What an older pod counts for at each solution: shares are those of about the last thousand pods."""
_SHARE = 1e-6


@dataclass(slots=True)
class _Workload:
    """What is known of the pods of one workload."""

    count: float = 0.0
    wants: Floats = field(default_factory=lambda: np.zeros(3))  # sum of what they want: CPU, memory, accelerators
    scale: float = 0.0  # sum of what scales their believed run time
    belief_row: int = 0
    allowed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # [N] nodes that pass their filters
    share: Floats = field(default_factory=lambda: np.zeros(0))  # [C] empty before the first solution
    deficit: Floats = field(default_factory=lambda: np.zeros(0))  # [C]


class Routes:
    """The books of one run; see `nodewise_simulator.direct.Deferral`."""

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits
        self._workloads: dict[str, _Workload] = {}
        self._came, self._next = 0, _FIRST
        self.solved = 0
        """How often the program was solved."""

    def queued(self, pod: PodRequest, view: ClusterView, allowed: NDArray[np.bool_]) -> None:
        """A pod came."""
        told = not math.isnan(pod.expected_run_s)
        of = self._workloads.setdefault(_key(pod), _Workload())
        of.count += 1.0
        of.wants += np.array([pod.cpu_milli, pod.memory_bytes, pod.gpus_milli])
        of.scale += pod.expected_run_s if told else 1.0
        of.belief_row, of.allowed = view.belief_row, allowed
        self._came += 1
        if self._came >= self._next:
            self._next += EVERY
            self._solve(view)

    def ask(self, pod: PodRequest, view: ClusterView, rows: Rows) -> tuple[Rows, float]:
        """The rows of the class that the pod is routed to; none if it has to wait, which ends with an event."""
        of = self._workloads[_key(pod)]
        classes = view.nodes.node_class[rows]
        here = np.unique(classes)
        if len(of.share) <= here.max():  # not solved yet, or a new node class
            return rows, view.now_s
        behind = of.deficit + of.share
        meant = here[of.share[here] > _SHARE]
        if not len(meant) and self._waits and defer.may_wait(pod):
            return rows[:0], math.inf
        # Without room where it should be: where it runs shortest.
        to = (
            meant[np.argmax(behind[meant])]
            if len(meant)
            else here[np.argmin(view.beliefs.run_mean[view.belief_row, here])]
        )
        of.deficit = behind
        of.deficit[to] -= 1.0
        return rows[classes == to], view.now_s

    def gone(self, uid: str) -> None:
        """A pod waits no longer."""

    def _solve(self, view: ClusterView) -> None:
        t = view.nodes
        known = [w for w in self._workloads.values() if len(w.allowed) == len(t.name)]
        if not known:  # nodes came or went since the last pod of each
            return
        number = view.beliefs.run_mean.shape[1]
        one = np.stack([t.cpu_allocatable_milli, t.memory_allocatable_bytes, t.gpus_allocatable_milli], axis=1)
        room = np.zeros((number, 3))
        np.add.at(room, t.node_class, one)
        wants = np.array([w.wants / w.count for w in known])
        hold_s = np.full((len(known), number), np.inf)
        for k, w in enumerate(known):
            fits = w.allowed & ((one >= wants[k]) | (wants[k] == 0.0)).all(axis=1)
            open_to = np.unique(t.node_class[fits])
            hold_s[k, open_to] = view.beliefs.run_mean[w.belief_row, open_to] * (w.scale / w.count)
        counts = np.array([w.count for w in known])
        try:
            routed = fluid_capacity(counts / counts.sum(), hold_s, wants, room).routed_per_s
        except UserError:  # a workload that fits nowhere (now): the old shares stand
            return
        self.solved += 1
        for w, row in zip(known, routed, strict=True):
            w.share = row / max(row.sum(), 1e-300)
            w.deficit = np.zeros(number)
            w.count, w.wants, w.scale = w.count * _KEPT, w.wants * _KEPT, w.scale * _KEPT


@dataclass(frozen=True, slots=True)
class LpRouting:
    """The policy; its choice of a class is made as a filter, by the books of each run."""

    name: str = "lp-routing"
    waits: bool = False

    @property
    def digest(self) -> str:
        """As that of a rule."""
        return LEAST_WORK_REMAINING.digest.replace(LEAST_WORK_REMAINING.name, self.name)

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Less work remaining is better."""
        return LEAST_WORK_REMAINING.score(pod, view, rows)

    def deferral(self) -> Routes:
        """Books for one run."""
        return Routes(waits=self.waits)


def _key(pod: PodRequest) -> str:
    return f"{pod.namespace}/{pod.workload}/{math.isnan(pod.expected_run_s)}"
