"""kube-scheduler's scheduling cycle for one pod: filter, sample, ask the extender, add the in-tree scores, choose.

Source: `pkg/scheduler/schedule_one.go` at 1.36 (numFeasibleNodesToFind, findNodesThatPassFilters, prioritizeNodes,
selectHost), and the plugins NodeResourcesFit, NodeAffinity, TaintToleration and BalancedAllocation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nodewise.core.feasible import static_filter, static_key
from nodewise.core.labels import matches_term, tolerates
from nodewise.core.pods import NodeSpec
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows
from nodewise.policies.kube import in_tree
from nodewise_simulator.world import SimPod

MIN_FEASIBLE = 100
EXTENDER_WEIGHT = 150
"""kube-scheduler adds Score x weight x 10 to a node, and in-tree scores total at most 1,400 points (7 plugins x
weights 1 to 3 x 100, and DynamicResources): at 150 one point of an extender's score (1,500) outvotes all of them, so
that the extender decides, in-tree scores break its ties, and an extender that is silent leaves the in-tree
ranking."""

PREFERENCE_WEIGHT = 16_000
"""Weight, in our profile, of the plugins that score what somebody wrote: one point of theirs outvotes all ten of the
extender's (15,000), so that what the user wrote in the pod wins over us."""


class Extender(Protocol):
    """Who is asked to prioritize; None of a pod's business raises."""

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        """(node name, 0..10) for the nodes that are to get points; empty is neutral."""
        ...


def feasible_to_find(nodes: int, percentage: int = 0) -> int:
    """How many feasible nodes end the search (`percentageOfNodesToScore`; 0 = the adaptive default)."""
    if nodes < MIN_FEASIBLE or percentage >= 100:
        return nodes
    share = percentage or max(50 - nodes // 125, 5)
    return max(nodes * share // 100, MIN_FEASIBLE)


class KubeScheduler:
    """The scheduler's own cache of the cluster and its cycle. `fits_always` drops the resource filter (dispatching)."""

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        extender: Extender,
        view: Callable[[PodRequest, float], ClusterView],
        rng: np.random.Generator,
        *,
        weight: int = EXTENDER_WEIGHT,
        percentage: int = 0,
        fits_always: bool = False,
    ) -> None:
        self.nodes = tuple(nodes)
        self.asked = 0
        self._extender, self._view, self._rng = extender, view, rng
        self._weight, self._percentage, self._fits_always = weight, percentage, fits_always
        self._row = {n.name: k for k, n in enumerate(self.nodes)}
        self._free = np.array(
            [[n.cpu_allocatable_milli, n.memory_allocatable_bytes, n.gpus_allocatable_milli, n.pods_allocatable]
             for n in self.nodes]
        )  # fmt: skip  # [N, 4]
        self._static: dict[str, NDArray[np.bool_]] = {}
        self._soft = any(t.get("effect") == "PreferNoSchedule" for n in self.nodes for t in n.taints)
        self._start = 0

    def assume(self, pod: PodRequest, node: str) -> None:
        """Take the pod's room on a node."""
        self._free[self._row[node]] -= self._wants(pod)

    def forget(self, pod: PodRequest, node: str) -> None:
        """Give the pod's room back."""
        self._free[self._row[node]] += self._wants(pod)

    def could_fit(self, pod: SimPod, rows: Sequence[int]) -> bool:
        """Whether one of these nodes has room: the queueing hint that wakes a waiting pod."""
        return bool(self._passes(pod)[list(rows)].any())

    def feasible(self, pod: SimPod) -> Rows:
        """Rows of the nodes that pass the filters, in the order of the nodes."""
        return np.flatnonzero(self._passes(pod))

    def schedule(self, pod: SimPod, now_s: float) -> str | None:
        """One cycle; the node's name, or None if no node is feasible. The room is taken."""
        rows = self._sample(self._passes(pod))
        if len(rows) == 0:
            return None
        chosen = int(rows[0]) if len(rows) == 1 else self._choose(pod, rows, now_s)
        node = self.nodes[chosen].name
        self.assume(pod.request, node)
        return node

    def _wants(self, pod: PodRequest) -> Floats:
        return np.array([pod.cpu_milli, pod.memory_bytes, pod.gpus_milli, 1.0])

    def _passes(self, pod: SimPod) -> NDArray[np.bool_]:
        static = self._static_filter(pod.manifest["spec"])
        if self._fits_always:
            return static
        wants = self._wants(pod.request)
        # A resource that is not asked for is not looked at, even on an overcommitted node.
        fits: NDArray[np.bool_] = ((self._free >= wants) | (wants == 0.0)).all(axis=1)
        return fits & static

    def _static_filter(self, spec: Mapping[str, Any]) -> NDArray[np.bool_]:
        key = static_key(spec)
        found = self._static.get(key)
        if found is None:
            found = self._static[key] = static_filter(self.nodes, spec)
        return found

    def _sample(self, passes: NDArray[np.bool_]) -> Rows:
        """The first feasible nodes from a start that rotates from cycle to cycle."""
        n = len(self.nodes)
        wanted = feasible_to_find(n, self._percentage)
        order = (np.arange(n) + self._start) % n
        found = np.flatnonzero(passes[order])
        if len(found) > wanted:
            found = found[:wanted]
            self._start = int(order[found[-1]] + 1) % n
        return np.asarray(np.sort(order[found]), np.int64)

    def _choose(self, pod: SimPod, rows: Rows, now_s: float) -> int:
        self.asked += 1
        points = np.zeros(len(self.nodes))
        for name, score in self._extender.prioritize(pod, [self.nodes[k].name for k in rows], now_s):
            row = self._row.get(name)
            if row is not None:
                points[row] += score
        total = points[rows] * self._weight * 10.0
        top = rows[total == total.max()]
        plain = not self._soft and not pod.request.preferred_node_terms
        if len(top) == 1 and plain:
            return int(top[0])  # one extender point outvotes what is left: no need to compute it
        total = total + self._in_tree(pod, rows, now_s)
        return int(self._rng.choice(rows[total == total.max()]))

    def _in_tree(self, sim: SimPod, rows: Rows, now_s: float) -> Floats:
        """Sum of the in-tree scores [M]; inter-pod affinity and topology spread are not simulated."""
        pod = sim.request
        scores = in_tree(pod, self._view(pod, now_s), rows)
        soft = np.array(
            [
                sum(t.get("effect") == "PreferNoSchedule" and not tolerates(pod.tolerations, t) for t in n.taints)
                for n in (self.nodes[k] for k in rows)
            ],
            float,
        )
        if soft.any():
            scores = scores + PREFERENCE_WEIGHT * (100.0 - np.floor(100.0 * soft / soft.max()))
        if pod.preferred_node_terms:
            affinity = sim.manifest["spec"]["affinity"]["nodeAffinity"]
            terms = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
            matched = np.array(
                [
                    sum(t["weight"] * matches_term(n.labels, n.name, t["preference"]) for t in terms)
                    for n in (self.nodes[k] for k in rows)
                ],
                float,
            )
            scores = scores + PREFERENCE_WEIGHT * np.floor(100.0 * matched / max(matched.max(), 1.0))
        return np.asarray(scores)
