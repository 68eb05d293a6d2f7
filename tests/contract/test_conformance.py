"""Upstream's own cases for the filter and prioritize verbs, each a row under its upstream name.

They say what kube-scheduler does with extenders; `emulator.py` must do the same, and then our replies are judged by it.
Source: `pkg/scheduler/extender_test.go`, `pkg/scheduler/schedule_one_test.go`, `test/integration/scheduler/extender`
and `staging/src/k8s.io/kube-scheduler/extender/v1/types_test.go` at 1.36.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from nodewise_simulator.scheduler import feasible_to_find

from . import ours
from .emulator import (
    UNRESOLVABLE,
    UNSCHEDULABLE,
    CycleError,
    Extender,
    FitError,
    Post,
    Statuses,
    pass_extenders,
    schedule,
    totals_of,
)
from .fake_extenders import BOTH, POD, Json, all_pass, fails, keeps, must_not_be_called, prefers
from .go_json import filter_result, priorities, strict_filter, strict_priorities


def on(host: str, evaluated: int, feasible: int) -> tuple[frozenset[str], int, int]:
    return frozenset({host}), evaluated, feasible


EQUAL = {"node1": 1, "node2": 1}
NODE2_PLUGIN = {"node1": 10, "node2": 100}  # Node2PrioritizerPlugin
NODE1, NODE2 = prefers("node1", 100, 10), prefers("node2", 100, 10)  # inner weight 10
WITH_EXTENDERS = [
    pytest.param(BOTH, [Extender(filter=all_pass), Extender(filter=fails)], None, CycleError, id="test 1: error"),
    pytest.param(BOTH, [Extender(filter=all_pass), Extender(filter=keeps())], None, FitError, id="test 2: all false"),
    pytest.param(
        BOTH, [Extender(filter=all_pass), Extender(filter=keeps("node1"))], EQUAL, on("node1", 2, 1),
        id="test 3: two extenders intersect",
    ),
    pytest.param(
        BOTH, [Extender(filter=keeps("node2")), Extender(filter=keeps("node1"))], None, FitError,
        id="test 4: disjoint",
    ),
    pytest.param(
        ("node1",), [Extender(filter=all_pass, prioritize=fails)], None, on("node1", 1, 1),
        id="test 5: prioritize error ignored, one node",
    ),
    pytest.param(
        BOTH, [Extender(filter=all_pass, prioritize=fails)], NODE2_PLUGIN, on("node2", 2, 2),
        id="prioritize error ignored, two nodes",
    ),
    pytest.param(
        BOTH, [Extender(all_pass, NODE1, weight=1), Extender(all_pass, NODE2, weight=5)], None, on("node2", 2, 2),
        id="test 6: weights 1 and 5",
    ),
    pytest.param(
        BOTH, [Extender(all_pass, NODE1, weight=1)], {k: 20 * v for k, v in NODE2_PLUGIN.items()}, on("node2", 2, 2),
        id="test 7: a plugin of weight 20 beats the extender",
    ),
    pytest.param(
        BOTH, [Extender(must_not_be_called, must_not_be_called, managed=("foo.com/bar",))], NODE2_PLUGIN,
        on("node2", 2, 2), id="test 8: an extender that is not interested is never called",
    ),
    pytest.param(
        BOTH, [Extender(fails, ignorable=True), Extender(keeps("node1"))], EQUAL, on("node1", 2, 1),
        id="test 9: an ignorable failing filter is skipped",
    ),
    pytest.param(
        BOTH, [Extender(filter=all_pass), Extender(filter=keeps("node1"))], None, on("node1", 2, 1),
        id="test 10: no scoring, extender filters: several nodes are evaluated",
    ),
    pytest.param(BOTH, [Extender()], None, on("node1", 1, 1), id="test 11: neither: one node is evaluated"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "extenders", "plugins", "expected"), WITH_EXTENDERS)
def test_scheduler_with_extenders(
    nodes: Sequence[str], extenders: list[Extender], plugins: Mapping[str, int] | None, expected: Any
) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected):
            schedule(POD, nodes, extenders, plugins)
    else:
        got = schedule(POD, nodes, extenders, plugins)
        assert (got.hosts, got.evaluated, got.feasible) == expected


def container(**resources: Json) -> Json:
    return {"name": "app", "resources": resources}


MEMORY = {"memory": "0"}


@pytest.mark.parametrize(
    ("managed", "spec", "interested"),
    [
        pytest.param((), {}, True, id="nothing managed"),
        pytest.param(("memory",), {"containers": [container()]}, False, id="managed, pod without"),
        pytest.param(("memory",), {"containers": [container(requests=MEMORY)]}, True, id="managed, requests"),
        pytest.param(("memory",), {"containers": [container(limits=MEMORY)]}, True, id="managed, limits"),
        pytest.param(
            ("memory",), {"containers": [container()], "initContainers": [container(requests=MEMORY)]}, True,
            id="managed, init container",
        ),
    ],
)  # fmt: skip
def test_is_interested(managed: tuple[str, ...], spec: Json, interested: bool) -> None:
    assert Extender(managed=managed).interested({"spec": spec}) is interested


FILTER_AND_REFUSE = keeps("a", unresolvable="c")


@pytest.mark.parametrize(
    ("extenders", "nodes", "before", "kept", "after"),
    [
        pytest.param([fails], ["a"], {}, CycleError, {}, id="error"),
        pytest.param([all_pass], ["a"], {}, ["a"], {}, id="success"),
        pytest.param([keeps("a")], ["a", "b"], {}, ["a"], {"b": UNSCHEDULABLE}, id="unschedulable"),
        pytest.param(
            [FILTER_AND_REFUSE], ["a", "b", "c"], {}, ["a"], {"b": UNSCHEDULABLE, "c": UNRESOLVABLE},
            id="unschedulable and unresolvable",
        ),
        pytest.param(
            [FILTER_AND_REFUSE], ["a", "b"], {"c": (UNSCHEDULABLE, "a plugin")}, ["a"],
            {"b": UNSCHEDULABLE, "c": UNSCHEDULABLE}, id="extender does not overwrite the previous statuses",
        ),
        pytest.param(
            [FILTER_AND_REFUSE, keeps("a")], ["a", "b", "c"], {}, ["a"], {"b": UNSCHEDULABLE, "c": UNRESOLVABLE},
            id="multiple extenders",
        ),
    ],
)  # fmt: skip
def test_find_nodes_that_pass_extenders(
    extenders: list[Post], nodes: list[str], before: Statuses, kept: Any, after: Mapping[str, str]
) -> None:
    chain, statuses = [Extender(filter=each) for each in extenders], dict(before)
    if isinstance(kept, type):
        with pytest.raises(kept):
            pass_extenders(POD, nodes, chain, statuses)
    else:
        assert pass_extenders(POD, nodes, chain, statuses) == kept
        assert {name: code for name, (code, _) in statuses.items()} == after


@pytest.mark.parametrize(
    ("reply", "kept", "statuses"),
    [
        pytest.param({}, [], {}, id="both lists null: no feasible node, and no error"),
        pytest.param({"Error": "down"}, CycleError, {}, id="an error"),
        pytest.param({"NodeNames": ["a", "z"]}, CycleError, {}, id="a node that was not asked for"),
        pytest.param(
            {"NodeNames": ["a"], "FailedNodes": {"b": "1"}, "FailedAndUnresolvableNodes": {"b": "2"}}, ["a"],
            {"b": (UNRESOLVABLE, "2")}, id="unresolvable wins over failed",
        ),
        pytest.param({"Nodes": {"items": [{"metadata": {"name": "a"}}]}}, ["a"], {}, id="names asked, nodes answered"),
        pytest.param({"NodeNames": ["a"]}, ["a"], {}, id="a node that is dropped silently has no status"),
    ],
)  # fmt: skip
def test_what_a_filter_reply_means(reply: Json, kept: Any, statuses: Statuses) -> None:
    chain, seen = [Extender(filter=lambda _: (200, json.dumps(reply).encode()))], Statuses()
    if isinstance(kept, type):
        with pytest.raises(kept):
            pass_extenders(POD, ["a", "b"], chain, seen)
    else:
        assert pass_extenders(POD, ["a", "b"], chain, seen) == kept
        assert seen == statuses


def test_whole_nodes_asked_and_names_answered_is_no_feasible_node() -> None:
    chain = [Extender(filter=lambda _: (200, b'{"NodeNames":["a"]}'), names_only=False)]
    assert pass_extenders(POD, ["a"], chain, {}) == []


def test_prioritize_nodes_adds_extender_scores_to_plugin_scores() -> None:
    chain = [Extender(prioritize=prefers("node1", 30, 3)), Extender(prioritize=prefers("node2", 20, 2))]
    assert totals_of(POD, BOTH, chain, {"node1": 0, "node2": 0}) == {"node1": 300 + 20, "node2": 30 + 200}
    assert totals_of(POD, BOTH, chain, {"node1": 7, "node2": 0}) == {"node1": 327, "node2": 230}
    assert totals_of(POD, BOTH, [], None) == {"node1": 1, "node2": 1}


@pytest.mark.parametrize(
    ("reply", "totals"),
    [
        pytest.param(b"[]", [5, 7], id="empty"),
        pytest.param(b"null", [5, 7], id="null"),
        pytest.param(b'[{"Host":"node1","Score":10}]', [15_005, 7], id="absent nodes get 0"),
        pytest.param(b'[{"Host":"other","Score":10}]', [5, 7], id="unknown hosts are ignored"),
        pytest.param(b'[{"Host":"node1","Score":2},{"Host":"node1","Score":3}]', [7_505, 7], id="duplicates add up"),
        pytest.param(b'[{"Host":"node1","Score":150}]', [225_005, 7], id="not clamped"),
        pytest.param(b'[{"Host":"node1","Score":1},{"Host":"node2","Score":7.0}]', [5, 7], id="a float drops all"),
    ],
)
def test_what_a_prioritize_reply_means(reply: bytes, totals: list[int]) -> None:
    chain = [Extender(prioritize=lambda _: (200, reply), weight=150)]
    assert list(totals_of(POD, BOTH, chain, {"node1": 5, "node2": 7}).values()) == totals


@pytest.mark.parametrize("status", [201, 204, 307, 400, 500])
def test_a_reply_that_is_not_200_is_an_error_whatever_it_says(status: int) -> None:
    broken = Extender(prioritize=lambda _: (status, b'[{"Host":"node1","Score":10}]'), weight=150)
    assert schedule(POD, BOTH, [broken], NODE2_PLUGIN).hosts == {"node2"}
    with pytest.raises(CycleError, match=str(status)):
        schedule(POD, BOTH, [Extender(filter=lambda _: (status, b'{"NodeNames":["node1"]}'))], NODE2_PLUGIN)


def test_the_integration_test_lands_on_machine2() -> None:
    machines = [f"machine{k}" for k in range(1, 6)]
    asked = {"metadata": {"name": "p"}, "spec": {"containers": [container(limits={"foo.com/bar": "1"})]}}
    chain = [
        Extender(keeps("machine1", "machine2", "machine3"), prefers("machine2"), weight=3),
        Extender(keeps("machine2", "machine3", "machine5"), prefers("machine3"), weight=4, managed=("foo.com/bar",)),
        Extender(keeps("machine1", "machine2", "machine3"), prefers("machine2", 50, 5), weight=10),
    ]
    assert schedule(asked, machines, chain, dict.fromkeys(machines, 0)).hosts == {"machine2"}


@pytest.mark.parametrize(
    ("nodes", "candidates"), [(5, 5), (99, 99), (100, 100), (500, 230), (1_000, 420), (5_000, 500), (15_000, 750)]
)
def test_number_of_feasible_nodes_that_end_the_search(nodes: int, candidates: int) -> None:
    assert feasible_to_find(nodes) == candidates


# --- TestCompatibility: capitalised out, both casings in


@pytest.mark.parametrize(
    ("read", "golden"),
    [
        pytest.param(priorities, b'[{"Host":"myhost","Score":1}]', id="HostPriority"),
        pytest.param(
            filter_result,
            b'{"Nodes":{"metadata":{},"items":[{"metadata":{"name":"nodename","creationTimestamp":null},"spec":{},'
            b'"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":0}},"nodeInfo":{"machineID":"","systemUUID":"",'
            b'"bootID":"","kernelVersion":"","osImage":"","containerRuntimeVersion":"","kubeletVersion":"",'
            b'"kubeProxyVersion":"","operatingSystem":"","architecture":""}}}]},"NodeNames":["node1"],'
            b'"FailedNodes":{"foo":"bar"},"Error":"myerror"}',
            id="ExtenderFilterResult",
        ),
    ],
)
def test_compatibility_go_reads_upstreams_golden_in_both_casings(read: Callable[[bytes], Any], golden: bytes) -> None:
    assert read(golden) == read(golden.lower())
    assert read(golden) in (
        [("myhost", 1)],
        filter_result(b'{"nodes":{"items":[{"metadata":{"name":"nodename"}}]},"nodenames":["node1"],"failednodes":'
                      b'{"foo":"bar"},"error":"myerror"}'),
    )  # fmt: skip


def test_compatibility_our_replies_are_capitalised_and_read_the_same_in_lower_case() -> None:
    made = ours.service()
    _, scored = ours.prioritize(made)(ours.args(ours.pod(), ours.NODES))
    _, kept = ours.filter_(made)(ours.args(ours.pod(), ours.NODES))
    assert scored.startswith(b'[{"Host":"node-')
    assert kept.startswith(b'{"Nodes":null,"NodeNames":["node-')
    strict_priorities(scored, ours.NODES)
    strict_filter(kept, ours.NODES)
    assert priorities(scored.lower()) == priorities(scored)
    assert filter_result(kept.lower()) == filter_result(kept)


def test_compatibility_upstreams_golden_request_is_read_and_a_request_that_no_scheduler_sends_is_refused() -> None:
    golden = (
        b'{"Pod":{"metadata":{"name":"podname","creationTimestamp":null},"spec":{"containers":null},"status":{}},'
        b'"Nodes":{"metadata":{},"items":[{"metadata":{"name":"nodename","creationTimestamp":null},"spec":{}}]},'
        b'"NodeNames":["node1"]}'
    )
    made = ours.service(nodes=("node1", "nodename"))
    assert strict_filter(made.filter(golden).body, ["node1"]).node_names == ["node1"]
    with_uid = golden.replace(b'"name":"podname"', b'"name":"podname","uid":"u"')
    assert strict_priorities(ours.prioritize(made)(with_uid)[1], ["node1"]) == [("node1", 10)]
    # Go writes the names of Go: lower case is no ExtenderArgs, and must not read as "no feasible node".
    assert ours.prioritize(made)(with_uid.lower()) == (200, b"[]")
    assert ours.filter_(made)(golden.lower())[0] == 400
