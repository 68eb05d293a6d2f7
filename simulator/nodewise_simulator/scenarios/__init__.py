"""Scenarios by name. `NAME@key=value,…` sets a scenario's parameters: `hetero@load=0.85,mix=batch`.

A new scenario is a file here and a line in `SCENARIOS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator.scenarios.hetero import hetero
from nodewise_simulator.scenarios.queueing import s0q
from nodewise_simulator.scenarios.tiers import s2q
from nodewise_simulator.world import World

SCENARIOS: dict[str, Callable[..., World]] = {"hetero": hetero, "S0q": s0q, "S2q": s2q}


def make(text: str, seed: int) -> World:
    """The world of `NAME[@key=value,…]` for a seed. Raises UserError for an unknown name, parameter or value."""
    name, _, rest = text.partition("@")
    factory = SCENARIOS.get(name)
    if factory is None:
        raise UserError(f"there is no scenario {name!r}; choose one of {', '.join(SCENARIOS)}")
    known = {k: p for k, p in inspect.signature(factory).parameters.items() if k != "seed"}
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise UserError(f"scenario {name} has no parameter {key!r}; it takes {', '.join(known)} as key=value")
        if not value:
            raise UserError(f"the value of {key} is missing in scenario {text!r}; write {name}@{key}=VALUE")
        try:
            values[key] = type(known[key].default)(value)
        except ValueError:
            raise UserError(
                f"{key}={value!r} of scenario {name} is not a {type(known[key].default).__name__}"
            ) from None
    return factory(seed, **values)
