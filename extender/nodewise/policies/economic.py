"""The bar that every learned policy is compared with: what a placement is believed to cost, in cents."""

from __future__ import annotations

from nodewise.core.columns import COLUMNS, arguments
from nodewise.core.raw import F, raw
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.policies.rule import Rule

TERMS = ("delay_cents", "late_cents", "energy_cents", "room_cents", "slowdown_cents", "spread_cents", "shadow_cents")
"""The columns whose sum is the believed cost of a placement."""


def _economic(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    values = raw(pod, view, rows)
    total = sum(COLUMNS[name].fn(*arguments(COLUMNS[name], values)) for name in TERMS)
    return -total


ECONOMIC = Rule(
    "economic", "least believed cost: the pod's own delay, lateness, energy and room, plus the slowdown it causes",
    _economic, uses_run_times=True,
)  # fmt: skip
