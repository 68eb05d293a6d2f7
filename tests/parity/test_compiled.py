"""The compiled engine against the reference engine: the same node for every pod, the same times to the last bit."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nodewise.core.columns import COLUMNS, arguments, features_by_scope, split
from nodewise.core.decide import PolicyRefusalError
from nodewise.core.errors import UserError
from nodewise.core.raw import raw
from nodewise.core.types import ClusterView, Fallback, PodRequest, Policy, Rows, Scores
from nodewise.policies import DEFAULT, POLICIES
from nodewise.policies.economic import TERMS
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import run
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import Net, Record, State, play_net, play_rule, play_sampled, simulate
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.scorer import score
from nodewise_simulator.world import World, sim_pod

from .worlds import ALL, WORLDS, odd_world, placed, random_net


@pytest.fixture(scope="module", params=list(WORLDS))
def made(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]()


# --- both engines ----------------------------------------------------------------------------------------------------


class Scored:
    """The compiled scorer as a policy of the reference engine."""

    name, digest = "scored", "test"

    def __init__(self, net: Net) -> None:
        self.net, self.parts = net, split(net.columns)
        self.refused = 0
        self.seen: list[tuple[NDArray[np.float32], ...]] = []
        """Node [M, Kn], pair [M, Kr] and request [Kp] of each decision."""

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        seen = features_by_scope(self.net.columns, pod, view, rows)
        for values, part in zip(seen, self.parts, strict=True):
            if ((values < self.net.low[part]) | (values > self.net.high[part])).any():
                self.refused += 1
                raise PolicyRefusalError(Fallback.OUT_OF_RANGE, "outside")
        self.seen.append(seen)
        out = np.empty(len(rows), np.float32)
        score(self.net.weights, self.net.sizes, *seen, out)
        return out


def reference(made: World, policy: Policy) -> tuple[list[Outcome], Engine, KubeScheduler]:
    direct = Direct(made, policy, DEFAULT)
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, np.random.default_rng(0))
    engine = Engine(made, scheduler, direct)
    return engine.run(), engine, scheduler


def assert_same(own: Sequence[Outcome], other: Sequence[Outcome]) -> None:
    assert [o.node for o in own] == [o.node for o in other]
    mine, theirs = (np.array([(o.bound_s, o.started_s, o.finished_s) for o in outcomes]) for outcomes in (own, other))
    np.testing.assert_array_equal(mine, theirs)


def bounded(net: Net) -> Net:
    """Not to be asked about long slack or about nodes that are all but full."""
    high = net.high.copy()
    high[ALL.index("log_slack")], high[ALL.index("cpu_requested_share")] = 9.0, 0.97
    return replace(net, high=high)


def test_economic_places_every_pod_as_the_reference_engine_does(made: World) -> None:
    outcomes, engine, scheduler = reference(made, DEFAULT)
    state, own = placed(made, play_rule)
    assert_same(own, outcomes)
    assert state.number[kn.ASKED] == scheduler.asked > 100
    assert sum(o.finished_s > 0.0 for o in own) > 0.9 * len(own)
    if made.seed == 13 or made.scenario == "odd":
        assert max(engine.backlog) > 3  # pods that really wait


def assert_shown_alike(made: World, net: Net, seen: Sequence[tuple[NDArray[np.float32], ...]]) -> None:
    """Every column of every candidate is that of numpy; a last bit may differ where beliefs, or logarithms, do."""
    flat = flatten(made)
    state, record = State.start(flat), Record.room(len(made.pods), len(made.nodes), ALL)
    run._play(flat, state, (kn.GREEDY, np.ones(len(TERMS))), net, 0.0, np.zeros(0), record, 0, len(made.pods) + 1)
    assert state.number[kn.RECORDED] == len(seen)
    for k, (node, pair, request) in enumerate(seen):
        for own, other in ((record.node[k, : len(node)], node), (record.pair[k, : len(node)], pair)):
            np.testing.assert_allclose(own, other, rtol=3e-7, atol=1e-30)
        np.testing.assert_allclose(record.request[k], request, rtol=3e-7)


def test_a_scorer_places_every_pod_as_the_reference_engine_does(made: World) -> None:
    net = bounded(random_net())
    policy = Scored(net)
    outcomes, _, scheduler = reference(made, policy)
    state, own = placed(made, play_net, net)
    assert_same(own, outcomes)
    assert_shown_alike(made, net, policy.seen)
    assert state.number[kn.REFUSED] == policy.refused
    assert 0 < policy.refused < scheduler.asked
    assert state.number[kn.DEPARTED] > 0.3 * (scheduler.asked - policy.refused)


@pytest.mark.parametrize("play", [(play_rule,), (play_net, random_net())], ids=["rule", "net"])
def test_no_decision_depends_on_the_future(play: tuple[Any, ...]) -> None:
    whole, shown = scenarios.make("hetero@load=1.1,pods=300,warm=200", 3), 320
    order = np.random.default_rng(0).permutation(np.arange(shown, len(whole.pods)))
    later = [whole.pods[k] for k in order]
    swapped = [
        replace(p, request=replace(p.request, created_s=at.request.created_s))
        for p, at in zip(later, whole.pods[shown:], strict=True)
    ]
    other = replace(whole, pods=(*whole.pods[:shown], *swapped))
    (state, own), (_, turned) = placed(whole, *play), placed(other, *play)
    until_s = whole.pods[shown].request.created_s
    decided = np.flatnonzero(state.pod[:, kn.BOUND_S] < until_s)
    assert len(decided) > 250
    assert [own[k].node for k in decided] == [turned[k].node for k in decided]
    assert [o.node for o in own] != [o.node for o in turned]


def test_what_is_played_in_pieces_is_what_is_played_at_once() -> None:
    made, net = WORLDS["odd"](), bounded(random_net())
    flat, whole = flatten(made), placed(made, play_net, net)[0]
    state = State.start(flat)
    for until in (1, 50, 51, 200):
        play_net(flat, state, net, until)
        state = state.copy()
    play_net(flat, state, net)
    for field in fields(State):
        np.testing.assert_array_equal(getattr(state, field.name), getattr(whole, field.name), err_msg=field.name)


def test_weights_of_the_terms_are_those_of_a_rule_of_ones_own() -> None:
    made, weights = WORLDS["odd"](), np.array([3.0, 0.0, 20.0, 5.0, 0.5, 40.0, 1.0])

    class Weighted:
        name, digest = "weighted", "test"

        def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
            values = raw(pod, view, rows)
            terms = [COLUMNS[t].fn(*arguments(COLUMNS[t], values)) for t in TERMS]
            return np.asarray(-sum(w * t for w, t in zip(weights, terms, strict=True)), np.float32)

    own = placed(made, play_rule, None, weights)[1]
    assert_same(own, reference(made, Weighted())[0])
    assert [o.node for o in own] != [o.node for o in placed(made, play_rule)[1]]


# --- rules by name ---------------------------------------------------------------------------------------------------

TRACES = int(os.environ.get("NODEWISE_PARITY_TRACES", "40"))
"""How many random traces are played; the whole thousand: NODEWISE_PARITY_TRACES=1000 pytest -k random_trace ..."""
COMPILED = [name for name, rule in POLICIES.items() if rule.takes != "view"]


@settings(max_examples=TRACES, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31), nodes=st.sampled_from([1, 2, 3, 6, 9, 17, 101, 130]), pods=st.integers(2, 90),
    name=st.sampled_from(COMPILED),
)  # fmt: skip
def test_a_rule_places_every_pod_of_a_random_trace_as_the_reference_engine_does(
    seed: int, nodes: int, pods: int, name: str
) -> None:
    made = odd_world(seed, nodes=nodes, pods=pods)
    outcomes, _, scheduler = reference(made, POLICIES[name])
    state = simulate(made, name)
    assert_same(state.outcomes([n.name for n in made.nodes]), outcomes)
    assert state.number[kn.ASKED] == scheduler.asked


def test_economic_is_the_sum_of_its_terms_whichever_way_it_is_compiled() -> None:
    made = WORLDS["odd"]()
    assert_same(simulate(flatten(made), DEFAULT).outcomes(flatten(made).names), placed(made, play_rule)[1])


def test_a_rule_that_wants_the_whole_view_is_refused_in_a_sentence() -> None:
    other = replace(DEFAULT, name="other", takes="view")
    with pytest.raises(UserError, match=r"^the compiled engine does not play 'other'; choose one of kube-default, "):
        simulate(WORLDS["half"](), other)


# --- sampling --------------------------------------------------------------------------------------------------------


def test_draws_follow_the_softmax_of_the_recorded_scores_and_records_are_what_a_policy_sees() -> None:
    made, net, sharpness, first, until = WORLDS["busy"](), random_net(), 2.0, 100, 400
    flat = flatten(made)
    state, uniforms = State.start(flat), np.random.default_rng(1).random(len(made.pods))
    record = Record.room(250, len(made.nodes), ALL)
    play_net(flat, state, net, first)
    play_sampled(flat, state, net, sharpness, uniforms, record, first, until)
    assert state.number[kn.RECORDED] == 250  # no more than there is room for
    ranks = []
    for k, (p, m, chosen) in enumerate(record.choice.tolist()):
        assert first <= p < until
        scores = np.empty(m, np.float32)
        score(net.weights, net.sizes, record.node[k, :m], record.pair[k, :m], record.request[k], scores)
        logits = sharpness * scores.astype(float)
        share = np.exp(logits - logits.max())
        share /= share.sum()
        assert record.logp[k] == pytest.approx(math.log(share[chosen]), abs=1e-9)
        below = share[:chosen].sum()
        assert below - 1e-12 <= uniforms[p] <= below + share[chosen] + 1e-12
        ranks.append(int((scores > scores[chosen]).sum()))
    assert 0 < np.count_nonzero(ranks) < 250


def test_a_very_sharp_draw_is_the_best_node() -> None:
    made, net = WORLDS["odd"](), random_net()
    flat = flatten(made)
    state, best = State.start(flat), placed(made, play_net, net)[1]
    play_sampled(flat, state, net, 1e9, np.full(len(made.pods), 0.3), None, 0, len(made.pods) + 1)
    names = [n.name for n in made.nodes]
    same = [own.node == other.node for own, other in zip(state.outcomes(names), best, strict=True)]
    assert np.mean(same) > 0.9  # but for nodes that score the same


# --- refusals --------------------------------------------------------------------------------------------------------


def changed(**spec: Any) -> World:
    made = scenarios.make("hetero@pods=3,warm=1", 1)
    manifest = made.pods[0].manifest
    other = {**manifest, "spec": {**manifest["spec"], **spec}}
    return replace(made, pods=(sim_pod(other, made.pods[0].true_run_s), *made.pods[1:]))


def tainted() -> World:
    made = scenarios.make("hetero@pods=3,warm=1", 1)
    soft = replace(made.nodes[0], taints=({"key": "k", "effect": "PreferNoSchedule"},))
    return replace(made, nodes=(soft, *made.nodes[1:]))


def turned() -> World:
    made = scenarios.make("hetero@pods=3,warm=1", 1)
    return replace(made, pods=made.pods[::-1])


PREFER = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}}


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (lambda: scenarios.make("S0q@pods=3,warm=1", 1), "queues at nodes"),
        (tainted, "soft taints"),
        (lambda: changed(affinity=PREFER), "preferences, as pod .* has"),
        (lambda: changed(affinity={}), "without an opinion of ours, as"),
        (lambda: changed(volumes=[{"name": "v", "ephemeral": {}}]), "without an opinion of ours, as"),
        (lambda: changed(priority=2_000_000_000), "without an opinion of ours, as"),
        (turned, "order of arrival"),
    ],
)  # fmt: skip
def test_a_world_that_is_not_modelled_is_refused_in_a_sentence(refused: Callable[[], World], says: str) -> None:
    with pytest.raises(UserError, match=f"^the compiled engine does not model .*{says}.*\\(scenario [^\n]*\\)$"):
        flatten(refused())
