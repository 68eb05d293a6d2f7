"""The scenarios that change under way: small worlds of each."""

from dataclasses import replace
from typing import Any

import pytest

from nodewise.core.errors import UserError
from nodewise_simulator import scenarios
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.run import resolve, simulate
from nodewise_simulator.scenarios.elastic import NOTICE_S


def test_elastic_pays_for_what_is_there_and_for_what_is_lost() -> None:
    text = "elastic@pods=150,warm=50,interruptions=30,drains=60"
    world = scenarios.make(text, 1)
    removed = {c.node: c.at_s for c in world.changes if c.change == "remove"}
    noticed = {(c.node, c.at_s) for c in world.changes if c.change == "drain"}
    assert all((node, at_s - NOTICE_S) in noticed for node, at_s in removed.items())
    metrics = simulate(text, "economic", 1).metrics
    assert metrics["evictions"] > 0
    assert metrics["work_lost"] > 0.0
    # 24 of the 60 nodes stay, and those are not the dearest.
    whole_w = sum(n.idle_w for n in world.nodes)
    stay_w = sum(n.idle_w for n in world.nodes if n.name not in (world.autoscaler.pool if world.autoscaler else ()))
    hours = metrics["energy_idle"] / whole_w
    assert stay_w < 0.5 * whole_w
    static = simulate("hetero@pods=150,warm=50,load=0.5,pace=0.2", "economic", 1).metrics
    assert hours < static["energy_idle"] / whole_w
    assert metrics["unfinished"] == 0


def test_drift_begins_with_the_second_third_and_is_slower_as_often_as_faster() -> None:
    world = scenarios.make("drift@pods=30,warm=30", 1)
    assert {d.at_s for d in world.drifts} == {world.pods[40].request.created_s}
    slower = sum(d.factor == 3.0 for d in world.drifts)
    assert sum(d.factor == 1 / 3 for d in world.drifts) == len(world.drifts) - slower
    assert slower == len(world.drifts) // 2 > 8


def test_hetero_1000_has_the_classes_of_hetero_in_their_shares() -> None:
    small, large = (scenarios.make(f"{name}@pods=1,warm=1", 1) for name in ("hetero", "hetero-1000"))
    count = {c: sum(n.node_class == c for n in large.nodes) for c in large.classes}
    assert sum(count.values()) == len({n.name for n in large.nodes}) == 1000
    for node_class, of_large in count.items():
        assert of_large == pytest.approx(sum(n.node_class == node_class for n in small.nodes) / 60 * 1000, abs=1)


@pytest.mark.parametrize("text", ["elastic@base=0", "elastic@spot=2", "drift@factor=1", "hetero-1000@mix=odd"])
def test_what_makes_no_sense_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=text.partition("@")[0]):
        scenarios.make(text, 1)


def test_nobody_is_told_the_truth_of_a_world_that_drifts() -> None:
    with pytest.raises(UserError, match="nobody can be told the truth"):
        simulate("drift@pods=5,warm=5", "economic-oracle", 1)
    assert resolve("economic-oracle")[1]


@pytest.mark.parametrize(
    ("text", "pod", "says"),
    [
        ("drift", {}, "nodes that come and go, and drift"),
        ("elastic", {}, "nodes that come and go, and drift"),
        ("hetero", {"start_s": 1.0}, "start latency, dependent pods and shared devices"),
        ("hetero", {"device_milli": 500.0}, "start latency, dependent pods and shared devices"),
    ],
)
def test_the_compiled_engine_refuses_what_it_does_not_model(text: str, pod: dict[str, Any], says: str) -> None:
    world = scenarios.make(f"{text}@pods=2,warm=1", 1)
    world = replace(world, pods=(replace(world.pods[0], **pod), *world.pods[1:]))
    with pytest.raises(UserError, match=says):
        flatten(world)
