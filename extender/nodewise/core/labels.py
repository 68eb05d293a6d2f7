"""Well-known labels, and label selectors, node affinity terms and tolerations as Kubernetes matches them.

| label | says | source |
|---|---|---|
| kubernetes.io/arch, topology.kubernetes.io/zone | architecture, zone | Kubernetes, "Well-Known Labels" |
| node.kubernetes.io/instance-type | machine type | the same; K3s and RKE2 put their own name there |
| nvidia.com/gpu.product | GPU product | NVIDIA GPU Feature Discovery, "Generated Labels" |
| amd.com/gpu.product-name | GPU product | AMD GPU Operator, "Node Labeller" |
| feature.node.kubernetes.io/cpu-model.{vendor_id,family,id} | CPU generation | Node Feature Discovery, "CPU" |
| feature.node.kubernetes.io/pci-CLASS_VENDOR.present | a device is there | Node Feature Discovery, "PCI" |
| eks.amazonaws.com/capacityType | SPOT, ON_DEMAND | Amazon EKS, "Managed node group capacity types" |
| karpenter.sh/capacity-type | spot, on-demand, reserved | Karpenter, "NodePools": well-known labels |
| cloud.google.com/gke-spot, …/gke-preemptible | true | GKE, "Spot VMs", "Preemptible VMs" |
| kubernetes.azure.com/scalesetpriority | spot | AKS, "Add a Spot node pool" |

Matching follows `k8s.io/component-helpers/scheduling/corev1/{nodeaffinity,helpers}` at 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]

ARCH = "kubernetes.io/arch"
ZONE = "topology.kubernetes.io/zone"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
GPU_PRODUCT = "nvidia.com/gpu.product"
AMD_GPU_PRODUCT = "amd.com/gpu.product-name"
NODE_CLASS = "nodewise.dev/node-class"

_NFD = "feature.node.kubernetes.io"
CPU_VENDOR, CPU_FAMILY, CPU_MODEL = (f"{_NFD}/cpu-model.{part}" for part in ("vendor_id", "family", "id"))

_NO_INSTANCE_TYPE = ("", "k3s", "rke2")
"""What the label says of machines that have no type: these distributions write their own name, on any board."""

_PCI_GPUS = {
    f"{_NFD}/pci-{code}.present": gpu
    for gpu, codes in {
        "nvidia-gpu": ("0300_10de", "0302_10de"),
        "amd-gpu": ("0302_1002", "0380_1002", "1200_1002"),
        "intel-gpu": ("0380_8086",),
    }.items()
    for code in codes
}
"""Accelerators of unknown product. A VGA controller (0300) of another vendor is mostly a server's console."""

_SPOT = {
    "eks.amazonaws.com/capacityType": {"SPOT": True, "ON_DEMAND": False},
    "karpenter.sh/capacity-type": {"spot": True, "on-demand": False},
    "cloud.google.com/gke-spot": {"true": True},
    "cloud.google.com/gke-preemptible": {"true": True},
    "kubernetes.azure.com/scalesetpriority": {"spot": True, "regular": False},
}


class Capacity(StrEnum):
    """How a node is paid for, as far as its labels say."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"
    UNKNOWN = ""


def node_class(labels: Mapping[str, str]) -> str:
    """The class of alike nodes: our own label if the user set one, else what the machine is, then its GPU if any.

    What the machine is: its instance type, or else architecture and CPU generation. How it is paid for is no part of
    it: a spot node is as fast as another.
    """
    if labels.get(NODE_CLASS):
        return labels[NODE_CLASS]
    base = instance_type(labels) or _board(labels)
    gpu = gpu_product(labels)
    return f"{base}/{gpu}" if gpu else base


def instance_type(labels: Mapping[str, str]) -> str:
    """The machine type; empty for machines that have none."""
    said = labels.get(INSTANCE_TYPE, "")
    return "" if said in _NO_INSTANCE_TYPE else said


def gpu_product(labels: Mapping[str, str]) -> str:
    """The GPU that tells a node's class: its product, or just its vendor where nothing names the product.

    An instance type implies its GPU; only NVIDIA's label says more (a MIG slice, sharing), and is always heeded.
    """
    if labels.get(GPU_PRODUCT):
        return labels[GPU_PRODUCT]
    if instance_type(labels):
        return ""
    present = (gpu for label, gpu in _PCI_GPUS.items() if labels.get(label) == "true")
    return labels.get(AMD_GPU_PRODUCT) or next(present, "")


def _board(labels: Mapping[str, str]) -> str:
    """A machine without a type: its architecture and, where Node Feature Discovery runs, its CPU generation."""
    arch = labels.get(ARCH) or "unknown"
    cpu = (labels.get(label, "") for label in (CPU_VENDOR, CPU_FAMILY, CPU_MODEL))
    if labels.get(GPU_PRODUCT) or not labels.get(CPU_VENDOR):
        return arch
    return "-".join((arch, *cpu)).lower()


def class_term(labels: Mapping[str, str]) -> dict[str, Any]:
    """A node affinity term that only nodes of the same class match: those that are labelled alike.

    It holds every label that the class was read from, those that are missing included.
    """
    read: tuple[str, ...] = (INSTANCE_TYPE, GPU_PRODUCT)
    if not instance_type(labels):
        read += (ARCH, CPU_VENDOR, CPU_FAMILY, CPU_MODEL, AMD_GPU_PRODUCT, *_PCI_GPUS)
    if labels.get(NODE_CLASS):
        read = ()
    return {"matchExpressions": [_same(label, labels.get(label)) for label in (NODE_CLASS, *read)]}


def _same(label: str, value: str | None) -> dict[str, Any]:
    if value is None:
        return {"key": label, "operator": "DoesNotExist"}
    return {"key": label, "operator": "In", "values": [value]}


def capacity(labels: Mapping[str, str]) -> Capacity:
    """Whether the node is a spot one; if two labels disagree, it is."""
    said = {answers.get(labels.get(label, "")) for label, answers in _SPOT.items()}
    if True in said:
        return Capacity.SPOT
    return Capacity.ON_DEMAND if False in said else Capacity.UNKNOWN


def matches_term(labels: Mapping[str, str], name: str, term: Json) -> bool:
    """Whether a node matches one term: all its expressions and fields. An empty term matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_holds(labels, e) for e in expressions) and all(_holds({"metadata.name": name}, f) for f in fields)


def selects(labels: Mapping[str, str], selector: Json) -> bool:
    """Whether a LabelSelector (of metav1) matches: all its labels and expressions. An empty one matches everything.

    Raises KeyError, TypeError or AttributeError for what is no selector.
    """
    wanted = (selector.get("matchLabels") or {}).items()
    expressions = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted) and all(_holds(labels, e) for e in expressions)


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
