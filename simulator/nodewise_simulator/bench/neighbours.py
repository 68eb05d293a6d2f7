"""Pods that ask where others are: required and preferred (anti-)affinity, hard and soft spread, replicas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nodewise_simulator.controlplane import pod, taint
from nodewise_simulator.world import Json, node_manifest

_GIB = 2**30
_NODES = 48
_HOST, _ZONE, _RACK = "kubernetes.io/hostname", "topology.kubernetes.io/zone", "example.com/rack"
_APPS = 6
_SETS = 4
_NAMESPACES = ("default", "other")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

_NOBODY = {"matchLabels": {"app": "nobody"}}

Rng = np.random.Generator


def objects() -> list[tuple[str, Json]]:
    """What must be there before the pods, with the path it is POSTed to: a namespace, and ReplicaSets that make none.

    The scheduler takes the selector of its default spreading from them.
    """
    made: list[tuple[str, Json]] = [("/api/v1/namespaces", {"metadata": {"name": "other", "labels": {"kind": "x"}}})]
    for k in range(_SETS):
        labels = {"set": f"set-{k}"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]},
        }
        spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
        made.append(("/apis/apps/v1/namespaces/default/replicasets", {"metadata": {"name": f"set-{k}"}, "spec": spec}))
    return made


def neighbours(pods: int, rng: Rng) -> tuple[list[Json], list[Json]]:
    """48 nodes in four zones and nine racks, some without either, and that many pods, of which some fit nowhere.

    No two nodes cost the same: an extender ranks equals in the order in which it is asked about them, which
    kube-scheduler's workers make anew for every pod.
    """
    return [_node(k) for k in range(_NODES)], [_pod(k, rng) for k in range(pods)]


def _node(k: int) -> Json:
    taints = (taint("team", "a"),) if k % 8 == 0 else (taint("old", effect="PreferNoSchedule"),) if k % 9 == 0 else ()
    made = node_manifest(
        f"node-{k:02d}", cpu_milli=12000 + 333 * k, memory_bytes=(40 + 3 * k) * _GIB, instance_type=f"t{k % 4}",
        zone=f"zone-{k * k % 7 % 4}", taints=taints, price_usd_per_h=0.3 + 0.017 * (k * 29 % _NODES),
    )  # fmt: skip
    labels = made["metadata"]["labels"]
    if k % 5:
        labels[_RACK] = f"rack-{k % 9}"
    if k in (17, 34):
        del labels[_ZONE]
    return made


def _pod(k: int, rng: Rng) -> Json:
    labels = {"app": f"app-{rng.integers(_APPS)}", "version": f"v{rng.integers(3)}"}
    namespace = str(rng.choice(_NAMESPACES, p=[0.8, 0.2]))
    owner: Json | None = None
    if namespace == "default" and rng.random() < 0.25:
        name = f"set-{rng.integers(_SETS)}"
        labels["set"] = name
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": True}
    spec: Json = {}
    for chance, ask in _ASKS:
        if rng.random() < chance:
            ask(spec, labels, rng)
    tolerations = [{"key": "team", "operator": "Exists"}] if rng.random() < 0.3 else []
    made = pod(
        f"p-{k:04d}", cpu_milli=int(rng.integers(50, 1100)), memory_bytes=int(rng.integers(1 << 26, 3 << 30)),
        namespace=namespace, labels=labels, owner=owner, tolerations=tolerations,
    )  # fmt: skip
    made["spec"] |= spec
    return made


def _affinity(spec: Json, part: str, when: str, term: Json) -> None:
    spec.setdefault("affinity", {}).setdefault(part, {}).setdefault(when, []).append(term)


def _app(rng: Rng) -> Json:
    return {"matchLabels": {"app": f"app-{rng.integers(_APPS)}"}}


def _alone(spec: Json, labels: Json, rng: Rng) -> None:
    """No other of its kind on the node, or, for a rare one, in the rack."""
    rare = rng.random() < 0.2
    kind = "rare" if rare else f"lone-{rng.integers(3)}"
    labels["lone"] = kind
    term = {"topologyKey": _RACK if rare else _HOST, "labelSelector": {"matchLabels": {"lone": kind}}}
    if rng.random() < 0.3:
        term["namespaceSelector"] = {}
    _affinity(spec, "podAntiAffinity", _REQUIRED, term)


def _away(spec: Json, labels: Json, rng: Rng) -> None:
    """Not where an app of one version is; which repels that, too."""
    term = {"topologyKey": _HOST, "labelSelector": {"matchLabels": {**_app(rng)["matchLabels"], "version": "v2"}}}
    if rng.random() < 0.3:
        term["namespaces"] = ["other"]
    _affinity(spec, "podAntiAffinity", _REQUIRED, term)
    del labels


def _together(spec: Json, labels: Json, rng: Rng) -> None:
    """In the zone or rack of its group, which it may be the first of; or of an app, or of one that is not there."""
    key = str(rng.choice([_ZONE, _RACK]))
    if rng.random() < 0.5:
        labels["group"] = f"g{rng.integers(6)}"
        term = {"topologyKey": key, "labelSelector": {"matchLabels": {"group": labels["group"]}}}
    else:
        term = {"topologyKey": key, "labelSelector": _app(rng) if rng.random() < 0.8 else _NOBODY}
    _affinity(spec, "podAffinity", _REQUIRED, term)


def _likes(spec: Json, labels: Json, rng: Rng) -> None:
    for _ in range(int(rng.integers(1, 3))):
        term: Json = {"topologyKey": str(rng.choice([_HOST, _ZONE, _RACK])), "labelSelector": _app(rng)}
        if rng.random() < 0.2:
            term["matchLabelKeys"] = ["version"]
        if rng.random() < 0.2:
            term["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": "other"}}
        part = str(rng.choice(["podAffinity", "podAntiAffinity"]))
        _affinity(spec, part, _PREFERRED, {"weight": int(rng.integers(1, 101)), "podAffinityTerm": term})
    del labels


def _spread(action: str) -> Callable[[Json, Json, Rng], None]:
    def ask(spec: Json, labels: Json, rng: Rng) -> None:
        taken = {c["topologyKey"] for c in spec.get("topologySpreadConstraints", ())}
        key = str(rng.choice(sorted({_HOST, _ZONE, _RACK} - taken)))
        told: Json = {
            "topologyKey": key, "maxSkew": int(rng.integers(1, 4)), "whenUnsatisfiable": action,
            "labelSelector": {"matchLabels": {"app": labels["app"]}},
        }  # fmt: skip
        if rng.random() < 0.3:
            told["matchLabelKeys"] = ["version"]
        if rng.random() < 0.3:
            told["nodeTaintsPolicy"] = "Honor"
        if rng.random() < 0.3:
            spec["nodeSelector"] = {"node.kubernetes.io/instance-type": f"t{rng.integers(4)}"}
            told["nodeAffinityPolicy"] = str(rng.choice(["Honor", "Ignore"]))
        if action == "DoNotSchedule" and rng.random() < 0.2:
            told["minDomains"] = int(rng.integers(2, 12))
        if rng.random() < 0.05:
            told["labelSelector"] = {}
            told.pop("matchLabelKeys", None)
        spec.setdefault("topologySpreadConstraints", []).append(told)

    return ask


_ASKS = (
    (0.15, _alone), (0.05, _away), (0.12, _together), (0.3, _likes), (0.2, _spread("DoNotSchedule")),
    (0.2, _spread("ScheduleAnyway")), (0.1, _spread("ScheduleAnyway")),
)  # fmt: skip
