"""A snapshot as the replay wants it: nodes, and pods in order of arrival with times from the window's start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.estimator import Observation, RunTimeEstimator, row_key
from nodewise.core.kinds import TREATMENTS
from nodewise.core.pods import NodeSpec, node_spec, pod_request
from nodewise.core.types import CostRates, PodRequest
from nodewise.kube.cache import without_claims
from nodewise.kube.snapshot import Snapshot, SnapshotNode, SnapshotPod
from nodewise_simulator.advise.alone import Alone, Stay, alone
from nodewise_simulator.advise.rules import loosened
from nodewise_simulator.world import Json, quantised

_FIRST_S = -1.0
"""When the pods arrive that are there already as the window begins."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One pod of the recording; times in seconds from the window's start, nan where it never came to that."""

    manifest: Json
    request: PodRequest
    fate: str
    node: int
    """Row of the node it was bound to; -1 if it is not known."""
    bound_s: float
    started_s: float
    finished_s: float
    slowdown: float
    """As believed when it was bound; nan if nobody said."""
    counted: bool
    """Whether its placement is one of those that are judged."""
    stays: bool
    """Whether it is put where it was in every replay: it was there before, or its node is not for us to choose."""
    loosened: bool = False
    """Whether it had rules on other pods that cannot be played; see `rules`."""

    @property
    def ended(self) -> bool:
        """Whether its whole run was seen."""
        return self.fate in ("succeeded", "failed") and self.finished_s > self.started_s


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded of one cluster."""

    nodes: tuple[NodeSpec, ...]
    node_manifests: tuple[Json, ...]
    pods: tuple[Seen, ...]
    """Those that are played, by arrival."""
    past: tuple[Seen, ...]
    """Those that were gone before the window began: they only teach."""
    left_out: int
    """Pods of the window that are not played: nobody knows enough of them."""
    begin_s: float
    """Epoch seconds."""
    length_s: float
    gap_s: float
    """Time in the window in which pods may have come and gone unseen."""
    source: str
    """As in the snapshot."""
    changed_nodes: int
    """Nodes that came or went in the window; the replay has them all the time."""
    state: Json
    """Of the estimator, as it was at the end."""
    alone: Alone
    """Of `pods`, then of `past`."""

    @property
    def estimator(self) -> RunTimeEstimator:
        """What was known at the end, with a row for every pod and a column for every node."""
        made = RunTimeEstimator.restore(self.state)
        for node in self.nodes:
            made.column(node.node_class)
        for pod in (*self.pods, *self.past):
            made.row(pod.request)
        return made


def recording(snapshot: Snapshot, rates: CostRates | None = None, since_s: float | None = None) -> Recording:
    """Make sense of a snapshot; `since_s` (epoch seconds) makes its window shorter.

    Raises UserError, in one sentence, if there is nothing to learn from.
    """
    begin_s, end_s = max(snapshot.begin_s, since_s or 0.0), snapshot.end_s
    if begin_s >= end_s:
        raise UserError("the recording has nothing in that time: choose an earlier --since")
    try:
        present = _present(snapshot.nodes, begin_s)
        nodes = tuple(node_spec(n.manifest) for n in present)
        row = {n.name: k for k, n in enumerate(nodes)}
        every = [_seen(p, row, begin_s, end_s) for p in snapshot.pods]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the snapshot holds an object that Kubernetes would not accept ({error!r})") from error
    if not nodes:
        raise UserError("the recording has no nodes: let it run for a while, or check what the account may list")
    past = [p for p in every if _over(p)]
    played = [p for p in every if not _over(p) and _known(p)]
    played.sort(key=lambda p: (p.request.created_s, p.bound_s if p.bound_s == p.bound_s else math.inf, p.request.uid))
    if not any(p.counted for p in played):
        raise UserError(
            "the recording has no finished or waiting pods that end by themselves (Jobs, bare pods) in that time: "
            "let it run longer, or choose an earlier --since"
        )
    played = loosened(played)
    stays = [Stay(p.node, p.started_s, p.finished_s, p.request.cpu_milli) for p in (*played, *past)]
    room = np.array([n.cpu_allocatable_milli for n in nodes])
    length_s = end_s - begin_s
    made = alone(stays, room, length_s)
    state = snapshot.estimator or _learned((*played, *past), nodes, made, rates or CostRates()).state()
    try:
        RunTimeEstimator.restore(state)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"the snapshot's estimator is not one of ours ({error!r}): make the snapshot again") from error
    gaps = [(max(g.begin_s, begin_s), min(g.end_s, end_s)) for g in snapshot.downtimes]
    return Recording(
        nodes=nodes,
        node_manifests=tuple(n.manifest for n in present),
        pods=tuple(played),
        past=tuple(past),
        left_out=len(every) - len(past) - len(played),
        begin_s=begin_s,
        length_s=length_s,
        gap_s=sum(max(end - begin, 0.0) for begin, end in gaps),
        source=snapshot.source,
        changed_nodes=sum(n.last_seen_s is not None or (n.first_seen_s or 0.0) > begin_s for n in present),
        state=state,
        alone=made,
    )


def _present(nodes: Sequence[SnapshotNode], begin_s: float) -> list[SnapshotNode]:
    """Those of the window by name; of a name that came again, the newest."""
    there = [n for n in nodes if n.last_seen_s is None or n.last_seen_s > begin_s]
    there.sort(key=lambda n: n.first_seen_s or 0.0)
    by_name = {str(n.manifest["metadata"]["name"]): n for n in there}
    return [by_name[name] for name in sorted(by_name)]


def _seen(pod: SnapshotPod, row: dict[str, int], begin_s: float, end_s: float) -> Seen:
    request = without_claims(pod_request(pod.manifest)[0], pod.manifest["spec"])
    treatment = TREATMENTS[request.kind]
    created_s, bound_s, started_s, finished_s = (
        math.nan if at_s is None or at_s != at_s else quantised(at_s - begin_s)
        for at_s in (request.created_s, pod.bound_s, pod.started_s, pod.finished_s)
    )
    before = created_s < 0.0
    there = before and (bound_s < 0.0 or started_s < 0.0)
    arrives_s = _FIRST_S if there else max(created_s, 0.0)
    ends_by_itself = treatment.scored and treatment.ends and pod.fate in ("succeeded", "running", "waiting")
    return Seen(
        manifest=pod.manifest,
        # A deadline that was told counts from the pod's creation, whenever it comes into play.
        request=replace(request, created_s=arrives_s, deadline_s=request.deadline_s - begin_s),
        fate=pod.fate,
        node=row.get(pod.node, -1),
        bound_s=bound_s,
        started_s=started_s,
        finished_s=finished_s,
        slowdown=math.nan if pod.slowdown is None else pod.slowdown,
        counted=ends_by_itself and not before and created_s <= end_s - begin_s,
        stays=there or not treatment.scored,
    )


def _over(pod: Seen) -> bool:
    return pod.finished_s <= 0.0


def _known(pod: Seen) -> bool:
    """Whether enough is known of a pod to play it: an arrival, and a place if it is not ours to place."""
    if not pod.request.created_s < math.inf or (pod.stays and (pod.node < 0 or math.isnan(pod.started_s))):
        return False
    return pod.fate != "censored" or not math.isnan(pod.started_s)


def _learned(pods: tuple[Seen, ...], nodes: tuple[NodeSpec, ...], made: Alone, rates: CostRates) -> RunTimeEstimator:
    """The estimator that would have watched these pods."""
    estimator = RunTimeEstimator()
    order = sorted(range(len(pods)), key=lambda k: pods[k].finished_s)
    for k in order:
        pod = pods[k]
        if pod.fate == "succeeded" and pod.ended and pod.node >= 0 and TREATMENTS[pod.request.kind].teaches_speed:
            told = pod.request.expected_run_s
            estimator.learn(
                Observation(
                    pod.request.uid,
                    *row_key(pod.request),
                    nodes[pod.node].node_class,
                    (pod.finished_s - pod.started_s) / (1.0 if math.isnan(told) else told),
                    believed_slowdown(pod, made.pressure_at_start[k], rates),
                )
            )
    return estimator


def believed_slowdown(pod: Seen, pressure: float, rates: CostRates) -> float:
    """The factor that the estimator was told when it learned from this pod."""
    return 1.0 + rates.contention * pressure if math.isnan(pod.slowdown) else pod.slowdown
