"""A pod that fits nowhere makes room for itself: kube-scheduler's DefaultPreemption, and what it promises meanwhile.

Source: `pkg/scheduler/framework/preemption/preemption.go` and `plugins/defaultpreemption/default_preemption.go` at
1.36, checked against the real scheduler (`../bench/preemptions.py`). Evicted pods hold their room until their grace is
over; the preemptor's node is promised to it against pods that are not more important, and it is tried again when room
appears.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.engine.outcome import Preemption

if TYPE_CHECKING:
    from nodewise_simulator.engine.loop import Engine

MIN_CANDIDATES_PERCENT, MIN_CANDIDATES = 10, 100
"""`minCandidateNodesPercentage` and `minCandidateNodesAbsolute`: how many of the nodes that lack room are to be found
where evictions would help before the best of those is taken."""
_OFFSET = 2**31
"""kube-scheduler adds it to every victim's priority before it sums them, so that a negative one is not a gift: of two
nodes whose most important victims are alike, the one with fewer victims has the smaller sum."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node, and who would have to leave it."""

    node: str
    victims: tuple[int, ...]
    """The most important first."""
    violations: int
    """How many of them a disruption budget protects."""


class Preemptor:
    """PostFilter and nominations of one run."""

    def __init__(self, engine: Engine) -> None:
        world = engine.world
        if any(p.device_milli > 0.0 for p in world.pods):
            raise UserError(f"scenario {world.scenario} shares accelerators, of which preemption knows nothing")
        self._engine, self._scheduler = engine, engine.scheduler
        self._rng = np.random.default_rng([world.seed, 36])
        self._priority = [p.request.priority for p in world.pods]
        self._never = [p.manifest["spec"].get("preemptionPolicy") == "Never" for p in world.pods]
        self.nominated: dict[int, str] = {}
        """The node that each pod waits for, whose room it made."""
        self._robbed: set[int] = set()  # those whose promise another one ended, until they are tried again
        self._going: dict[int, int] = {}  # pods that were evicted here: which of their attempts
        self._wants = [engine.scheduler.wants(p.request) for p in world.pods]
        ranks = sorted(set(self._priority))
        self._rank = [ranks.index(p) for p in self._priority]
        self._taken = np.zeros((len(ranks), len(world.nodes), 4))  # by pods of each priority on each node
        self._spoken = np.zeros_like(self._taken)  # promised to pods of each priority there

    def cycle(self, index: int, now_s: float) -> str | None:
        """One cycle of the scheduler, its node or None; then others may have been told to go."""
        engine, old = self._engine, self.nominated.get(index, "")
        equal: list[Candidate] = []
        self._robbed.discard(index)
        with self._promised(index):
            node = self._scheduler.schedule(engine.pods[index], now_s, old)
            if node is None:
                rows = self._lacking(index)
                if self._waits(index, rows) or self._never[index]:
                    return None
                equal = self._best(self._candidates(index, rows))
            else:
                self._taken[self._rank[index], engine.row[node]] += self._wants[index]
        self._promise(index, "")
        if equal:
            # kube-scheduler takes what its map of them gives first: any.
            best = equal[int(self._rng.integers(len(equal)))]
            self._promise(index, best.node)
            self._make_room(index, best, tuple(c.node for c in equal), now_s)
        if old and old != self.nominated.get(index, node):
            self._given_up(old, now_s)
        return node

    def left(self, index: int, node: str) -> None:
        """A pod is gone from its node."""
        self._taken[self._rank[index], self._engine.row[node]] -= self._wants[index]

    def may_try(self, index: int, rows: Sequence[int]) -> bool:
        """Whether a pod that fitted nowhere may get one of these nodes, which changed, or room on it."""
        node, allowed = self.nominated.get(index, ""), self._scheduler.allowed(self._engine.pods[index])
        if index in self._robbed:
            return True
        if node:
            row = self._engine.row[node]
            if row in rows or not allowed[row] or not self._expects(index, node):
                return True
        promised = self._spoken[self._rank[index] :, list(rows)].sum(axis=0)
        fits = self._emptied(index, rows, 0 if self._never[index] or node else self._rank[index], promised)
        return bool((fits & allowed[list(rows)]).any())

    def _emptied(self, index: int, rows: Sequence[int], rank: int, promised: Floats | float = 0.0) -> NDArray[np.bool_]:
        """Which of these nodes have the room if all leave that are below a rank [M]."""
        wants = self._wants[index]
        room = self._scheduler.room(rows) - promised + self._taken[:rank, list(rows)].sum(axis=0)
        found: NDArray[np.bool_] = ((room >= wants) | (wants == 0.0)).all(axis=1)
        return found

    @contextmanager
    def _promised(self, index: int) -> Iterator[None]:
        """The scheduler sees the room that is promised to others who are at least as important as taken."""
        mine, pods = self._priority[index], self._engine.pods
        taken = [(k, n) for k, n in self.nominated.items() if k != index and self._priority[k] >= mine]
        for other, node in taken:
            self._scheduler.assume(pods[other].request, node)
        try:
            yield
        finally:
            for other, node in taken:
                self._scheduler.forget(pods[other].request, node)

    def _lacking(self, index: int) -> Sequence[int]:
        """Rows of the nodes that the pod may use and that lack the room, in their order."""
        pod = self._engine.pods[index]
        short = self._scheduler.allowed(pod)
        short[self._scheduler.feasible(pod)] = False
        rows: list[int] = np.flatnonzero(short).tolist()
        return rows

    def _waits(self, index: int, lacking: Sequence[int]) -> bool:
        """Whether pods that were told to go are still there (PodEligibleToPreemptOthers)."""
        node = self.nominated.get(index, "")
        return bool(node) and self._engine.row[node] in lacking and self._expects(index, node)

    def _expects(self, index: int, node: str) -> bool:
        return any(
            self._priority[k] < self._priority[index] and self._going.get(k) == self._engine.attempts[k]
            for k in self._engine.machines[node].residents
        )

    def _candidates(self, index: int, rows: Sequence[int]) -> list[Candidate]:
        """Of the nodes from a random one on as many as the configuration wants; those without violations first."""
        if not rows:
            return []
        offset = int(self._rng.integers(len(rows)))
        wanted = min(max(len(rows) * MIN_CANDIDATES_PERCENT // 100, MIN_CANDIDATES), len(rows))
        clean: list[Candidate] = []
        violating: list[Candidate] = []
        turned = np.roll(np.asarray(rows), -offset)
        for row in turned[self._emptied(index, turned.tolist(), self._rank[index])].tolist():
            found = self._victims(index, row)
            (violating if found.violations else clean).append(found)
            if clean and len(clean) + len(violating) >= wanted:
                break
        return clean[:wanted] + violating[:wanted]

    def _victims(self, index: int, row: int) -> Candidate:
        """Who must go: all that are less important, but for those who may stay all the same."""
        engine, node = self._engine, self._scheduler.nodes[row].name
        lower = [k for k in engine.machines[node].residents if self._priority[k] < self._priority[index]]
        lower.sort(key=lambda k: (-self._priority[k], self._started_s(k)))
        asked = np.flatnonzero(self._wants[index])  # a resource that is not asked for is not looked at
        free = self._scheduler.room([row])[0] + self._taken[: self._rank[index], row].sum(axis=0)
        spare = (free - self._wants[index])[asked].tolist()
        protected = self._protected(lower)
        victims, violations = [], 0
        for k in sorted(lower, key=lambda k: k not in protected):
            left = [s - w for s, w in zip(spare, self._wants[k][asked].tolist(), strict=True)]
            if min(left) >= 0.0:
                spare = left
            else:
                victims.append(k)
                violations += k in protected
        return Candidate(node, tuple(sorted(victims, key=lower.index)), violations)

    def _protected(self, pods: Sequence[int]) -> set[int]:
        """Those for whom nothing of their budget is left if all before them go."""
        left: dict[str, float] = {}
        found = set()
        assert self._engine.changes is not None
        for k in pods:
            if budget := self._engine.pods[k].budget:
                left[budget] = left.get(budget, self._engine.changes.disruptions_allowed(budget)) - 1
                if left[budget] < 0:
                    found.add(k)
        return found

    def _best(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that do the least harm."""
        costs = [self._cost(c) for c in candidates]
        least = min(costs, default=())
        return [c for c, its in zip(candidates, costs, strict=True) if its == least]

    def _cost(self, candidate: Candidate) -> tuple[float, ...]:
        priorities = [self._priority[k] for k in candidate.victims]
        earliest_s = min(self._started_s(k) for k in candidate.victims if self._priority[k] == priorities[0])
        summed = sum(p + _OFFSET for p in priorities)
        return candidate.violations, priorities[0], summed, len(priorities), -earliest_s

    def _started_s(self, index: int) -> float:
        """A pod's `status.startTime`, from when its kubelet knows it, in whole seconds."""
        return math.floor(self._engine.outcomes[index].bound_s)

    def _make_room(self, index: int, best: Candidate, alike: tuple[str, ...], now_s: float) -> None:
        engine, changes = self._engine, self._engine.changes
        assert changes is not None
        told = [k for k in best.victims if k not in changes.terminating]
        if not told:
            return  # they all go anyhow; then kube-scheduler leaves other nominations alone, too
        for k in told:
            self._going[k] = engine.attempts[k]
            changes.evict(k, best.node, now_s)
        engine.log.preemptions.append(Preemption(now_s, index, best.node, tuple(told), alike))
        for other, node in list(self.nominated.items()):
            if node == best.node and self._priority[other] < self._priority[index]:
                self._promise(other, "")
                self._robbed.add(other)
                self._given_up(node, now_s)

    def _promise(self, index: int, node: str) -> None:
        """Nominate a pod to a node, or to none."""
        row, rank = self._engine.row, self._rank[index]
        if old := self.nominated.pop(index, ""):
            self._spoken[rank, row[old]] -= self._wants[index]
        if node:
            self.nominated[index] = node
            self._spoken[rank, row[node]] += self._wants[index]

    def _given_up(self, node: str, now_s: float) -> None:
        """A promise ends: as if a pod had left."""
        self._engine.at(now_s, lambda _: self._engine.freed(node))
