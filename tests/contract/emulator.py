"""The extender part of kube-scheduler's scheduling cycle, on wire bytes; for any number of extenders.

Source: `pkg/scheduler/schedule_one.go` (schedulePod, findNodesThatFitPod, findNodesThatPassExtenders, prioritizeNodes,
selectHost) and `pkg/scheduler/extender.go` (IsInterested, Filter, Prioritize, send) at 1.36. Plugins are given as what
they add up to; the sampling of large clusters is in `nodewise_simulator.scheduler`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .go_json import DropError, filter_result, priorities

Json = dict[str, Any]
Post = Callable[[bytes], tuple[int, bytes]]
"""One POST: status and body of the reply. May raise OSError, as a connection that breaks or times out."""

UNRESOLVABLE, UNSCHEDULABLE = "UnschedulableAndUnresolvable", "Unschedulable"
Statuses = dict[str, tuple[str, str]]


class CycleError(Exception):
    """The cycle ends in an error: the pod goes to the back-off queue as SchedulerError."""


class FitError(Exception):
    """No feasible node: the pod is Unschedulable."""


@dataclass(frozen=True, slots=True)
class Extender:
    """One entry of `extenders` in KubeSchedulerConfiguration; a verb without a function is not configured."""

    filter: Post | None = None
    prioritize: Post | None = None
    weight: int = 1
    names_only: bool = True
    """nodeCacheCapable"""
    ignorable: bool = False
    managed: tuple[str, ...] = ()

    def interested(self, pod: Json) -> bool:
        """Whether the pod asks for a managed resource, or none is managed."""
        spec = pod.get("spec") or {}
        containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        asked = {
            name
            for c in containers
            for part in ("requests", "limits")
            for name in (c.get("resources") or {}).get(part) or ()
        }
        return not self.managed or not asked.isdisjoint(self.managed)

    def passes(self, pod: Json, names: Sequence[str], statuses: Statuses) -> list[str]:
        """The nodes that its filter keeps; reasons of the others go to `statuses`. Raises CycleError."""
        if self.filter is None:
            return list(names)
        try:
            result = filter_result(self._send(self.filter, pod, names))
        except (DropError, OSError) as error:
            raise CycleError(str(error)) from error
        if result.error:
            raise CycleError(result.error)
        if self.names_only and result.node_names is not None:
            if unknown := set(result.node_names) - set(names):
                raise CycleError(f"claims a filtered node {unknown} which is not found in the input node list")
            kept = result.node_names
        else:
            kept = result.nodes or []
        unresolvable = result.unresolvable or {}
        statuses.update({name: (UNRESOLVABLE, why) for name, why in unresolvable.items()})
        failed = result.failed or {}
        statuses.update({name: (UNSCHEDULABLE, why) for name, why in failed.items() if name not in unresolvable})
        return kept

    def scores(self, pod: Json, names: Sequence[str]) -> dict[str, int]:
        """Points by host; none if it fails in any way, `ignorable` or not."""
        points: dict[str, int] = {}
        if self.prioritize is not None:
            try:
                for host, score in priorities(self._send(self.prioritize, pod, names)):
                    points[host] = points.get(host, 0) + score * self.weight * 10
            except (CycleError, DropError, OSError):
                return {}
        return points

    def _send(self, post: Post, pod: Json, names: Sequence[str]) -> bytes:
        nodes = None if self.names_only else {"metadata": {}, "items": [{"metadata": {"name": n}} for n in names]}
        node_names = list(names) if self.names_only else None
        status, body = post(json.dumps({"Pod": pod, "Nodes": nodes, "NodeNames": node_names}).encode())
        if status != 200:
            raise CycleError(f"failed with extender, code {status}")
        return body


@dataclass(frozen=True, slots=True)
class Scheduled:
    """How a cycle ended well."""

    hosts: frozenset[str]
    """The nodes of the highest total: one of them is taken at random."""
    evaluated: int
    feasible: int
    totals: Mapping[str, int] = field(default_factory=dict)
    """Empty if one feasible node made scoring superfluous."""


def schedule(
    pod: Json,
    nodes: Sequence[str],
    extenders: Sequence[Extender],
    plugins: Mapping[str, int] | None = None,
    statuses: Statuses | None = None,
) -> Scheduled:
    """One cycle in which every node passes the plugins' filters.

    `plugins` are the weighted sums of the score plugins, None if there are none; `statuses` those of nodes that are
    already out. Raises CycleError or FitError.
    """
    statuses = {} if statuses is None else statuses
    scoring = plugins is not None or any(e.prioritize for e in extenders)
    feasible = list(nodes) if scoring or any(e.filter for e in extenders) else list(nodes[:1])
    feasible = pass_extenders(pod, feasible, extenders, statuses)
    evaluated = len(feasible) + len(statuses)
    if not feasible:
        raise FitError(statuses)
    if len(feasible) == 1:
        return Scheduled(frozenset(feasible), evaluated, 1)
    totals = totals_of(pod, feasible, extenders, plugins)
    best = max(totals.values())
    return Scheduled(frozenset(n for n, total in totals.items() if total == best), evaluated, len(feasible), totals)


def pass_extenders(pod: Json, feasible: list[str], extenders: Sequence[Extender], statuses: Statuses) -> list[str]:
    """findNodesThatPassExtenders: one after the other, each sees what the one before has left."""
    for extender in extenders:
        if not feasible:
            break
        if not extender.interested(pod):
            continue
        try:
            feasible = extender.passes(pod, feasible, statuses)
        except CycleError:
            if not extender.ignorable:
                raise
    return feasible


def totals_of(
    pod: Json, feasible: Sequence[str], extenders: Sequence[Extender], plugins: Mapping[str, int] | None
) -> dict[str, int]:
    """prioritizeNodes: what the plugins and all interested extenders add up to; unknown hosts are ignored."""
    if not extenders and plugins is None:
        return dict.fromkeys(feasible, 1)
    asked = [extender.scores(pod, feasible) for extender in extenders if extender.interested(pod)]
    return {name: (plugins or {}).get(name, 0) + sum(points.get(name, 0) for points in asked) for name in feasible}
