"""What a pod's author tells us, from annotations and PriorityClass.

A malformed value is ignored with a reason that is counted; it is never an error, since a typing mistake in a hint must
not hold up a pod.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nodewise.core.types import UNKNOWN_S, SlaClass

PREFIX = "nodewise.dev/"
SLA_CLASS = PREFIX + "sla-class"
DEADLINE = PREFIX + "deadline-seconds"
EXPECTED = PREFIX + "expected-seconds"
WORKLOAD = PREFIX + "workload"

_CLASSES = {"production": SlaClass.PRODUCTION, "batch": SlaClass.BATCH, "best-effort": SlaClass.BEST_EFFORT}
_LONGEST_S = 10 * 365 * 86400.0
_LONGEST_WORKLOAD = 253


@dataclass(frozen=True, slots=True)
class Hints:
    """The author's hints, with defaults where there are none."""

    sla: SlaClass
    deadline_after_s: float
    """Time from creation at which the pod counts as late; inf if not told."""
    expected_run_s: float
    workload: str
    """Empty if not told."""
    ignored: tuple[str, ...]
    """Reasons, such as `deadline-seconds:not-a-number`, of what was ignored."""


def hints(annotations: Mapping[str, str], priority: int, qos_best_effort: bool) -> Hints:
    """Read the hints of one pod.

    Without a valid `sla-class` the class follows the priority: above 0 production (PriorityClass says it matters),
    below 0 best-effort, 0 batch, or best-effort for a pod without any requests.
    """
    ignored: list[str] = []
    sla = _CLASSES.get(annotations.get(SLA_CLASS, "").strip().lower())
    if sla is None:
        if SLA_CLASS in annotations:
            ignored.append("sla-class:unknown")
        sla = _from_priority(priority, qos_best_effort)
    deadline_s = _seconds(annotations, DEADLINE, ignored)
    workload = annotations.get(WORKLOAD, "").strip()
    if len(workload) > _LONGEST_WORKLOAD:
        ignored.append("workload:too-long")
        workload = ""
    elif not workload and WORKLOAD in annotations:
        ignored.append("workload:empty")
    return Hints(
        sla=sla,
        deadline_after_s=math.inf if math.isnan(deadline_s) else deadline_s,
        expected_run_s=_seconds(annotations, EXPECTED, ignored),
        workload=workload,
        ignored=tuple(ignored),
    )


def _from_priority(priority: int, qos_best_effort: bool) -> SlaClass:
    if priority > 0:
        return SlaClass.PRODUCTION
    return SlaClass.BEST_EFFORT if priority < 0 or qos_best_effort else SlaClass.BATCH


def _seconds(annotations: Mapping[str, str], key: str, ignored: list[str]) -> float:
    """A time above zero in seconds; nan if absent or, with a reason appended to `ignored`, malformed."""
    text = annotations.get(key)
    if text is None:
        return UNKNOWN_S
    short = key.removeprefix(PREFIX)
    try:
        value = float(text)
    except ValueError:
        ignored.append(f"{short}:not-a-number")
        return UNKNOWN_S
    if not 0.0 < value <= _LONGEST_S:  # nan fails both
        ignored.append(f"{short}:out-of-range")
        return UNKNOWN_S
    return value
