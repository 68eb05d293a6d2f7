"""Scenarios by name. `NAME@key=value,…` sets a scenario's parameters: `hetero@load=0.85,mix=batch`.

A new scenario is a file here and a line in `SCENARIOS`. `retried` gives all of them kube-scheduler's two ways to try a
woken pod again: `hetero@retry=back-off`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator.named import parameters
from nodewise_simulator.scenarios.alibaba_dag import alibaba_dag
from nodewise_simulator.scenarios.azure_vm import azure_vm
from nodewise_simulator.scenarios.decima import decima
from nodewise_simulator.scenarios.drift import drift
from nodewise_simulator.scenarios.elastic import elastic
from nodewise_simulator.scenarios.gavel import gavel
from nodewise_simulator.scenarios.google2011 import google2011
from nodewise_simulator.scenarios.hetero import hetero, hetero_1000
from nodewise_simulator.scenarios.openb_dynamic import openb_dynamic
from nodewise_simulator.scenarios.queueing import s0q
from nodewise_simulator.scenarios.random_clusters import random_clusters
from nodewise_simulator.scenarios.retried import retried
from nodewise_simulator.scenarios.snapshot import snapshot
from nodewise_simulator.scenarios.tiers import s2q
from nodewise_simulator.world import World

SCENARIOS: dict[str, Callable[..., World]] = {
    "hetero": retried(hetero),
    "hetero-1000": retried(hetero_1000),
    "elastic": retried(elastic),
    "drift": retried(drift),
    "S0q": s0q,
    "S2q": s2q,
    "random-clusters": retried(random_clusters),
    "snapshot": retried(snapshot),
    "openb-dynamic": retried(openb_dynamic),
    "google2011": retried(google2011),
    "gavel": retried(gavel),
    "azure-vm": retried(azure_vm),
    "alibaba-dag": retried(alibaba_dag),
    "decima": retried(decima),
}

STUDIES = (
    "S0a", "S0b", "S0q-array", "S1", "S1r", "S1-affinity", "S2", "S2q-array", "S3-heavy", "S3-live", "S4", "S3q-live",
    "S3q-heavy", "openb-static",
)  # fmt: skip
"""Names of `lab`'s other scenarios, which are no worlds; only names, for `lab` imports this package."""


def make(text: str, seed: int) -> World:
    """The world of `NAME[@key=value,…]` for a seed. Raises UserError for an unknown name, parameter or value."""
    taken = parameters_of(text)
    if seed < 0:
        raise UserError(f"scenario {text.partition('@')[0]} needs seed >= 0, not {seed}")
    return _factory(text)(seed, **taken)


def parameters_of(text: str) -> dict[str, Any]:
    """The values behind the `@` of `NAME[@key=value,…]`. Raises UserError for an unknown name, parameter or value."""
    return parameters(text, _factory(text), ("seed",))


def _factory(text: str) -> Callable[..., World]:
    name = text.partition("@")[0]
    if name in STUDIES:
        worlds = ", ".join(SCENARIOS)
        raise UserError(f"{name} is a study (nodewise compare plays it), not a world; choose one of {worlds}")
    if name not in SCENARIOS:
        raise UserError(f"there is no scenario {name!r}; choose one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
