"""kube-scheduler's scheduling cycle for one pod: filter, sample, ask the extender, add the in-tree scores, choose.

Source: `pkg/scheduler/schedule_one.go` at 1.36 (numFeasibleNodesToFind, findNodesThatPassFilters, prioritizeNodes,
selectHost), and the plugins NodeResourcesFit, NodeAffinity, TaintToleration and BalancedAllocation; PodTopologySpread
and InterPodAffinity are in `plugins/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nodewise.core.feasible import static_filter, static_key
from nodewise.core.labels import matches_term, tolerates
from nodewise.core.pods import NodeSpec
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows
from nodewise.policies.kube import in_tree
from nodewise_simulator.devices import DeviceBook, Devices
from nodewise_simulator.plugins import Neighbours
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

Weights = tuple[int, int, int, int]
"""Of TaintToleration, NodeAffinity, PodTopologySpread and InterPodAffinity."""
OUR_WEIGHTS: Weights = (PREFERENCE_WEIGHT,) * 4
STOCK_WEIGHTS: Weights = (3, 2, 2, 2)
"""In the profile that kube-scheduler ships."""


class Extender(Protocol):
    """Who is asked to prioritize; None of a pod's business raises."""

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        """(node name, 0..10) for the nodes that are to get points; empty is neutral."""
        ...


@runtime_checkable
class Filter(Protocol):
    """What an extender with a filter verb also has."""

    def filter(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[str]:
        """Those of the nodes that may be taken now; none of them: "no node yet", and nobody is evicted from these."""
        ...

    def patched_s(self, pod: SimPod) -> float:
        """When the extender will patch the pod that it just refused, which wakes it; inf: it leaves it to events."""
        ...


def feasible_to_find(nodes: int, percentage: int = 0) -> int:
    """How many feasible nodes end the search (`percentageOfNodesToScore`; 0 = the adaptive default)."""
    if nodes < MIN_FEASIBLE or percentage >= 100:
        return nodes
    share = percentage or max(50 - nodes // 125, 5)
    return max(nodes * share // 100, MIN_FEASIBLE)


class KubeScheduler:
    """The scheduler's own cache of the cluster and its cycle.

    `preferences` are the weights of the plugins that score what somebody wrote; `default_spread` spreads the pods of
    controllers as the profile does that Kubernetes ships, and ours does not; `fits_always` drops the resource filter
    (dispatching).
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        extender: Extender,
        view: Callable[[PodRequest, float], ClusterView],
        rng: np.random.Generator,
        *,
        weight: int = EXTENDER_WEIGHT,
        preferences: Weights = OUR_WEIGHTS,
        default_spread: bool = False,
        percentage: int = 0,
        fits_always: bool = False,
    ) -> None:
        self.nodes = tuple(nodes)
        self.asked = 0
        self.held = False
        """Whether the last cycle ended because the extender's filter left no node."""
        self._filter = extender if isinstance(extender, Filter) else None
        self._extender, self._view, self._rng = extender, view, rng
        self._weight, self._percentage, self._fits_always = weight, percentage, fits_always
        self._taint_weight, self._affinity_weight, self._spread_weight, self._neighbour_weight = preferences
        self._row = {n.name: k for k, n in enumerate(self.nodes)}
        self._free = np.array(
            [[n.cpu_allocatable_milli, n.memory_allocatable_bytes, n.gpus_allocatable_milli, n.pods_allocatable]
             for n in self.nodes]
        )  # fmt: skip  # [N, 4]
        self._static: dict[str, NDArray[np.bool_]] = {}
        self._soft = any(t.get("effect") == "PreferNoSchedule" for n in self.nodes for t in n.taints)
        self._start = 0
        self._closed: NDArray[np.bool_] = np.zeros(len(self.nodes), bool)  # gone, or cordoned
        self._present = np.arange(len(self.nodes))
        self._changed = False  # then the view knows the nodes in an order of its own
        self._devices = DeviceBook(self.nodes, extender if isinstance(extender, Devices) else None)
        self._neighbours = Neighbours(self.nodes, defaults=default_spread)

    def assume(self, pod: PodRequest, node: str) -> None:
        """Take the pod's room on a node."""
        self._free[self._row[node]] -= self._wants(pod)

    def forget(self, pod: PodRequest, node: str) -> None:
        """Give the pod's room back."""
        self._free[self._row[node]] += self._wants(pod)
        self._devices.forget(pod.uid)
        self._neighbours.forget(pod.uid)

    def place(self, pod: SimPod, node: str) -> None:
        """Take the pod's room, a device and its part in other pods' constraints."""
        self.assume(pod.request, node)
        self._devices.assume(pod, self._row[node])
        self._neighbours.place(pod, self._row[node])

    def add(self, node: str) -> None:
        """A node that was removed joins, empty."""
        self._closed[self._row[node]] = False
        self._present = np.sort(np.append(self._present, self._row[node]))

    def remove(self, node: str) -> None:
        """A node is gone; its pods are still to be forgotten."""
        self._closed[self._row[node]] = self._changed = True
        self._present = self._present[self._present != self._row[node]]

    def cordon(self, node: str, *, closed: bool) -> None:
        """A node takes no more pods, or takes them again."""
        self._closed[self._row[node]] = closed

    def empty(self, node: str) -> Floats:
        """What a node offers when nothing runs there: CPU, memory, accelerators, pods [4]."""
        n = self.nodes[self._row[node]]
        room = (n.cpu_allocatable_milli, n.memory_allocatable_bytes, n.gpus_allocatable_milli, n.pods_allocatable)
        return np.array(room)

    def hosts(self, pod: SimPod, node: str, free: Floats) -> bool:
        """Whether a node would take the pod if it had `free` [4] left, be it there or not."""
        wants = self.wants(pod.request)
        allowed = self._static_filter(pod.manifest["spec"])[self._row[node]]
        return bool(allowed and ((free >= wants) | (wants == 0.0)).all())

    def wants(self, pod: PodRequest) -> Floats:
        """What a pod takes: CPU, memory, accelerators, pods [4]."""
        return self._wants(pod)

    def device_of(self, uid: str) -> int:
        """The accelerator that a pod shares; -1 if none."""
        return self._devices.device_of(uid)

    def patched_s(self, pod: SimPod) -> float:
        """When the extender will patch the pod that its filter just refused."""
        return self._filter.patched_s(pod) if self._filter else math.inf

    def could_fit(self, pod: SimPod, rows: Sequence[int]) -> bool:
        """Whether what happened on these nodes lets the pod go: the queueing hint that wakes a waiting pod."""
        open_nodes = self._open(pod)
        # What constraints ask about others may have changed in all of a domain.
        return bool(open_nodes.any() if self.related else open_nodes[list(rows)].any())

    def lets_go(self, bound: SimPod, pod: SimPod) -> bool:
        """Whether the binding of one pod is what another may wait for: the queueing hint of its constraints."""
        return self._neighbours.freed_by(pod, bound)

    @property
    def related(self) -> bool:
        """Whether any pod was seen that has constraints on where others are."""
        return self._neighbours.used

    def feasible(self, pod: SimPod) -> Rows:
        """Rows of the nodes that pass the filters, in the order of the nodes."""
        return np.flatnonzero(self._open(pod))

    def allowed(self, pod: SimPod) -> NDArray[np.bool_]:
        """Nodes that pass every filter but that for room [N]."""
        passes = self._static_filter(pod.manifest["spec"]) & ~self._closed
        return passes & self._neighbours.allows(pod, self._present) if self.related else passes

    def room(self, rows: Sequence[int]) -> Floats:
        """What is left of these nodes [M, 4]: CPU, memory, accelerators, pods."""
        return self._free[list(rows)]

    def schedule(self, pod: SimPod, now_s: float, nominated: str = "") -> str | None:
        """One cycle; the node's name, or None if no node is feasible, or the extender holds the pod (then `held`).

        The room is taken. The `nominated` node is looked at alone first.
        """
        passes = self._open(pod)
        rows = np.zeros(0, np.int64)
        if nominated and passes[self._row[nominated]]:
            rows = self._extended(pod, np.array([self._row[nominated]]), now_s)
        if len(rows) == 0:
            rows = self._extended(pod, self._sample(passes), now_s)
        if len(rows) == 0:
            return None
        chosen = int(rows[0]) if len(rows) == 1 else self._choose(pod, rows, now_s)
        node = self.nodes[chosen].name
        self.place(pod, node)
        return node

    def _extended(self, pod: SimPod, rows: Rows, now_s: float) -> Rows:
        """Those of the feasible nodes that the extender's filter leaves."""
        self.held = False
        if self._filter and len(rows):
            left = set(self._filter.filter(pod, [self.nodes[k].name for k in rows], now_s))
            rows = rows[[self.nodes[k].name in left for k in rows]]
            self.held = len(rows) == 0
        return rows

    def _wants(self, pod: PodRequest) -> Floats:
        return np.array([pod.cpu_milli, pod.memory_bytes, pod.gpus_milli, 1.0])

    def _open(self, pod: SimPod) -> NDArray[np.bool_]:
        self._neighbours.notice(pod)
        passes = self._passes(pod) & ~self._closed
        return passes & self._devices.fits(pod) if pod.request.gpus_milli > 0.0 and self._devices.used else passes

    def _passes(self, pod: SimPod) -> NDArray[np.bool_]:
        passes = self._static_filter(pod.manifest["spec"])
        if self.related:
            passes = passes & self._neighbours.allows(pod, self._present)
        if self._fits_always:
            return passes
        wants = self._wants(pod.request)
        # A resource that is not asked for is not looked at, even on an overcommitted node.
        fits: NDArray[np.bool_] = ((self._free >= wants) | (wants == 0.0)).all(axis=1)
        return fits & passes

    def _static_filter(self, spec: Mapping[str, Any]) -> NDArray[np.bool_]:
        key = static_key(spec)
        found = self._static.get(key)
        if found is None:
            found = self._static[key] = static_filter(self.nodes, spec)
        return found

    def _sample(self, passes: NDArray[np.bool_]) -> Rows:
        """The first feasible nodes from a start that rotates from cycle to cycle."""
        n = len(self._present)
        if n == 0:
            return np.zeros(0, np.int64)
        wanted = feasible_to_find(n, self._percentage)
        order = self._present[(np.arange(n) + self._start) % n]
        found = np.flatnonzero(passes[order])
        if len(found) > wanted:
            found = found[:wanted]
            self._start = (self._start + int(found[-1]) + 1) % n
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
        wishes = self._of_neighbours(pod, rows) if self.related else None
        plain = not self._soft and not pod.request.preferred_node_terms and wishes is None
        if len(top) == 1 and plain:
            return int(top[0])  # one extender point outvotes what is left: no need to compute it
        total = total + self._in_tree(pod, rows, now_s) + (0.0 if wishes is None else wishes)
        return int(self._rng.choice(rows[total == total.max()]))

    def _of_neighbours(self, pod: SimPod, rows: Rows) -> Floats | None:
        """Scores of PodTopologySpread and InterPodAffinity [M]; None if they are alike on all rows."""
        found = np.zeros(len(rows))
        for weight, points in (
            (self._spread_weight, self._neighbours.spread_points(pod, rows, self._present)),
            (self._neighbour_weight, self._neighbours.affinity_points(pod, rows)),
        ):
            if points is not None:
                found += weight * points
        return found if (found != found[0]).any() else None

    def _in_tree(self, sim: SimPod, rows: Rows, now_s: float) -> Floats:
        """Sum of the in-tree scores [M] but for those that depend on where other pods are."""
        pod = sim.request
        view = self._view(pod, now_s)
        row = view.nodes.row
        scores = in_tree(pod, view, np.array([row[self.nodes[k].name] for k in rows]) if self._changed else rows)
        soft = np.array(
            [
                sum(t.get("effect") == "PreferNoSchedule" and not tolerates(pod.tolerations, t) for t in n.taints)
                for n in (self.nodes[k] for k in rows)
            ],
            float,
        )
        if soft.any():
            scores = scores + self._taint_weight * (100.0 - np.floor(100.0 * soft / soft.max()))
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
            scores = scores + self._affinity_weight * np.floor(100.0 * matched / max(matched.max(), 1.0))
        return np.asarray(scores)
