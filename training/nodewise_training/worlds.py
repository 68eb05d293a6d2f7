"""Worlds to learn from, made in other processes, which import no more than this module: torch would be most of them."""

from __future__ import annotations

from nodewise.core.errors import UserError
from nodewise_simulator import scenarios
from nodewise_simulator.compiled.flat import Flat, flatten

TRAINABLE = ("hetero", "hetero-1000", "random-clusters")
"""Scenarios that the compiled engine models."""


def world(scenario: str, seed: int) -> Flat:
    """The flat world of a scenario and seed. Raises UserError for one that is unknown or not modelled."""
    return flatten(scenarios.make(scenario, seed))


def check(scenario: str, seed: int, least_pods: int) -> None:
    """Make one world of a scenario to see whether others can be learned from. Raises UserError if not."""
    made = scenarios.make(scenario, seed)
    try:
        flat = flatten(made)
    except UserError as error:
        raise UserError(f"{error}; what can be trained on: {', '.join(TRAINABLE)}") from None
    check_length(flat, least_pods)


def check_length(flat: Flat, least_pods: int) -> None:
    """Refuse a world of fewer pods. Raises UserError."""
    if len(flat.pod_f) < least_pods:
        raise UserError(
            f"a world of {len(flat.pod_f)} pods is too short to learn from; give the scenario {least_pods}, its "
            "warm-up included"
        )
