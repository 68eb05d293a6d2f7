"""The bar that every learned policy is compared with: what a placement is believed to cost, in cents."""

from __future__ import annotations

from nodewise.core.columns import (
    delay_cents,
    energy_cents,
    late_cents,
    room_cents,
    shadow_cents,
    slowdown_cents,
    spread_cents,
)
from nodewise.core.raw import F, Node, Pair, Pod
from nodewise.policies.rule import Rule

TERMS = ("delay_cents", "late_cents", "energy_cents", "room_cents", "slowdown_cents", "spread_cents", "shadow_cents")
"""The columns whose sum is the believed cost of a placement, in the order in which they are added up."""

_LATE, _SLOWDOWN = 2.0, 6.0
"""What `economic-tuned` multiplies: the best of lateness × {1, 2, 3} with slowdown × {1, 2, 3, 6, 10}, as far as they
were tried, over worlds 900 to 911 of hetero at loads 0.7 and 0.85."""


def _cost(node: Node, pod: Pod, pair: Pair, late: float, slowdown: float) -> F:
    cents = delay_cents(node, pod, pair) + late * late_cents(node, pod, pair) + energy_cents(node, pod, pair)
    cents = cents + room_cents(node, pod, pair) + slowdown * slowdown_cents(node, pod, pair)
    return cents + spread_cents(node, pod, pair) + shadow_cents(node, pod, pair)


def _economic(node: Node, pod: Pod, pair: Pair) -> F:
    return -_cost(node, pod, pair, 1.0, 1.0)


def _economic_tuned(node: Node, pod: Pod, pair: Pair) -> F:
    return -_cost(node, pod, pair, _LATE, _SLOWDOWN)


ECONOMIC = Rule(
    "economic", "least believed cost: the pod's own delay, lateness, energy and room, plus the slowdown it causes",
    _economic, uses_run_times=True, takes="pair",
)  # fmt: skip
ECONOMIC_TUNED = Rule(
    "economic-tuned", "economic with lateness priced twice and slowdown six times, tuned on scenario hetero",
    _economic_tuned, uses_run_times=True, takes="pair",
)  # fmt: skip
