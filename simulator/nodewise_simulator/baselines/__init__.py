"""Baselines that no extender could serve, for worlds: they see a whole run, hold state, or know the future.

`BASELINES[name].play(world, progress)` plays one to its end, as `nodewise_simulator.run.play` does for a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodewise.core.types import Policy
from nodewise.policies.defer import DeferSettings
from nodewise.policies.economic import ECONOMIC
from nodewise_simulator.baselines import best_of_three
from nodewise_simulator.baselines.bound import bounds
from nodewise_simulator.baselines.lp_routing import LpRouting
from nodewise_simulator.baselines.order import GCMU, ByAgePolicy
from nodewise_simulator.metrics import Result
from nodewise_simulator.run import play
from nodewise_simulator.world import World

__all__ = ["BASELINES", "Baseline", "bounds"]

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Baseline:
    """One of them; `says` is its line in a list."""

    name: str
    says: str
    play: Callable[[World, Progress | None], Result]
    """Plays a world; progress is called with a number of pods. Raises UserError for a world that it cannot play."""


def _of(policy: Policy) -> Callable[[World, Progress | None], Result]:
    """Books are made anew for each run, so that one policy serves all."""
    return lambda world, progress: play(world, policy, progress=progress)[0]


def _rollout(world: World, progress: Progress | None) -> Result:
    from nodewise_simulator.baselines.rollout import play_rollout  # numba takes its time

    return play_rollout(world, progress)


_ROLLOUT = "rollout-oracle"
_GCMU = ByAgePolicy(ECONOMIC, ECONOMIC.name + GCMU, None, True)
_DEFER_GCMU = ByAgePolicy(ECONOMIC, f"{ECONOMIC.name}-defer{GCMU}", DeferSettings(), True)

BASELINES: Mapping[str, Baseline] = {
    b.name: b
    for b in (
        Baseline("lp-routing", "follows the static planning program's share of each node class", _of(LpRouting())),
        Baseline(
            "lp-routing-wait", "the same; a pod waits for room on a class that has a share",
            _of(LpRouting("lp-routing-wait", waits=True)),
        ),
        Baseline(_GCMU.name, "economic; pods wait in generalised c-mu order, by age and deadline", _of(_GCMU)),
        Baseline(_DEFER_GCMU.name, "economic-defer in generalised c-mu order", _of(_DEFER_GCMU)),
        Baseline(
            best_of_three.NAME, "the best of earliest-finish-time, economic and economic-defer on training traces",
            best_of_three.play_best,
        ),
        Baseline(
            _ROLLOUT, "clairvoyant: plays the real future of the economic best 4 nodes, takes the cheapest",
            _rollout,
        ),
    )
}  # fmt: skip
