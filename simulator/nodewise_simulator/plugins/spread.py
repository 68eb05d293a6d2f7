"""PodTopologySpread: Filter and Score.

Source: `pkg/scheduler/framework/plugins/podtopologyspread/{common,filtering,scoring}.go` at 1.36.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.labels import ZONE
from nodewise.core.types import Floats, Rows
from nodewise_simulator.plugins.matching import Labelled, Match, Selector, selector
from nodewise_simulator.plugins.topology import Ints

HOSTNAME = "kubernetes.io/hostname"
SYSTEM_DEFAULTS = ((HOSTNAME, 3), (ZONE, 5))
"""Topology key and maxSkew of the ScheduleAnyway constraints of pods that have none (`plugin.go`, systemDefault)."""
_OWNERS = ("ReplicaSet/", "StatefulSet/", "ReplicationController/")
"""Controllers whose selector the defaults take; the simulator takes "the same controller" for it."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint of a pod."""

    key: str
    max_skew: int
    pods: Match
    own: int
    """1 if the pod itself counts, else 0."""
    min_domains: int = 1
    affinity: bool = True
    """Only nodes count that the pod's node selector and required node affinity allow."""
    taints: bool = False
    """Only nodes count whose taints the pod tolerates."""

    @property
    def counts_none(self) -> bool:
        """An empty selector selects every pod, but kube-scheduler counts none for it (`countPodsMatchSelector`)."""
        return self.pods.selector.everything and not self.pods.owner


@dataclass(frozen=True, slots=True)
class Spread:
    """The constraints of a pod."""

    hard: tuple[Constraint, ...]
    soft: tuple[Constraint, ...]
    all_keys: bool = True
    """Nodes that lack one of the keys are out of it; not so for the system's defaults."""


def asks(spec: Mapping[str, Any]) -> bool:
    """Whether a pod has constraints of its own."""
    return bool(spec.get("topologySpreadConstraints"))


def has_defaults(owner: str) -> bool:
    """Whether the system's default constraints may be for pods of this controller."""
    return owner.startswith(_OWNERS)


def read(spec: Mapping[str, Any], pod: Labelled, *, defaults: bool) -> Spread:
    """The constraints of a pod, or the system's if it has none and `defaults` are on."""
    told = spec.get("topologySpreadConstraints") or ()
    if told:
        hard, soft = (
            tuple(_constraint(c, pod) for c in told if c["whenUnsatisfiable"] == action)
            for action in ("DoNotSchedule", "ScheduleAnyway")
        )
        return Spread(hard, soft)
    if not defaults or not has_defaults(pod.owner):
        return Spread((), ())
    pods = Match(frozenset((pod.namespace,)), Selector("{}"), owner=pod.owner)
    return Spread((), tuple(Constraint(key, skew, pods, 1) for key, skew in SYSTEM_DEFAULTS), all_keys=False)


def _constraint(told: Mapping[str, Any], pod: Labelled) -> Constraint:
    chosen = selector(told.get("labelSelector"), pod.labels, told.get("matchLabelKeys") or ())
    return Constraint(
        key=told["topologyKey"],
        max_skew=int(told["maxSkew"]),
        pods=Match(frozenset((pod.namespace,)), chosen),
        own=int(chosen.matches(pod.labels)),
        min_domains=int(told.get("minDomains") or 1),
        affinity=told.get("nodeAffinityPolicy", "Honor") == "Honor",
        taints=told.get("nodeTaintsPolicy", "Ignore") == "Honor",
    )


def allows(constraint: Constraint, codes: Ints, counts: Ints, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which nodes a DoNotSchedule constraint leaves [N].

    `codes` [N] are the nodes' domains, `counts` [N] the pods there that the constraint speaks of, `eligible` [N] the
    nodes whose domains and pods count: they have all keys of the pod's DoNotSchedule constraints and the policies let
    them.
    """
    size = int(codes.max(initial=-1)) + 1
    here = codes[eligible]
    sums = np.bincount(here, counts[eligible], minlength=size)
    domains = np.flatnonzero(np.bincount(here, minlength=size))
    least = 0.0 if len(domains) < constraint.min_domains else sums[domains].min()
    if not size:
        return np.zeros(len(codes), bool)
    skew = sums[codes] + constraint.own - least
    return np.asarray((codes >= 0) & (skew <= constraint.max_skew))


def score(
    spread: Spread,
    codes: Sequence[Ints],
    counts: Sequence[Ints],
    eligible: Sequence[NDArray[np.bool_]],
    rows: Rows,
) -> Floats:
    """Points of the feasible `rows` [M] for the ScheduleAnyway constraints, 0..100, each argument as for `allows`."""
    kept = np.ones(len(rows), bool)
    if spread.all_keys:
        for domain in codes:
            kept &= domain[rows] >= 0
    total = np.zeros(len(rows))
    for constraint, domain, pods, counted in zip(spread.soft, codes, counts, eligible, strict=True):
        here = domain[rows]
        if constraint.key == HOSTNAME:
            size, found = int(kept.sum()), pods[rows].astype(float)
        else:
            size = len(np.unique(here[kept]))
            there = counted & (domain >= 0)
            found = np.bincount(domain[there], pods[there], minlength=int(domain.max(initial=0)) + 1)[here]
        total += np.where(here >= 0, found * math.log(size + 2) + (constraint.max_skew - 1), 0.0)
    return _normalised(np.floor(total + 0.5), kept)


def _normalised(points: Floats, kept: NDArray[np.bool_]) -> Floats:
    """The fewest get 100; nodes out of it 0."""
    if not kept.any():
        return np.zeros(len(points))
    most, least = points[kept].max(), points[kept].min()
    if most == 0.0:
        return np.where(kept, 100.0, 0.0)
    return np.where(kept, np.floor(100.0 * (most + least - points) / most), 0.0)
