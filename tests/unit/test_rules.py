"""Rules and the cost function against numbers worked by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nodewise.core import cost
from nodewise.core.columns import late_probability
from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.raw import raw
from nodewise.core.state import ClusterState
from nodewise.core.types import Beliefs, CostRates, PodRequest, SlaClass
from nodewise.policies import LEARNED, POLICIES, rule
from nodewise.policies.kube import balanced_allocation, in_tree, least_allocated, most_allocated

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
StateOf = Callable[..., ClusterState]

MIB = 2.0**20


def one_node(node_of: NodeOf, pod_of: PodOf, cpu: float, memory_mib: float, used_cpu: float, used_mib: float) -> Any:
    state = ClusterState(RunTimeEstimator())
    state.put_node(node_of("n", cpu_allocatable_milli=cpu, memory_allocatable_bytes=memory_mib * MIB))
    state.place(pod_of("old", cpu_milli=used_cpu, memory_bytes=used_mib * MIB), "n")
    return state


@pytest.mark.parametrize(
    ("room", "used", "pod", "least", "most", "balanced"),
    [
        # cpu (4000-1000-1000)/4000 = 50, memory (8000-1000-1000)/8000 = 75: (50+75)/2 = 62 and (50+25)/2 = 37.
        # evenness with 1-|.5-.25|/2 = .875 -> 87, without 1-|.25-.125|/2 = .9375 -> 93: 50+(50+87-93)/2 = 72.
        ((4000, 8000), (1000, 1000), (1000, 1000), 62, 37, 72),
        # An empty node, an even pod: free 75 and 75; evenness 100 and 100: 50+50/2 = 75.
        ((4000, 8000), (0, 0), (1000, 2000), 75, 25, 75),
        # Whole numbers each time: (3000-1000)*100/3000 = 66.67 -> 66, memory 66.6 -> 66; used 33, 33.
        ((3000, 3000), (0, 0), (1000, 1000), 66, 33, 75),
        # More than there is: cpu 0, memory 50 -> 25; used counts as full: (100+50)/2 = 75.
        # with: 1-|1-.5|/2 = .75 -> 75, without: |.9-.25|/2 = .325 -> 67: 50+(50+75-67)/2 = 79.
        ((1000, 4000), (900, 1000), (200, 1000), 25, 75, 79),
        # It makes an even node odd: with 1-.25/2 = 87, without 100: 50+(50+87-100)/2 = 68.5 -> 68.
        ((4000, 4000), (1000, 1000), (1000, 0), 62, 37, 68),
    ],
)  # fmt: skip
def test_in_tree_scores_by_hand(
    node_of: NodeOf, pod_of: PodOf, room: Any, used: Any, pod: Any, least: int, most: int, balanced: int
) -> None:
    state = one_node(node_of, pod_of, *room, *used)
    asks = pod_of("new", cpu_milli=float(pod[0]), memory_bytes=pod[1] * MIB)
    view, rows = state.view(asks, 0.0), np.array([0])
    seen = raw(asks, view, rows)[:3]
    assert least_allocated(*seen) == [least]
    assert most_allocated(*seen) == [most]
    assert balanced_allocation(*seen) == [balanced]
    assert in_tree(asks, view, rows) == [least + balanced]


def test_a_pod_without_requests_counts_by_default_but_is_not_balanced(node_of: NodeOf, pod_of: PodOf) -> None:
    asks = pod_of("new", cpu_milli=0.0, memory_bytes=0.0, cpu_nonzero_milli=100.0, memory_nonzero_bytes=200 * MIB)
    view, rows = one_node(node_of, pod_of, 1000, 1000, 0, 0).view(asks, 0.0), np.array([0])
    seen = raw(asks, view, rows)[:3]
    assert least_allocated(*seen) == [85]  # (90 + 80) / 2
    assert balanced_allocation(*seen) == [0]


def test_the_cost_of_a_pod_by_hand(pod_of: PodOf) -> None:
    """10 × 0.1 × 120/60 = 2; late 10; 3.6 MJ = 1 kWh × 1.2 × 12 = 14.4; half a node at 1 USD/h for 36 s = 0.5."""
    paid = cost.realised_cents(
        CostRates(), pod_of(sla=SlaClass.PRODUCTION), flow_s=120.0, late=True, joules=3.6e6, share=0.5,
        price_usd_per_h=1.0, run_s=36.0,
    )  # fmt: skip
    assert paid == pytest.approx(2.0 + 10.0 + 14.4 + 0.5)
    assert cost.delay_cents_per_s(CostRates(), SlaClass.BEST_EFFORT) * 60 == pytest.approx(0.1)


def test_energy_is_linear_in_the_cores_and_never_negative() -> None:
    assert cost.dynamic_joules(500.0, 2000.0, 100.0, 300.0, 10.0) == 500.0  # a quarter of 200 W for 10 s
    assert cost.dynamic_joules(500.0, 2000.0, 300.0, 100.0, 10.0) == 0.0
    assert cost.dynamic_joules(500.0, 0.0, 0.0, 1.0, 1.0) == 500.0


def test_the_dominant_share_is_the_largest(pod_of: PodOf, node_of: NodeOf) -> None:
    plain, gpus = node_of(), node_of(gpus_allocatable_milli=4000.0)
    assert cost.dominant_share(pod_of(cpu_milli=1000.0, memory_bytes=8 * 2.0**30), plain) == 0.5
    assert cost.dominant_share(pod_of(cpu_milli=1000.0, gpus_milli=3000.0), gpus) == 0.75
    assert cost.dominant_share(pod_of(cpu_milli=1000.0, gpus_milli=3000.0), plain) == 0.25


def two_nodes(node_of: NodeOf, slow_s: float, fast_s: float, *, spread: float = 1e-3, fifo: bool = False) -> Any:
    """`slow` with four cores and `fast` with two, and beliefs that are sure of every pod's run time there."""
    mean = np.array([[slow_s, fast_s]])
    beliefs = Beliefs(mean, mean * spread, np.full(mean.shape, 9.0))
    state = ClusterState(RunTimeEstimator(), fifo=fifo, lookup=(beliefs, lambda _: 0))
    state.put_node(node_of("slow", node_class="slow", cpu_allocatable_milli=4000.0, price_usd_per_h=0.36))
    state.put_node(node_of("fast", node_class="fast", cpu_allocatable_milli=2000.0, price_usd_per_h=1.8))
    return state


def test_economic_is_the_sum_of_its_parts_by_hand(node_of: NodeOf, pod_of: PodOf) -> None:
    """A batch pod of one core, 120 s on `slow`, 60 s on `fast`, where a production pod of 1 core has 100 s to go.

    slow, empty: delay 3 × 0.1/60 × 120 = 0.6; energy 1/4 of 100 W × 120 s = 3,000 J × 12 × 1.2/3.6e6 = 0.012;
    room 1/4 × 0.36 USD/h × 120 s = 0.3 cents. A second replica there: 3 × 0.02 = 0.06.
    fast, half full: run 60 × (1 + 0.3/2) = 69 s; delay 0.345; energy 1/2 × 100 W × 69 s = 3,450 J = 0.0138;
    room 1/2 × 1.8 × 69 s = 1.725 cents; slowdown 0.3 × 1/2 × min(69, 100) s × 10 × 0.1/60 = 0.1725.
    """
    state = two_nodes(node_of, 120.0, 60.0)
    state.place(pod_of("old", sla=SlaClass.PRODUCTION), "fast", 40.0)
    state.place(pod_of("twin", cpu_milli=0.0, memory_bytes=0.0, owner="Job/o"), "slow", 0.0)
    asks = pod_of("q", owner="Job/o", memory_bytes=0.0)
    view = state.view(asks, 0.0)  # the clocks differ: the resident on `fast` starts in 40 s, so it has 100 s to go
    scores = POLICIES["economic"].score(asks, view, np.array([0, 1]))
    # The twin asks for nothing but is there: losing both is priced, and our core slows it by a quarter of 0.3.
    slow = 0.6 + 0.012 + 0.3 + 0.06 + 0.3 * 0.25 * 120 * 3 * 0.1 / 60
    fast = 0.345 + 0.0138 + 1.725 + 0.1725
    np.testing.assert_allclose(-scores, [slow, fast], rtol=1e-6)


def test_economic_tuned_minds_lateness_twice_and_slowdown_six_times(node_of: NodeOf, pod_of: PodOf) -> None:
    """The pods of the test above, the new one late already: 3 cents on both nodes."""
    state = two_nodes(node_of, 120.0, 60.0)
    state.place(pod_of("old", sla=SlaClass.PRODUCTION), "fast", 40.0)
    asks = pod_of("q", memory_bytes=0.0, deadline_s=-1.0)
    scores = POLICIES["economic-tuned"].score(asks, state.view(asks, 0.0), np.array([0, 1]))
    slow = 0.6 + 0.012 + 0.3 + 2 * 3.0
    fast = 0.345 + 0.0138 + 1.725 + 2 * 3.0 + 6 * 0.1725
    np.testing.assert_allclose(-scores, [slow, fast], rtol=1e-6)


@pytest.mark.parametrize(
    ("slack_s", "probability"),
    [
        (math.inf, 0.0),  # no deadline
        (100.0, 0.5),  # exactly the median of the run
        # one standard deviation of the logarithm later: 1 - Phi(1) = 0.1587
        (100.0 * math.e**0.5, 0.1587),
        (100.0 / math.e**0.5, 0.8413),
        (-5.0, 1.0),  # late already
    ],
)
def test_lateness_is_the_tail_of_a_log_normal(
    node_of: NodeOf, pod_of: PodOf, slack_s: float, probability: float
) -> None:
    spread = math.sqrt(math.expm1(0.25))  # standard deviation of log = 0.5
    median = 100.0 * math.exp(0.125)  # mean of a log-normal of median 100
    state = two_nodes(node_of, median, median, spread=spread)
    asks = pod_of("q", deadline_s=slack_s)
    node, pod, pair, _ = raw(asks, state.view(asks, 0.0), np.array([0]))
    assert late_probability(node, pod, pair) == pytest.approx([probability], abs=0.01)


def test_earliest_finish_looks_at_speed_and_least_work_at_the_queue(node_of: NodeOf, pod_of: PodOf) -> None:
    """`fast` has a little work left, `slow` none; the pod runs ten times as long on `slow`."""
    state = two_nodes(node_of, 300.0, 30.0)
    state.place(pod_of("old"), "fast", 0.0)
    asks = pod_of("q")
    view, rows = state.view(asks, 0.0), np.array([0, 1])
    np.testing.assert_allclose(POLICIES["least-work-remaining"].score(asks, view, rows), [0.0, -15.0])  # 30 s × 1/2
    np.testing.assert_allclose(POLICIES["earliest-finish-time"].score(asks, view, rows), [-300.0, -34.5])
    np.testing.assert_allclose(POLICIES["index"].score(asks, view, rows), [-300.0, -34.5])  # in Kubernetes none waits


def test_where_pods_queue_at_nodes_the_index_minds_waiting_four_times(node_of: NodeOf, pod_of: PodOf) -> None:
    state = two_nodes(node_of, 60.0, 30.0, fifo=True)
    state.place(pod_of("old"), "fast", 0.0)
    asks = pod_of("q")
    view, rows = state.view(asks, 10.0), np.array([0, 1])  # 20 s left on one of two cores: 10 s to wait
    np.testing.assert_allclose(POLICIES["earliest-finish-time"].score(asks, view, rows), [-60.0, -40.0])
    np.testing.assert_allclose(POLICIES["index"].score(asks, view, rows), [-60.0, -70.0])


def test_packing_rules_by_hand(node_of: NodeOf, pod_of: PodOf) -> None:
    """The pod leaves 3/4 of cores and 15/16 of memory on `slow`, 1/2 and 15/16 on `fast`."""
    state, asks = two_nodes(node_of, 60.0, 30.0), pod_of("q")
    view, rows = state.view(asks, 0.0), np.array([0, 1])

    def scores(name: str) -> Any:
        return POLICIES[name].score(asks, view, rows)

    np.testing.assert_allclose(scores("best-fit"), [-1.6875, -1.4375])
    np.testing.assert_allclose(scores("balance-fit"), [-0.1875 - 0.3 * 1.6875, -0.4375 - 0.3 * 1.4375])
    np.testing.assert_allclose(scores("least-watts-per-core"), [-25.0, -50.0])
    np.testing.assert_allclose(scores("cheapest"), [-0.09, -0.9], rtol=1e-6)


def test_rules_of_the_literature_by_hand(node_of: NodeOf, pod_of: PodOf) -> None:
    """A pod of one core and one GiB; nodes have 4 and 2 cores, 16 GiB; 20 s are left of one core on `fast`."""
    state = two_nodes(node_of, 60.0, 30.0)
    state.place(pod_of("old"), "fast", 0.0)
    asks = pod_of("q")
    view, rows = state.view(asks, 10.0), np.array([0, 1])

    def scores(name: str) -> Any:
        return POLICIES[name].score(asks, view, rows)

    # 1/4 and 2/2 cores, 1/16 and 2/16 of the memory
    np.testing.assert_allclose(scores("requested-to-capacity"), [16, 56])  # 15.5 and 56 of (25 + 6) and (100 + 12)
    np.testing.assert_allclose(scores("target-load"), [0.6 * 0.25 / 0.4 + 0.4, 0.0], atol=1e-7)
    np.testing.assert_allclose(scores("tetris"), [1 / 4 + 1 / 16, 1 / 2 * 1 / 2 + 1 / 16 * 15 / 16], rtol=1e-6)
    contended = 30.0 * 1.15  # half of its CPU is requested by others
    np.testing.assert_allclose(scores("max-weight"), [-60.0 * 60.0, -(10.0 + contended) * contended], rtol=1e-6)
    assert scores("power-of-2").tolist() == scores("least-work-remaining").tolist()


def test_power_of_two_looks_at_two_candidates_that_differ_from_pod_to_pod(pod_of: PodOf, busy: StateOf) -> None:
    view, rows = busy().view(pod_of("q"), 100.0), np.arange(12)
    drawn = [np.flatnonzero(POLICIES["power-of-2"].score(pod_of(f"u{k}"), view, rows) > -1e9) for k in range(300)]
    assert {len(found) for found in drawn} == {2}
    assert np.bincount(np.concatenate(drawn)).min() > 20  # 50 each, on average
    assert len(np.flatnonzero(POLICIES["power-of-5"].score(pod_of("q"), view, rows[:4]) > -1e9)) == 4


def test_who_asks_for_a_learned_policy_where_rules_are_played_is_offered_rules_alone() -> None:
    with pytest.raises(UserError, match="'learned' is a bundle, and only rules are played here") as said:
        rule(LEARNED)
    assert str(said.value).endswith(f"choose one of {', '.join(POLICIES)}")
