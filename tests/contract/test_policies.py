"""What every rule promises, over the registry."""

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import Kind, PodRequest, SlaClass
from nodewise.policies import DEFAULT, POLICIES, rule
from nodewise.policies.economic import TERMS
from nodewise.policies.rule import Rule

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
StateOf = Callable[..., ClusterState]

each = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))

alone = pytest.mark.parametrize(
    "policy", [p for p in POLICIES.values() if not p.name.startswith("power-of-")], ids=lambda p: p.name
)
"""All but those that draw a few of the candidates."""

NODES = 12


def pods(pod_of: PodOf) -> st.SearchStrategy[PodRequest]:
    return st.builds(
        pod_of,
        uid=st.text(min_size=1, max_size=8),
        cpu_milli=st.sampled_from([0.0, 100.0, 2500.0, 1e6]),
        memory_bytes=st.sampled_from([0.0, 2.0**30, 2.0**45]),
        gpus_milli=st.sampled_from([0.0, 1000.0]),
        kind=st.sampled_from([Kind.JOB, Kind.SERVICE, Kind.INDEXED, Kind.BARE]),
        sla=st.sampled_from(SlaClass),
        owner=st.sampled_from(["", "ReplicaSet/o1"]),
        created_s=st.sampled_from([float("nan"), 0.0, 99.0]),
        deadline_s=st.sampled_from([float("inf"), 50.0, 400.0]),
        workload=st.sampled_from(["w0", "w3", "unseen"]),
        expected_run_s=st.sampled_from([float("nan"), 30.0]),
    )


def frozen(*things: Any) -> bytes:
    return pickle.dumps([dataclasses.asdict(t) if dataclasses.is_dataclass(t) else t for t in things])  # type: ignore[arg-type]


@each
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_scores_are_finite_float32_one_a_candidate(policy: Rule, busy: StateOf, pod_of: PodOf, data: Any) -> None:
    pod = data.draw(pods(pod_of))
    rows = np.array(data.draw(st.lists(st.integers(0, NODES - 1), min_size=1, unique=True)))
    scores = policy.score(pod, busy().view(pod, 100.0), rows)
    assert scores.dtype == np.float32
    assert scores.shape == (len(rows),)
    assert np.isfinite(scores).all()


@alone
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(NODES)), m=st.integers(1, NODES), seed=st.integers(0, 20))
def test_a_score_depends_on_its_node_and_not_on_the_other_candidates(
    policy: Rule, busy: StateOf, pod_of: PodOf, order: list[int], m: int, seed: int
) -> None:
    """Permutation included: kube-scheduler sends candidates in an order that means nothing."""
    pod, chosen = pod_of("q", owner="ReplicaSet/o1", deadline_s=300.0), np.array(order[:m])
    view = busy(seed=seed).view(pod, 100.0)
    np.testing.assert_array_equal(policy.score(pod, view, chosen), policy.score(pod, view, np.arange(NODES))[chosen])


@each
def test_a_policy_is_pure(policy: Rule, busy: StateOf, pod_of: PodOf) -> None:
    pod, rows = pod_of("q", owner="ReplicaSet/o1", deadline_s=300.0), np.arange(NODES)
    view = busy().view(pod, 100.0)
    before = frozen(pod, view, rows)
    first = policy.score(pod, view, rows)
    np.testing.assert_array_equal(first, policy.score(pod, view, rows))
    assert frozen(pod, view, rows) == before


@each
def test_only_differences_of_times_matter(policy: Rule, busy: StateOf, pod_of: PodOf) -> None:
    def scores(shift_s: float) -> Any:
        pod = pod_of("q", created_s=shift_s, deadline_s=shift_s + 300, owner="ReplicaSet/o1")
        return policy.score(pod, busy(shift_s=shift_s).view(pod, shift_s + 100), np.arange(NODES))

    np.testing.assert_allclose(scores(1e6), scores(0.0), rtol=1e-5, atol=1e-6)


@each
def test_a_policy_has_a_line_and_a_digest_of_its_own(policy: Rule) -> None:
    assert policy.says
    assert "\n" not in policy.says
    assert policy.name in policy.digest
    assert len({p.digest for p in POLICIES.values()}) == len(POLICIES)


@pytest.mark.parametrize("name", [k for k, p in POLICIES.items() if p.uses_run_times])
def test_a_policy_that_uses_run_times_listens_to_beliefs(name: str, busy: StateOf, pod_of: PodOf) -> None:
    """Else its oracle row would be the same as its own."""
    pod, rows = pod_of("q", workload="w0"), np.arange(NODES)
    view = busy().view(pod, 100.0)
    learned = busy()
    for _ in range(30):
        for column in range(4):
            learned.estimator.observe(learned.estimator.row(pod), column, 10.0 ** (column + 1))
    assert (rule(name).score(pod, view, rows) != rule(name).score(pod, learned.view(pod, 100.0), rows)).any()


@pytest.mark.parametrize("name", [k for k, p in POLICIES.items() if not p.uses_run_times])
def test_a_policy_that_ignores_run_times_does(name: str, busy: StateOf, pod_of: PodOf) -> None:
    pod, rows = pod_of("q", workload="w0"), np.arange(NODES)
    view = busy().view(pod, 100.0)
    learned = busy()
    learned.estimator.observe(0, 0, 1e5)
    np.testing.assert_array_equal(
        rule(name).score(pod, view, rows), rule(name).score(pod, learned.view(pod, 100.0), rows)
    )


def test_random_is_even_over_pods_and_round_robin_takes_turns(node_of: NodeOf, pod_of: PodOf) -> None:
    state = ClusterState(RunTimeEstimator())
    for k in range(4):
        state.put_node(node_of(f"n{k}"))
    rows, view = np.arange(4), state.view(pod_of("q"), 0.0)
    won = [int(POLICIES["random"].score(pod_of(f"u{k}"), view, rows).argmax()) for k in range(2000)]
    counts = np.bincount(won, minlength=4)
    assert ((counts > 420) & (counts < 580)).all()  # 500 ± 4 standard deviations of 19
    turns = []
    for state.sequence in range(6):
        turns.append(int(POLICIES["round-robin"].score(pod_of("q"), state.view(pod_of("q"), 0.0), rows).argmax()))
    assert turns == [0, 1, 2, 3, 0, 1]


def test_the_terms_of_economic_are_columns_in_cents_and_the_default_is_economic() -> None:
    assert {COLUMNS[t].unit for t in TERMS} == {"cents"}
    assert DEFAULT is POLICIES["economic"]
    assert rule("economic") is DEFAULT


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UserError, match=r"no policy 'nope'; choose one of kube-default, .*economic"):
        rule("nope")
