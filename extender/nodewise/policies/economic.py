"""The bar that every learned policy is compared with: what a placement is believed to cost, in cents."""

from __future__ import annotations

from collections.abc import Mapping

from nodewise.core.columns import COLUMNS, arguments
from nodewise.core.raw import F, raw
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.policies.rule import Rule

TERMS = ("delay_cents", "late_cents", "energy_cents", "room_cents", "slowdown_cents", "spread_cents", "shadow_cents")
"""The columns whose sum is the believed cost of a placement."""


_TUNED = {"late_cents": 2.0, "slowdown_cents": 6.0}
"""What `economic-tuned` multiplies: the best of lateness × {1, 2, 3} with slowdown × {1, 2, 3, 6, 10}, as far as they
were tried, over worlds 900 to 911 of hetero at loads 0.7 and 0.85."""


def _cost(pod: PodRequest, view: ClusterView, rows: Rows, weights: Mapping[str, float]) -> F:
    values = raw(pod, view, rows)
    return sum(weights.get(name, 1.0) * COLUMNS[name].fn(*arguments(COLUMNS[name], values)) for name in TERMS)


def _economic(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    return -_cost(pod, view, rows, {})


def _economic_tuned(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    return -_cost(pod, view, rows, _TUNED)


ECONOMIC = Rule(
    "economic", "least believed cost: the pod's own delay, lateness, energy and room, plus the slowdown it causes",
    _economic, uses_run_times=True,
)  # fmt: skip
ECONOMIC_TUNED = Rule(
    "economic-tuned", "economic with lateness priced twice and slowdown six times, tuned on scenario hetero",
    _economic_tuned, uses_run_times=True,
)  # fmt: skip
