"""Pods that make room for themselves by eviction: who goes, from where, and what is promised meanwhile, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.engine import Attempt, Engine, Preemption
from nodewise_simulator.metrics import measure
from nodewise_simulator.physics import Autoscaler, Change, NodeChange
from nodewise_simulator.world import SimPod, World

from .engine_worlds import Hold, made, on, one_class, pod, run, times
from .test_engine_causality import eventful, other_future, played

LONG_S = 1e5


def ranked(
    name: str, priority: int, at_s: float, run_s: float = LONG_S, cpu: str = "4", where: str = "", **hidden: object
) -> SimPod:
    """A pod of this priority, on a node of its own if that is told."""
    return pod(name, at_s, run_s, cpu, spec={"priority": priority} | (on(where) if where else {}), **hidden)


def preempting(pods: list[SimPod], nodes: int = 1, **more: object) -> World:
    """Nodes of four cores."""
    return made(pods, one_class(nodes), preempts=True, **more)


def who_went(engine: Engine) -> list[tuple[float, str, set[str]]]:
    """When, from where, and who."""
    return [(p.at_s, p.node, {engine.world.pods[k].request.name for k in p.victims}) for p in engine.log.preemptions]


def test_an_evicted_pod_holds_its_room_for_its_grace_and_its_owner_makes_another() -> None:
    # Gone at 10 + 30; made anew 10 s later.
    engine = run(preempting([ranked("low", 0, 0, 100), ranked("urgent", 10, 10, 5)]))
    assert engine.log.preemptions == [Preemption(10, 1, "n0", (0,), ("n0",))]
    assert engine.log.lost == [Attempt(0, "n0", 0, 0, 10, evicted=True)]
    assert times(engine) == [(50, 150), (40, 45)]
    metrics = measure(engine.world, engine.outcomes, log=engine.log)
    assert (metrics["preemptions"], metrics["evictions"], metrics["work_lost"] * 3600) == (1, 1, 40)
    assert times(run(replace(engine.world, preempts=False))) == [(0, 100), (100, 105)]


@pytest.mark.parametrize("spec", [{"priority": 0}, {"priority": 9, "preemptionPolicy": "Never"}])
def test_who_is_no_more_important_or_never_preempts_waits(spec: dict[str, object]) -> None:
    engine = run(preempting([ranked("low", 0, 0, 100), pod("next", 10, 5, "4", spec=spec)]))
    assert times(engine) == [(0, 100), (100, 105)]
    assert engine.log.preemptions == []


def test_room_that_is_promised_is_kept_from_all_but_the_more_important() -> None:
    # One core is free all the time. `urgent` gets all four at 40; a more important pod of one core takes it at 20.
    pods = [ranked("low", 0, 0, 500, "3"), ranked("urgent", 10, 10, 5)]
    kept = run(preempting([*pods, ranked("same", 10, 20, 1, "1"), ranked("less", 1, 20, 1, "1")]))
    assert times(kept)[1:] == [(40, 45), (45, 46), (45, 46)]
    taken = run(preempting([*pods, ranked("more", 11, 20, 100, "1")]))
    # It finds its promise broken at 40, gives it up, and has nobody to evict: `low`, made anew at 50, fits beside.
    assert times(taken)[2] == (20, 120)
    assert who_went(taken) == [(10, "n0", {"low"}), (120, "n0", {"low"})]
    assert times(taken)[1] == (150, 155)


@pytest.mark.parametrize(
    ("budgets", "goes"),
    [
        ({}, {"young", "least"}),  # the most important stay, of equals those that started first
        ({"b": 0}, {"old", "most"}),  # those whose budget would be violated stay before all others
        ({"b": 1}, {"old", "young"}),  # `young` may go, which leaves nothing for `least`
    ],
)
def test_as_many_as_can_are_reprieved(budgets: dict[str, int], goes: set[str]) -> None:
    pods = [
        ranked("most", 5, 0, cpu="1"), ranked("old", 1, 0, cpu="1"), ranked("young", 1, 2, cpu="1", budget="b"),
        ranked("least", 0, 1, cpu="1", budget="b"),
    ]  # fmt: skip
    engine = run(preempting([*pods, ranked("urgent", 9, 10, 5, "2")], budgets=budgets))
    assert who_went(engine)[0] == (10, "n0", goes)


Victim = tuple[int, float, str]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        pytest.param([(0, 0, "4")], [(5, 0, "4")], id="lowest of the highest priorities"),
        pytest.param([(5, 0, "4")], [(5, 0, "2"), (-9, 0, "2")], id="fewer victims before a smaller sum"),
        pytest.param([(5, 0, "2"), (1, 0, "2")], [(5, 0, "2"), (2, 0, "2")], id="smaller sum of as many"),
        pytest.param([(5, 3, "2"), (1, 0, "2")], [(5, 2, "2"), (1, 2, "2")], id="latest start of the most important"),
    ],
)
def test_the_node_with_the_least_harm_is_chosen(here: list[Victim], there: list[Victim]) -> None:
    for nodes in ("n0", "n1"), ("n1", "n0"):
        pods = [
            ranked(f"v-{node}-{k}", priority, at_s, cpu=cpu, where=node)
            for node, victims in zip(nodes, (here, there), strict=True)
            for k, (priority, at_s, cpu) in enumerate(victims)
        ]
        pods.sort(key=lambda p: p.request.created_s)
        engine = run(preempting([*pods, ranked("urgent", 9, 10, 5)], 2))
        assert [(p.node, p.alike) for p in engine.log.preemptions[:1]] == [(nodes[0], (nodes[0],))]


def test_fewest_violated_budgets_come_before_all_else_and_a_budget_stops_nobody() -> None:
    protected = [ranked("a", 0, 0, where="n0", budget="b"), ranked("b", 5, 0, where="n1")]
    first, second = ranked("urgent", 9, 10), ranked("another", 9, 11)
    engine = run(preempting([*protected, first, second], 2, budgets={"b": 0}))
    assert who_went(engine) == [(10, "n1", {"b"}), (11, "n0", {"a"})]


def test_equal_nodes_are_drawn_from_those_that_were_looked_at_from_a_random_one_on() -> None:
    # 100 of 150: 10 %, at least 100.
    full = [ranked(f"v{k}", 0, 0, where=f"n{k}") for k in range(150)]
    worlds = [replace(preempting([*full, ranked("urgent", 9, 10, 5)], 150), seed=seed) for seed in range(2)]
    found = [run(w).log.preemptions[0] for w in worlds]
    assert [len(set(p.alike)) for p in found] == [100, 100]
    assert found[0].alike != found[1].alike
    assert all(p.node in p.alike for p in found)


def test_who_waits_for_its_victims_evicts_nobody_else_but_takes_what_comes_free() -> None:
    # On n1 there is room at 20, for `more`, and at 25. From 40 on n0 is no more promised.
    pods = [ranked("low", 0, 0, where="n0"), ranked("mid", 1, 0, where="n2"), ranked("busy", 99, 0, 20, where="n1")]
    pods += [ranked("urgent", 10, 10, 5), ranked("more", 11, 15, 5, where="n1")]
    engine = run(preempting(pods, 3))
    assert who_went(engine) == [(10, "n0", {"low"})]
    assert times(engine)[3:] == [(25, 30), (20, 25)]
    assert engine.outcomes[3].node == "n1"


def test_who_waits_evicts_elsewhere_once_its_node_takes_no_more_pods() -> None:
    # `small` ends at 21, which makes too little room and wakes it.
    pods = [ranked("low", 0, 0, where="n0"), ranked("mid", 1, 0, where="n1"), ranked("top", 99, 0, cpu="3", where="n2")]
    pods += [ranked("small", 99, 0, 21, cpu="1", where="n2"), ranked("urgent", 10, 10, 5)]
    engine = run(preempting(pods, 3, changes=(NodeChange(20, Change.CORDON, "n0"),)))
    assert who_went(engine) == [(10, "n0", {"low"}), (21, "n1", {"mid"})]
    assert who_went(run(replace(engine.world, changes=()))) == [(10, "n0", {"low"})]


def test_a_more_important_preemptor_ends_what_was_promised_there_to_another() -> None:
    # `ten` had n0 promised; it goes on to n1.
    pods = [ranked("a", 0, 0, cpu="2", where="n0"), ranked("b", 1, 0, cpu="2", where="n0")]
    pods += [ranked("c", 5, 0, where="n1"), ranked("ten", 10, 10, 7, "2"), ranked("twenty", 20, 15, 7, where="n0")]
    engine = run(preempting(pods, 2))
    assert who_went(engine) == [(10, "n0", {"a"}), (15, "n0", {"b"}), (15, "n1", {"c"})]
    assert times(engine)[3:] == [(45, 52), (45, 52)]


def test_a_pod_that_the_extender_holds_evicts_all_the_same_where_it_lacks_room() -> None:
    # As the real one does: n1 is held back, n0 is only full. When `low` has gone for nothing, both are held back, until
    # `low` comes again at 50: its binding wakes `urgent`.
    engine = run(preempting([ranked("low", 0, 0, where="n0"), ranked("urgent", 9, 10, 5)], 2), Hold(urgent=90.0))
    assert who_went(engine) == [(10, "n0", {"low"}), (50, "n0", {"low"})]
    assert engine.outcomes[1].started_s == 90
    assert engine.outcomes[0].started_s == 100
    never = pod("urgent", 10, 5, "4", spec={"priority": 9, "preemptionPolicy": "Never"})
    assert who_went(run(preempting([ranked("low", 0, 0, where="n0"), never], 2), Hold(urgent=90.0))) == []


def test_no_machine_is_launched_for_a_pod_that_room_is_made_for() -> None:
    pods = [ranked("low", 0, 0, 100), ranked("urgent", 9, 5, 100)]
    # `low` comes back at 45 and fits nowhere: the look at 50 launches n1, which joins at 140.
    engine = run(preempting(pods, 2, autoscaler=Autoscaler(pool=("n1",))))
    assert [(name, since_s) for name, since_s, _ in engine.log.up if name == "n1"] == [("n1", 50)]
    assert times(engine)[1] == (35, 135)


def test_what_preemption_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="shares accelerators, of which preemption knows nothing"):
        run(preempting([ranked("p", 0, 0, device_milli=500.0)]))
    with pytest.raises(UserError, match="the compiled engine does not model preemption"):
        flatten(preempting([ranked("p", 0, 0)]))


def test_another_future_changes_no_eviction_before_it() -> None:
    world, rng = replace(eventful(5), preempts=True), np.random.default_rng(1)
    at_s = world.pods[-1].request.created_s * 0.6
    bound, calls, engine = played(world, at_s)
    other_bound, other_calls, other = played(other_future(world, engine, at_s, rng), at_s)
    assert calls == other_calls
    assert bound == other_bound
    before, other_before = ([p for p in e.log.preemptions if p.at_s < at_s] for e in (engine, other))
    assert before == other_before
    assert len(before) > 3
