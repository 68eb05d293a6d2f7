"""The scheduler's picture of which pods are where, as far as other pods' constraints ask about them.

Kept from the first pod that asks; before, only who is on which node is noted. A selector that was asked about once is
counted from then on as pods come and go, so that a question costs a sum over domains and not over pods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nodewise.core.feasible import chosen_by, static_key, tolerated_by
from nodewise.core.pods import NodeSpec
from nodewise.core.types import Floats, Rows
from nodewise_simulator.plugins import affinity, spread
from nodewise_simulator.plugins.affinity import HARD_WEIGHT, Affinity, Term
from nodewise_simulator.plugins.matching import Group, Labelled, labelled
from nodewise_simulator.plugins.spread import Constraint, Spread
from nodewise_simulator.plugins.topology import Ints, Topology, in_domain
from nodewise_simulator.world import SimPod

K = TypeVar("K")

_MOST_COUNTED = 1000
"""Groups of pods that are counted at a time; a Job's may have labels of their own each."""


@dataclass(frozen=True, slots=True)
class _Seen:
    pod: SimPod
    facts: Labelled
    spread: Spread
    affinity: Affinity
    static_key: str


def asks(spec: Mapping[str, Any]) -> bool:
    """Whether a pod of this spec has constraints on where others are."""
    return spread.asks(spec) or affinity.asks(spec)


class Neighbours:
    """Pods on nodes [N]. `defaults`: the system's default spreading is on, as in the profile that Kubernetes ships."""

    def __init__(self, nodes: Sequence[NodeSpec], *, defaults: bool = False) -> None:
        self.used = False
        """Whether any pod was seen that asks about others."""
        self._nodes, self._defaults = nodes, defaults
        self._topology = Topology(nodes)
        self._policies: dict[tuple[str, bool, bool], NDArray[np.bool_]] = {}  # of `Constraint.affinity` and `taints`
        self._where: dict[str, tuple[int, SimPod]] = {}  # uid -> row, of every pod that has a node
        self._seen: dict[str, _Seen] = {}  # uid
        self._counts: dict[Group, Ints] = {}  # pods of a group on each node [N]
        self._repels: dict[Term, Ints] = {}  # pods with this required anti-affinity on each node [N]
        self._likes: dict[tuple[Term, int], Ints] = {}  # … and with what is scored, by weight

    def notice(self, pod: SimPod) -> None:
        """A pod is tried, or might be."""
        if not self.used and self._asks(pod):
            self.used = True
            for row, other in self._where.values():
                self._note(self._read(other), row, 1)

    def place(self, pod: SimPod, row: int) -> None:
        """A pod has a node."""
        self.notice(pod)
        self._where[pod.request.uid] = (row, pod)
        if self.used:
            self._note(self._read(pod), row, 1)

    def forget(self, uid: str) -> None:
        """A pod has left its node."""
        row, pod = self._where.pop(uid, (-1, None))
        if self.used and pod is not None:
            self._note(self._read(pod), row, -1)
        self._seen.pop(uid, None)

    def allows(self, pod: SimPod, present: Rows) -> NDArray[np.bool_]:
        """Which nodes both plugins' filters leave [N]; `present` are the rows of the nodes that exist."""
        seen = self._read(pod)
        left = self._apart(seen)
        near = seen.affinity.near
        if near:
            first = all(term.pods.holds(seen.facts) for term in near)
            counts = self._count(tuple(term.pods for term in near))
            left &= affinity.near_enough([self._topology.codes(t.key) for t in near], counts, first=first)
        for constraint in seen.spread.hard:
            eligible = self._eligible(constraint, seen, seen.spread.hard, present)
            left &= spread.allows(
                constraint, self._topology.codes(constraint.key), self._spoken_of(constraint), eligible
            )
        return left

    def spread_points(self, pod: SimPod, rows: Rows, present: Rows) -> Floats | None:
        """Score of PodTopologySpread for the feasible `rows` [M], 0..100; None if it has no say."""
        seen = self._read(pod)
        soft = seen.spread.soft
        if not soft:
            return None
        codes = [self._topology.codes(c.key) for c in soft]
        keys = soft if seen.spread.all_keys else ()
        eligible = [self._eligible(c, seen, keys, present) for c in soft]
        return spread.score(seen.spread, codes, [self._spoken_of(c) for c in soft], eligible, rows)

    def affinity_points(self, pod: SimPod, rows: Rows) -> Floats | None:
        """Score of InterPodAffinity for the feasible `rows` [M], 0..100; None if it has no say."""
        seen = self._read(pod)
        asked = [(t, weight, self._count((t.pods,))) for t, weight in seen.affinity.liked]
        asked += [(t, weight, there) for (t, weight), there in self._likes.items() if t.pods.holds(seen.facts)]
        if not asked:
            return None
        points = np.zeros(len(rows))
        for term, weight, counts in asked:
            points += weight * in_domain(self._topology.codes(term.key), counts)[rows]
        return affinity.normalised(points)

    def freed_by(self, pod: SimPod, bound: SimPod) -> bool:
        """Whether a binding may let a waiting pod go: the queueing hints of both plugins for a pod that was assigned.

        It is of the pods that the required affinity asks for, or of those that a DoNotSchedule constraint counts.
        """
        seen, other = self._read(pod), labelled(bound.manifest, bound.request)
        near = seen.affinity.near
        return (bool(near) and all(t.pods.holds(other) for t in near)) or any(
            c.pods.holds(other) for c in seen.spread.hard
        )

    def _asks(self, pod: SimPod) -> bool:
        return asks(pod.manifest["spec"]) or (self._defaults and spread.has_defaults(pod.request.owner))

    def _read(self, pod: SimPod) -> _Seen:
        found = self._seen.get(pod.request.uid)
        if found is None:
            spec, facts = pod.manifest["spec"], labelled(pod.manifest, pod.request)
            constraints = spread.read(spec, facts, defaults=self._defaults)
            found = _Seen(pod, facts, constraints, affinity.read(spec, facts), static_key(spec))
            self._seen[pod.request.uid] = found
        return found

    def _note(self, seen: _Seen, row: int, by: int) -> None:
        for group, there in self._counts.items():
            if all(match.holds(seen.facts) for match in group):
                there[row] += by
        terms = seen.affinity
        for term in terms.apart:
            self._add(self._repels, term, row, by)
        for liked in (*terms.liked, *((term, HARD_WEIGHT) for term in terms.near)):
            self._add(self._likes, liked, row, by)

    def _add(self, table: dict[K, Ints], key: K, row: int, by: int) -> None:
        if key not in table:
            table[key] = np.zeros(len(self._nodes), np.int64)
        table[key][row] += by
        if not table[key].any():
            del table[key]

    def _count(self, group: Group) -> Ints:
        found = self._counts.get(group)
        if found is None:
            if len(self._counts) >= _MOST_COUNTED:
                del self._counts[next(iter(self._counts))]
            found = self._counts[group] = np.zeros(len(self._nodes), np.int64)
            for row, pod in self._where.values():
                if all(match.holds(self._read(pod).facts) for match in group):
                    found[row] += 1
        return found

    def _spoken_of(self, constraint: Constraint) -> Ints:
        return np.zeros(len(self._nodes), np.int64) if constraint.counts_none else self._count((constraint.pods,))

    def _apart(self, seen: _Seen) -> NDArray[np.bool_]:
        """Nodes without anti-affinity between the pod and those that are there, in either direction."""
        repelled = [(t, there) for t, there in self._repels.items() if t.pods.holds(seen.facts)]
        repelled += [(t, self._count((t.pods,))) for t in seen.affinity.apart]
        left = np.ones(len(self._nodes), bool)
        for term, counts in repelled:
            left &= in_domain(self._topology.codes(term.key), counts) == 0
        return left

    def _eligible(
        self, constraint: Constraint, seen: _Seen, keys: Sequence[Constraint], present: Rows
    ) -> NDArray[np.bool_]:
        """Nodes whose domains and pods count: present, with all the `keys`, and as the constraint's policies say."""
        found = np.zeros(len(self._nodes), bool)
        found[present] = True
        for other in keys:
            found &= self._topology.codes(other.key) >= 0
        return found & self._included(seen, affinity=constraint.affinity, taints=constraint.taints)

    def _included(self, seen: _Seen, *, affinity: bool, taints: bool) -> NDArray[np.bool_]:
        key = (seen.static_key, affinity, taints)
        found = self._policies.get(key)
        if found is None:
            spec = seen.pod.manifest["spec"]
            found = chosen_by(self._nodes, spec) if affinity else np.ones(len(self._nodes), bool)
            if taints:
                found = found & tolerated_by(self._nodes, spec)
            self._policies[key] = found
        return found
