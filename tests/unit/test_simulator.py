"""The reference engine and kube-scheduler's cycle: literal numbers worked by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.types import ClusterView, PodRequest
from nodewise.core.units import stamp
from nodewise.policies import DEFAULT, POLICIES, builtin
from nodewise.policies.bundle import read_card
from nodewise_simulator import lab, scenarios
from nodewise_simulator.compare import compare, interval, ratio_interval
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.run import Stage, play, resolve, simulate
from nodewise_simulator.scheduler import KubeScheduler, feasible_to_find
from nodewise_simulator.world import SimPod, World, node_manifest, sim_pod, world

Json = dict[str, Any]


def pod(
    name: str, at_s: float, run_s: Sequence[float], cpu: str = "1", sensitivity: float = 0.0, **spec: Any
) -> SimPod:
    manifest = {
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "creationTimestamp": stamp(at_s),
            "annotations": {"nodewise.dev/workload": "w"},
        },
        "spec": {
            "nodeSelector": {"kubernetes.io/arch": "amd64"}, "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
            **spec,
        },
    }  # fmt: skip
    return sim_pod(manifest, np.array(run_s, float), sensitivity)


def nodes(*cpu_milli: float, **more: Any) -> list[Json]:
    return [
        node_manifest(f"n{k}", cpu_milli=c, memory_bytes=2**33, instance_type=f"class-{k}", **more)
        for k, c in enumerate(cpu_milli)
    ]


class Fixed:
    """An extender that always answers the same and remembers what it was asked."""

    def __init__(self, *reply: tuple[str, int]) -> None:
        self.reply = reply
        self.asked: list[list[str]] = []

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        self.asked.append(list(names))
        return self.reply


def run(made: World, policy: str = "economic") -> list[Outcome]:
    direct = Direct(made, POLICIES[policy], DEFAULT)
    rng = np.random.default_rng(0)
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, rng, fits_always=made.fifo)
    return Engine(made, scheduler, direct).run()


def test_a_pod_that_fits_nowhere_waits_for_the_first_end_and_goes_by_priority() -> None:
    pods = [
        pod("first", 0, [10.0]), pod("low", 1, [5.0], priority=0), pod("high", 2, [4.0], priority=9),
    ]  # fmt: skip
    made = world("t", 0, nodes(1000), ("class-0",), pods, warm=0)
    assert [(o.started_s, o.finished_s) for o in run(made)] == [(0.0, 10.0), (14.0, 19.0), (10.0, 14.0)]


def test_neighbours_slow_a_pod_by_its_sensitivity_times_their_share_of_the_cpu() -> None:
    # 10 s of work; beside half of the CPU it runs at 1 / (1 + 0.5 * 0.5) = 0.8 for the neighbour's 4 s.
    pods = [pod("slow", 0, [10.0], cpu="500m", sensitivity=0.5), pod("quick", 0, [4.0], cpu="500m")]
    made = world("t", 0, nodes(1000), ("class-0",), pods, warm=0)
    slow, quick = run(made)
    assert quick.finished_s == 4.0
    assert slow.finished_s == pytest.approx(4.0 + (10.0 - 4.0 * 0.8), abs=1 / 64)


def test_a_dispatched_pod_waits_on_its_node_in_order_of_arrival() -> None:
    pods = [pod("a", 0, [3.0]), pod("b", 1, [2.0]), pod("c", 1.5, [1.0])]
    made = world("t", 0, nodes(1000), ("class-0",), pods, warm=0, fifo=True, by_priority=False)
    assert [(o.bound_s, o.started_s, o.finished_s) for o in run(made)] == [(0, 0, 3), (1, 3, 5), (1.5, 5, 6)]


def test_on_a_clock_pods_are_placed_at_ticks_only_after_what_ended_was_released() -> None:
    pods = [pod("a", 0.5, [4.5]), pod("b", 1, [1.0])]
    made = world("t", 0, nodes(1000), ("class-0",), pods, warm=0, tick_s=5.0, by_priority=False)
    assert [o.started_s for o in run(made)] == [5.0, 10.0]


@pytest.mark.parametrize(
    ("cluster", "percentage", "expected"),
    [(99, 0, 99), (100, 0, 100), (500, 0, 230), (1000, 0, 420), (5000, 0, 500), (15000, 0, 750), (1000, 100, 1000),
     (1000, 20, 200), (300, 10, 100)],
)  # fmt: skip
def test_the_search_ends_at_as_many_feasible_nodes_as_kube_scheduler_wants(
    cluster: int, percentage: int, expected: int
) -> None:
    assert feasible_to_find(cluster, percentage) == expected


def scheduler(manifests: list[Json], extender: Fixed, **more: Any) -> KubeScheduler:
    made = world("t", 0, manifests, (), [], warm=0)
    mirror = Direct(made, DEFAULT, DEFAULT)

    def view(request: PodRequest, now_s: float) -> ClusterView:
        return mirror.state.view(request, now_s)

    return KubeScheduler(made.nodes, extender, view, np.random.default_rng(0), **more)


def test_a_single_feasible_node_is_taken_without_asking_the_extender() -> None:
    extender = Fixed(("n0", 10))
    assert scheduler(nodes(500, 4000), extender).schedule(pod("p", 0, [1, 1]), 0.0) == "n1"
    assert extender.asked == []


def test_one_extender_point_outvotes_every_in_tree_score() -> None:
    # n1 is empty and larger: in-tree prefers it
    assert scheduler(nodes(2000, 64000), Fixed(("n0", 1))).schedule(pod("p", 0, [1, 1]), 0.0) == "n0"
    assert scheduler(nodes(2000, 64000), Fixed()).schedule(pod("p", 0, [1, 1]), 0.0) == "n1"


def test_what_the_user_prefers_outvotes_the_extender() -> None:
    prefer = {"weight": 1, "preference": {"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}}  # fmt: skip
    wants = pod(
        "p", 0, [1, 1], affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [prefer]}}
    )
    assert scheduler(nodes(2000, 2000), Fixed(("n0", 10))).schedule(wants, 0.0) == "n1"


def test_taints_selectors_and_room_filter() -> None:
    tainted = nodes(4000, taints=({"key": "k", "value": "v", "effect": "NoSchedule"},))
    plain = pod("p", 0, [1])
    tolerant = pod("q", 0, [1], tolerations=[{"key": "k", "operator": "Exists"}])
    elsewhere = pod("r", 0, [1], nodeSelector={"kubernetes.io/arch": "arm64"})
    asked = scheduler(tainted, Fixed())
    assert asked.schedule(plain, 0.0) is None
    assert asked.schedule(tolerant, 0.0) == "n0"
    assert asked.schedule(elsewhere, 0.0) is None
    assert asked.schedule(pod("s", 0, [1], cpu="3500m", tolerations=[{"operator": "Exists"}]), 0.0) is None


def test_the_sample_rotates_over_a_large_cluster() -> None:
    extender = Fixed()
    asked = scheduler(nodes(*[1e6] * 300), extender)
    for k in range(3):
        asked.schedule(pod(f"p{k}", 0, [1.0]), 0.0)
    assert [len(names) for names in extender.asked] == [144, 144, 144]
    assert set(extender.asked[0]).isdisjoint(extender.asked[1])


def test_no_decision_depends_on_the_future() -> None:
    whole = scenarios.make("hetero@pods=300,warm=100", 5)
    cut = World(**{f: getattr(whole, f) for f in whole.__slots__} | {"pods": whole.pods[:250]})
    economic, _ = resolve("economic")
    assert play(whole, economic)[0].placements[:250] == play(cut, economic)[0].placements


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, again = (simulate("hetero@pods=200,warm=100", "economic", 3).placements for _ in range(2))
    assert first == again
    assert simulate("hetero@pods=200,warm=100", "economic", 4).placements != first


def test_hidden_speeds_change_nothing_that_a_policy_is_shown_before_a_pod_ends() -> None:
    made = scenarios.make("hetero@pods=60,warm=0", 2)
    slower = [SimPod(p.manifest, p.request, p.true_run_s * 1e6, p.sensitivity) for p in made.pods]
    other = World(**{f: getattr(made, f) for f in made.__slots__} | {"pods": tuple(slower)})
    first_end_s = min(o.finished_s for o in run(made))
    arrived = sum(p.request.created_s < first_end_s for p in made.pods)
    assert arrived > 20
    assert [o.node for o in run(made)[:arrived]] == [o.node for o in run(other)[:arrived]]


def test_an_oracle_is_told_the_true_run_times() -> None:
    made = scenarios.make("hetero@pods=50,warm=0", 1)
    direct = Direct(made, DEFAULT, DEFAULT, oracle=True)
    chosen = made.pods[7]
    view = direct.state.view(chosen.request, chosen.request.created_s)
    told = view.beliefs.run_mean[view.belief_row]
    scale = 1.0 if math.isnan(chosen.request.expected_run_s) else chosen.request.expected_run_s
    np.testing.assert_allclose(told * scale, chosen.true_run_s)


@pytest.mark.parametrize(
    ("text", "says"),
    [("nope", "no scenario 'nope'"), ("hetero@nodes=3", "no parameter 'nodes'"),
     ("hetero@load=high", "is not a number"), ("hetero@mix=odd", "mix 'odd'"), ("hetero@load=9", "load < 2"),
     ("hetero@classes=3", "4 or 5 classes"),
     ("S0q@rho=1.5", "rho < 1"), ("S2q@rate=0", "rate > 0")],
)  # fmt: skip
def test_a_bad_scenario_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        scenarios.make(text, 1)


@pytest.mark.parametrize("name", ["hetero", "S2q", "S0q-array"])
def test_a_seed_below_zero_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=f"scenario {name} needs seed >= 0, not -1"):
        lab.play_seed(name, -1, ("bound",))


@pytest.mark.parametrize(
    ("manifests", "pods", "warm", "says"),
    [
        ([], [pod("a", 0, [])], 0, "scenario t has no nodes"),
        (nodes(1000), [], 0, "scenario t has no counted pods"),
        (nodes(1000), [pod("a", 0, [1.0])], 1, "no counted pods; it needs more than its 1 warm"),
    ],
)
def test_a_world_without_nodes_or_counted_pods_is_one_sentence(
    manifests: list[Json], pods: list[SimPod], warm: int, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        Stage(world("t", 0, manifests, ("class-0",), pods, warm=warm))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", "no policy 'nope'"),
        ("random-oracle", "ignores run times"),
        ("no/such", "no/such is not a whole bundle"),
    ],
)
def test_a_bad_policy_is_one_sentence(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        resolve(name)


def test_learned_is_the_bundle_that_is_built_in_and_there_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = builtin()
    assert folder is not None
    assert resolve("learned")[0].digest == resolve(str(folder))[0].digest == read_card(folder).digest
    monkeypatch.setattr("nodewise.policies.BUILT_IN", None)
    with pytest.raises(UserError, match="none is built in: name its folder with --bundle"):
        resolve("learned")


def test_intervals_are_paired_by_seed() -> None:
    noisy = np.array([1.0, 10.0, 100.0, 1000.0])
    low, high = ratio_interval(0.9 * noisy, noisy)
    assert low == pytest.approx(0.9)
    assert high == pytest.approx(0.9)
    assert interval(noisy)[0] < noisy.mean() < interval(noisy)[1]


def test_comparing_gives_every_metric_a_row_and_a_cost_ratio_to_the_baseline() -> None:
    rows = compare("hetero@pods=60,warm=40", ["economic", "random"], [1, 2], baseline="random")
    ratio = {r.policy: r.mean for r in rows if r.metric == "cost_ratio"}
    cost = {r.policy: r.mean for r in rows if r.metric == "cost"}
    assert ratio["random"] == 1.0
    assert ratio["economic"] == pytest.approx(cost["economic"] / cost["random"])
    with pytest.raises(UserError, match="baseline 'index'"):
        compare("hetero", ["economic"], [1], baseline="index")
