"""InterPodAffinity: Filter and Score.

Source: `pkg/scheduler/framework/plugins/interpodaffinity/{filtering,scoring}.go` at 1.36, with the default arguments
(hardPodAffinityWeight 1, preferences of existing pods heeded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.plugins.matching import Labelled, Match, selector
from nodewise_simulator.plugins.topology import Ints, in_domain

HARD_WEIGHT = 1
"""What a required affinity term of an existing pod counts for with pods that it matches (`hardPodAffinityWeight`)."""

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, slots=True)
class Term:
    """Pods, and the topology key in whose domains they are looked for."""

    key: str
    pods: Match


@dataclass(frozen=True, slots=True)
class Affinity:
    """The terms of a pod."""

    near: tuple[Term, ...]
    """Required affinity: a pod that all of them match must be in each one's domain."""
    apart: tuple[Term, ...]
    """Required anti-affinity: no pod that one of them matches may be in its domain."""
    liked: tuple[tuple[Term, int], ...]
    """Preferred terms and their weights, below zero for anti-affinity."""


def asks(spec: Mapping[str, Any]) -> bool:
    """Whether a pod has any term."""
    affinity = spec.get("affinity")
    return bool(affinity and (affinity.get("podAffinity") or affinity.get("podAntiAffinity")))


def read(spec: Mapping[str, Any], pod: Labelled) -> Affinity:
    """The terms of a pod."""
    affinity = spec.get("affinity") or {}
    near, apart = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    liked = [(t["podAffinityTerm"], int(t["weight"])) for t in near.get(_PREFERRED) or ()]
    liked += [(t["podAffinityTerm"], -int(t["weight"])) for t in apart.get(_PREFERRED) or ()]
    return Affinity(
        tuple(_term(t, pod) for t in near.get(_REQUIRED) or ()),
        tuple(_term(t, pod) for t in apart.get(_REQUIRED) or ()),
        tuple((_term(t, pod), weight) for t, weight in liked),
    )


def without_required(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's spec without its required affinity to other pods."""
    told = spec.get("affinity") or {}
    near = {k: v for k, v in (told.get("podAffinity") or {}).items() if k != _REQUIRED}
    return {**spec, "affinity": {**told, "podAffinity": near}}


def _term(told: Mapping[str, Any], pod: Labelled) -> Term:
    same, unlike = told.get("matchLabelKeys") or (), told.get("mismatchLabelKeys") or ()
    among, named = told.get("namespaceSelector"), told.get("namespaces") or ()
    own = (pod.namespace,) if not named and among is None else ()
    pods = Match(
        frozenset((*named, *own)), selector(told.get("labelSelector"), pod.labels, same, unlike), selector(among)
    )
    return Term(told["topologyKey"], pods)


def near_enough(codes: Sequence[Ints], counts: Ints, *, first: bool) -> NDArray[np.bool_]:
    """Which nodes the required affinity of a pod leaves [N].

    `codes` [T][N] are the domains of its terms, `counts` [N] the pods that all of its terms match. If there is none
    anywhere and the pod matches its own terms (`first`), it may be the first of its group on any node with all keys.
    """
    labelled = np.all([domain >= 0 for domain in codes], axis=0)
    if first and not any(counts[domain >= 0].any() for domain in codes):
        return np.asarray(labelled)
    return np.asarray(labelled & np.all([in_domain(domain, counts) > 0 for domain in codes], axis=0))


def normalised(points: Floats) -> Floats:
    """Sums of weights [M] as 0..100: the least gets 0, the most 100; all 0 if they are equal."""
    span = points.max() - points.min()
    return np.floor(100.0 * ((points - points.min()) / span)) if span > 0.0 else np.zeros(len(points))
