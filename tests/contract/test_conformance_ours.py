"""Our extender among others, and the simulator's scheduler, beside the emulated one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import node_spec
from nodewise.core.state import ClusterState
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import node_manifest, sim_pod

from . import ours
from .emulator import (
    Extender,
    Scheduled,
    schedule,
)
from .fake_extenders import BOTH, POD, all_pass, keeps, must_not_be_called, prefers
from .go_json import strict_priorities

# --- ours among the others


def our_extender(**more: Any) -> Extender:
    made = ours.service()
    return Extender(ours.filter_(made), ours.prioritize(made), weight=150, **more)


def test_our_winner_is_bound_and_neither_plugins_nor_another_extender_outvote_it() -> None:
    plugins = dict.fromkeys(ours.NODES, 0) | {"node-0": 1_400}
    alone = schedule(ours.pod(), ours.NODES, [our_extender()], plugins)
    among = schedule(ours.pod(), ours.NODES, [Extender(all_pass, prefers("node-0")), our_extender()], plugins)
    ((winner, score),) = strict_priorities(
        ours.prioritize(ours.service())(ours.args(ours.pod(), ours.NODES))[1], ours.NODES
    )
    assert score == 10
    assert winner != "node-0"
    assert alone.hosts == among.hosts == {winner}
    assert alone.feasible == among.feasible == len(ours.NODES)


@pytest.mark.parametrize("names_only", [True, False])
def test_our_filter_between_two_others_changes_nothing(names_only: bool) -> None:
    other = [Extender(filter=keeps("node-1", "node-2")), Extender(filter=keeps("node-2", "node-3"))]
    got = schedule(ours.pod(), ours.NODES, [other[0], our_extender(names_only=names_only), other[1]])
    assert got.hosts == {"node-2"}
    assert got.feasible == 1


def test_what_we_prefer_is_among_what_the_other_extender_left() -> None:
    left = schedule(ours.pod(), ours.NODES, [Extender(filter=keeps("node-0", "node-4")), our_extender()])
    assert left.hosts <= {"node-0", "node-4"}
    assert len(left.hosts) == 1


@pytest.mark.parametrize("answer", ["silent", "hangs", "dies"])
def test_without_our_answer_the_plugins_decide(answer: str) -> None:
    def gone(_: bytes) -> tuple[int, bytes]:
        raise TimeoutError if answer == "hangs" else ConnectionResetError

    silent = Extender(prioritize=ours.prioritize(ours.service(nodes=())), weight=150)  # it knows none of the nodes
    plugins = dict.fromkeys(ours.NODES, 0) | {"node-3": 1}
    extender = silent if answer == "silent" else Extender(prioritize=gone, weight=150)
    assert schedule(ours.pod(), ours.NODES, [extender], plugins).hosts == {"node-3"}


# --- the simulator's scheduler is the same one

SCORE = st.tuples(st.sampled_from([*BOTH, "node3", "unknown"]), st.integers(0, 10))


@settings(max_examples=60, deadline=None)
@given(reply=st.lists(SCORE, max_size=5))
def test_the_simulated_scheduler_binds_what_the_emulated_one_would(reply: list[tuple[str, int]]) -> None:
    nodes = [
        node_spec(node_manifest(name, cpu_milli=4000, memory_bytes=16 * ours.GIB, instance_type="m"))
        for name in (*BOTH, "node3")
    ]
    body = json.dumps([{"Host": host, "Score": score} for host, score in reply]).encode()
    extender = Extender(prioritize=lambda _: (200, body), weight=150)
    names = [n.name for n in nodes]
    emulated = schedule(POD, names, [extender], dict.fromkeys(names, 150))  # equal and empty: plugins score all alike
    state = ClusterState(RunTimeEstimator())
    for spec in nodes:
        state.put_node(spec)

    class Says:
        def prioritize(self, *_: Any) -> list[tuple[str, int]]:
            return reply

    asked = sim_pod(ours.pod(), np.array([60.0]))
    bound = {
        KubeScheduler(nodes, Says(), state.view, np.random.default_rng(seed)).schedule(asked, 0.0) for seed in range(40)
    }
    assert bound == emulated.hosts


def test_the_simulated_scheduler_asks_nobody_for_the_only_feasible_node() -> None:
    only = node_spec(node_manifest("only", cpu_milli=4000, memory_bytes=16 * ours.GIB, instance_type="m"))
    small = node_spec(node_manifest("small", cpu_milli=100, memory_bytes=16 * ours.GIB, instance_type="m"))

    class Says:
        def prioritize(self, *_: Any) -> list[tuple[str, int]]:
            raise AssertionError("asked")

    scheduler = KubeScheduler([only, small], Says(), lambda *_: pytest.fail("scored"), np.random.default_rng(0))
    assert scheduler.schedule(sim_pod(ours.pod(), np.array([60.0])), 0.0) == "only"
    emulated = schedule(POD, ["only"], [Extender(prioritize=must_not_be_called)])
    assert emulated == Scheduled(frozenset({"only"}), 1, 1)
