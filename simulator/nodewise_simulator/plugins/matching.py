"""Which pods a constraint speaks of: label selectors in namespaces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nodewise.core.labels import selects
from nodewise.core.types import PodRequest

Json = Mapping[str, Any]

_NAMESPACE = "kubernetes.io/metadata.name"
"""The one label that every namespace has: the API server puts it there."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What selectors see of a pod."""

    namespace: str
    labels: Mapping[str, str]
    owner: str
    """Its controller as `PodRequest.owner` has it; empty if none."""


def labelled(manifest: Json, request: PodRequest) -> Labelled:
    """What selectors see of a pod."""
    return Labelled(request.namespace, manifest["metadata"].get("labels") or {}, request.owner)


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector as canonical JSON, so that equal ones are one key. `null` selects nothing, `{}` everything."""

    text: str

    @property
    def everything(self) -> bool:
        """Whether there is no requirement."""
        return self.text == "{}"

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a thing of these labels is selected."""
        told = _parsed(self.text)
        return told is not None and selects(labels, told)


def selector(
    told: Json | None, labels: Mapping[str, str] = {}, same: Sequence[str] = (), unlike: Sequence[str] = ()
) -> Selector:
    """A LabelSelector with `matchLabelKeys` and `mismatchLabelKeys` put into it, for a pod of these labels.

    The API server puts them there when the pod is created; to do so twice changes nothing. Keys that the pod does not
    have are passed over. Source: `pkg/registry/core/pod/strategy.go` at 1.36.
    """
    if told is None:
        return Selector("null")
    wanted = {key: value for key, value in told.items() if value}
    more = [{"key": k, "operator": "In", "values": [labels[k]]} for k in same if k in labels]
    more += [{"key": k, "operator": "NotIn", "values": [labels[k]]} for k in unlike if k in labels]
    if more:
        wanted["matchExpressions"] = [*(wanted.get("matchExpressions") or ()), *more]
    return Selector(json.dumps(wanted, sort_keys=True))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return json.loads(text)


@dataclass(frozen=True, slots=True)
class Match:
    """Pods of some namespaces and labels; or, if `owner` is set, of one controller."""

    namespaces: frozenset[str]
    selector: Selector
    among: Selector = Selector("null")
    """Further namespaces, by their labels, of which the simulator knows only the name."""
    owner: str = ""

    def holds(self, pod: Labelled) -> bool:
        """Whether a pod is one of them."""
        inside = pod.namespace in self.namespaces or self.among.matches({_NAMESPACE: pod.namespace})
        return inside and (pod.owner == self.owner if self.owner else self.selector.matches(pod.labels))


Group = tuple[Match, ...]
"""Pods that all of these hold for."""
