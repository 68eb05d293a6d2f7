"""What can be run by name: a scenario, the policies that make sense in it, and how one of them is played."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Study:
    """A scenario that plays itself, with policies of its own.

    `play(policy, seed, **options)` returns the metrics named in `units`; it raises UserError for a policy that is not
    in `policies`. Policies are compared on the same seeds: everything random that is not a policy's own comes from the
    seed alone. The options of `play` have defaults and are what `NAME@key=value` sets.
    """

    name: str
    says: str
    """One line for lists."""
    source: str
    """Where model and constants come from."""
    policies: Mapping[str, str]
    """What each policy is, the strongest simple one and the bound included."""
    units: Mapping[str, str]
    """Unit of each metric."""
    headline: str
    """The metric that policies are compared by; lower is better unless `higher_is_better`."""
    play: Callable[..., dict[str, float]]
    higher_is_better: bool = False
