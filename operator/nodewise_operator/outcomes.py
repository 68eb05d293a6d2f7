"""What became of a pod, from the status that its kubelet wrote. Pure: the same events give the same rows.

Events may come twice, late, or in another order: what is known of a pod only ever grows (earliest start, most
restarts, the more final fate), so every order ends in the same row.

Kubernetes' stamps are whole seconds, cut off: a time is early by 0 to 1 s (half a second on average). A run time is the
difference of two of them, so it is unbiased but scatters by ±1 s (standard deviation 0.41 s), and a run of less than
a second is often 0. A queue delay is as good, since creation and binding are stamped alike. Only the end of a pod that
was deleted is taken from our own clock, when the watch said so: it is late by what the watch is behind.

Source: `k8s.io/api/core/v1/types.go`, `pkg/kubelet/{eviction,lifecycle,nodeshutdown,preemption}` at 1.36.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from nodewise.channel.messages import DecisionRow
from nodewise.core import cost
from nodewise.core.kinds import TREATMENTS
from nodewise.core.pods import NodeSpec, pod_request
from nodewise.core.types import UNKNOWN_S, CostRates, Kind, PodRequest
from nodewise.core.units import epoch_s
from nodewise.kube.snapshot import trimmed_pod
from nodewise_operator.store.rows import Fate, PodRow

Json = Mapping[str, Any]

DOWNTIME = "downtime"
"""Reason of pods that went while nobody looked."""
DELETED = "deleted"

_RANK = {Fate.WAITING: 0, Fate.RUNNING: 1, Fate.CENSORED: 2, Fate.FAILED: 3, Fate.SUCCEEDED: 3}
_OPEN = (Fate.WAITING, Fate.RUNNING)

_TAKEN_AWAY = {
    "Evicted": "evicted",  # kubelet/eviction: the node ran short of something
    "Preempting": "preempted",  # kubelet/preemption: room for a critical pod
    "NodeLost": "node-lost",
    "Terminated": "node-lost",  # kubelet/nodeshutdown
    "NodeShutdown": "node-lost",
    "Shutdown": "node-lost",
}
"""`status.reason` of a pod in phase Failed that did not end by itself."""
_DISRUPTED = {
    "PreemptionByScheduler": "preempted",
    "EvictionByEvictionAPI": "evicted",
    "DeletionByTaintManager": "evicted",
    "DeletionByPodGC": "node-lost",
    "TerminationByKubelet": "evicted",
}
"""Reason of condition DisruptionTarget."""
_KILLED = 128
"""Exit codes above this are signals."""

_decode, _encode = msgspec.json.Decoder(dict[str, Any]).decode, msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Facts:
    """One version of one v1.Pod, as far as its row depends on it."""

    request: PodRequest
    version: int
    """resourceVersion; 0 if it has none."""
    scheduler: str
    trimmed: bytes
    """JSON of `trimmed_pod`: a tenth of the memory that the object takes."""
    node: str
    fate: Fate
    reason: str
    gone_reason: str
    """Why it is gone, should this be the last that is heard of it."""
    bound_s: float
    started_s: float
    ready_s: float
    ended_s: float
    """nan while it goes on, and where nothing in the pod tells."""
    exit_code: int | None
    restarts: int

    @property
    def manifest(self) -> dict[str, Any]:
        """As `trimmed_pod` made it."""
        return _decode(self.trimmed)


def facts(pod: Json, request: PodRequest | None = None) -> Facts:
    """Read one v1.Pod, whose `request` may be known already. Raises ValueError or KeyError as `pod_request` does."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    request = request or pod_request(pod)[0]
    node = spec.get("nodeName") or ""
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    containers = [_container(c) for c in status.get("containerStatuses") or ()]
    ended_s = _ended_s(status, containers)
    exit_code = _exit_code(containers)
    gone_reason = _DISRUPTED.get(_true_reason(conditions.get("DisruptionTarget")), DELETED)
    fate, reason = Fate.RUNNING if node else Fate.WAITING, ""
    if status.get("phase") in ("Succeeded", "Failed"):
        fate, reason = _final(meta, status, containers, ended_s, exit_code)
        if fate is Fate.CENSORED:
            reason = reason or gone_reason
    else:
        ended_s = UNKNOWN_S
    started = [c.started_s for c in containers]
    return Facts(
        request=request,
        version=int(meta.get("resourceVersion") or 0),
        scheduler=spec.get("schedulerName") or "default-scheduler",
        trimmed=_encode(trimmed_pod(pod)),
        node=node,
        fate=fate,
        reason=reason,
        gone_reason=gone_reason,
        bound_s=_bound_s(node, request, status, conditions),
        started_s=UNKNOWN_S if not started or any(map(math.isnan, started)) else max(started),
        ready_s=_since(conditions.get("Ready")),
        ended_s=ended_s,
        exit_code=exit_code if fate not in _OPEN else None,
        restarts=sum(int(c.get("restartCount") or 0) for c in status.get("containerStatuses") or ()),
    )


def pod_row(
    pod: Json, before: PodRow | None, now_s: float, node: NodeSpec | None, slowdown: float, rates: CostRates
) -> PodRow:
    """`row` of a v1.Pod."""
    return row(facts(pod), before, now_s, node, slowdown, rates)


def row(
    seen: Facts, before: PodRow | None, now_s: float, node: NodeSpec | None, slowdown: float, rates: CostRates
) -> PodRow:
    """What is known of a pod once `seen` is added to what was known `before`.

    `node` is the pod's node, None if it is not known (yet); `slowdown` what its neighbours are believed to do to it,
    kept from the first time that it is not nan. `now_s` stands in for an end that the pod does not tell.
    """
    request = seen.request
    fate, reason, exit_code = seen.fate, seen.reason, seen.exit_code
    ended_s = UNKNOWN_S if fate in _OPEN else (now_s if math.isnan(seen.ended_s) else seen.ended_s)
    manifest, bound_s, started_s, ready_s = seen.trimmed, seen.bound_s, seen.started_s, seen.ready_s
    node_name, node_class, restarts = seen.node, node.node_class if node else "", seen.restarts
    kept: dict[str, Any] | None = None
    if before is not None:
        if _further(before, fate, ended_s, reason):
            fate, reason, exit_code, ended_s = before.fate, before.reason, before.exit_code, before.finished_s
        if before.node and not seen.node:  # an old event; its manifest does not even say where the pod is
            node_name, kept = before.node, before.manifest
        bound_s, started_s = _first(before.bound_s, bound_s), _first(before.started_s, started_s)
        ready_s, restarts = _first(before.ready_s, ready_s), max(before.restarts, restarts)
        node_class = before.node_class or node_class
        slowdown = slowdown if math.isnan(before.slowdown) else before.slowdown
    made = PodRow(
        uid=request.uid, namespace=request.namespace, name=request.name, owner=request.owner, kind=request.kind.value,
        workload=request.workload, sla=int(request.sla), priority=request.priority, scheduler=seen.scheduler,
        manifest=_decode(manifest) if kept is None else kept, fate=fate, reason=reason, created_s=request.created_s,
        bound_s=bound_s, started_s=started_s, ready_s=ready_s, finished_s=ended_s, deadline_s=request.deadline_s,
        expected_run_s=request.expected_run_s, node=node_name, node_class=node_class, exit_code=exit_code,
        restarts=restarts, late=None, slowdown=slowdown, joules=UNKNOWN_S, cents=UNKNOWN_S,
    )  # fmt: skip
    return _priced(made, request, node, rates, before)


def gone(before: PodRow, at_s: float, reason: str) -> PodRow:
    """The pod is no more since `at_s`. What had ended by itself keeps its outcome; all else is censored."""
    if before.fate not in _OPEN and not _unexplained(before):
        return before
    late = before.late
    if before.kind and TREATMENTS[Kind(before.kind)].ends:
        late = True if at_s > before.deadline_s else None
    return replace(before, fate=Fate.CENSORED, reason=reason, finished_s=at_s, late=late)


def undelivered(decision: DecisionRow) -> PodRow:
    """Row of a pod that only an extender told of: it waits, until a watch shows it or it is known to be gone."""
    return PodRow(
        uid=decision.uid, namespace=decision.namespace, name=decision.pod, owner="", kind="", workload="", sla=0,
        priority=0, scheduler="", manifest={}, fate=Fate.WAITING, reason="", created_s=UNKNOWN_S, bound_s=UNKNOWN_S,
        started_s=UNKNOWN_S, ready_s=UNKNOWN_S, finished_s=UNKNOWN_S, deadline_s=math.inf, expected_run_s=UNKNOWN_S,
        node="", node_class="", exit_code=None, restarts=0, late=None, slowdown=UNKNOWN_S, joules=UNKNOWN_S,
        cents=UNKNOWN_S,
    )  # fmt: skip


def queue_delay_s(made: PodRow) -> float:
    """Time from creation to binding; nan until it is bound."""
    return made.bound_s - made.created_s


def run_s(made: PodRow) -> float:
    """Time that its containers ran; nan until they ended."""
    return made.finished_s - made.started_s


def _unexplained(made: PodRow) -> bool:
    return made.fate is Fate.CENSORED and made.reason == DOWNTIME


def _further(before: PodRow, fate: Fate, ended_s: float, reason: str) -> bool:
    """Whether `before` is the more final word; of two ends by one rank the earlier, so that order does not matter."""
    if _unexplained(before):
        return False  # it was there after all
    if _RANK[before.fate] != _RANK[fate]:
        return _RANK[before.fate] > _RANK[fate]
    if fate in _OPEN:
        return False
    return (before.finished_s, before.fate, before.reason) <= (ended_s, fate, reason)


def _priced(
    made: PodRow, request: PodRequest, node: NodeSpec | None, rates: CostRates, before: PodRow | None
) -> PodRow:
    ends = TREATMENTS[request.kind].ends
    decided_s = made.finished_s if ends or made.fate in (Fate.SUCCEEDED, Fate.FAILED) else made.started_s
    late = None
    if not math.isinf(made.deadline_s) and not math.isnan(decided_s):
        late = decided_s > made.deadline_s
        if made.fate is Fate.CENSORED and ends:
            late = True if late else None  # it might have been in time, had it been left alone
    made = replace(made, late=late)
    if made.fate not in (Fate.SUCCEEDED, Fate.FAILED):
        return made
    if node is None:
        return made if before is None else replace(made, joules=before.joules, cents=before.cents)
    ran_s = run_s(made)
    ran_s = 0.0 if math.isnan(ran_s) else max(ran_s, 0.0)
    joules = float(cost.dynamic_joules(request.cpu_milli, node.cpu_allocatable_milli, node.idle_w, node.peak_w, ran_s))
    until_s = made.finished_s if ends or math.isnan(made.started_s) else made.started_s
    cents = cost.realised_cents(
        rates, request, flow_s=max(until_s - made.created_s, 0.0), late=bool(late), joules=joules,
        share=cost.dominant_share(request, node), price_usd_per_h=node.price_usd_per_h, run_s=ran_s,
    )  # fmt: skip
    return replace(made, joules=joules, cents=cents)


@dataclass(frozen=True, slots=True)
class _Container:
    started_s: float
    ended_s: float
    exit_code: int | None
    reason: str


def _container(status: Json) -> _Container:
    now = status.get("state") or {}
    ended, running = now.get("terminated") or {}, now.get("running") or {}
    return _Container(
        started_s=_stamp(ended.get("startedAt") or running.get("startedAt")),
        ended_s=_stamp(ended.get("finishedAt")),
        exit_code=int(ended.get("exitCode") or 0) if ended else None,
        reason=ended.get("reason") or "",
    )


def _final(
    meta: Json, status: Json, containers: list[_Container], ended_s: float, exit_code: int | None
) -> tuple[Fate, str]:
    """Fate and reason of a pod in phase Succeeded or Failed; the reason is empty where the deletion is the reason."""
    if _was_deleted_first(meta, ended_s, exit_code):
        return Fate.CENSORED, ""
    if status.get("phase") == "Succeeded":
        return Fate.SUCCEEDED, ""
    said = status.get("reason") or ""
    if said in _TAKEN_AWAY:
        return Fate.CENSORED, _TAKEN_AWAY[said]
    disrupted = _true_reason(next((c for c in status.get("conditions") or () if c["type"] == "DisruptionTarget"), None))
    if disrupted in _DISRUPTED:
        return Fate.CENSORED, _DISRUPTED[disrupted]
    if said:  # the kubelet refused it (OutOfcpu, NodeAffinity, UnexpectedAdmissionError …) or its time was up
        return Fate.FAILED, said
    reasons = [c.reason for c in containers if c.exit_code]
    return Fate.FAILED, "OOMKilled" if "OOMKilled" in reasons else next(filter(None, reasons), "Failed")


def _was_deleted_first(meta: Json, ended_s: float, exit_code: int | None) -> bool:
    """Whether the pod ended because somebody deleted it.

    deletionTimestamp is when its grace period is over, so the wish is older by that. Where both fall into one second,
    a signal's exit code tells.
    """
    if not meta.get("deletionTimestamp"):
        return False
    asked_s = epoch_s(meta["deletionTimestamp"]) - float(meta.get("deletionGracePeriodSeconds") or 0)
    if ended_s == asked_s:
        return exit_code is not None and exit_code > _KILLED
    return ended_s > asked_s


def _bound_s(node: str, request: PodRequest, status: Json, conditions: Mapping[Any, Json]) -> float:
    if not node:
        return UNKNOWN_S
    scheduled_s = _since(conditions.get("PodScheduled"))
    if not math.isnan(scheduled_s):
        return scheduled_s
    return _stamp(status["startTime"]) if status.get("startTime") else request.created_s  # its author named the node


def _ended_s(status: Json, containers: list[_Container]) -> float:
    """When the last container ended; else the newest stamp that the status has, for pods that never ran."""
    ended = [c.ended_s for c in containers if not math.isnan(c.ended_s)]
    if ended:
        return max(ended)
    stamps = [_stamp(c.get("lastTransitionTime")) for c in status.get("conditions") or ()]
    stamps.append(_stamp(status.get("startTime")))
    return max((s for s in stamps if not math.isnan(s)), default=UNKNOWN_S)


def _exit_code(containers: list[_Container]) -> int | None:
    codes = [c.exit_code for c in containers if c.exit_code is not None]
    return next((code for code in codes if code), 0) if codes else None


def _true_reason(condition: Json | None) -> str:
    return (condition.get("reason") or "") if condition and condition.get("status") == "True" else ""


def _since(condition: Json | None) -> float:
    if condition is None or condition.get("status") != "True":
        return UNKNOWN_S
    return _stamp(condition.get("lastTransitionTime"))


def _stamp(text: str | None) -> float:
    return epoch_s(text) if text else UNKNOWN_S


def _first(one_s: float, other_s: float) -> float:
    return float(other_s if math.isnan(one_s) else one_s if math.isnan(other_s) else min(one_s, other_s))
