"""Label selectors, node affinity terms and tolerations, as Kubernetes matches them.

Source: `k8s.io/component-helpers/scheduling/corev1/{nodeaffinity,helpers}` at 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = Mapping[str, Any]

ARCH = "kubernetes.io/arch"
ZONE = "topology.kubernetes.io/zone"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
GPU_PRODUCT = "nvidia.com/gpu.product"
NODE_CLASS = "nodewise.dev/node-class"


def node_class(labels: Mapping[str, str]) -> str:
    """The class of alike nodes: our own label if the user set one, else instance type (or architecture) and GPU."""
    if labels.get(NODE_CLASS):
        return labels[NODE_CLASS]
    base = labels.get(INSTANCE_TYPE) or labels.get(ARCH) or "unknown"
    gpu = labels.get(GPU_PRODUCT)
    return f"{base}/{gpu}" if gpu else base


def matches_term(labels: Mapping[str, str], name: str, term: Json) -> bool:
    """Whether a node matches one term: all its expressions and fields. An empty term matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_holds(labels, e) for e in expressions) and all(_holds({"metadata.name": name}, f) for f in fields)


def _holds(labels: Mapping[str, str], requirement: Json) -> bool:
    key, operator = requirement["key"], requirement["operator"]
    values: list[str] = requirement.get("values") or []
    value = labels.get(key)
    match operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                have, bound = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return have > bound if operator == "Gt" else have < bound
    return False


def tolerates(tolerations: Iterable[Json], taint: Json) -> bool:
    """Whether one of the tolerations covers the taint."""
    return any(_covers(t, taint) for t in tolerations)


def _covers(toleration: Json, taint: Json) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def told_archs(spec: Json) -> tuple[str, ...]:
    """The architectures a pod spec says it can run on, by node selector or required node affinity; empty if none."""
    chosen = (spec.get("nodeSelector") or {}).get(ARCH)
    if chosen:
        return (chosen,)
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    found: set[str] = set()
    for term in required.get("nodeSelectorTerms") or ():
        told = [e for e in term.get("matchExpressions") or () if e["key"] == ARCH and e["operator"] == "In"]
        if not told:
            return ()  # terms are alternatives: one that does not say leaves it open
        found.update(value for e in told for value in e.get("values") or ())
    return tuple(sorted(found))
