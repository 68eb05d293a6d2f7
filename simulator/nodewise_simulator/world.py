"""What a scenario makes: nodes, pods in order of arrival, and the truth that no policy sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nodewise.core.pods import NodeSpec, node_spec, pod_request
from nodewise.core.types import Floats, PodRequest
from nodewise.core.units import stamp

Json = dict[str, Any]

QUANTUM_S = 1.0 / 64.0
"""Every simulated time is a multiple of this: exact in binary and in six decimals, so that a time survives the way
through a Kubernetes timestamp unchanged."""


def quantised(time_s: float) -> float:
    """The nearest multiple of `QUANTUM_S`."""
    return round(time_s / QUANTUM_S) * QUANTUM_S


@dataclass(frozen=True, slots=True)
class SimPod:
    """A pod and its hidden truth."""

    manifest: Json
    """The v1.Pod as it is created."""
    request: PodRequest
    true_run_s: Floats  # [C] alone on a node of each class of `World.classes`; its own noise included
    sensitivity: float
    """Hidden slowdown when its node's other pods request all of the CPU."""
    noise: float = 0.0
    """Hidden: sigma of the log of what is random in `true_run_s`, alike on all classes."""
    noise_factor: float = 1.0
    """Hidden: what was drawn of it; `true_run_s` ÷ this is the median run time."""


@dataclass(frozen=True, slots=True)
class World:
    """One random cluster with one random workload."""

    scenario: str
    seed: int
    node_manifests: tuple[Json, ...]
    nodes: tuple[NodeSpec, ...]
    classes: tuple[str, ...]
    pods: tuple[SimPod, ...]  # by arrival
    warm: int
    """How many of the first pods only fill the cluster and are not counted."""
    fifo: bool = False
    """Pods bound to a busy node wait there for their turn (a dispatcher's world, not Kubernetes)."""
    tick_s: float = 0.0
    """If above zero, pods are placed at multiples of this only."""
    by_priority: bool = True
    """Waiting pods go by priority, then age, as kube-scheduler's PrioritySort; else by age alone."""

    @property
    def class_of(self) -> Mapping[str, int]:
        """Column of `SimPod.true_run_s` for each node class."""
        return {name: k for k, name in enumerate(self.classes)}


def sim_pod(manifest: Json, true_run_s: Floats, sensitivity: float = 0.0, **noise: float) -> SimPod:
    """A pod from its manifest, read as the extender would read it."""
    return SimPod(manifest, pod_request(manifest)[0], np.maximum(true_run_s, QUANTUM_S), sensitivity, **noise)


def pod_manifest(name: str, created_s: float, annotations: Mapping[str, str], requests: Json, **spec: Any) -> Json:
    """A v1.Pod of one container that runs once, as a user of scheduler `nodewise` creates it."""
    resources = {"requests": requests, "limits": {k: v for k, v in requests.items() if "gpu" in k}}
    image = annotations.get("nodewise.dev/workload", name)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"{name}-uid",
            "creationTimestamp": stamp(created_s),
            "annotations": dict(annotations),
        },
        "spec": {
            "schedulerName": "nodewise",
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": f"registry.example/{image}:v1", "resources": resources}],
            **spec,
        },
        "status": {"phase": "Pending"},
    }


def node_manifest(
    name: str,
    *,
    cpu_milli: float,
    memory_bytes: float,
    instance_type: str,
    arch: str = "amd64",
    gpus: int = 0,
    gpu_product: str = "",
    zone: str = "zone-a",
    price_usd_per_h: float = 0.0,
    idle_w: float = 0.0,
    peak_w: float = 0.0,
    pods: int = 110,
    taints: tuple[Json, ...] = (),
) -> Json:
    """A v1.Node as a cluster would report it, with price and power in Nodewise's annotations."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": arch,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": instance_type,
        "topology.kubernetes.io/zone": zone,
    }
    room: Json = {"cpu": f"{cpu_milli:.0f}m", "memory": f"{memory_bytes:.0f}", "pods": str(pods)}
    if gpus:
        room["nvidia.com/gpu"] = str(gpus)
        labels["nvidia.com/gpu.product"] = gpu_product
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": f"node-{name}",
            "labels": labels,
            "annotations": {
                "nodewise.dev/price-usd-per-hour": repr(float(price_usd_per_h)),
                "nodewise.dev/idle-watts": repr(float(idle_w)),
                "nodewise.dev/peak-watts": repr(float(peak_w)),
            },
        },
        "spec": {"taints": list(taints)} if taints else {},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }


def world(
    scenario: str, seed: int, node_manifests: list[Json], classes: tuple[str, ...], pods: list[SimPod], **rest: Any
) -> World:
    """A world from manifests; nodes are put in order of name, as an API server lists them."""
    ordered = sorted(node_manifests, key=lambda n: str(n["metadata"]["name"]))
    nodes = tuple(node_spec(n) for n in ordered)
    return World(scenario, seed, tuple(ordered), nodes, classes, tuple(pods), **rest)
