"""Rules of recorded pods on other pods: which of them can be played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nodewise.core.kinds import GANG_LABELS
from nodewise_simulator.plugins import affinity, asks
from nodewise_simulator.plugins.matching import Group, labelled
from nodewise_simulator.world import Json

if TYPE_CHECKING:
    from nodewise_simulator.advise.record import Seen

_PARTS = ("podAffinity", "podAntiAffinity")


def loosened(pods: Sequence[Seen]) -> list[Seen]:
    """The pods without the rules that would hold them for good, since those whom they are about were not recorded.

    That is required affinity to pods that nobody is, and every rule if the recording has no labels of pods.
    """
    facts = [labelled(p.manifest, p.request) for p in pods]
    known = any(set(each.labels) - set(GANG_LABELS) for each in facts)
    met: dict[Group, bool] = {}
    made: list[Seen] = []
    for pod, own in zip(pods, facts, strict=True):
        spec = pod.manifest["spec"]
        if asks(spec):
            group = tuple(term.pods for term in affinity.read(spec, own).near)
            if group not in met:
                met[group] = any(all(match.holds(each) for match in group) for each in facts)
            if not known:
                spec = {k: v for k, v in spec.items() if k != "topologySpreadConstraints"}
                rest = {k: v for k, v in (spec.get("affinity") or {}).items() if k not in _PARTS}
                pod = _without(pod, {**spec, "affinity": rest})
            elif not met[group]:
                pod = _without(pod, affinity.without_required(spec))
        made.append(pod)
    return made


def _without(pod: Seen, spec: Json) -> Seen:
    return replace(pod, manifest={**pod.manifest, "spec": spec}, loosened=True)
