"""Which PlacementPolicy applies to which pod, and what its weights do to a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nodewise.core import cost
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.labels import selects
from nodewise.core.pods import NodeSpec
from nodewise.core.raw import raw
from nodewise.core.state import ClusterState
from nodewise.core.types import Beliefs, CostRates, PodRequest, Weights
from nodewise.extender.modes import Modes
from nodewise.kube.placement import Mode, PlacementPolicy, SeenNamespace, placement_policy
from nodewise.policies import POLICIES

Json = dict[str, Any]
PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]


def told(name: str, mode: str = "Active", uid: str = "", **spec: Any) -> PlacementPolicy:
    meta = {"name": name, "uid": uid or f"uid-{name}", "generation": 1}
    return placement_policy({"metadata": meta, "spec": {"mode": mode, **spec}})


def labels(**wanted: str) -> Json:
    return {"matchLabels": wanted}


def expression(key: str, operator: str, *values: str) -> Json:
    return {"key": key, "operator": operator, "values": list(values)}


NAMESPACES = [
    SeenNamespace("shop", {"team": "web", "kubernetes.io/metadata.name": "shop"}),
    SeenNamespace("lab", {"team": "ml", "stage": "test"}),
    SeenNamespace("bare", {}),
]


def modes(*policies: PlacementPolicy, default: Mode = Mode.ACTIVE) -> Modes:
    made = Modes(default)
    made.replace_namespaces(NAMESPACES)
    made.replace_policies(list(policies))
    return made


@pytest.mark.parametrize(
    ("policies", "namespace", "pod", "applies"),
    [
        ([], "shop", {}, ""),
        ([told("all")], "shop", {}, "all"),
        ([told("empty", podSelector={}, namespaceSelector={})], "bare", {}, "empty"),
        ([told("named", namespaces=["shop", "lab"])], "lab", {}, "named"),
        ([told("named", namespaces=["shop"])], "lab", {}, ""),
        ([told("named", namespaces=[])], "lab", {}, "named"),  # as absent
        ([told("team", namespaceSelector=labels(team="web"))], "shop", {}, "team"),
        ([told("team", namespaceSelector=labels(team="web"))], "lab", {}, ""),
        ([told("team", namespaceSelector=labels(team="web"))], "bare", {}, ""),
        ([told("not", namespaceSelector={"matchExpressions": [expression("team", "NotIn", "ml")]})], "bare", {}, "not"),
        ([told("pods", podSelector=labels(app="sort"))], "shop", {"app": "sort"}, "pods"),
        ([told("pods", podSelector=labels(app="sort"))], "shop", {"app": "web"}, ""),
        ([told("pods", podSelector=labels(app="sort"))], "shop", {}, ""),
        ([told("both", namespaces=["shop"], podSelector=labels(app="sort"))], "lab", {"app": "sort"}, ""),
        ([told("a"), told("b", priority=1)], "shop", {}, "b"),
        ([told("a", priority=-1), told("b")], "shop", {}, "b"),
        ([told("a"), told("b", podSelector=labels(app="sort"))], "shop", {"app": "sort"}, "b"),
        ([told("a", priority=1), told("b", podSelector=labels(app="sort"))], "shop", {"app": "sort"}, "a"),
        ([told("a", namespaces=["shop"]), told("b", podSelector=labels(app="sort", v="2"))], "shop",
         {"app": "sort", "v": "2"}, "b"),
        ([told("b"), told("a")], "shop", {}, "a"),
        ([told("b", podSelector=labels(app="sort")), told("a", namespaces=["shop"])], "shop", {"app": "sort"}, "a"),
    ],
)  # fmt: skip
def test_exactly_one_policy_applies_by_priority_then_conditions_then_name(
    policies: list[PlacementPolicy], namespace: str, pod: dict[str, str], applies: str
) -> None:
    for given in (policies, policies[::-1]):
        applied = modes(*given).of(namespace, pod)
        assert (applied.policy.name if applied.policy else "", applied.unsure) == (applies, "")


@pytest.mark.parametrize("mode", ["Advise", "Shadow", "Active", "Off"])
def test_the_mode_is_that_of_the_policy_and_else_the_default(mode: str) -> None:
    made = modes(told("p", mode, namespaces=["shop"]), default=Mode.SHADOW)
    assert made.of("shop", {}).mode == mode.lower()
    assert made.of("lab", {}).mode is Mode.SHADOW


def test_where_a_namespace_is_not_known_what_hangs_on_its_labels_is_unsure_and_nothing_else() -> None:
    by_label = told("by-label", namespaceSelector={"matchExpressions": [expression("team", "DoesNotExist")]})
    made = modes(by_label, told("by-name", "Shadow", namespaces=["new"], priority=-1))
    assert made.of("new", {}).unsure == "namespace-unknown"
    made.namespace_event("ADDED", SeenNamespace("new", {"team": "web"}))
    assert (made.of("new", {}).unsure, made.of("new", {}).mode) == ("", Mode.SHADOW)
    made.namespace_event("MODIFIED", SeenNamespace("new", {}))
    assert made.of("new", {}).policy == by_label


def test_events_change_what_applies_and_a_late_deletion_does_not_take_a_successor_away() -> None:
    made = modes()
    made.policy_event("ADDED", told("p", "Shadow"))
    assert made.of("shop", {}).mode is Mode.SHADOW
    made.policy_event("MODIFIED", told("p", "Off"))
    assert made.of("shop", {}).mode is Mode.OFF
    made.policy_event("ADDED", told("p", "Advise", uid="second"))
    made.policy_event("DELETED", told("p", "Off"))
    assert made.of("shop", {}).mode is Mode.ADVISE
    made.policy_event("DELETED", told("p", "Advise", uid="second"))
    assert made.of("shop", {}).policy is None


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {}}, True),
        ({"matchLabels": None, "matchExpressions": None}, True),
        (labels(app="sort"), True),
        (labels(app="sort", tier="x"), False),
        (labels(app=""), False),
        ({"matchExpressions": [expression("app", "In", "web", "sort")]}, True),
        ({"matchExpressions": [expression("tier", "In", "x")]}, False),
        ({"matchExpressions": [expression("app", "NotIn", "sort")]}, False),
        ({"matchExpressions": [expression("tier", "NotIn", "x")]}, True),
        ({"matchExpressions": [expression("empty", "Exists")]}, True),
        ({"matchExpressions": [expression("tier", "Exists")]}, False),
        ({"matchExpressions": [expression("tier", "DoesNotExist")]}, True),
        ({**labels(app="sort"), "matchExpressions": [expression("empty", "DoesNotExist")]}, False),
    ],
)
def test_a_label_selector_matches_as_in_kubernetes(selector: Json, matches: bool) -> None:
    assert selects({"app": "sort", "empty": ""}, selector) is matches


def test_what_is_not_said_has_the_defaults_of_the_schema() -> None:
    made = placement_policy({"metadata": {"name": "p"}, "spec": {}})
    assert (made.mode, made.weights, made.priority, made.policy, made.bundle) == (Mode.ADVISE, Weights(), 0, "", "")
    assert placement_policy({"metadata": {"name": "p"}}).mode is Mode.ADVISE
    assert told("p", weights={"sla": 2, "energy": 0}).weights == Weights(sla=2.0, energy=0.0)


@pytest.mark.parametrize(
    ("spec", "why", "for_sort"),
    [
        ({"mode": "Canary"}, "'canary' is not a valid Mode", True),
        ({"weights": {"latency": -1}}, "a weight must be 0 or more", True),
        ({"weights": {"latency": "much"}}, "could not convert string to float", True),
        ({"priority": "high"}, "invalid literal for int", True),
        ({"podSelector": {"matchExpressions": [expression("app", "Gt", "1")]}}, "is no requirement on labels", False),
        ({"podSelector": {"matchExpressions": [expression("app", "In")]}}, "is no requirement on labels", False),
        ({"podSelector": ["app"]}, "'list' object has no attribute", False),
    ],
)
def test_a_policy_that_cannot_be_understood_is_off_for_the_pods_it_selects_and_says_why(
    spec: Json, why: str, for_sort: bool
) -> None:
    given: Json = {"mode": "Active", "podSelector": labels(app="sort")} | spec
    made = told("odd", **given)
    assert made.mode is Mode.OFF
    assert made.invalid.startswith("PlacementPolicy odd cannot be understood (")
    assert why in made.invalid
    held = modes(made)
    assert held.of("shop", {"app": "sort"}).mode is (Mode.OFF if for_sort else Mode.ACTIVE)
    assert held.of("shop", {"app": "web"}).mode is Mode.ACTIVE


# --- weights


TwoNodes = Callable[..., ClusterState]


@pytest.fixture
def two_nodes(node_of: NodeOf) -> TwoNodes:
    """Makes a cluster where a batch pod of one core runs 120 s on `slow` and 60 s on `fast`, which draws more.

    What `asks` costs on slow: delay 3 × 0.1/60 × 120 = 0.6; late 3 (runs hardly vary); energy 1/4 of 100 W × 120 s =
    3,000 J, 0.012; room 1/4 × 0.36 USD/h × 120 s = 0.3. On fast: delay 0.3; late 0; energy 1/2 × 2,000 W × 60 s =
    60,000 J, 0.24; room 1/2 × 7.2 USD/h × 60 s = 6.
    """

    def made(rates: CostRates | None = None) -> ClusterState:
        mean = np.array([[120.0, 60.0]])
        beliefs = Beliefs(mean, mean * 1e-3, np.full(mean.shape, 9.0))
        state = ClusterState(RunTimeEstimator(), rates, lookup=(beliefs, lambda _: 0))
        state.put_node(node_of("slow", node_class="slow", cpu_allocatable_milli=4000.0, price_usd_per_h=0.36))
        state.put_node(
            node_of("fast", node_class="fast", cpu_allocatable_milli=2000.0, price_usd_per_h=7.2, peak_w=2050.0)
        )
        return state

    return made


@pytest.fixture
def asks(pod_of: PodOf) -> PodRequest:
    """A batch pod of one core that has 90 s."""
    return pod_of("q", memory_bytes=0.0, deadline_s=90.0)


@pytest.mark.parametrize(
    ("weights", "slow", "fast"),
    [
        (Weights(), 0.6 + 3 + 0.012 + 0.3, 0.3 + 0.24 + 6),
        (Weights(latency=10.0), 6 + 3 + 0.012 + 0.3, 3 + 0.24 + 6),
        (Weights(sla=2.0), 0.6 + 6 + 0.012 + 0.3, 0.3 + 0.24 + 6),
        (Weights(cost=0.5), 0.6 + 3 + 0.012 + 0.15, 0.3 + 0.24 + 3),
        (Weights(cost=0.5, energy=10.0), 0.6 + 3 + 0.12 + 0.15, 0.3 + 2.4 + 3),
        (Weights(0.0, 0.0, 1.0, 0.0), 0.012, 0.24),
        (Weights(1.0, 0.0, 0.0, 0.0), 0.6, 0.3),
    ],
)
def test_weights_multiply_the_terms_of_the_cost_and_so_change_the_winner(
    weights: Weights, slow: float, fast: float, two_nodes: TwoNodes, asks: PodRequest
) -> None:
    scores = POLICIES["economic"].score(asks, cost.weighted(two_nodes().view(asks, 0.0), weights), np.arange(2))
    assert -scores == pytest.approx([slow, fast], rel=1e-5)


def test_weights_count_for_the_delay_of_residents_and_for_replicas_on_one_node(
    two_nodes: TwoNodes, asks: PodRequest, pod_of: PodOf
) -> None:
    """Slowdown of one batch resident on `fast`: 0.3 × 1/2 × 60 s × 0.005; a second replica there: 3 × 0.02."""
    state, replica = two_nodes(), replace(asks, owner="ReplicaSet/web")
    state.place(pod_of("r", owner="ReplicaSet/web", cpu_milli=0.0), "fast", 0.0)
    view = state.view(replica, 0.0)
    plain = POLICIES["economic"].score(replica, view, np.array([1]))
    for weights, more in ((Weights(latency=3.0), 2 * (0.3 + 0.045)), (Weights(sla=3.0), 2 * 3 * 0.02)):
        dearer = POLICIES["economic"].score(replica, cost.weighted(view, weights), np.array([1]))
        assert plain - dearer == pytest.approx([more], rel=1e-5)


def test_a_weighted_view_is_that_of_a_cluster_that_was_weighted_from_the_start(
    two_nodes: TwoNodes, asks: PodRequest, pod_of: PodOf
) -> None:
    weights, rows = Weights(2.0, 4.0, 0.5, 8.0), np.arange(2)
    plain, own = two_nodes(), two_nodes(CostRates(weights=weights))
    for state in (plain, own):
        state.place(pod_of("r"), "fast", 0.0)
    once, again = raw(asks, cost.weighted(plain.view(asks, 50.0), weights), rows), raw(asks, own.view(asks, 50.0), rows)
    for part, other in zip(once, again, strict=True):
        for value, same in zip(part, other, strict=True):
            np.testing.assert_array_equal(value, same)  # powers of two: to the last bit


def test_weights_of_one_are_no_weights_and_a_view_is_weighted_once(two_nodes: TwoNodes, asks: PodRequest) -> None:
    view = two_nodes().view(asks, 50.0)
    assert cost.weighted(view, Weights()) is view
    with pytest.raises(ValueError, match="once only"):
        cost.weighted(cost.weighted(view, Weights(sla=2.0)), Weights(sla=3.0))


def test_the_ledger_weighs_what_a_pod_did_cost_as_the_decision_did(pod_of: PodOf) -> None:
    """60 s of flow 0.3, late 3, 300,000 J 1.2, half a node of 0.6 USD/h for a minute 0.5."""
    given: Json = {"flow_s": 60.0, "late": True, "joules": 3e5, "share": 0.5, "price_usd_per_h": 0.6, "run_s": 60.0}
    pod = pod_of("q")
    for weights, cents in (
        (Weights(), 0.3 + 3 + 1.2 + 0.5),
        (Weights(10.0, 0.0, 0.0, 0.0), 3.0),
        (Weights(0.0, 2.0, 0.0, 0.0), 6.0),
        (Weights(0.0, 0.0, 3.0, 0.0), 3.6),
        (Weights(0.0, 0.0, 0.0, 4.0), 2.0),
    ):
        assert cost.realised_cents(CostRates(weights=weights), pod, **given) == pytest.approx(cents)
