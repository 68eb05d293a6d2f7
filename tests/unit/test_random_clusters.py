"""The random clusters of the learning study: what is drawn, how loaded they are, and that nobody sees the future."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.types import Kind
from nodewise.policies import DEFAULT
from nodewise.policies.waiting import Waiting, WaitingPolicy
from nodewise_simulator import scenarios
from nodewise_simulator.direct import Deferring, Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.run import play, resolve
from nodewise_simulator.scenarios.arrivals import Wave, arrivals
from nodewise_simulator.scenarios.capacity import fluid_capacity
from nodewise_simulator.scenarios.random_clusters import cluster, random_clusters
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World, created_again


@pytest.fixture(scope="module")
def whole() -> World:
    """As it is by default."""
    return scenarios.make("random-clusters", 3)


@pytest.fixture(scope="module")
def small() -> World:
    """Six nodes, warm after 10 pods a node, at 95 % so that pods wait."""
    return scenarios.make("random-clusters@nodes=6,load=0.95,per_node=24,warm=10", 5)


def test_the_first_50_pods_per_node_are_not_counted_and_150_per_node_are(whole: World) -> None:
    assert len(whole.nodes) == 40
    assert whole.warm == 50 * 40
    assert len(whole.pods) - whole.warm == 150 * 40
    assert {n.node_class for n in whole.nodes} == set(whole.classes)
    arrivals_s = [p.request.created_s for p in whole.pods]
    assert all(a <= b for a, b in pairwise(arrivals_s))
    assert {p.request.kind for p in whole.pods} == {Kind.JOB}


def test_the_counted_pods_come_at_the_asked_share_of_the_fluid_capacity(whole: World) -> None:
    counted = whole.pods[whole.warm :]
    took_s = counted[-1].request.created_s - counted[0].request.created_s
    drawn = cluster(3, 40, "immediate")
    # A Poisson number of 6,000 scatters by 1.3 %.
    assert len(counted) / took_s / drawn.capacity.pods_per_s == pytest.approx(0.7, rel=0.05)
    # The pods as they really came out, routed as the program says, use that share of the busiest resource too.
    kinds = {k.name: w for w, k in enumerate(drawn.kinds)}
    of_kind = np.array([kinds[p.request.workload] for p in counted])
    alone_s = np.stack([p.true_run_s for p in counted])
    cores = np.array([32.0, 16.0, 12.0, 16.0, 16.0, 8.0])
    used = np.zeros(6)
    for w, kind in enumerate(drawn.kinds):
        routed = drawn.capacity.routed_per_s[w] / drawn.capacity.routed_per_s[w].sum()
        full = 1.0 + kind.sensitivity * (1.0 - kind.cores / cores)
        used += alone_s[of_kind == w].sum(axis=0) * full * routed * kind.cores
    share = used / (cores * np.array(drawn.counts) * took_s)
    assert share.max() == pytest.approx(0.7, rel=0.15)  # run times are log-normal with sigma up to 0.9


def test_whatever_the_load_a_seed_has_the_same_pods() -> None:
    low, high = (random_clusters(4, load=x, nodes=6, per_node=5, warm=2) for x in (0.5, 0.9))
    assert [n.name for n in low.nodes] == [n.name for n in high.nodes]
    for a, b in zip(low.pods, high.pods, strict=True):
        assert (a.request.workload, a.request.cpu_milli) == (b.request.workload, b.request.cpu_milli)
        assert a.true_run_s.tolist() == b.true_run_s.tolist()
    assert low.pods[-1].request.created_s > high.pods[-1].request.created_s


def test_bursts_are_no_longer_in_longer_traces() -> None:
    for counted in (3000, 12_000):
        times = arrivals(np.random.default_rng(1), Wave(burst=10.0, wave=0.0, run_s=1.0), 20.0, 0, counted)
        per_run, _ = np.histogram(times, np.arange(0.0, times[-1]))
        busy = np.concatenate([[0], (per_run > 2.0 * np.median(per_run)).astype(int), [0]])
        edges = np.flatnonzero(np.diff(busy))
        lengths = edges[1::2] - edges[::2]
        assert 0 < lengths.max() <= 11
        assert len(times) / times[-1] == pytest.approx(20.0, rel=0.08)


def test_without_bursts_and_wave_arrivals_are_poisson() -> None:
    times = arrivals(np.random.default_rng(2), Wave(burst=1.0, wave=0.0, run_s=30.0), 2.0, 500, 4000)
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.5, rel=0.05)
    assert gaps.std() == pytest.approx(0.5, rel=0.08)


def test_the_fluid_capacity_by_hand() -> None:
    one = np.ones((1, 1))
    # Three servers of 2 s and one of 4 s: 1.5 + 0.25 pods a second.
    made = fluid_capacity(np.ones(1), np.array([[2.0, 4.0]]), one, np.array([[3.0], [1.0]]))
    assert made.pods_per_s == pytest.approx(1.75)
    assert made.run_s == pytest.approx((1.5 * 2.0 + 0.25 * 4.0) / 1.75)
    # Each kind on the class that it is ten times faster on: 2 a second, although a mean class serves 1 ÷ 5.5.
    made = fluid_capacity(np.array([0.5, 0.5]), np.array([[1.0, 10.0], [10.0, 1.0]]), np.ones((2, 1)), np.ones((2, 1)))
    assert made.pods_per_s == pytest.approx(2.0)
    assert made.routed_per_s == pytest.approx(np.eye(2))
    # The scarcer of two resources decides: 8 CPU ÷ 1 but 6 GiB ÷ 2, for 10 s each.
    made = fluid_capacity(np.ones(1), np.array([[10.0]]), np.array([[1.0, 2.0]]), np.array([[8.0, 6.0]]))
    assert made.pods_per_s == pytest.approx(0.3)
    with pytest.raises(UserError, match="no node class"):
        fluid_capacity(np.ones(1), np.array([[np.inf]]), one, one)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("random-clusters@mode=lazy", "mode 'lazy' of scenario random-clusters is unknown"),
        ("random-clusters@nodes=5", "nodes >= 6"),
        ("random-clusters@burst=0.5", "1 <= burst"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        scenarios.make(text, 0)


def test_in_dispatch_mode_each_pod_goes_to_a_queue_when_it_arrives() -> None:
    world = scenarios.make("random-clusters@nodes=6,mode=dispatch,per_node=8,warm=2", 1)
    outcomes = run(world, "earliest-finish-time")
    assert world.fifo
    assert all(o.bound_s == p.request.created_s for o, p in zip(outcomes, world.pods, strict=True))
    assert any(o.started_s > o.bound_s for o in outcomes)
    # Every node takes it at once, so there is none to wait for.
    assert run(world, "earliest-finish-time-defer") == outcomes


@pytest.mark.parametrize("name", ["economic-defer", "economic-cmu", "economic-defer-cmu"])
def test_the_future_changes_no_decision(small: World, name: str) -> None:
    before = 110
    rng = np.random.default_rng(0)
    order = np.concatenate([np.arange(before), before + rng.permutation(len(small.pods) - before)])
    times = [p.request.created_s for p in small.pods]
    other = replace(
        small, pods=tuple(created_again(small.pods[k], times[at], 1) for at, k in enumerate(order.tolist()))
    )
    horizon_s = times[before]
    seen = [
        {o.index: (o.node, o.bound_s) for o in run(world, name) if o.bound_s < horizon_s} for world in (small, other)
    ]
    assert seen[0] == seen[1]
    assert 60 < len(seen[0]) <= before


def test_pods_are_held_wait_within_their_limits_and_all_end(small: World) -> None:
    found, _ = resolve("economic-defer-cmu")
    result, direct = play(small, found)
    assert isinstance(direct, Deferring)
    assert isinstance(direct.deferral, Waiting)
    assert result.metrics["unfinished"] == 0.0
    assert (len(direct.deferral), direct.deferral.deferred) == (0, 0)
    assert direct.deferral.priced > 20


def run(world: World, name: str) -> list[Outcome]:
    """The outcomes, with times, of a policy on a world."""
    policy, _ = resolve(name)
    direct = Direct(world, policy, DEFAULT)
    if isinstance(policy, WaitingPolicy):
        direct = Deferring(world, policy, DEFAULT, policy.deferral())
    rng = np.random.default_rng([world.seed, 99])
    scheduler = KubeScheduler(world.nodes, direct, direct.cache.view, rng, fits_always=world.fifo)
    return Engine(world, scheduler, direct).run()
