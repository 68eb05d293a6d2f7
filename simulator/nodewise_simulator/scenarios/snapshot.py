"""`snapshot`: a live cluster, recorded by `nodewise snapshot`, as a scenario.

The recorded pods arrive again on the recorded nodes. How long each runs on a class of nodes where it was not seen is
drawn anew for every seed from what was learned of its workload; what was seen stays as it was seen. Pods that were
there as the recording began, or whose node is not for a scheduler to choose, are put where they were. Inter-pod
affinity and topology spread hold as in the cluster; `not_simulated` says what does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise.core.requests import GPU_RESOURCES
from nodewise.core.types import CostRates, Kind
from nodewise.kube.snapshot import read_snapshot
from nodewise_simulator.advise.record import Recording, recording
from nodewise_simulator.advise.truth import Truth, truth
from nodewise_simulator.plugins import asks
from nodewise_simulator.plugins.affinity import without_required
from nodewise_simulator.world import Json, SimPod, World

_HOSTNAME = "kubernetes.io/hostname"


def snapshot(seed: int, trace: str = "") -> World:
    """The recording of the file `trace`. Raises UserError if there is none, or nothing to learn from in it."""
    if not trace:
        raise UserError(
            "scenario snapshot plays a recorded cluster: name the file of `nodewise snapshot` with --trace FILE, "
            "or as snapshot@trace=FILE"
        )
    known = of_file(trace)
    made = known.world(seed)
    pinned = {p.request.uid: made.nodes[p.node].name for p in known.recording.pods if p.stays and p.node >= 0}
    hosts = {
        n["metadata"]["name"]: n["metadata"]["labels"].get("kubernetes.io/hostname", "") for n in made.node_manifests
    }
    pods = tuple(_put(p, hosts[pinned[p.request.uid]]) if p.request.uid in pinned else p for p in made.pods)
    return replace(made, scenario="snapshot", pods=pods)


@lru_cache(maxsize=2)
def of_file(path: str) -> Truth:
    """What a file of `nodewise snapshot` holds. Raises UserError for one that is none."""
    rates = CostRates()
    return truth(recording(read_snapshot(Path(path)), rates), rates)


def _put(pod: SimPod, host: str) -> SimPod:
    """The pod with its node named, as a node selector does it; what it wanted of others there is over.

    Its required anti-affinity stays, because it keeps others away.
    """
    spec: Json = without_required(pod.manifest["spec"]) | {"topologySpreadConstraints": []}
    selector: Mapping[str, Any] = {**(spec.get("nodeSelector") or {}), _HOSTNAME: host}
    manifest = {**pod.manifest, "spec": {**spec, "nodeSelector": dict(selector)}}
    request = pod_request(manifest)[0]
    # The recording tells times from its own beginning, manifests from 1970.
    moved = replace(request, created_s=pod.request.created_s, deadline_s=pod.request.deadline_s)
    return replace(pod, manifest=manifest, request=moved)


def summary(found: Recording) -> dict[str, int | float]:
    """What there is to play, in numbers: nodes, classes, pods, pods put where they were, left out, hours.

    `rules_on_others` are pods with inter-pod affinity or spread that is played.
    """
    return {
        "nodes": len(found.nodes),
        "node_classes": len({n.node_class for n in found.nodes}),
        "pods": len(found.pods),
        "workloads": len({p.request.workload for p in found.pods}),
        "where_they_were": sum(p.stays and p.node >= 0 for p in found.pods),
        "rules_on_others": sum(asks(p.manifest["spec"]) for p in found.pods),
        "left_out": found.left_out,
        "hours": found.length_s / 3600.0,
    }


NEVER_RECORDED = (
    "host ports", "labels of namespaces but their names", "disruption budgets", "quotas",
    "other profiles and plugins of the cluster's scheduler",
)  # fmt: skip
"""What a recording does not hold, so that nobody can count it."""


def not_simulated(found: Recording) -> dict[str, int]:
    """Constraints of the recorded pods that are not played, and how many of the pods have each."""
    specs = [p.manifest["spec"] for p in found.pods]
    counts = {
        "affinity to pods that were not recorded": sum(p.loosened for p in found.pods),
        "volumes and devices by claim": sum(p.request.pinned for p in found.pods),
        "resources but CPU, memory and accelerators": sum(_asks_for_more(spec) for spec in specs),
        "scheduling gates": sum(bool(spec.get("schedulingGates")) for spec in specs),
        "gangs": sum(p.request.kind is Kind.INDEXED for p in found.pods),
    }
    return {what: pods for what, pods in counts.items() if pods}


def _asks_for_more(spec: Json) -> bool:
    asked = {
        name
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for name in (container.get("resources") or {}).get("requests") or ()
    }
    return bool(asked - {"cpu", "memory", *GPU_RESOURCES})
