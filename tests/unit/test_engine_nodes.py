"""Nodes that come, go, fail and are drained: what becomes of pods, by hand."""

import math

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.engine import Attempt, Engine
from nodewise_simulator.metrics import measure
from nodewise_simulator.physics import Autoscaler, Change, NodeChange
from nodewise_simulator.scheduler import KubeScheduler

from .engine_worlds import made, on, one_class, pod, run, times


def test_a_node_that_joins_takes_who_waits_and_one_that_leaves_loses_its_pods() -> None:
    # The pod starts again 10 s after its node went, on the other one; 7 s of work are lost.
    changes = (NodeChange(3, Change.ADD, "n1"), NodeChange(10, Change.REMOVE, "n1"))
    engine = run(made([pod("here", 0, 20, cpu="3"), pod("there", 1, 15, cpu="3")], one_class(2), changes=changes))
    assert engine.log.lost == [Attempt(1, "n1", 3, 3, 10, evicted=False)]
    assert times(engine) == [(0, 20), (20, 35)]
    assert [o.node for o in engine.outcomes] == ["n0", "n0"]
    assert sorted(engine.log.up) == [("n0", 0, 35), ("n1", 3, 10)]
    assert engine.pods[1].request.uid == "there-2"
    assert engine.pods[1].request.created_s == 20


def test_a_failed_machine_is_found_out_after_50_s_and_its_pods_are_deleted_300_s_later() -> None:
    # A pod that is bound to it meanwhile never starts. Owners wait 10 s.
    pods = [
        pod("first", 0, 100, spec=on("n0")),
        pod("second", 30, 5, spec=on("n0")),
        pod("third", 80, 5, spec=on("n0")),
    ]
    changes = (NodeChange(20, Change.FAIL, "n0"), NodeChange(400, Change.RESTORE, "n0"))
    engine = run(made(pods, changes=changes))
    assert [(a.index, a.bound_s, a.ended_s) for a in engine.log.lost] == [(0, 0, 20), (1, 30, 370)]
    assert math.isnan(engine.log.lost[1].started_s)
    assert times(engine) == [(400, 500), (400, 405), (400, 405)]
    assert engine.outcomes[2].bound_s == 400


def test_what_comes_back_before_its_pods_are_deleted_has_lost_them_all_the_same() -> None:
    changes = (NodeChange(20, Change.FAIL, "n0"), NodeChange(40, Change.RESTORE, "n0"))
    engine = run(made([pod("first", 0, 100)], changes=changes))
    assert times(engine) == [(50, 150)]


def test_owners_double_their_back_off_and_wait_at_most_six_minutes() -> None:
    instants = [(1e3 * k + 1, 1e3 * k + 2) for k in range(8)]
    changes = [
        NodeChange(at_s, change, "n0")
        for pair in instants
        for at_s, change in zip(pair, (Change.FAIL, Change.RESTORE), strict=True)
    ]
    engine = run(made([pod("p", 0, 990)], changes=tuple(changes)))
    waited = [b.bound_s - (a.ended_s + 1) for a, b in zip(engine.log.lost, engine.log.lost[1:], strict=False)]
    assert waited == [10, 20, 40, 80, 160, 320, 360]


def test_a_drain_evicts_as_the_budget_allows_and_evicted_pods_hold_their_room_for_their_grace() -> None:
    # One of the two may be down at a time. The first goes at 10, is gone at 40, is made anew at 50 and starts on n1;
    # the drain asks every 5 s, so the second goes at 55.
    pods = [pod(name, 0, 300, budget="b") for name in ("first", "second")]
    changes = (
        NodeChange(0, Change.CORDON, "n1"),
        NodeChange(10, Change.DRAIN, "n0"),
        NodeChange(20, Change.UNCORDON, "n1"),
    )
    engine = run(made(pods, one_class(2), changes=changes, budgets={"b": 1}))
    assert engine.log.lost == [Attempt(0, "n0", 0, 0, 10, True), Attempt(1, "n0", 0, 0, 55, True)]
    assert times(engine) == [(50, 350), (95, 395)]
    assert {o.node for o in engine.outcomes} == {"n1"}


def test_a_cordon_lets_pods_end_and_takes_no_more() -> None:
    changes = (NodeChange(1, Change.CORDON, "n0"), NodeChange(30, Change.UNCORDON, "n0"))
    engine = run(made([pod("in", 0, 5), pod("out", 2, 5)], changes=changes))
    assert times(engine) == [(0, 5), (30, 35)]


def test_the_autoscaler_launches_what_pods_need_and_removes_what_is_idle_for_long() -> None:
    # Scans at 0, 10, …: at 10 two pods of 3 cores fit nowhere, the third pod shares with one of them. Both nodes
    # join at 10 + 90. Idle from 120 and 700 on; nothing goes within 600 s of 100.
    pods = [
        pod("base", 0, 2000, cpu="4"),
        *(pod(n, 5, r, cpu=c) for n, r, c in (("a", 20, "3"), ("b", 600, "3"), ("c", 20, "1"))),
    ]
    scaler = Autoscaler(pool=("n1", "n2", "n3"))
    engine = run(made(pods, one_class(4, price_usd_per_h=3.6, idle_w=36.0), autoscaler=scaler))
    assert [o.started_s for o in engine.outcomes] == [0, 100, 100, 100]
    up = {name: (since, until) for name, since, until in engine.log.up}
    alone, shared = sorted(("n1", "n2"), key=lambda n: up[n][1])
    assert up == {"n0": (0, 2000), alone: (10, 720), shared: (10, 1300)}
    # 2,000 + 710 + 1,290 s at 0.1 cents and at 0.01 Wh a second
    metrics = measure(engine.world, engine.outcomes, log=engine.log)
    assert metrics["node_cost"] == pytest.approx(400.0)
    assert metrics["energy_idle"] == pytest.approx(40.0)


def test_lost_work_is_paid_for() -> None:
    # 4 cores of 4 at 100 W above idle: 20 s lost, 100 s that counted.
    nodes = one_class(1, idle_w=20.0, peak_w=120.0)
    changes = (NodeChange(20, Change.FAIL, "n0"), NodeChange(40, Change.RESTORE, "n0"))
    engine = run(made([pod("p", 0, 100, cpu="4")], nodes, changes=changes))
    metrics = measure(engine.world, engine.outcomes, log=engine.log)
    assert metrics["energy_dynamic"] == pytest.approx(120 * 100 / 3600)
    assert metrics["work_lost"] == pytest.approx(4 * 20 / 3600)
    assert (metrics["restarts"], metrics["evictions"], metrics["completion_mean"]) == (1, 0, 150)


class Deaf:
    """An observer that knows nothing of nodes."""

    created = bound = started = finished = prioritize = lambda *_: ()


def test_a_world_whose_nodes_change_needs_somebody_who_can_be_told() -> None:
    changing = made([pod("p", 0, 1)], changes=(NodeChange(1, Change.CORDON, "n0"),))
    scheduler = KubeScheduler(changing.nodes, Deaf(), lambda *_: None, np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nodes that come and go, of which nobody here can be told"):
        Engine(changing, scheduler, Deaf())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="changes node 'nx', which it does not have"):
        run(made([pod("p", 0, 1)], changes=(NodeChange(1, Change.CORDON, "nx"),)))
