"""Environments for learners: what they show is what a policy is shown, and what they reward is what pods cost."""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray
from pettingzoo.test import parallel_api_test, parallel_seed_test  # type: ignore[import-untyped]

from nodewise.core import cost
from nodewise.core.columns import features_by_scope
from nodewise.core.errors import UserError
from nodewise.core.reply import best
from nodewise.core.types import ClusterView, CostRates, PodRequest, Rows, Scores
from nodewise.policies import DEFAULT
from nodewise_simulator import scenarios
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.envs import ENV_ID, BiddingEnv, Episode, NodewiseEnv, VecEnv
from nodewise_simulator.envs.bidding import highest
from nodewise_simulator.envs.look import NODE_COLUMNS, PAIR_COLUMNS, REQUEST_COLUMNS
from nodewise_simulator.metrics import measure
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World

pytestmark = pytest.mark.timeout(900)  # the first to ask waits for a kernel to be compiled

TINY = "hetero@pods=40,warm=20"
BUSY = "hetero@pods=120,warm=80,load=1.99,size=0.3,mix=batch"
"""Pods wait, and are late."""
ELASTIC = "elastic@pods=200,warm=10,load=0.9,base=0.1,spot=1,interruptions=3,drains=20"
"""Nodes come and go, and most pods are lost once or twice."""
COLUMNS = (*NODE_COLUMNS, *PAIR_COLUMNS, *REQUEST_COLUMNS)
Decision = tuple[str, float, list[str], tuple[NDArray[np.float32], ...], str]


class Watching:
    """Picks a candidate by the pod's name, and keeps what it was shown."""

    name, digest = "watching", "test"

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        scores = np.zeros(len(rows), np.float32)
        scores[sum(pod.uid.encode()) % len(rows)] = 1.0
        names = [view.nodes.name[row] for row in rows]
        seen = features_by_scope(COLUMNS, pod, view, rows)
        self.decisions.append((pod.uid, view.now_s, names, seen, names[int(scores.argmax())]))
        return scores


def reference(made: World) -> tuple[list[Outcome], list[Decision]]:
    policy = Watching()
    direct = Direct(made, policy, DEFAULT)
    rng = np.random.default_rng(0)
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, rng, fits_always=made.fifo)
    return Engine(made, scheduler, direct).run(), policy.decisions


@pytest.mark.parametrize("scenario", [BUSY, ELASTIC, "S0q@pods=60,warm=20", "hetero-1000@pods=30,warm=20"])
def test_a_decision_is_shown_as_the_reference_engine_shows_it_to_a_policy(scenario: str) -> None:
    made = scenarios.make(scenario, 3)
    outcomes, decisions = reference(made)
    episode, names = Episode(made), [n.name for n in made.nodes]
    for uid, now_s, allowed, seen, chosen in decisions:
        assert uid.startswith(made.pods[episode.pod].request.uid)  # a pod's next lives have numbers
        assert episode.now_s == now_s
        rows = [names.index(name) for name in allowed]
        assert sorted(rows) == np.flatnonzero(episode.seen.mask).tolist()
        own = (episode.seen.node[rows], episode.seen.pair[rows], episode.seen.request)
        for mine, other in zip(own, seen, strict=True):
            np.testing.assert_allclose(mine, other, rtol=3e-7, atol=1e-30)
        episode.place(names.index(chosen))
    assert episode.over
    assert len(decisions) > 40
    assert [o.node for o in episode.played.outcomes()] == [o.node for o in outcomes]


def realised(made: World, outcomes: list[Outcome], now_s: float) -> float:
    """What the counted pods cost until a time, one by one."""
    total, nodes = 0.0, {n.name: n for n in made.nodes}
    for pod, o in list(zip(made.pods, outcomes, strict=True))[made.warm :]:
        created_s = pod.request.created_s if math.isnan(o.created_s) else o.created_s
        deadline_s = pod.request.deadline_s if math.isnan(o.deadline_s) else o.deadline_s
        if created_s > now_s:
            continue
        end_s = now_s if math.isnan(o.finished_s) else o.finished_s
        joules = share = price = run_s = 0.0
        if not math.isnan(o.started_s):
            node, run_s = nodes[o.node], end_s - o.started_s
            asked = pod.request.cpu_milli
            joules = float(cost.dynamic_joules(asked, node.cpu_allocatable_milli, node.idle_w, node.peak_w, run_s))
            share, price = cost.dominant_share(pod.request, node), node.price_usd_per_h
        total += cost.realised_cents(
            CostRates(), pod.request, flow_s=end_s - created_s, late=end_s > deadline_s, joules=joules, share=share,
            price_usd_per_h=price, run_s=run_s,
        )  # fmt: skip
    return total


@pytest.mark.parametrize(("scenario", "lost"), [(BUSY, 0), (ELASTIC, 30), ("S2q@pods=40", 0)])
def test_rewards_are_minus_the_cents_that_fell_due_and_sum_to_what_the_counted_pods_cost(
    scenario: str, lost: int
) -> None:
    made, total, decisions = scenarios.make(scenario, 5), 0.0, 0
    episode, rng = Episode(made), np.random.default_rng(0)
    while not episode.over:
        total -= episode.place(int(rng.choice(np.flatnonzero(episode.seen.mask))))
        decisions += 1
        outcomes = episode.played.outcomes()
        if decisions % 10 == 0 and not episode.over:
            assert total == pytest.approx(realised(made, outcomes, episode.now_s), rel=1e-9, abs=1e-9)
    last_s = max(o.finished_s for o in outcomes if not math.isnan(o.finished_s))
    assert total == pytest.approx(realised(made, outcomes, last_s), rel=1e-9)
    assert episode.cents_per_pod == pytest.approx(measure(made, outcomes)["cost"], rel=1e-12)
    assert len(episode.played.log().lost) >= lost


# --- the official checkers -------------------------------------------------------------------------------------------


def test_gymnasium_finds_nothing_to_say() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ENV_ID, scenario=TINY).unwrapped)


def test_pettingzoo_finds_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(BiddingEnv("S0q@pods=40,warm=20"), num_cycles=100)
        parallel_seed_test(lambda: BiddingEnv("S0q@pods=40,warm=20"), num_cycles=100)
    assert "Passed Parallel API test" in capsys.readouterr().out


# --- many at a time --------------------------------------------------------------------------------------------------


def test_many_worlds_at_a_time_are_what_gymnasium_makes_of_single_ones() -> None:
    ours = gymnasium.make_vec(ENV_ID, num_envs=3, vectorization_mode="vector_entry_point", scenario=TINY)
    assert isinstance(ours.unwrapped, VecEnv)
    theirs = SyncVectorEnv([lambda: NodewiseEnv(TINY)] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    steps: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [(ours.reset(seed=4), theirs.reset(seed=4))]
    for _ in range(100):  # into the second worlds
        actions = rng.integers(60, size=3)
        steps.append((ours.step(actions), theirs.step(actions)))
    for mine, other in steps:
        assert all(mine[0][key].dtype == value.dtype for key, value in other[0].items())
        for k, value in enumerate(other[:-1]):
            np.testing.assert_equal(mine[k], value)
        np.testing.assert_equal(mine[-1], other[-1])
    assert sum(other[2].any() for _, other in steps[1:]) > 0


def test_a_seed_is_a_world_and_a_reset_without_one_is_another() -> None:
    env, seen = NodewiseEnv(TINY), []
    for seed in (7, 7, None):
        env.reset(seed=seed)
        assert env.episode is not None
        seen.append([p.request.created_s for p in env.episode.world.pods])
    assert seen[0] == seen[1] == [p.request.created_s for p in scenarios.make(TINY, 7).pods]
    assert seen[2] != seen[0]


def test_a_world_of_fewer_nodes_than_there_is_room_for_has_rows_that_nobody_may_take() -> None:
    env = NodewiseEnv(TINY, nodes=70)
    seen, _ = env.reset(seed=1)
    assert seen in env.observation_space
    assert seen["action_mask"][60:].tolist() == [0] * 10
    assert env.step(69)[-1]["replaced"] == 1


# --- actions ---------------------------------------------------------------------------------------------------------


def test_a_node_that_is_not_feasible_gives_way_to_the_next_that_is() -> None:
    episode = Episode(scenarios.make(TINY, 1))
    episode.seen.mask[:] = False
    episode.seen.mask[[3, 9]] = True
    assert [episode.feasible(row) for row in (3, 9, 4, 2, 10)] == [3, 9, 9, 3, 3]
    assert episode.replaced == 3


def test_the_highest_feasible_bid_wins_and_ties_are_the_extenders() -> None:
    episode, winners = Episode(scenarios.make(TINY, 1)), set()
    table = type("Table", (), {"name": [n.name for n in episode.world.nodes]})
    while not episode.over:
        rows = np.flatnonzero(episode.seen.mask)
        bids = np.where(episode.seen.mask, np.arange(60) % 3, 10)
        pod = episode.world.pods[episode.pod].request
        won = highest(episode, bids)
        assert won == rows[best(pod, table, rows, bids[rows])]  # type: ignore[arg-type]
        winners.add(won)
        episode.place(won)
    assert len(winners) > 5


# --- refusals --------------------------------------------------------------------------------------------------------


def stepped(actions: Any, env: Any = None) -> None:
    made = env or VecEnv(2, TINY)
    made.reset(seed=1)
    made.step(actions)


def ended() -> Episode:
    episode = Episode(scenarios.make(TINY, 1))
    while not episode.over:
        episode.place(int(np.flatnonzero(episode.seen.mask)[0]))
    return episode


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: NodewiseEnv("nowhere"), "there is no scenario 'nowhere'; "),
        (lambda: NodewiseEnv(TINY, nodes=1), "an environment of nodes=1 has nothing to decide; take 2 or more"),
        (lambda: NodewiseEnv(TINY, nodes=5).reset(seed=1), ".* 60 nodes and .* room for 5; give it nodes=60 or more"),
        (lambda: NodewiseEnv(TINY, render_mode="human"), "the environment draws nothing; leave out "),
        (lambda: VecEnv(0, TINY), "there cannot be num_envs=0 worlds; take 1 or more"),
        (lambda: stepped([1, 2, 3]), r"step wants one action for each of 2 worlds, not an array of \(3,\)"),
        (lambda: stepped([1.0, 2.0]), "step wants rows of nodes as whole numbers, not an array of float64"),
        (lambda: stepped(3.7, NodewiseEnv(TINY)), "action 3.7 is no node; take a whole number"),
        (lambda: stepped({"node_3": 11}, BiddingEnv(TINY)), "node_3 bids 11; a bid is a whole number from 0 to 10"),
        (lambda: ended().feasible(0), "the episode is over; reset the environment"),
        (lambda: highest(ended(), np.zeros(60, int)), "the episode is over; reset the environment"),
        (lambda: stepped({"node_3": 3.7}, BiddingEnv(TINY)), "node_3 bids 3.7; a bid is a whole number from 0 to 10"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^{says}[^\n]*$"):
        wrong()


@pytest.mark.parametrize("wrong", [-1, 60])
def test_a_wrong_action_in_one_world_leaves_all_of_them_as_they_were(wrong: int) -> None:
    env = VecEnv(2, TINY)
    env.reset(seed=1)
    asking = [(e.pod, e.now_s, e.due_cents) for e in env.episodes]
    with pytest.raises(UserError, match=f"^action {wrong} is no node; take one from 0 to 59$"):
        env.step([1, wrong])
    assert [(e.pod, e.now_s, e.due_cents) for e in env.episodes] == asking


def test_gymnasium_is_imported_when_its_environments_are_asked_for_and_not_before() -> None:
    asks = "import sys, nodewise_simulator.envs as envs; before = 'gymnasium' in sys.modules; envs.VecEnv; "
    asks += "print(before, 'Nodewise/Place-v0' in sys.modules['gymnasium'].registry)"
    told = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("name", "file", "package"),
    [
        ("NodewiseEnv", "single", "gymnasium"), ("VecEnv", "vector", "gymnasium"),
        ("BiddingEnv", "bidding", "pettingzoo"),
    ],
)  # fmt: skip
def test_without_the_packages_the_extra_is_named(
    name: str, file: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"nodewise_simulator.envs.{file}")
    envs = sys.modules["nodewise_simulator.envs"]
    with pytest.raises(UserError, match=rf"needs? {package}; pip install 'nodewise\[envs\]'$"):
        getattr(envs, name)
