"""What a scenario makes: nodes, pods in order of arrival, and the truth that no policy sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.pods import NodeSpec, node_spec, pod_request
from nodewise.core.types import Floats, PodRequest
from nodewise.core.units import stamp
from nodewise_simulator.physics import Autoscaler, Drift, Lifecycle, Network, NodeChange, Queueing

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
    image: str = ""
    """What its node must have pulled; empty: nothing."""
    pull_s: float = 0.0
    """Hidden: time to pull `image` to a node that lacks it."""
    start_s: float = 0.0
    """Hidden: time from the image being there to the start of the container."""
    parents: tuple[int, ...] = ()
    """Positions in `World.pods` of the pods that must have ended before this one is created."""
    output_bytes: float = 0.0
    """What it hands to each of its children."""
    device_milli: float = 0.0
    """Share of one accelerator that it takes, beside others; 0 if it takes none, or whole ones as the manifest says."""
    device_sensitivity: float = 0.0
    """Hidden slowdown when the others on its device have all of it."""
    cpu_used_milli: float = float("nan")
    """Hidden: what it really uses, as metrics show it; nan: what it requests."""
    budget: str = ""
    """Disruption budget that covers it (`World.budgets`); empty: none."""


@dataclass(frozen=True, slots=True)
class World:
    """One random cluster with one random workload."""

    scenario: str
    seed: int
    node_manifests: tuple[Json, ...]
    nodes: tuple[NodeSpec, ...]
    classes: tuple[str, ...]
    pods: Sequence[SimPod]
    """By arrival: a tuple, or columns (`nodewise_simulator.columns`)."""
    warm: int
    """How many of the first pods only fill the cluster and are not counted."""
    fifo: bool = False
    """Pods bound to a busy node wait there for their turn (a dispatcher's world, not Kubernetes)."""
    tick_s: float = 0.0
    """If above zero, pods are placed at multiples of this only."""
    by_priority: bool = True
    """Waiting pods go by priority, then age, as kube-scheduler's PrioritySort; else by age alone."""
    queueing: Queueing = field(default_factory=Queueing)
    changes: tuple[NodeChange, ...] = ()
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    budgets: Mapping[str, int] = field(default_factory=dict)
    """How many pods of each disruption budget may be down at once by eviction."""
    autoscaler: Autoscaler | None = None
    preempts: bool = False
    """A pod that fits nowhere may have less important ones evicted, as kube-scheduler's DefaultPreemption does."""
    drifts: tuple[Drift, ...] = ()
    network: Network = field(default_factory=Network)
    watch_lag_s: float = 0.0
    """How much later than they happen bindings, ends and new pods reach the extender."""
    metrics_period_s: float = 0.0
    """How often the measured use of nodes is read; 0: never."""
    again: Callable[[int], World] | None = None
    """The same cluster with other arrivals and pods, by a number from 0 on; None where a scenario has no such."""

    @property
    def class_of(self) -> Mapping[str, int]:
        """Column of `SimPod.true_run_s` for each node class."""
        return {name: k for k, name in enumerate(self.classes)}


def sim_pod(manifest: Json, true_run_s: Floats, sensitivity: float = 0.0, **hidden: Any) -> SimPod:
    """A pod from its manifest, read as the extender would read it; what else `SimPod` has, by name."""
    request = pod_request(manifest)[0]
    if hidden.get("device_milli", 0.0) > 0.0:
        request = replace(request, gpus_milli=float(hidden["device_milli"]))
    return SimPod(manifest, request, np.maximum(true_run_s, QUANTUM_S), sensitivity, **hidden)


def check_queues(world: World) -> None:
    """Refuse what queues at nodes know nothing of. Raises UserError."""
    more = world.changes or world.autoscaler or world.preempts
    if world.fifo and (more or any(p.image or p.start_s or p.parents for p in world.pods)):
        raise UserError(
            f"scenario {world.scenario}: queues at nodes know no start latency, parents, node changes or preemption"
        )


def created_again(pod: SimPod, now_s: float, attempt: int) -> SimPod:
    """The pod as it is created at `now_s`, later than its manifest says; from attempt 2 on with a name of its own."""
    old = pod.manifest["metadata"]
    metadata = {**old, "creationTimestamp": stamp(now_s)}
    if attempt > 1:
        metadata |= {"name": f"{old['name']}-{attempt}", "uid": f"{old['uid']}-{attempt}"}
    manifest = {**pod.manifest, "metadata": metadata}
    request = replace(pod_request(manifest)[0], gpus_milli=pod.request.gpus_milli)
    return replace(pod, manifest=manifest, request=request)


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
    scenario: str,
    seed: int,
    node_manifests: list[Json],
    classes: tuple[str, ...],
    pods: Sequence[SimPod],
    **rest: Any,
) -> World:
    """A world from manifests; nodes are put in order of name, as an API server lists them."""
    ordered = sorted(node_manifests, key=lambda n: str(n["metadata"]["name"]))
    nodes = tuple(node_spec(n) for n in ordered)
    kept = tuple(pods) if isinstance(pods, list) else pods
    return World(scenario, seed, tuple(ordered), nodes, classes, kept, **rest)
