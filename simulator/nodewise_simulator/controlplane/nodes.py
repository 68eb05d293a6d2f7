"""Fake v1.Node objects as a kubelet would report them, to be POSTed whole (status is kept on create)."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

Json = dict[str, Any]
TaintEffect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


def taint(key: str, value: str = "", effect: TaintEffect = "NoSchedule") -> Json:
    """One entry of `spec.taints`."""
    return {"key": key, "value": value, "effect": effect}


def node(
    name: str,
    *,
    cpu_milli: int,
    memory_bytes: int,
    pods: int = 110,
    gpus: int = 0,
    arch: str = "amd64",
    instance_type: str | None = None,
    zone: str | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Json] = (),
) -> Json:
    """A Ready node whose allocatable equals its capacity.

    `labels` win over the well-known ones that the other arguments set; `gpus` become the extended resource
    nvidia.com/gpu.
    """
    known = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch}
    if instance_type is not None:
        known["node.kubernetes.io/instance-type"] = instance_type
    if zone is not None:
        known["topology.kubernetes.io/zone"] = zone
    resources = {"cpu": f"{cpu_milli}m", "memory": str(memory_bytes), "pods": str(pods)}
    if gpus:
        resources["nvidia.com/gpu"] = str(gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**known, **(labels or {})}},
        "spec": {"taints": list(taints)},
        "status": {
            "capacity": resources,
            "allocatable": dict(resources),
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "kubelet is posting ready status",
                }
            ],
            "nodeInfo": {
                "architecture": arch,
                "operatingSystem": "linux",
                "kubeletVersion": "v1.36.0",
                "kubeProxyVersion": "",
                "containerRuntimeVersion": "fake://1",
                "osImage": "fake",
                "kernelVersion": "6.1.0",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        },
    }
