"""One rule per kind of pod: the table of decision 18."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodewise.core.types import Kind

Json = Mapping[str, Any]

SYSTEM_PRIORITY = 2_000_000_000
"""Priority of `system-cluster-critical`, the lowest of the built-in system classes."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """How pods of one kind are handled."""

    scored: bool
    """Whether we have an opinion; if not, the in-tree ranking stands."""
    ends: bool
    """Whether a run time exists. A service has none: start-up, contention and cost only."""
    deferrable: bool
    """Whether the pod may be told to wait for a better node, once a policy asks for that."""
    teaches_speed: bool
    """Whether its run time says something about its node; a member of a gang waits for the slowest other one."""
    why: str


TREATMENTS: Mapping[Kind, Treatment] = {
    Kind.JOB: Treatment(True, True, True, True, "a Job's pod: ends, may wait within its deadline, teaches speed"),
    Kind.INDEXED: Treatment(True, True, False, False, "member of a gang: never deferred, its time is the gang's"),
    Kind.BARE: Treatment(True, True, False, True, "a pod without owner: nobody recreates it, so it never waits"),
    Kind.SERVICE: Treatment(True, False, False, False, "runs until replaced: no run time exists"),
    Kind.DAEMON: Treatment(False, False, False, False, "pinned to its node by its controller"),
    Kind.STATIC: Treatment(False, False, False, False, "belongs to its kubelet"),
    Kind.SYSTEM: Treatment(False, False, False, False, "system-critical: the stock ranking must stand"),
}

GANG_LABELS = ("jobset.sigs.k8s.io/jobset-name", "pod-group.scheduling.sigs.k8s.io/name", "volcano.sh/job-name")
_INDEX = "batch.kubernetes.io/job-completion-index"
_OF_OWNER = {
    "Job": Kind.JOB,
    "DaemonSet": Kind.DAEMON,
    "Node": Kind.STATIC,
    "ReplicaSet": Kind.SERVICE,
    "ReplicationController": Kind.SERVICE,
    "StatefulSet": Kind.SERVICE,
    "Deployment": Kind.SERVICE,
}


def kind_of(pod: Json) -> Kind:
    """The kind of a pod, from its owner, labels, annotations and priority."""
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    if "kubernetes.io/config.mirror" in annotations:
        return Kind.STATIC
    owner = controller(meta)
    kind = _OF_OWNER.get(owner.get("kind", ""))
    if kind in (Kind.DAEMON, Kind.STATIC):
        return kind
    if (spec.get("priority") or 0) >= SYSTEM_PRIORITY:
        return Kind.SYSTEM
    gang = _INDEX in annotations or spec.get("schedulingGroup") or any(label in labels for label in GANG_LABELS)
    if gang and kind is not Kind.SERVICE:
        return Kind.INDEXED
    if kind is None:
        # An owner of a kind we do not know (a workflow, a Ray cluster): its restart policy tells whether it ends.
        return Kind.SERVICE if spec.get("restartPolicy", "Always") == "Always" else Kind.BARE
    return kind


def controller(metadata: Json) -> Json:
    """The owner reference of the controlling object; empty if there is none."""
    return next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), {})


def is_pinned(spec: Json) -> bool:
    """Whether placing the pod may also pin a volume's zone or a device.

    A pod's own volumes do not tell whether a claim is bound, so every claim that the pod makes itself (ephemeral
    volumes, ResourceClaims) counts; claims by name are looked at by the caller, which knows the bound ones.
    """
    return bool(spec.get("resourceClaims")) or any("ephemeral" in v for v in spec.get("volumes") or ())
