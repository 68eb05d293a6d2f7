"""When a pod waits for a node that is about to free up, and who goes first, by numbers worked by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import Beliefs, ClusterView, Kind, PodRequest, SlaClass
from nodewise.policies import POLICIES, defer
from nodewise.policies.defer import DeferSettings
from nodewise.policies.waiting import KEPT_S, Waiting, with_waiting

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
NOW = 1000.0
NONE = np.zeros(0, np.int64)
EVERYWHERE = np.ones(2, bool)
# Batch: 3 cents x 0.1 / 60 s = 0.005 cents a second. Prices and power are zero, contention is 0.3.
SETTINGS = DeferSettings()


class Cluster:
    """Row 0 is slow (100 s) and row 1 fast (20 s) for every pod; 4 CPU each."""

    def __init__(self, node_of: NodeOf, pod_of: PodOf, run_s: tuple[float, float] = (100.0, 20.0)) -> None:
        table = np.array([run_s])
        lookup = Beliefs(run_mean=table, run_std=table * 1e-3, observations=np.full((1, 2), 9.0)), lambda pod: 0
        self.state = ClusterState(RunTimeEstimator(), lookup=lookup)
        for name in ("slow", "fast"):
            self.state.put_node(
                node_of(
                    name,
                    node_class=name,
                    cpu_allocatable_milli=4000.0,
                    price_usd_per_h=0.0,
                    idle_w=0.0,
                    peak_w=0.0,
                )
            )
        self._pod_of = pod_of

    def pod(self, name: str, cpu_milli: float = 4000.0, **changes: Any) -> PodRequest:
        changes = {"created_s": NOW, "deadline_s": math.inf, "expected_run_s": math.nan, **changes}
        return self._pod_of(name, cpu_milli=cpu_milli, cpu_nonzero_milli=cpu_milli, memory_bytes=0.0, **changes)

    def fill(self, name: str, node: str, cpu_milli: float, left_s: float) -> PodRequest:
        """A resident of a node that is full in the end: its 20 s are stretched to 26."""
        made = self.pod(name, cpu_milli)
        self.state.place(made, node, NOW - (26.0 - left_s))
        return made

    def view(self, pod: PodRequest, now_s: float = NOW) -> ClusterView:
        return self.state.view(pod, now_s)


@pytest.fixture
def cluster(node_of: NodeOf, pod_of: PodOf) -> Cluster:
    return Cluster(node_of, pod_of)


def choose(cluster: Cluster, pod: PodRequest, queue_s: float = 0.0, margin: float = 1.15) -> defer.Choice:
    return defer.choose(
        pod, cluster.view(pod), np.array([0]), np.array([1]), np.array([queue_s]), replace(SETTINGS, margin=margin)
    )


def test_waiting_15_s_for_a_run_of_20_beats_a_run_of_100_now(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    choice = choose(cluster, cluster.pod("new"))
    assert list(choice) == pytest.approx([True, 0.5, 0.005 * 35.0, 1, 15.0, 0])


@pytest.mark.parametrize(("margin", "waits"), [(0.5 / 0.175 - 1e-6, True), (0.5 / 0.175 + 1e-6, False)])
def test_the_wait_must_be_cheaper_by_the_margin(cluster: Cluster, margin: float, waits: bool) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    assert choose(cluster, cluster.pod("new"), margin=margin).waits is waits


def test_those_ahead_make_the_wait_longer_and_the_pod_go_now(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    choice = choose(cluster, cluster.pod("new"), queue_s=70.0)
    assert not choice.waits
    assert choice.then_cents == pytest.approx(0.005 * (15.0 + 70.0 + 20.0))


def test_residents_end_one_after_the_other_until_there_is_room_and_the_others_stay(cluster: Cluster) -> None:
    for name, cpu_milli, left_s in (("a", 1000.0, 18.0), ("b", 2000.0, 10.0), ("c", 1000.0, 5.0)):
        cluster.fill(name, "fast", cpu_milli, left_s)
    pod = cluster.pod("new", 3000.0)
    seen = defer.foresee(pod, cluster.view(pod), np.array([1]))
    assert seen.wait_s == [10.0]  # c, then b
    assert seen.cpu_requested_milli == [1000.0]
    assert seen.resident_exposure_s == [8.0]  # a goes on for 8 s
    # Delay: 10 + 20 x (1 + 0.3 x 1/4) = 31.5 s. Slowdown of a: 0.3 x 3/4 x 8 s x 0.005 cents/s.
    assert choose(cluster, pod).then_cents == pytest.approx(0.005 * 31.5 + 0.3 * 0.75 * 8.0 * 0.005)


def test_no_end_is_foreseen_for_services_and_for_what_is_too_large(cluster: Cluster) -> None:
    assert choose(cluster, cluster.pod("large", 5000.0)).row == -1
    cluster.state.place(cluster.pod("web", kind=Kind.SERVICE), "fast", NOW)
    assert choose(cluster, cluster.pod("new")).wait_s == math.inf


@pytest.mark.parametrize(
    ("changes", "run_s", "limit_s"),
    [
        ({}, 30.0, 20.0 + 8.0 * 30.0),
        ({"deadline_s": NOW + 130.0}, 30.0, 100.0),
        ({"deadline_s": NOW + 10.0}, 30.0, 0.0),
        ({"sla": SlaClass.PRODUCTION}, 1000.0, SETTINGS.most_s[0]),
        ({"kind": Kind.BARE}, 30.0, 0.0),
        ({"kind": Kind.INDEXED}, 30.0, 0.0),
        ({"kind": Kind.SERVICE}, 30.0, 0.0),
        ({"pinned": True}, 30.0, 0.0),
        ({}, math.nan, 0.0),
    ],
)
def test_the_longest_deferral(cluster: Cluster, changes: dict[str, Any], run_s: float, limit_s: float) -> None:
    assert defer.limit_s(cluster.pod("new", **changes), run_s, SETTINGS) == limit_s


def test_what_nobody_described_and_nobody_saw_has_no_price(cluster: Cluster) -> None:
    pod = cluster.pod("new")
    assert defer.expected_run_s(pod, cluster.view(pod)) == 20.0
    view = cluster.view(pod)
    unseen = replace(view, beliefs=replace(view.beliefs, observations=np.zeros((1, 2))))
    assert math.isnan(defer.expected_run_s(pod, unseen))
    assert defer.expected_run_s(replace(pod, expected_run_s=3.0), unseen) == 60.0


def test_the_queue_of_a_class_is_served_as_fast_as_its_residents_turn_over(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    pod = cluster.pod("new")
    view, rows = cluster.view(pod), np.array([0, 1])
    # 4000 milli per 20 s x 1.3 on a full node.
    assert defer.turnover_milli_per_s(view) == pytest.approx([0.0, 4000.0 / 26.0])
    assert defer.ahead_s(view, rows, np.array([0.0, 8000.0])).tolist() == pytest.approx([0.0, 52.0])
    assert defer.ahead_s(view, rows, np.zeros(2)).tolist() == [0.0, 0.0]


def test_the_endings_of_a_name() -> None:
    assert defer.split("economic") == ("economic", False, False)
    assert defer.split("economic-defer") == ("economic", True, False)
    assert defer.split("economic-cmu") == ("economic", False, True)
    assert defer.split("earliest-finish-time-defer-cmu") == ("earliest-finish-time", True, True)
    both = with_waiting(POLICIES["economic"], deferring=True, ordered=True)
    assert both.name == "economic-defer-cmu"
    assert both.digest == POLICIES["economic"].digest + "-defer-cmu"
    assert with_waiting(POLICIES["economic"], deferring=False, ordered=False) is POLICIES["economic"]


class Desk:
    """Asks for pods as the scheduler does: with the rows that have room."""

    def __init__(self, cluster: Cluster, settings: DeferSettings | None, *, ordered: bool = False) -> None:
        self.cluster, self.books = cluster, Waiting(settings, ordered=ordered)

    def queue(self, name: str, cpu_milli: float = 4000.0, **changes: Any) -> PodRequest:
        pod = self.cluster.pod(name, cpu_milli, **changes)
        self.books.queued(pod, self.cluster.view(pod), EVERYWHERE)
        return pod

    def ask(self, pod: PodRequest, now_s: float = NOW) -> tuple[list[int], float]:
        view = self.cluster.view(pod, now_s)
        room = view.nodes.cpu_allocatable_milli - view.nodes.cpu_requested_milli
        rows, again_s = self.books.ask(pod, view, np.flatnonzero(room >= pod.cpu_milli))
        return rows.tolist(), again_s

    def bind(self, pod: PodRequest, node: str, now_s: float = NOW) -> None:
        self.cluster.state.place(pod, node, now_s)
        self.books.gone(pod.uid)


def test_a_deferred_pod_is_priced_again_only_when_room_for_it_was_given_back(cluster: Cluster) -> None:
    old = cluster.fill("old", "fast", 4000.0, left_s=15.0)
    desk = Desk(cluster, SETTINGS)
    pod = desk.queue("new")
    assert desk.ask(pod) == ([], NOW + 20.0 + 8.0 * 20.0)
    assert [desk.ask(pod, NOW + k)[0] for k in range(1, 4)] == [[], [], []]
    assert desk.books.priced == 1
    cluster.state.remove(old.uid)
    assert desk.ask(pod, NOW + 15.0)[0] == [0, 1]


def test_a_deferral_ends_when_its_time_is_over(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    desk = Desk(cluster, SETTINGS)
    pod = desk.queue("new")
    assert desk.ask(pod, NOW + 5.0) == ([], NOW + 185.0)
    assert desk.ask(pod, NOW + 184.9)[0] == []
    assert desk.ask(pod, NOW + 185.0)[0] == [0]
    assert desk.books.deferred == 0


def test_no_more_pods_are_deferred_than_the_budget_allows(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=1.0)
    desk = Desk(cluster, replace(SETTINGS, budget=1))
    first, second = desk.queue("first", 3500.0), desk.queue("second", 3000.0)
    assert desk.ask(first)[0] == []
    assert desk.ask(second)[0] == [0]
    desk.books.queued(first, cluster.view(first), EVERYWHERE)  # told of again, as a watch does
    desk.books.gone(first.uid)
    assert desk.books.deferred == 0
    assert desk.ask(second)[0] == []


@pytest.mark.parametrize("kind", [Kind.BARE, Kind.SERVICE, Kind.INDEXED])
def test_who_may_not_wait_is_never_deferred_nor_made_to_stand_back(cluster: Cluster, kind: Kind) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    desk = Desk(cluster, SETTINGS, ordered=True)
    desk.queue("higher", priority=9)
    assert desk.ask(desk.queue("new", kind=kind))[0] == [0]


def test_a_pod_whose_deadline_leaves_no_slack_is_not_deferred(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    desk = Desk(cluster, SETTINGS)
    assert desk.ask(desk.queue("new", deadline_s=NOW + 20.0))[0] == [0]


def test_a_pod_is_left_the_nodes_that_a_higher_one_would_not_take_that_was_not_asked_yet(cluster: Cluster) -> None:
    desk = Desk(cluster, None, ordered=True)
    low = desk.queue("low", expected_run_s=2.0)  # the cluster's 20 s are per expected second
    high = desk.queue("high", expected_run_s=1.0)
    assert desk.ask(low)[0] == [0]
    assert desk.ask(high)[0] == [0, 1]
    desk.bind(high, "fast")
    assert desk.ask(low)[0] == [0]


def test_a_pod_stands_back_if_higher_ones_would_take_every_node(cluster: Cluster) -> None:
    desk = Desk(cluster, None, ordered=True)
    low = desk.queue("low", 1000.0, expected_run_s=9.0)
    first, second = (desk.queue(name, cpu_milli) for name, cpu_milli in (("first", 4000.0), ("second", 3500.0)))
    assert desk.ask(low) == ([], NOW + KEPT_S)
    desk.bind(first, "fast")
    assert desk.ask(low)[0] == []
    assert desk.ask(second)[0] == [0]
    assert desk.ask(low)[0] == [0]  # whoever is asked, and does not go, keeps nobody from anything


def test_beside_what_is_kept_for_a_higher_pod_there_may_be_room(cluster: Cluster) -> None:
    desk = Desk(cluster, None, ordered=True)
    low = desk.queue("low", 1000.0, expected_run_s=9.0)
    desk.queue("high", 3000.0)
    assert desk.ask(low)[0] == [0, 1]


def test_priority_goes_before_a_short_run(cluster: Cluster) -> None:
    desk = Desk(cluster, None, ordered=True)
    short = desk.queue("short", expected_run_s=0.1)
    long = desk.queue("long", expected_run_s=9.0, priority=5)
    assert desk.ask(short)[0] == [0]
    assert desk.ask(long)[0] == [0, 1]


def test_who_would_decline_a_node_is_deferred_in_its_absence_and_keeps_nobody_from_it(cluster: Cluster) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    desk = Desk(cluster, SETTINGS, ordered=True)
    # For the low one, which runs 10 s or 2 s, waiting 15 s and longer is no good.
    high, low = desk.queue("high", priority=5), desk.queue("low", 1000.0, expected_run_s=0.1)
    assert desk.ask(low)[0] == [0]
    assert (desk.books.deferred, desk.books.priced) == (1, 2)
    assert desk.ask(high) == ([], NOW + 180.0)
    assert desk.books.priced == 2


def test_room_is_kept_for_a_second_for_one_that_never_asks(cluster: Cluster) -> None:
    cluster.fill("old", "slow", 4000.0, left_s=15.0)
    desk = Desk(cluster, None, ordered=True)
    desk.queue("high", priority=5)
    low = desk.queue("low")
    assert desk.ask(low)[0] == []
    assert desk.ask(low, NOW + 0.9)[0] == []
    assert desk.ask(low, NOW + 1.0)[0] == [1]
    assert desk.ask(low, NOW + 1.1)[0] == [1]


def test_nodes_that_come_and_go_leave_no_pod_deferred_for_a_row_that_means_another(
    cluster: Cluster, node_of: NodeOf
) -> None:
    cluster.fill("old", "fast", 4000.0, left_s=15.0)
    desk = Desk(cluster, SETTINGS)
    pod = desk.queue("new")
    assert desk.ask(pod)[0] == []
    cluster.state.remove_node("fast")
    assert desk.ask(pod)[0] == [0]
