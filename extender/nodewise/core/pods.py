"""Kubernetes pod and node objects (plain JSON) as the types of `nodewise.core.types`.

The only adapter: the extender's watch and request path, the operator and the parity tests all come through here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodewise.core import labels as lb
from nodewise.core.annotations import Hints, hints
from nodewise.core.kinds import controller, is_pinned, kind_of
from nodewise.core.machines import SPOT_PRICE_FACTOR, machine
from nodewise.core.requests import GPU_RESOURCES, asks_for_all, pod_requests
from nodewise.core.types import UNKNOWN_S, PodRequest
from nodewise.core.units import epoch_s, milli, whole

Json = Mapping[str, Any]

_RUN = re.compile(r"-(?:\d{8,10}|[bcdfghjklmnpqrstvwxz2456789]{5})$")
"""What CronJobs, and generateName (its alphabet has no vowels), append to the name of a run."""
_HASH = re.compile(r"-[a-z0-9]{5,10}$")
_TAG = re.compile(r"(?::[^/:@]+)?(?:@.*)?$")


def pod_request(pod: Json) -> tuple[PodRequest, Hints]:
    """Read one v1.Pod.

    Raises ValueError or KeyError if it has no uid or its quantities are malformed, which the API server never lets
    through.
    """
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    if not all(isinstance(text, str) for text in (meta["uid"], meta.get("namespace") or "", meta.get("name") or "")):
        raise ValueError("metadata.uid, namespace and name must be text: they are kept, and compared with others")
    wanted = pod_requests(spec, status)
    nonzero = wanted if asks_for_all(spec) else pod_requests(spec, status, nonzero=True)
    priority = int(spec.get("priority") or 0)
    told = hints(meta.get("annotations") or {}, priority, wanted.cpu_milli == 0 and wanted.memory_bytes == 0)
    created_s = _stamp(meta.get("creationTimestamp"))
    owner = controller(meta)
    affinity = spec.get("affinity") or {}
    request = PodRequest(
        uid=meta["uid"],
        namespace=meta.get("namespace") or "default",
        name=meta.get("name") or "",
        owner=f"{owner['kind']}/{owner['name']}" if owner else "",
        kind=kind_of(pod),
        cpu_milli=wanted.cpu_milli,
        cpu_nonzero_milli=nonzero.cpu_milli,
        memory_bytes=wanted.memory_bytes,
        memory_nonzero_bytes=nonzero.memory_bytes,
        gpus_milli=wanted.gpus_milli,
        gpu_model=(spec.get("nodeSelector") or {}).get(lb.GPU_PRODUCT, ""),
        archs=lb.told_archs(spec),
        preferred_node_terms=tuple(
            term.get("preference") or {}
            for term in (affinity.get("nodeAffinity") or {}).get("preferredDuringSchedulingIgnoredDuringExecution", ())
        ),
        preferred_topologies=_preferred_topologies(spec, affinity),
        tolerations=tuple(spec.get("tolerations") or ()),
        pinned=is_pinned(spec),
        sla=told.sla,
        priority=priority,
        created_s=created_s,
        deadline_s=created_s + told.deadline_after_s if not math.isnan(created_s) else math.inf,
        workload=told.workload or default_workload(meta, spec),
        expected_run_s=told.expected_run_s,
    )
    return request, told


def _preferred_topologies(spec: Json, affinity: Json) -> tuple[str, ...]:
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    terms = [
        term.get("podAffinityTerm") or {}
        for part in ("podAffinity", "podAntiAffinity")
        for term in (affinity.get(part) or {}).get(preferred) or ()
    ]
    soft = [c for c in spec.get("topologySpreadConstraints") or () if c.get("whenUnsatisfiable") == "ScheduleAnyway"]
    return tuple(dict.fromkeys(str(t.get("topologyKey")) for t in (*terms, *soft)))


def default_workload(meta: Json, spec: Json) -> str:
    """What a pod runs when nobody says: root owner and images, without hashes, CronJob times and tags.

    Pods of two rollouts of a Deployment, or of two runs of a CronJob, are one workload.
    """
    owner = controller(meta)
    # A bare pod's own name says nothing of others like it: only its images do.
    base = str(owner.get("name") or meta.get("generateName") or "").rstrip("-")
    if owner.get("kind") == "ReplicaSet":
        base = _HASH.sub("", base)
    elif owner.get("kind") == "Job":
        base = _RUN.sub("", base)
    images = sorted({_TAG.sub("", str(c.get("image") or "")) for c in spec.get("containers") or ()})
    return f"{meta.get('namespace') or 'default'}/{base}:{','.join(images)}"


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod that has a node, as the cluster state wants it."""

    request: PodRequest
    node: str
    started_s: float
    """When its containers ran; nan if they do not yet."""
    finished_s: float
    """When its last container ended; nan if it still runs."""
    succeeded: bool
    done: bool
    """Phase Succeeded or Failed: it holds no room any more."""
    ready: bool
    """All its containers are ready: what it runs works on this node."""


def pod_state(pod: Json) -> PodState:
    """Read the placement and the fate of one v1.Pod, from what the kubelet wrote."""
    request, _ = pod_request(pod)
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    started, finished = [], []
    for container in status.get("containerStatuses") or ():
        now = container.get("state") or {}
        ended, running = now.get("terminated") or {}, now.get("running") or {}
        started.append(_stamp(ended.get("startedAt") or running.get("startedAt")))
        finished.append(_stamp(ended.get("finishedAt")))
    phase = status.get("phase")
    return PodState(
        request=request,
        node=spec.get("nodeName") or "",
        started_s=max(started, default=UNKNOWN_S) if not any(map(math.isnan, started)) else UNKNOWN_S,
        finished_s=max(finished, default=UNKNOWN_S) if not any(map(math.isnan, finished)) else UNKNOWN_S,
        succeeded=phase == "Succeeded",
        done=phase in ("Succeeded", "Failed"),
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ()),
    )


def _stamp(text: str | None) -> float:
    return epoch_s(text) if text else UNKNOWN_S


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What a node is, without what runs on it."""

    name: str
    node_class: str
    arch: str
    zone: str
    cpu_allocatable_milli: float
    memory_allocatable_bytes: float
    gpus_allocatable_milli: float
    pods_allocatable: float
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, Any], ...] = ()
    unschedulable: bool = False
    price_usd_per_h: float = 0.0
    idle_w: float = 0.0
    peak_w: float = 0.0
    price_source: str = ""
    """Where the price comes from; empty if nobody knows it, and then it is 0."""
    power_source: str = ""
    """Where the watts come from; empty if nobody knows them, and then they are 0."""


def node_spec(node: Json, spot_price_factor: float = SPOT_PRICE_FACTOR) -> NodeSpec:
    """Read one v1.Node.

    Price and power come from the annotations `nodewise.dev/price-usd-per-hour` (what is paid, also for a spot node) and
    `nodewise.dev/idle-watts`, `nodewise.dev/peak-watts` (a pair: one without the other leaves that 0); without a number
    there that a node can have (`MOST_USD_PER_H`, `MOST_W`), from what is published of its machine type
    (`nodewise.core.machines`), which `spot_price_factor` is for; else they are 0 (unknown).
    """
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    labels, room = meta.get("labels") or {}, status.get("allocatable") or {}
    cpu_milli = milli(room.get("cpu", 0))
    price, price_source, idle_w, peak_w, power_source = _economics(
        labels, meta.get("annotations") or {}, cpu_milli, spot_price_factor
    )
    return NodeSpec(
        name=meta["name"],
        node_class=lb.node_class(labels),
        arch=labels.get(lb.ARCH) or (status.get("nodeInfo") or {}).get("architecture") or "",
        zone=labels.get(lb.ZONE) or "",
        cpu_allocatable_milli=cpu_milli,
        memory_allocatable_bytes=whole(room.get("memory", 0)),
        gpus_allocatable_milli=sum(milli(room[g]) for g in GPU_RESOURCES if g in room),
        pods_allocatable=whole(room.get("pods", 110)),
        labels=labels,
        taints=tuple(spec.get("taints") or ()),
        unschedulable=bool(spec.get("unschedulable")),
        price_usd_per_h=price,
        idle_w=idle_w,
        peak_w=peak_w,
        price_source=price_source,
        power_source=power_source,
    )


MOST_USD_PER_H, MOST_W = 1e5, 1e6
"""No node costs or draws more: what says so is a mistake, such as a price in thousandths. A NodeProfile has the same
bounds."""
_PRICE, _IDLE, _PEAK = (f"nodewise.dev/{name}" for name in ("price-usd-per-hour", "idle-watts", "peak-watts"))


def _economics(
    labels: Mapping[str, str], told: Json, cpu_milli: float, spot_price_factor: float
) -> tuple[float, str, float, float, str]:
    """USD an hour and its source, idle and peak watts and their source."""
    price = _number(told.get(_PRICE), MOST_USD_PER_H)
    idle_w, peak_w = (_number(told.get(name), MOST_W) for name in (_IDLE, _PEAK))
    powered = idle_w is not None or peak_w is not None
    if price is not None and powered:
        return price, f"annotation {_PRICE}", idle_w or 0.0, peak_w or 0.0, f"annotations {_IDLE}, {_PEAK}"
    known = machine(labels, cpu_milli / 1000.0, spot_price_factor)
    cost = (known.price_usd_per_h, known.price_source) if price is None else (price, f"annotation {_PRICE}")
    if powered:
        return *cost, idle_w or 0.0, peak_w or 0.0, f"annotations {_IDLE}, {_PEAK}"
    return *cost, known.idle_w, known.peak_w, known.power_source


def _number(text: str | None, most: float) -> float | None:
    """What an annotation says; None for anything but a number from 0 to `most`."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if 0.0 <= value <= most else None
