"""PlacementPolicy as extender and operator read it: what a custom resource of that kind says, and which pods it is for.

Its schema is generated from `nodewise_operator.resources`; the API server has checked what arrives here, so a policy
that cannot be read is of another version. It is then off for the pods it selects, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nodewise.core.labels import selects
from nodewise.core.types import Weights

GROUP, VERSION, PLURAL = "nodewise.dev", "v1alpha1", "placementpolicies"

Json = Mapping[str, Any]

_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
"""Those of a LabelSelector, and whether they take values."""


class Mode(StrEnum):
    """What becomes of the pods of a PlacementPolicy; in the resource the words are capitalised."""

    OFF = "off"
    """The extender has no opinion."""
    ADVISE = "advise"
    """Nor here, but the operator works out what one would have been worth."""
    SHADOW = "shadow"
    """The extender decides and keeps its decision to itself."""
    ACTIVE = "active"

    @property
    def decides(self) -> bool:
        """Whether the extender has to decide at all."""
        return self in (Mode.SHADOW, Mode.ACTIVE)


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """One PlacementPolicy."""

    name: str
    uid: str
    generation: int
    mode: Mode
    namespaces: tuple[str, ...] = ()
    """Names; none: of any name."""
    namespace_selector: Json | None = None
    pod_selector: Json | None = None
    policy: str = ""
    """A rule's name or `learned`; empty: what the extender was started with."""
    bundle: str = ""
    """Name of a folder of bundles' own; empty: none."""
    weights: Weights = field(default_factory=Weights)
    priority: int = 0
    invalid: str = ""
    """Why it cannot be understood; it is then off, with what selectors could be read."""

    @property
    def rank(self) -> tuple[int, int, str]:
        """Of several that select a pod, the one of least rank applies: priority, then conditions, then name."""
        selectors = (self.namespace_selector or {}, self.pod_selector or {})
        conditions = sum(
            len(s.get("matchLabels") or ()) + len(s.get("matchExpressions") or ()) for s in selectors
        ) + bool(self.namespaces)
        return -self.priority, -conditions, self.name

    def selects_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool | None:
        """Whether it is for pods of this namespace; None if that depends on labels that are not known."""
        if self.namespaces and name not in self.namespaces:
            return False
        if self.namespace_selector is None:
            return True
        return None if labels is None else selects(labels, self.namespace_selector)

    def selects_pod(self, labels: Mapping[str, str]) -> bool:
        """Whether it is for pods with these labels, as far as they are concerned."""
        return self.pod_selector is None or selects(labels, self.pod_selector)


@dataclass(frozen=True, slots=True)
class SeenNamespace:
    """One v1.Namespace as kept."""

    name: str
    labels: Mapping[str, str]


def placement_policy(obj: Json) -> PlacementPolicy:
    """Read one PlacementPolicy. Raises KeyError for an object without a name."""
    meta, spec = obj["metadata"], obj.get("spec")
    name, uid, generation = meta["name"], meta.get("uid") or "", meta.get("generation") or 0
    try:
        return _read(name, uid, generation, {} if spec is None else spec)
    except (ValueError, TypeError, AttributeError) as error:
        why = (
            f"PlacementPolicy {name} cannot be understood ({error}), so it is off: is the extender of another version?"
        )
    namespaces, namespace_selector, pod_selector = _readable_selectors(spec)
    return PlacementPolicy(name, uid, generation, Mode.OFF, namespaces, namespace_selector, pod_selector, invalid=why)


def _read(name: str, uid: str, generation: int, spec: Json) -> PlacementPolicy:
    return PlacementPolicy(
        name=name,
        uid=uid,
        generation=generation,
        mode=Mode(str(spec.get("mode") or "Advise").lower()),
        namespaces=tuple(map(str, spec.get("namespaces") or ())),
        namespace_selector=_selector(spec.get("namespaceSelector")),
        pod_selector=_selector(spec.get("podSelector")),
        policy=str(spec.get("policy") or ""),
        bundle=str(spec.get("bundle") or ""),
        weights=_weights(spec.get("weights") or {}),
        priority=int(spec.get("priority") or 0),
    )


def _weights(told: Json) -> Weights:
    known = ("latency", "sla", "energy", "cost")
    made = {name: float(told[name]) for name in known if told.get(name) is not None}
    if not all(0.0 <= value < math.inf for value in made.values()):
        raise ValueError("a weight must be 0 or more")
    return Weights(**made)


def _selector(told: Json | None) -> Json | None:
    if told is None:
        return None
    for expression in told.get("matchExpressions") or ():
        takes = _OPERATORS.get(expression.get("operator"))
        if takes is None or not expression.get("key") or takes != bool(expression.get("values")):
            raise ValueError(f"{expression} is no requirement on labels")
    selects({}, told)
    return told


def _readable_selectors(spec: Any) -> tuple[tuple[str, ...], Json | None, Json | None]:
    """Of a policy that is wrong elsewhere; nothing is selected by selectors that are wrong themselves."""
    try:
        read = tuple(map(str, spec.get("namespaces") or ()))
        return read, _selector(spec.get("namespaceSelector")), _selector(spec.get("podSelector"))
    except (ValueError, TypeError, AttributeError):
        return ("",), None, None  # no namespace has this name


def seen_namespace(obj: Json) -> SeenNamespace:
    """Project a v1.Namespace."""
    return SeenNamespace(obj["metadata"]["name"], obj["metadata"].get("labels") or {})
