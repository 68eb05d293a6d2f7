"""Baselines of worlds: each follows its rule on worlds worked out by hand, and nobody goes below the bound."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.engine_worlds import made, one_class, pod

from nodewise.core.errors import UserError
from nodewise.core.types import CostRates
from nodewise.policies import rule
from nodewise_simulator import scenarios
from nodewise_simulator.baselines import BASELINES, best_of_three, bounds
from nodewise_simulator.baselines.bound import at_prices, work_of
from nodewise_simulator.baselines.lp_routing import LpRouting
from nodewise_simulator.baselines.order import slope
from nodewise_simulator.baselines.rollout import play_rollout
from nodewise_simulator.direct import Direct
from nodewise_simulator.run import play, resolve
from nodewise_simulator.world import node_manifest, world

PRODUCTION = {"nodewise.dev/sla-class": "production"}


def two_classes(**of_first: Any) -> list[dict[str, Any]]:
    """A node of one core of each of two classes."""
    return [
        node_manifest(f"n{k}", cpu_milli=1000, memory_bytes=2.0**33, instance_type=f"class-{k}", **more)
        for k, more in enumerate((of_first, dict[str, Any]()))
    ]


def test_three_pods_on_one_core_cannot_all_run_at_once() -> None:
    # Alone each takes 10 s. Two come at 0, and until the third comes at 10 there are 10 core-seconds: one of them has
    # to wait for 10 s. Really the second ends at 20 and the third at 30.
    pods = [pod(f"p{k}", at_s, 10.0, annotations=PRODUCTION) for k, at_s in enumerate((0.0, 0.0, 10.0))]
    tight = made(pods, one_class(1, 1000.0))
    found = bounds(tight)
    assert found["completion_bound"] == pytest.approx(40.0 / 3.0)
    # A second of a production pod costs 10 cents x 0.1 / 60.
    assert found["cost_bound"] == pytest.approx(40.0 / 3.0 / 60.0)
    assert play(tight, rule("economic"))[0].metrics["completion_mean"] == pytest.approx(50.0 / 3.0)
    assert at_prices(work_of(tight, CostRates()), np.zeros((1, 3))) == pytest.approx(30.0 / 60.0)


def test_a_pod_alone_pays_for_its_cheapest_node() -> None:
    # Fast: 10 s x 1/60 cent + 36 kJ x 12 x 1.2 / 3.6e6 cents = 0.310667; slow: 20 / 60 = 0.333333.
    one = [pod("p", 0.0, (10.0, 20.0), annotations=PRODUCTION)]
    hungry = world("t", 0, two_classes(idle_w=0.0, peak_w=3600.0), ("class-0", "class-1"), one, warm=0)
    assert bounds(hungry)["cost_bound"] == pytest.approx(0.310667, abs=1e-6)
    # At 3.6 USD an hour the fast one takes a cent more.
    dear = two_classes(idle_w=0.0, peak_w=3600.0, price_usd_per_h=3.6)
    assert bounds(world("t", 0, dear, ("class-0", "class-1"), one, warm=0))["cost_bound"] == pytest.approx(1.0 / 3.0)
    # With a deadline at 15 s the slow one costs 10 cents more.
    late = [pod("p", 0.0, (10.0, 20.0), annotations=PRODUCTION | {"nodewise.dev/deadline-seconds": "15"})]
    urgent = world("t", 0, dear, ("class-0", "class-1"), late, warm=0)
    assert bounds(urgent)["cost_bound"] == pytest.approx(1.310667, abs=1e-6)
    assert bounds(urgent)["completion_bound"] == pytest.approx(10.0)


def test_a_pod_that_waits_for_its_parents_is_not_late_by_that() -> None:
    # Both want node 0 and their manifests say 0, but the child is created at 10: nobody waits, each takes 10 s.
    slow = (10.0, 1e4)
    family = [pod("parent", 0.0, slow), pod("child", 0.0, slow, parents=(0,)), pod("late", 10.0, (1e4, 10.0))]
    chain = world("t", 0, two_classes(), ("class-0", "class-1"), family, warm=0)
    assert bounds(chain)["completion_bound"] == 10.0
    assert play(chain, rule("economic"), oracle=True)[0].metrics["completion_mean"] == 10.0


@pytest.mark.parametrize("text", ["random-clusters@nodes=6,per_node=12,warm=4,load=1.4",
                                  "random-clusters@nodes=6,per_node=12,warm=4,load=0.9,mode=dispatch",
                                  "hetero@pods=80,warm=40,load=1.2", "elastic@pods=60,warm=20"])  # fmt: skip
def test_no_policy_goes_below_the_bound(text: str) -> None:
    tried = scenarios.make(text, 4)
    found = bounds(tried)
    for metrics in (
        play(tried, rule("economic"))[0].metrics,
        BASELINES["lp-routing"].play(tried, None).metrics,
    ):
        assert metrics["unfinished"] == 0
        assert 0.0 < found["cost_bound"] <= metrics["cost"]
        assert 0.0 < found["completion_bound"] <= metrics["completion_mean"]


def test_pods_follow_the_shares_of_the_program() -> None:
    # 10 s on class 0 and 20 s on class 1, a core each: the most that can come is routed 2 to 1. Every pod finds both
    # nodes empty. The program is solved when the 30th pod comes; then deficits make it 0 1 0, again and again.
    pods = [pod(f"p{k}", 40.0 * k, (10.0, 20.0)) for k in range(36)]
    made_up = world("t", 0, two_classes(), ("class-0", "class-1"), pods, warm=0)
    result, _ = play(made_up, LpRouting(), oracle=True)
    assert result.placements[29:] == ("n0", "n1", "n0", "n0", "n1", "n0", "n0")


def test_a_pod_waits_for_the_class_that_it_is_routed_to() -> None:
    # Workload a is fast on class 0 only, b on class 1 only: each has a share of one class. p30 and p31 come together.
    a, b = ("a", (10.0, 1000.0)), ("b", (1000.0, 10.0))
    pods = [
        pod(f"p{k}", 1200.0 * min(k, 30), run_s, annotations={"nodewise.dev/workload": name})
        for k, (name, run_s) in enumerate([a, b] * 15 + [a, a])
    ]
    made_up = world("t", 0, two_classes(), ("class-0", "class-1"), pods, warm=0)
    forced, waits = (play(made_up, LpRouting(waits=w), oracle=True)[0].placements for w in (False, True))
    assert forced[29:] == ("n1", "n0", "n1")
    assert waits[29:] == ("n1", "n0", "n0")


def test_looking_ahead_leaves_room_for_who_comes_next() -> None:
    # a runs 10 s on class 0 and 12 s on class 1; b, a second later, 10 s and 100 s. Economic puts a on its best node,
    # so that b runs for 100 s or waits; who sees b come leaves it node 0.
    a, b = pod("a", 0.0, (10.0, 12.0)), pod("b", 1.0, (10.0, 100.0))
    pair = world("t", 0, two_classes(), ("class-0", "class-1"), [a, b], warm=0)
    blind, sees = play_rollout(pair, candidates=1), play_rollout(pair, candidates=2)
    assert blind.placements == play(pair, rule("economic"))[0].placements
    assert sees.placements == ("n1", "n0")
    assert sees.metrics["completion_mean"] == 11.0


def test_a_scenario_that_can_draws_other_pods_for_the_same_cluster_to_train_on() -> None:
    tried = scenarios.make("random-clusters@nodes=6,per_node=300,warm=2", 2)
    traces = [best_of_three.training_trace(tried, k) for k in range(2)]
    assert [len(t.pods) for t in traces] == [12 + 1500] * 2
    assert all(t.nodes == tried.nodes for t in traces)
    runs = [{p.true_run_s.tobytes() for p in t.pods[:100]} for t in (tried, *traces)]
    assert len(set.union(*runs)) == 300  # no pod of one is in another
    assert {p.request.workload for t in traces for p in t.pods} == {p.request.workload for p in tried.pods}


def test_the_rule_is_chosen_on_other_traces_of_the_same_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_of_three, "TRACES", 1)
    tried = scenarios.make("random-clusters@nodes=6,per_node=2,warm=17,load=1.2", 2)
    tried = replace(tried, again=None)
    trace = best_of_three.training_trace(tried, 0)
    assert trace.nodes == tried.nodes
    assert len({p.request.uid for p in trace.pods}) == len(trace.pods) == len(tried.pods) == 114
    # Nothing that is counted is in it.
    seen = {p.true_run_s.tobytes() for p in tried.pods[: tried.warm]}
    assert {p.true_run_s.tobytes() for p in trace.pods} <= seen
    cents = {name: play(trace, resolve(name)[0])[0].metrics["cost"] for name in best_of_three.CHOICES}
    name = min(cents, key=cents.__getitem__)
    made_so, alone = BASELINES["best-of-three"].play(tried, None), play(tried, resolve(name)[0])[0]
    assert (made_so.policy, made_so.placements) == ("best-of-three", alone.placements)
    with pytest.raises(UserError, match="at least 100"):
        best_of_three.training_trace(replace(tried, warm=99), 0)


def test_urgency_rises_until_the_deadline_and_falls_back_behind_it() -> None:
    # A production pod that runs 60 s, sigma of the log 0.5, deadline 100 s after its creation: with 60 s left,
    # z = 0.125 / 0.5 = 0.25 and the density is exp(-1/32) / (60 x 0.5 x sqrt(2 pi)) = 0.012889 per second.
    late = pod("p", 0.0, 60.0, annotations=PRODUCTION | {"nodewise.dev/deadline-seconds": "100"})
    alone = made([late])
    std_s = 60.0 * float(np.sqrt(np.expm1(0.25)))
    direct = Direct(alone, rule("economic"), rule("economic"))
    at = [slope(late.request, direct.seen(late, now_s), 60.0, std_s) for now_s in (0.0, 40.0, 101.0)]
    assert at[1] == pytest.approx(1.0 / 60.0 + 10.0 * 0.012889, rel=1e-4)
    assert at[2] == pytest.approx(1.0 / 60.0)
    assert at[2] < at[0] < at[1]


def test_a_pod_about_to_be_late_goes_before_one_that_is_late_already() -> None:
    # One core is taken until 30. Both wait, run 20 s and are alike but for their deadlines: that of "lost" is over.
    told = PRODUCTION | {"nodewise.dev/expected-seconds": "20"}
    first = pod("first", 0.0, 30.0, annotations=told)
    lost = pod("lost", 1.0, 20.0, annotations=told | {"nodewise.dev/deadline-seconds": "10"})
    near = pod("near", 2.0, 20.0, annotations=told | {"nodewise.dev/deadline-seconds": "50"})
    queue = made([first, lost, near], one_class(1, 1000.0))
    plain, by_age = play(queue, resolve("economic-cmu")[0])[0], BASELINES["economic-gcmu"].play(queue, None)
    assert (plain.metrics["sla"], by_age.metrics["sla"]) == (0.0, 0.5)
