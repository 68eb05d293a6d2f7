"""When a run is unstable, and what its thirds cost."""

import numpy as np
import pytest

from nodewise.core.types import Floats
from nodewise_simulator.engine import Outcome
from nodewise_simulator.totals import thirds, unstable, waiting_pods
from nodewise_simulator.world import World

from .engine_worlds import made, pod, run


def waited(wait_s: Floats) -> tuple[World, list[Outcome]]:
    """A pod a second, of which each waits as long as told."""
    world = made([pod(f"p{k}", k, 1) for k in range(len(wait_s))])
    return world, [Outcome(k, "n0", k + w, k + w, k + w + 1.0) for k, w in enumerate(wait_s)]


def test_pods_that_are_created_and_do_not_run_are_counted_before_each_arrival() -> None:
    # One core: p0 runs 0 to 3, p1 3 to 6, p2 6 to 9.
    engine = run(made([pod(f"p{k}", k, 3, cpu="4") for k in range(3)]))
    assert waiting_pods(engine.world, engine.outcomes).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("wait_s", "grows"),
    [
        (np.arange(200) * 0.10, True),  # serves ten of eleven
        (np.arange(200) * 0.01, False),  # so slowly that it may be chance
        (np.random.default_rng(0).exponential(20.0, 200), False),  # much waiting, but no more and more
        (np.concatenate([np.zeros(80), np.full(60, 40.0), np.zeros(60)]), False),  # a burst that passes
        (np.concatenate([np.arange(60) * 0.5, np.full(140, 30.0)]), False),  # a level that is reached and kept
    ],
    ids=["overload", "creeping", "noise", "burst", "level"],
)  # fmt: skip
def test_a_run_is_unstable_if_ever_more_pods_wait(wait_s: Floats, grows: bool) -> None:
    assert unstable(*waited(wait_s)) is grows


def test_thirds_are_those_of_the_counted_pods_in_order() -> None:
    assert thirds([1.0, 3.0, 5.0, 7.0, 9.0, 11.0]) == {"cost_first": 2.0, "cost_second": 6.0, "cost_last": 10.0}
