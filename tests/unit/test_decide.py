"""One decision: what is answered, and what stands in when a policy does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewise.core.decide import PolicyRefusalError, decide
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView, Decision, Fallback, Kind, PodRequest, Rows, Scores

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
ClusterOf = Callable[..., ClusterState]

SOFT = {"key": "spot", "effect": "PreferNoSchedule"}


class Says:
    """A policy that gives these scores, or does what it is told."""

    digest = "sha256:0"

    def __init__(self, *scores: float, act: Callable[[], Any] | None = None, name: str = "said") -> None:
        self.name = name
        self.scores = np.array(scores, np.float32)
        self.act = act

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        if self.act is not None:
            return self.act()  # type: ignore[no-any-return]
        return self.scores[rows]


def refuse(why: Fallback) -> Any:
    raise PolicyRefusalError(why, "no")


def fail() -> Any:
    raise RuntimeError("boom")


@pytest.fixture(scope="session")
def cluster(node_of: NodeOf) -> ClusterOf:
    def made(*specs: dict[str, Any]) -> ClusterState:
        state = ClusterState(RunTimeEstimator())
        for k, spec in enumerate(specs):
            state.put_node(node_of(f"n{k}", **spec))
        return state

    return made


def said(state: ClusterState, pod: PodRequest, policy: Any, rule: Any = None, rows: Any = None) -> Decision:
    view = state.view(pod, 0.0)
    if rows is None:
        rows = np.arange(len(view.nodes.name))
    return decide(pod, view, rows, policy, policy if rule is None else rule)


# --- the reply ---


@settings(deadline=None)
@given(scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, -3.5, 1e30]), min_size=1, max_size=12), uid=st.text(max_size=9))
def test_a_pod_without_preferences_gets_one_ten_and_it_is_a_best_one(
    cluster: ClusterOf, pod_of: PodOf, scores: list[float], uid: str
) -> None:
    decision = said(cluster(*[{}] * len(scores)), pod_of(uid), Says(*scores))
    ((name, points),) = decision.reply
    assert points == 10
    assert scores[int(name[1:])] == max(scores)
    assert decision.winner == int(name[1:])
    assert decision.propensities.sum() == decision.propensities[decision.winner] == 1.0
    assert (decision.policy, decision.digest, decision.fallback, decision.neutral) == ("said", "sha256:0", "", "")


def test_ties_are_spread_over_pods_and_do_not_depend_on_the_order_of_candidates(
    cluster: ClusterOf, pod_of: PodOf
) -> None:
    state = cluster(*[{}] * 4)
    winners = []
    for k in range(400):
        pod = pod_of(f"uid-{k}")
        winners.append(said(state, pod, Says(1, 1, 1, 0)).winner)
        assert said(state, pod, Says(1, 1, 1, 0), rows=np.array([3, 1, 2, 0])).winner == winners[-1]
    assert np.bincount(winners, minlength=4)[3] == 0
    assert (np.bincount(winners)[:3] > 90).all()  # 133 each, ± 4 standard deviations of 9


def test_with_preferences_the_best_of_each_equally_preferred_group_gets_ten(cluster: ClusterOf, pod_of: PodOf) -> None:
    ssd = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    state = cluster({"labels": {"disk": "ssd"}}, {"labels": {"disk": "ssd"}}, {}, {}, {})
    decision = said(state, pod_of(preferred_node_terms=(ssd,)), Says(1, 2, 9, 7, 8))
    # In each group: the best 10, the others 9 × (size - rank) // size.
    assert dict(decision.reply) == {"n1": 10, "n0": 4, "n2": 10, "n4": 6, "n3": 3}
    assert decision.winner == 2


def test_a_soft_taint_that_is_not_tolerated_makes_groups(cluster: ClusterOf, pod_of: PodOf) -> None:
    state = cluster({"taints": (SOFT,)}, {"taints": ({"key": "x", "effect": "NoSchedule"},)}, {})
    assert dict(said(state, pod_of(), Says(3, 2, 1)).reply) == {"n0": 10, "n1": 10, "n2": 4}
    tolerant = pod_of(tolerations=({"key": "spot", "operator": "Exists"},))
    assert dict(said(state, tolerant, Says(3, 2, 1)).reply) == {"n0": 10}
    clean = said(state, pod_of(), Says(3, 2, 1), rows=np.array([1, 2]))  # the tainted node is no candidate
    assert dict(clean.reply) == {"n1": 10}


def test_spread_over_zones_groups_by_how_many_of_the_owner_stand_in_each(cluster: ClusterOf, pod_of: PodOf) -> None:
    zones = [{"labels": {"zone": z}} for z in ("a", "a", "b", "c")]
    state, owner = cluster(*zones), "ReplicaSet/web"
    state.place(pod_of("one", owner=owner), "n0")
    pod = pod_of("two", owner=owner, preferred_topologies=("zone",))
    # zone a has one of its own (group n0, n1), b and c have none (group n2, n3).
    assert dict(said(state, pod, Says(1, 2, 3, 4)).reply) == {"n1": 10, "n0": 4, "n3": 10, "n2": 4}
    alone = pod_of("three", preferred_topologies=("zone",))
    assert dict(said(state, alone, Says(1, 2, 3, 4)).reply) == {"n3": 10, "n2": 6, "n1": 4, "n0": 2}


@settings(deadline=None)
@given(data=st.data(), n=st.integers(1, 30))
def test_points_are_whole_numbers_from_one_to_ten_each_node_once_and_ranks_agree_with_scores(
    cluster: ClusterOf, pod_of: PodOf, data: Any, n: int
) -> None:
    scores = data.draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=n, max_size=n))
    tainted = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    state = cluster(*({"taints": (SOFT,) if t else ()} for t in tainted))
    reply = said(state, pod_of(), Says(*scores)).reply
    assert all(type(p) is int and 1 <= p <= 10 for _, p in reply)
    points = dict(reply)
    assert len(points) == len(reply)
    for group in (True, False):
        members = [k for k in range(n) if tainted[k] is group]
        if any(tainted) and members:
            assert sum(points.get(f"n{k}") == 10 for k in members) == 1
            ranked = sorted(members, key=lambda k: -points.get(f"n{k}", 0))
            assert [scores[k] for k in ranked] == sorted((scores[k] for k in members), reverse=True) or n > 9


# --- what stands in ---


@pytest.mark.parametrize(
    ("policy", "fallback"),
    [
        (Says(1, 2, 3), Fallback.NONE),
        (Says(act=lambda: refuse(Fallback.DEADLINE)), Fallback.DEADLINE),
        (Says(act=lambda: refuse(Fallback.OUT_OF_RANGE)), Fallback.OUT_OF_RANGE),
        (Says(act=fail), Fallback.ERROR),
        (Says(1, float("nan"), 3), Fallback.NON_FINITE),
        (Says(act=lambda: np.zeros(2, np.float32)), Fallback.WRONG_SHAPE),
    ],
    ids=[f.name.lower() for f in (Fallback.NONE, Fallback.DEADLINE, Fallback.OUT_OF_RANGE)]
    + [f.name.lower() for f in (Fallback.ERROR, Fallback.NON_FINITE, Fallback.WRONG_SHAPE)],
)
def test_each_way_to_fail_has_a_name_and_the_rule_stands_in(
    cluster: ClusterOf, pod_of: PodOf, policy: Says, fallback: Fallback
) -> None:
    decision = said(cluster({}, {}, {}), pod_of(), policy, Says(9, 0, 0, name="rule"))
    assert decision.fallback is fallback
    assert decision.policy == ("said" if fallback is Fallback.NONE else "rule")
    assert decision.reply == ((("n2" if fallback is Fallback.NONE else "n0"), 10),)
    assert decision.notes.get("refused") == (None if fallback is Fallback.NONE else "said")


class WordlessError(Exception):
    """Whoever asks what it says gets an error instead."""

    def __str__(self) -> str:
        raise ValueError


def wordless() -> Any:
    raise WordlessError(3)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Says(act=lambda: refuse(Fallback.OUT_OF_RANGE)), "no"),
        (Says(act=fail), "RuntimeError: boom"),
        (Says(act=wordless), "WordlessError"),
        (Says(1, float("nan"), 3), "1 of its 3 scores are not finite"),
        (Says(act=lambda: np.zeros(2, np.float32)), "its scores have shape (2,) for 3 candidates"),
    ],
    ids=["refusal", "error", "error without words", "nan", "shape"],
)
def test_a_decision_of_the_rule_tells_why_the_policy_did_not(
    cluster: ClusterOf, pod_of: PodOf, policy: Says, why: str
) -> None:
    decision = said(cluster({}, {}, {}), pod_of(), policy, Says(9, 0, 0, name="rule"))
    assert decision.notes == {"refused": "said", "why": why}


def test_every_fallback_is_covered_above() -> None:
    assert len(Fallback) == 6


def test_a_policy_that_works_decides_though_the_rule_fails(cluster: ClusterOf, pod_of: PodOf) -> None:
    decision = said(cluster({}, {}), pod_of(), Says(1, 2), Says(act=fail, name="rule"))
    assert (decision.reply, decision.fallback, decision.policy) == ((("n1", 10),), Fallback.NONE, "said")


def test_if_both_fail_the_answer_is_neutral_and_says_so(cluster: ClusterOf, pod_of: PodOf) -> None:
    decision = said(cluster({}, {}), pod_of(), Says(act=lambda: refuse(Fallback.DEADLINE)), Says(act=fail))
    assert (decision.reply, decision.winner, decision.neutral) == ((), -1, "rule-failed:policy-error")
    alone = Says(float("inf"), 0)
    assert said(cluster({}, {}), pod_of(), alone).neutral == "rule-failed:non-finite-scores"


JUNK = [
    lambda: None, lambda: "abc", lambda: 7, list, lambda: [1, 2], lambda: [[1, 2, 3]], lambda: {"a": 1},
    lambda: np.array(["x", "y", "z"]), lambda: np.array([object()] * 3), lambda: np.array([1e300, 0, 0]),
    lambda: [1j, 2j, 3j], lambda: np.zeros((3, 1)), lambda: refuse(Fallback.NONE), fail, lambda: 1 / 0,
    lambda: [-np.inf, 0, 0], lambda: ["1", "2", "3"],
]  # fmt: skip


@settings(deadline=None)
@given(
    policy=st.sampled_from(JUNK), rule=st.sampled_from(JUNK), kind=st.sampled_from(Kind), m=st.integers(0, 3),
    archs=st.sampled_from([(), ("amd64",)]), pinned=st.booleans(),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_deciding_never_raises(
    cluster: ClusterOf, pod_of: PodOf, policy: Any, rule: Any, kind: Kind, m: int, archs: tuple[str, ...], pinned: bool
) -> None:
    state = cluster({}, {"arch": "arm64"}, {"taints": (SOFT,)})
    pod = pod_of(kind=kind, archs=archs, pinned=pinned)
    decision = said(state, pod, Says(act=policy), Says(act=rule, name="rule"), np.arange(m))
    assert bool(decision.reply) is not bool(decision.neutral)
    assert (decision.winner >= 0) is bool(decision.reply)
