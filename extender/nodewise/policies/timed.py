"""Policies that look at believed run times."""

from __future__ import annotations

from nodewise.core.columns import contended_run_s
from nodewise.core.raw import F, Node, Pair, Pod
from nodewise.policies.rule import Rule

INDEX_WAIT_WEIGHT = 4.0
"""a of `index`; 3 to 5 is best where jobs queue at servers of unlike speed at 80 % load."""


def _least_work_remaining(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001  one signature for all
    return -node.work_remaining_s


def _earliest_finish_time(node: Node, pod: Pod, pair: Pair) -> F:
    return -(node.start_wait_s + contended_run_s(node, pod, pair))


def _index(node: Node, pod: Pod, pair: Pair) -> F:
    return -(INDEX_WAIT_WEIGHT * node.start_wait_s + contended_run_s(node, pod, pair))


LEAST_WORK_REMAINING = Rule(
    "least-work-remaining", "least believed work left on the node, per core", _least_work_remaining,
    uses_run_times=True, takes="pair",
)  # fmt: skip
EARLIEST_FINISH_TIME = Rule(
    "earliest-finish-time", "earliest believed end: wait plus run time on that node", _earliest_finish_time,
    uses_run_times=True, takes="pair",
)  # fmt: skip
INDEX = Rule(
    "index", f"least {INDEX_WAIT_WEIGHT:g} × wait + run time, an index rule for servers of unlike speed", _index,
    uses_run_times=True, takes="pair",
)  # fmt: skip
