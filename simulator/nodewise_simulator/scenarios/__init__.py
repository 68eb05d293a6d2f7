"""Scenarios by name. `NAME@key=value,…` sets a scenario's parameters: `hetero@load=0.85,mix=batch`.

A new scenario is a file here and a line in `SCENARIOS`.
"""

from __future__ import annotations

from collections.abc import Callable

from nodewise.core.errors import UserError
from nodewise_simulator.named import parameters
from nodewise_simulator.scenarios.drift import drift
from nodewise_simulator.scenarios.elastic import elastic
from nodewise_simulator.scenarios.hetero import hetero, hetero_1000
from nodewise_simulator.scenarios.queueing import s0q
from nodewise_simulator.scenarios.random_clusters import random_clusters
from nodewise_simulator.scenarios.snapshot import snapshot
from nodewise_simulator.scenarios.tiers import s2q
from nodewise_simulator.world import World

SCENARIOS: dict[str, Callable[..., World]] = {
    "hetero": hetero,
    "hetero-1000": hetero_1000,
    "elastic": elastic,
    "drift": drift,
    "S0q": s0q,
    "S2q": s2q,
    "random-clusters": random_clusters,
    "snapshot": snapshot,
}


def make(text: str, seed: int) -> World:
    """The world of `NAME[@key=value,…]` for a seed. Raises UserError for an unknown name, parameter or value."""
    name = text.partition("@")[0]
    factory = SCENARIOS.get(name)
    if factory is None:
        raise UserError(f"there is no scenario {name!r}; choose one of {', '.join(SCENARIOS)}")
    return factory(seed, **parameters(text, factory, ("seed",)))
