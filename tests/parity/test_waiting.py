"""Pods that are held: the compiled engine asks, answers and places as the reference engine does."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewise.policies import DEFAULT, POLICIES
from nodewise.policies.defer import DeferSettings, split
from nodewise.policies.waiting import Waiting, WaitingPolicy
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import waiting as wt
from nodewise_simulator.compiled.every import play
from nodewise_simulator.direct import Deferring
from nodewise_simulator.engine import Engine
from nodewise_simulator.physics import AT_ONCE, BACK_OFF, Queueing
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World

from .test_compiled import TRACES
from .worlds import odd_world

pytestmark = pytest.mark.timeout(900)  # the first to ask waits for a kernel to be compiled


def assert_held_alike(made: World, name: str, limits: DeferSettings) -> Waiting:
    """Every pod bound to the same node at the same time after as many cycles, refusals and prices; the books."""
    base, deferring, ordered = split(name)
    policy = WaitingPolicy(POLICIES[base], name, limits if deferring else None, ordered)
    books = policy.deferral()
    direct = Deferring(made, policy, DEFAULT, books)
    engine = Engine(made, KubeScheduler(made.nodes, direct, direct.state.view, np.random.default_rng(0)), direct)
    theirs, own = engine.run(), play(made, name, limits)
    assert [o.node for o in own.outcomes()] == [o.node for o in theirs]
    np.testing.assert_array_equal(
        [(o.bound_s, o.started_s, o.finished_s) for o in own.outcomes()],
        [(o.bound_s, o.started_s, o.finished_s) for o in theirs],
    )
    assert own.waiting.number[wt.PRICED] == books.priced
    assert (own.log().held, own.log().cycles) == (engine.log.held, engine.log.cycles)
    return books


@settings(max_examples=max(TRACES // 4, 1), deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31), nodes=st.sampled_from([3, 6, 9, 17, 101, 130]), pods=st.integers(2, 90),
    name=st.sampled_from(["economic-defer", "kube-default-cmu", "round-robin-defer-cmu", "index-defer-cmu"]),
    budget=st.sampled_from([1, 300]), retry=st.sampled_from([AT_ONCE, BACK_OFF]),
)  # fmt: skip
def test_pods_of_a_random_trace_are_held_as_by_the_reference_engine(
    seed: int, nodes: int, pods: int, name: str, budget: int, retry: str
) -> None:
    made = replace(odd_world(seed, nodes=nodes, pods=pods), queueing=Queueing(retry=retry))
    assert_held_alike(made, name, DeferSettings(budget=budget))


@pytest.mark.parametrize("name", ["economic-defer", "economic-defer-cmu"])
def test_a_full_cluster_holds_pods_as_the_reference_engine_does(name: str) -> None:
    made = scenarios.make("random-clusters@load=0.85,nodes=8,per_node=15,warm=10", 1)
    assert assert_held_alike(made, name, DeferSettings()).priced > 300


def test_nodes_that_come_and_go_leave_the_books_as_the_reference_engine_has_them() -> None:
    made = scenarios.make("elastic@pods=60,warm=10,load=0.9,interruptions=20", 3)
    assert assert_held_alike(made, "economic-defer-cmu", DeferSettings()).priced > 10
