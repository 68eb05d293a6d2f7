"""`nodewise profile` on a cluster, the pure part: the nodes of a class, the Job that runs there, what its pod said."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nodewise.core import labels as lb
from nodewise.core.annotations import WORKLOAD
from nodewise.core.units import epoch_s
from nodewise_operator.resources.base import whole_second
from nodewise_operator.resources.node_profile import Benchmark
from nodewise_operator.workloads import WORKLOADS, Measured

Json = dict[str, Any]

RUN_LABEL = "nodewise.dev/profile-run"
CLASS_ANNOTATION = "nodewise.dev/profiled-class"
_MESSAGE = "/dev/termination-log"
_NOBODY = 65532
"""User that images without a shell run as by custom; any but root will do."""
_NOBODY_WAITS_S = 60
"""So long after whoever waits has given up, the Job is ended by its controller."""
_HOPELESS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
)
"""Reasons of a waiting container that no waiting cures."""
_SURE_RUNS = 6
"""From so many runs on, the smallest and the largest hold the median with 95 % (1 - 2 / 2^6 = 97 %)."""
_MOST_BENCHMARKS = 32


@dataclass(frozen=True, slots=True)
class NodeClass:
    """The nodes of one class that a Job can be bound to."""

    name: str
    nodes: tuple[str, ...]
    terms: tuple[Mapping[str, Any], ...]
    """Node affinity terms, one of which each of the nodes matches."""
    tolerations: tuple[Mapping[str, Any], ...]
    """What covers the taints of these nodes; empty unless that was asked for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be run, and where its Jobs are made."""

    image: str
    namespace: str
    run: str
    """A word that tells this call's Jobs from others'."""
    workloads: tuple[str, ...]
    p: float
    runs: int
    timeout_s: float
    """For one Job, from its creation."""
    teach: bool = False
    """Whether the operator may learn from the pods as from any other."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one workload on one class."""

    node_class: str
    workload: str
    node: str
    measured: Measured | None
    ended_s: float
    """When its container ended; nan if it did not."""
    why: str
    """Why nothing was measured; empty if it was."""

    @property
    def ran(self) -> bool:
        """Whether its container ended by itself, well or not."""
        return not math.isnan(self.ended_s)


def node_classes(nodes: Iterable[Json], tolerate: bool) -> tuple[list[NodeClass], dict[str, str]]:
    """The classes that Jobs can run on, by name; and why not, for the others.

    A node counts if it is ready, not cordoned, and without taints that keep pods away; with `tolerate`, taints that its
    owner made do not matter.
    """
    usable: dict[str, list[Json]] = defaultdict(list)
    refused: dict[str, str] = {}
    for node in sorted(nodes, key=lambda n: str(n["metadata"]["name"])):
        name = lb.node_class(node["metadata"].get("labels") or {})
        why = _closed(node, tolerate)
        if why:
            refused.setdefault(name, f"{node['metadata']['name']} {why}")
        else:
            usable[name].append(node)
    found = [_class_of(name, held, tolerate) for name, held in sorted(usable.items())]
    return found, {name: why for name, why in sorted(refused.items()) if name not in usable}


def _class_of(name: str, nodes: list[Json], tolerate: bool) -> NodeClass:
    terms = [lb.class_term(node["metadata"].get("labels") or {}) for node in nodes]
    taints = [taint for node in nodes for taint in _keeping_away(node)] if tolerate else []
    tolerations = [{"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} for taint in taints]
    return NodeClass(
        name, tuple(n["metadata"]["name"] for n in nodes), tuple(_distinct(terms)), tuple(_distinct(tolerations))
    )


def _distinct(items: list[Json]) -> list[Json]:
    return [item for k, item in enumerate(items) if item not in items[:k]]


def _keeping_away(node: Json) -> list[Json]:
    taints = (node.get("spec") or {}).get("taints") or ()
    return [taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute")]


def _closed(node: Json, tolerate: bool) -> str:
    """Why no Job goes there; empty if one may."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    if not any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions):
        return "is not ready"
    if (node.get("spec") or {}).get("unschedulable"):
        return "is cordoned"
    taints = [taint["key"] for taint in _keeping_away(node)]
    return f"has the taint {taints[0]}: --tolerate runs there all the same" if taints and not tolerate else ""


def job(ask: Ask, of: NodeClass, workload: str, name: str) -> Json:
    """The Job of one workload on one class, which Pod Security's `restricted` standard admits.

    It asks for little CPU, so that it fits on a full node, and for the memory that it needs, without limits: a linear
    algebra library takes room for every core that it sees. It ends by itself even if nobody waits for it. Its pod
    counts as the member of a gang (an indexed Job), from which no speed is learned, unless `ask.teach`.
    """
    labels = {
        "app.kubernetes.io/name": "nodewise-profile", "app.kubernetes.io/managed-by": "nodewise", RUN_LABEL: ask.run,
        "nodewise.dev/scheduling": "disabled",  # in a namespace that opted in it would be kept to our own nodes
    }  # fmt: skip
    memory = WORKLOADS[workload].memory_bytes(WORKLOADS[workload].size(ask.p))
    program = ["python", "-m", "nodewise_operator.workloads", workload, f"{ask.p:g}"]
    container: Json = {
        "name": "workload",
        "image": ask.image,
        "command": [*program, "--runs", str(ask.runs), "--to", _MESSAGE],
        "env": [{"name": "TMPDIR", "value": "/scratch"}],
        "resources": {"requests": {"cpu": "100m", "memory": str(memory)}},
        "terminationMessagePath": _MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*map(dict, of.terms)]}}
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "fsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"nodeAffinity": affinity},
        "tolerations": [*map(dict, of.tolerations)],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [container],
    }
    annotations = {CLASS_ANNOTATION: of.name, WORKLOAD: f"nodewise-profile/{title(workload, ask.p)}"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": ask.namespace, "labels": labels, "annotations": annotations},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "completionMode": "NonIndexed" if ask.teach else "Indexed",
            "activeDeadlineSeconds": math.ceil(ask.timeout_s) + _NOBODY_WAITS_S,
            "ttlSecondsAfterFinished": 300,
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }


def title(workload: str, p: float) -> str:
    """The name of a benchmark: its workload and size."""
    return f"{workload}-{WORKLOADS[workload].size(p)}"


def outcome(pod: Json, node_class: str, workload: str) -> Outcome | None:
    """What one pod says of its workload; None while it is still on its way.

    The result is the termination message; where there is none, it is the reason in the words of the kubelet.
    """
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    node = spec.get("nodeName") or ""
    state = next((c.get("state") or {} for c in status.get("containerStatuses") or ()), {})
    ended = state.get("terminated")
    waiting = state.get("waiting") or {}
    if ended is None and status.get("phase") == "Failed":
        why = ": ".join(filter(None, (status.get("reason"), status.get("message")))) or "its pod failed"
        return Outcome(node_class, workload, node, None, math.nan, why)
    if waiting.get("reason") in _HOPELESS:
        return Outcome(node_class, workload, node, None, math.nan, f"{waiting['reason']}: {waiting.get('message', '')}")
    if ended is None:
        return None
    ended_s = epoch_s(ended["finishedAt"]) if ended.get("finishedAt") else math.nan
    said = str(ended.get("message") or "").strip()
    if ended.get("exitCode") != 0:
        reason = ended.get("reason") or "Error"
        why = f"{reason}, exit code {ended.get('exitCode')}" + (f": {said.splitlines()[-1]}" if said else "")
        return Outcome(node_class, workload, node, None, ended_s, why)
    try:
        told = json.loads(said)
        measured = Measured(
            str(told["workload"]), float(told["p"]), int(told["size"]), float(told["seconds"]),
            tuple(map(float, told["runs"])), str(told["checksum"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        why = "its termination message is no result: is there another version of nodewise in the image?"
        return Outcome(node_class, workload, node, None, ended_s, why)
    return Outcome(node_class, workload, node, measured, ended_s, "")


def on_the_way(pod: Json) -> str:
    """What a pod that is not done waits for, in a few words."""
    status = pod.get("status") or {}
    unbound = next((c for c in status.get("conditions") or () if c.get("reason") == "Unschedulable"), None)
    if unbound and not (pod.get("spec") or {}).get("nodeName"):
        return f"no node takes it ({unbound.get('message', '')})"
    state = next((c.get("state") or {} for c in status.get("containerStatuses") or ()), {})
    reason = (state.get("waiting") or {}).get("reason")
    return str(reason or status.get("phase") or "Pending").lower()


def benchmark(of: Outcome) -> Benchmark:
    """A result as NodeProfile has it. Raises ValueError for an outcome without one."""
    if of.measured is None or not of.ran:
        raise ValueError(f"{of.workload} on {of.node_class} has no result: {of.why}")
    sure = len(of.measured.runs) >= _SURE_RUNS
    return Benchmark(
        name=f"{of.measured.workload}-{of.measured.size}",
        seconds=of.measured.seconds,
        lower=min(of.measured.runs) if sure else None,
        upper=max(of.measured.runs) if sure else None,
        runs=len(of.measured.runs),
        node=of.node or None,
        measured_at=whole_second(of.ended_s),
    )


def merged(old: Iterable[Json], new: Iterable[Benchmark]) -> list[Json]:
    """The benchmarks of a NodeProfile after these: one of the same name is replaced, the oldest go from 32 on."""
    held = {str(each["name"]): each for each in old} | {each.name: each.plain() for each in new}
    latest = sorted(held.values(), key=lambda each: datetime.fromisoformat(each["measuredAt"]))[-_MOST_BENCHMARKS:]
    return sorted(latest, key=lambda each: str(each["name"]))
