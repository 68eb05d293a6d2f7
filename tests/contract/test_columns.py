"""What every column promises, over the registry."""

import ast
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodewise.core import columns, cost
from nodewise.core.columns import COLUMNS, Column, arguments, features, in_scope
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.raw import Cluster, Node, Pair, Pod, Raw, raw
from nodewise.core.state import ClusterState
from nodewise.core.types import PodRequest, Rows

StateOf = Callable[..., ClusterState]
PodOf = Callable[..., PodRequest]

each = pytest.mark.parametrize("col", COLUMNS.values(), ids=list(COLUMNS))
M = 5
_SIGNATURE = {"node": ["node"], "pod": ["pod"], "pair": ["node", "pod", "pair"], "cluster": ["cluster"]}

ANYTHING = st.floats(width=64)
"""nan, infinities, subnormal and huge values included."""
SENSIBLE = st.one_of(st.just(0.0), st.floats(1e-9, 1e15))


def every_raw(value: st.SearchStrategy[float], **special: st.SearchStrategy[float]) -> st.SearchStrategy[Raw]:
    def scope(kind: type[NamedTuple], size: int) -> st.SearchStrategy[Any]:
        def made(field: str) -> st.SearchStrategy[Any]:
            one = special.get(field, value)
            return st.lists(one, min_size=size, max_size=size).map(np.array) if size else one.map(np.float64)

        return st.tuples(*(made(f) for f in kind._fields)).map(lambda values: kind(*values))

    return st.tuples(scope(Node, M), scope(Pod, 0), scope(Pair, M), scope(Cluster, 0)).map(lambda parts: Raw(*parts))


def computed(col: Column, values: Raw) -> Any:
    with np.errstate(all="ignore"):
        return col.fn(*arguments(col, values))


def some_columns(state: ClusterState, pod: PodRequest, now_s: float, rows: Rows) -> Any:
    return features(list(COLUMNS), pod, state.view(pod, now_s), rows)


def test_there_are_at_least_24_columns_over_all_scopes() -> None:
    assert len(COLUMNS) >= 24
    assert all(in_scope(scope) for scope in ("node", "pod", "pair", "cluster"))
    assert sum(len(in_scope(scope)) for scope in ("node", "pod", "pair", "cluster")) == len(COLUMNS)


@each
def test_a_column_says_what_it_is(col: Column) -> None:
    assert col.says
    assert not col.says.endswith(".")
    assert col.unit
    assert -math.inf < col.low < col.high < math.inf


@each
def test_a_column_takes_only_what_its_scope_gives(col: Column) -> None:
    """A cache keeps values by scope: one that could see more would be served stale."""
    assert list(inspect.signature(col.fn).parameters) == _SIGNATURE[col.scope]
    assert not inspect.getclosurevars(col.fn).nonlocals


def test_a_column_cannot_be_defined_twice() -> None:
    def has_gpu(node: Node) -> Any:
        return node.gpus_allocatable_milli

    with pytest.raises(ValueError, match="has_gpu is defined twice"):
        columns.column("node", unit="ratio", low=0, high=1)(has_gpu)


@settings(max_examples=60, deadline=None)
@given(values=every_raw(ANYTHING))
def test_whatever_the_raw_values_what_a_policy_sees_is_finite_and_in_range(values: Raw) -> None:
    for col in COLUMNS.values():
        seen = columns.clipped(col, computed(col, values)).astype(np.float32)
        assert ((seen >= np.float32(col.low)) & (seen <= np.float32(col.high))).all(), col.name


@settings(max_examples=60, deadline=None)
@given(
    values=every_raw(
        SENSIBLE,
        cpu_used_milli=st.just(math.nan), memory_used_bytes=st.just(math.nan), metrics_age_s=st.just(math.inf),
        slack_s=st.one_of(st.just(math.inf), st.floats(-1e9, 1e9)), waited_s=st.floats(-1e3, 1e9),
    )
)  # fmt: skip
def test_no_column_is_nan_on_values_that_a_cluster_can_have(values: Raw) -> None:
    """Zeros and missing metrics included: `low` for nan is a guard, not a habit."""
    for col in COLUMNS.values():
        assert not np.isnan(computed(col, values)).any(), col.name


@settings(max_examples=60, deadline=None)
@given(values=every_raw(ANYTHING))
def test_a_scalar_gives_the_very_bits_that_an_array_gives(values: Raw) -> None:
    """The compiled simulator evaluates one node at a time, the extender all of them."""
    for col in COLUMNS.values():
        whole = np.broadcast_to(computed(col, values), M)
        for k in range(M):
            node, pair = Node(*(f[k] for f in values.node)), Pair(*(f[k] for f in values.pair))
            one = np.float64(computed(col, Raw(node, values.pod, pair, values.cluster)))
            assert one.tobytes() == whole[k].tobytes() or (np.isnan(one) and np.isnan(whole[k])), col.name


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 50), order=st.permutations(range(12)), m=st.integers(1, 12))
def test_permuting_or_dropping_candidates_permutes_or_drops_rows(
    busy: StateOf, pod_of: PodOf, seed: int, order: list[int], m: int
) -> None:
    """So no column is an aggregate over the candidates."""
    state, pod = busy(seed=seed), pod_of("q", owner="ReplicaSet/o1", deadline_s=400.0)
    full = some_columns(state, pod, 100.0, np.arange(12))
    chosen = np.array(order[:m])
    np.testing.assert_array_equal(some_columns(state, pod, 100.0, chosen), full[chosen])


def test_only_differences_of_times_matter(busy: StateOf, pod_of: PodOf) -> None:
    def seen(shift_s: float) -> Any:
        pod = pod_of("q", created_s=shift_s + 10, deadline_s=shift_s + 400, expected_run_s=30.0, owner="ReplicaSet/o1")
        return some_columns(busy(shift_s=shift_s), pod, shift_s + 100, np.arange(12))

    np.testing.assert_allclose(seen(1e6), seen(0.0), rtol=1e-6, atol=1e-6)


def test_features_come_in_the_order_asked_for_and_an_unknown_name_is_a_key_error(busy: StateOf, pod_of: PodOf) -> None:
    view, rows = busy().view(pod_of("q"), 100.0), np.arange(12)
    both = features(["delay_cents", "has_gpu"], pod_of("q"), view, rows)
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both[:, 1], [k % 4 == 3 for k in range(12)])
    np.testing.assert_array_equal(both[:, 0], features(["delay_cents"], pod_of("q"), view, rows)[:, 0])
    with pytest.raises(KeyError):
        features(["no_such_column"], pod_of("q"), view, rows)


def test_a_described_pod_scales_the_beliefs_and_a_service_has_the_horizon(busy: StateOf, pod_of: PodOf) -> None:
    state = busy()
    told = pod_of("q", workload="w3", expected_run_s=100.0)
    more = pod_of("q", workload="w3", expected_run_s=300.0)
    rows = np.arange(12)
    one, three = (raw(p, state.view(p, 0.0), rows).pair.run_mean_s for p in (told, more))
    np.testing.assert_allclose(three, 3 * one)
    service = pod_of("q", kind="service")
    assert set(raw(service, state.view(service, 0.0), rows).pair.run_mean_s) == {state.rates.service_horizon_s}


def test_a_cluster_without_nodes_has_columns_too(pod_of: PodOf) -> None:
    pod = pod_of("q")
    view = ClusterState(RunTimeEstimator()).view(pod, 0.0)
    assert features(list(COLUMNS), pod, view, np.zeros(0, np.int64)).shape == (0, len(COLUMNS))


# --- one definition for numpy and for a compiler: read the source -----------------------------------------------------

_FORBIDDEN_CALLS = {"min", "max", "sum", "abs", "any", "all", "float", "int", "round"}
_FORBIDDEN_NUMPY = {"where", "clip", "min", "max", "sum", "mean", "any", "all", "nan_to_num", "array", "asarray"}


def _helpers(fn: Callable[..., Any], found: dict[str, Callable[..., Any]]) -> None:
    """`fn` and all functions of ours that it calls, but for `select`, whose body is numpy's own branch."""
    if fn.__name__ in found or fn is columns.select:
        return
    found[fn.__name__] = fn
    for node in _body(_tree(fn)):
        if isinstance(node, ast.Name) and inspect.isfunction(other := getattr(columns, node.id, None)):
            _helpers(other, found)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cost":
            _helpers(getattr(cost, node.attr), found)


def _tree(fn: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(fn))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _body(tree: ast.FunctionDef) -> list[ast.AST]:
    return [node for statement in tree.body for node in ast.walk(statement)]


def _offences(tree: ast.FunctionDef) -> list[str]:
    found = []
    for node in _body(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.BoolOp | ast.Not | ast.For | ast.While | ast.Match | ast.Try):
            found.append(type(node).__name__)
        elif isinstance(node, ast.Compare) and len(node.ops) > 1:
            found.append("chained comparison")
        elif isinstance(node, ast.Call):
            name = node.func
            if isinstance(name, ast.Name) and name.id in _FORBIDDEN_CALLS:
                found.append(name.id)
            if isinstance(name, ast.Attribute):
                of_numpy = isinstance(name.value, ast.Name) and name.value.id == "np"
                if name.attr in _FORBIDDEN_NUMPY or not (of_numpy or getattr(name.value, "id", "") == "cost"):
                    found.append(f".{name.attr}")
    return found


def test_columns_and_their_helpers_are_straight_lines() -> None:
    functions: dict[str, Callable[..., Any]] = {}
    for col in COLUMNS.values():
        _helpers(col.fn, functions)
    assert {"late_probability", "node_cents", "dynamic_joules", "node_share"} <= functions.keys()
    for name, fn in functions.items():
        assert not _offences(_tree(fn)), f"{name} uses {_offences(_tree(fn))}"


@pytest.mark.parametrize(
    "body",
    [
        "return 1.0 if node.peak_w else 0.0", "return node.peak_w and node.idle_w", "return max(node.peak_w, 0.0)",
        "return np.where(node.peak_w, 1.0, 0.0)", "return np.clip(node.peak_w, 0, 1)", "return node.peak_w.sum()",
        "return 0 < node.peak_w < 1", "return not node.peak_w",
    ],
)  # fmt: skip
def test_the_scan_catches_what_a_compiler_would_not_take(body: str) -> None:
    tree = ast.parse(f"def bad(node):\n    {body}").body[0]
    assert isinstance(tree, ast.FunctionDef)
    assert _offences(tree)
