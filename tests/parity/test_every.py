"""The compiled engine's loop for everything against the reference engine: every event of random, eventful worlds."""

import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewise.policies import DEFAULT, POLICIES
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import every
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World

from .worlds import eventful_world

pytestmark = pytest.mark.timeout(900)  # the first to ask waits for a kernel to be compiled

TRACES = int(os.environ.get("NODEWISE_PARITY_TRACES", "40"))
"""How many random worlds are played; the whole thousand: NODEWISE_PARITY_TRACES=1000 pytest -k eventful ..."""
COMPILED = [name for name, rule in POLICIES.items() if rule.takes == "pair"]


def reference(made: World, name: str) -> tuple[Engine, KubeScheduler]:
    direct = Direct(made, POLICIES[name], DEFAULT)
    rng = np.random.default_rng(0)
    scheduler = KubeScheduler(made.nodes, direct, direct.cache.view, rng, fits_always=made.fifo)
    engine = Engine(made, scheduler, direct)
    engine.run()
    return engine, scheduler


def numbers(outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.array([(o.bound_s, o.started_s, o.finished_s, o.created_s, o.deadline_s) for o in outcomes])


def charged(up: Sequence[tuple[str, float, float]], last_s: float) -> list[tuple[str, float, float]]:
    """What metrics count: until the last end. When a run is over after that is up to ends that no longer come."""
    return sorted((name, since_s, min(until_s, last_s)) for name, since_s, until_s in up if since_s < last_s)


def assert_alike(made: World, name: str) -> Engine:
    engine, scheduler = reference(made, name)
    played = every.play(made, name)
    own, log = played.outcomes(), played.log()
    assert [o.node for o in own] == [o.node for o in engine.outcomes]
    np.testing.assert_array_equal(numbers(own), numbers(engine.outcomes))
    assert [repr(a) for a in log.lost] == [repr(a) for a in engine.log.lost]
    last_s = np.nanmax([o.finished_s for o in own], initial=0.0)
    assert charged(log.up, last_s) == charged(engine.log.up, last_s)
    assert (log.cycles, log.held) == (engine.log.cycles, engine.log.held)
    assert played.state.number[kn.ASKED] == scheduler.asked
    return engine


@settings(max_examples=TRACES, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31), nodes=st.sampled_from([2, 3, 6, 9, 17, 101, 130]), pods=st.integers(6, 90),
    name=st.sampled_from(COMPILED),
)  # fmt: skip
def test_every_event_of_an_eventful_world_is_that_of_the_reference_engine(
    seed: int, nodes: int, pods: int, name: str
) -> None:
    assert_alike(eventful_world(seed, nodes, pods), name)


@pytest.mark.parametrize(
    ("scenario", "lost"),
    [("elastic@pods=300,warm=100,drains=20", True), ("S0q@pods=200,warm=50", False), ("S2q@pods=300", False)],
)  # fmt: skip
def test_scenarios_play_alike(scenario: str, lost: bool) -> None:
    engine = assert_alike(scenarios.make(scenario, 3), "economic")
    assert bool(engine.log.lost) == lost
