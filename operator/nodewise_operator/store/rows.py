"""What is kept, a frozen class a table; times in epoch seconds, nan where it never came to that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nodewise.channel.messages import DecisionRow
from nodewise.core.estimator import Observation


class Fate(StrEnum):
    """What became of a pod; the first two are still going on, the next two are outcomes."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CENSORED = "censored"
    """Gone before it ended by itself: `PodRow.reason` says how (deleted, evicted, preempted, node-lost, downtime)."""


@dataclass(frozen=True, slots=True)
class PodRow:
    """One pod by uid, with all that is known of its life."""

    uid: str
    namespace: str
    name: str
    owner: str
    kind: str
    workload: str
    sla: int
    priority: int
    scheduler: str
    manifest: dict[str, Any]
    """The v1.Pod as far as it matters for placing it again (`nodewise.kube.snapshot.trimmed_pod`)."""
    fate: Fate
    reason: str
    """Why it failed or was censored, as a word: `Error`, `OOMKilled`, `OutOfcpu`, `evicted`, `deleted`, `downtime` …"""
    created_s: float
    bound_s: float
    started_s: float
    ready_s: float
    finished_s: float
    """End of its containers, or when it was seen to be gone."""
    deadline_s: float
    """inf if it cannot be late."""
    expected_run_s: float
    node: str
    node_class: str
    exit_code: int | None
    restarts: int
    late: bool | None
    """None while it is not known, and for pods that cannot be late."""
    slowdown: float
    """Factor by which its neighbours are believed to have stretched its run; nan until it is bound."""
    joules: float
    """Drawn above an idle node, by `nodewise.core.cost`."""
    cents: float
    """By `nodewise.core.cost.realised_cents`; nan until it has an outcome."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node by uid."""

    uid: str
    name: str
    node_class: str
    manifest: dict[str, Any]
    """The v1.Node as far as placing depends on it (`nodewise.kube.snapshot.trimmed_node`)."""
    first_seen_s: float
    last_seen_s: float
    """inf while it is there."""


@dataclass(frozen=True, slots=True)
class Downtime:
    """A time in which events may have been missed: the operator was dead, or its watch was cut."""

    begin_s: float
    end_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written in one transaction. Writing the same batch again changes nothing."""

    pods: tuple[PodRow, ...] = ()
    """Replace what was known of the same uid."""
    nodes: tuple[NodeRow, ...] = ()
    decisions: tuple[DecisionRow, ...] = ()
    """Known by (uid, source, time_s); a second one with the same key is ignored."""
    observations: tuple[Observation, ...] = ()
    """In order; known by uid, a second one is ignored."""
    downtimes: tuple[Downtime, ...] = ()
    segment: tuple[str, int, int] | None = None
    """(extender, sequence, dropped) of the segment that the decisions came in."""
    seen_s: float | None = None
    """The operator was watching at this time: where a downtime begins if it dies now."""
