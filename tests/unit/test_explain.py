"""What an explanation says of a placement, word for word, on a cluster whose costs are worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nodewise.core.decide import PolicyRefusalError, decide
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import Beliefs, Decision, Fallback, PodRequest
from nodewise.extender.explain import explain
from nodewise.policies import POLICIES
from nodewise.policies.economic import TERMS

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
Explained = Callable[..., dict[str, Any]]

SEEN = (*TERMS, "log_cpu")
"""What the learned policy looks at."""
SLOW = "believed cost 0.912 cents, of which delay 0.600, room 0.300, energy 0.012"
FAST = "believed cost 1.812 cents, of which room 1.500, delay 0.300"


class Says:
    """A policy that gives these scores to `slow` and `fast`, or refuses."""

    digest = "sha256:0"

    def __init__(self, *scores: float, name: str = "ppo-x", refuses: str = "") -> None:
        self.name, self.scores, self._refuses = name, np.array(scores, np.float32), refuses

    def score(self, *_: object) -> Any:
        if self._refuses:
            raise PolicyRefusalError(Fallback.OUT_OF_RANGE, self._refuses)
        return self.scores


@pytest.fixture
def explained(node_of: NodeOf, pod_of: PodOf) -> Explained:
    """Explains the placement of a batch pod of one core that runs 120 s on `slow` and 60 s on `fast`, both empty.

    slow: delay 3 × 0.1/60 × 120 = 0.6; energy 1/4 of 100 W × 120 s = 3,000 J × 12 × 1.2/3.6e6 = 0.012; room 1/4 ×
    0.36 USD/h × 120 s = 0.3. fast: delay 0.3; energy 1/2 × 100 W × 60 s, 0.012 too; room 1/2 × 1.8 USD/h × 60 s = 1.5.
    """
    mean = np.array([[120.0, 60.0]])
    beliefs = Beliefs(mean, mean * 1e-3, np.full(mean.shape, 9.0))
    state = ClusterState(RunTimeEstimator(), lookup=(beliefs, lambda _: 0))
    state.put_node(node_of("slow", node_class="slow", cpu_allocatable_milli=4000.0, price_usd_per_h=0.36))
    state.put_node(node_of("fast", node_class="fast", cpu_allocatable_milli=2000.0, price_usd_per_h=1.8))
    asks = pod_of("q", memory_bytes=0.0)
    view = state.view(asks, 0.0)

    def made(
        policy: Says, nodes: int = 2, *, columns: Any = SEEN, old: bool = False, bound: str = ""
    ) -> dict[str, Any]:
        decision: Decision = decide(asks, view, np.arange(nodes), policy, POLICIES["economic"])
        told = explain(decision, None if old else view, view.nodes.name, bound, columns)
        json.dumps(told, allow_nan=False)
        return told

    return made


def test_a_correction_that_outweighs_the_believed_cost_is_told_beside_what_economic_would_choose(
    explained: Explained,
) -> None:
    told = explained(Says(-0.9, -0.4))
    assert (told["winner"], told["economic_winner"], told["policy"]) == ("fast", "slow", "ppo-x")
    assert told["words"] == (
        f"q goes to fast: best score -0.4 by ppo-x, {FAST}. The rule economic would choose slow, believed to cost "
        "0.900 cents less, mostly because of room (-1.200); ppo-x scores it 0.5 less, for what it learned beyond that "
        "cost favours fast by 1.400 cents."
    )
    assert [c["correction_cents"] for c in told["candidates"]] == pytest.approx([1.412, 0.012], abs=1e-6)


def test_a_learned_policy_that_agrees_with_economic_says_so(explained: Explained) -> None:
    told = explained(Says(-0.5, -1.0), bound="slow")
    assert (told["winner"], told["economic_winner"], told["agreed"]) == ("slow", "slow", True)
    assert told["words"] == (
        f"q goes to slow: best score -0.5 by ppo-x, {SLOW}. The rule economic would choose it too; runner-up fast "
        "scores 0.5 less and would cost 1.812 cents."
    )


@pytest.mark.parametrize("columns", [(), ("log_cpu", "delay_cents")], ids=["rule", "without the whole cost"])
def test_a_policy_that_does_not_see_the_believed_cost_corrects_nothing(explained: Explained, columns: Any) -> None:
    told = explained(Says(0.25, 0.75, name="other"), columns=columns)
    assert told["words"] == (
        f"q goes to fast: best score 0.75 by other, {FAST}. The rule economic would choose slow, believed to cost "
        "0.900 cents less, mostly because of room (-1.200); other scores it 0.5 less."
    )
    assert not any("correction_cents" in c for c in told["candidates"])


def test_a_fallback_says_who_did_not_decide_and_why(explained: Explained) -> None:
    why = "run_uncertainty is 4 on fast; the policy was trained on 0.2 to 3.7"
    told = explained(Says(refuses=why), columns=())  # the columns of economic: it scored
    assert (told["policy"], told["fallback"]) == ("economic", "features-out-of-range")
    assert (told["refused_by"], told["why"]) == ("ppo-x", why)
    assert told["words"] == (
        f"q goes to slow: least {SLOW}; runner-up fast would cost 1.812 cents, mostly because of room (+1.200). "
        f"(economic decided, because ppo-x did not: features-out-of-range, {why}.)"
    )


def test_of_many_candidates_the_best_are_told_and_the_bound_one_and_what_economic_would_choose(
    node_of: NodeOf, pod_of: PodOf
) -> None:
    """Thirty nodes, the cheapest first; the policy likes the last best, and finds five of them equal."""
    mean = np.array([[60.0]])
    state = ClusterState(RunTimeEstimator(), lookup=(Beliefs(mean, mean * 1e-3, np.full(mean.shape, 9.0)), lambda _: 0))
    for k in range(30):
        state.put_node(node_of(f"n{k:02}", node_class="slow", cpu_allocatable_milli=4000.0, price_usd_per_h=0.1 + k))
    asks = pod_of("q", memory_bytes=0.0)
    view = state.view(asks, 0.0)
    likes = np.minimum(np.arange(30.0), 25.0)
    decision = decide(asks, view, np.arange(30)[::-1].copy(), Says(*likes[::-1]), POLICIES["economic"])
    told = explain(decision, view, view.nodes.name, "n07", SEEN)
    nodes = [c["node"] for c in told["candidates"]]
    assert nodes[0] == told["winner"]
    assert sorted(nodes[:5]) == ["n25", "n26", "n27", "n28", "n29"]
    assert nodes[5:] == ["n24", "n23", "n22", "n21", "n20", "n07", "n00"]
    assert (told["economic_winner"], told["candidates_seen"]) == ("n00", 30)
    assert "The rule economic would choose n00" in told["words"]
    for c in told["candidates"]:
        k = int(c["node"][1:])
        assert c["score"] == likes[k]
        assert c["cents"]["room_cents"] == pytest.approx((0.1 + k) / 4 / 60 * 100, rel=1e-5)
        assert c["columns"]["room_cents"] == pytest.approx(c["cents"]["room_cents"], rel=1e-5)


def test_the_only_candidate_and_a_decision_too_old_are_told_in_short(explained: Explained) -> None:
    assert explained(Says(-0.5), 1)["words"] == f"q goes to slow: best score -0.5 by ppo-x, {SLOW}; the only candidate."
    told = explained(Says(-0.9, -0.4), old=True)
    assert told["economic_winner"] is None
    assert told["words"] == "q goes to fast: best score -0.4 by ppo-x; runner-up slow has -0.9."
