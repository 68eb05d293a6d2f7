"""What we answer, whatever we are asked: properties over bodies, and bytes recorded from real schedulers."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodewise.core.pods import pod_request
from nodewise.core.types import Kind, SlaClass

from . import ours
from .go_json import strict_filter, strict_priorities

Json = dict[str, Any]
GOLDENS = Path(__file__).parent / "goldens"
MINORS = ("1.34", "1.36")
SERVICE = ours.service()  # decisions only add assumed pods to it
PRIORITIZE, FILTER = ours.prioritize(SERVICE), ours.filter_(SERVICE)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def requests(minor: str) -> bytes:
    return (GOLDENS / f"prioritize-request-{minor}.json").read_bytes()


def recorded(name: str, body: bytes) -> bytes:
    """The golden of this name; with NODEWISE_RECORD_GOLDENS=1 it becomes `body` first."""
    if os.environ.get("NODEWISE_RECORD_GOLDENS") == "1":
        (GOLDENS / name).write_bytes(body)
    return (GOLDENS / name).read_bytes()


@pytest.mark.parametrize("minor", MINORS)
def test_the_recorded_request_is_read_as_the_pod_that_was_created(minor: str) -> None:
    asked = json.loads(requests(minor))
    assert list(asked) == ["Pod", "Nodes", "NodeNames"]
    assert asked["Nodes"] is None
    assert sorted(asked["NodeNames"]) == list(ours.NODES)
    pod, told = pod_request(asked["Pod"])
    assert told.ignored == ()
    assert (pod.name, pod.owner, pod.kind, pod.workload) == (
        "resize-29410-x7k2p",
        "Job/resize-29410",
        Kind.JOB,
        "resize",
    )
    assert (pod.sla, pod.deadline_s - pod.created_s, pod.expected_run_s) == (SlaClass.PRODUCTION, 120.0, 30.0)
    assert (pod.cpu_milli, pod.memory_bytes) == (500.0, 256 * 2.0**20)


@pytest.mark.parametrize("minor", MINORS)
def test_the_recorded_request_is_answered_with_the_recorded_bytes(minor: str) -> None:
    body = requests(minor)
    fresh = ours.service()
    status, scored = ours.prioritize(fresh)(body)
    assert (status, scored) == (200, recorded(f"prioritize-reply-{minor}.json", scored))
    assert [score for _, score in strict_priorities(scored, ours.NODES)] == [10]
    status, kept = ours.filter_(fresh)(body)
    assert (status, kept) == (200, recorded(f"filter-reply-{minor}.json", kept))
    strict_filter(kept, ours.NODES)


@pytest.mark.parametrize("minor", MINORS)
def test_a_preference_in_the_recorded_pod_turns_the_reply_into_the_recorded_ranking(minor: str) -> None:
    asked = json.loads(requests(minor))
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-1"]}
    preferred = [{"weight": 1, "preference": {"matchExpressions": [zone]}}]
    asked["Pod"]["spec"]["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    asked["NodeNames"].sort()  # the order of the recorded candidates is chance, and the ranking keeps it
    body = json.dumps(asked).encode()
    _, ranked = ours.prioritize(ours.service())(body)
    assert ranked == recorded("prioritize-reply-ranked.json", ranked)
    points = dict(strict_priorities(ranked, ours.NODES))
    in_zone, others = ("node-1", "node-4"), ("node-0", "node-2", "node-3")
    assert max(points.get(n, 0) for n in in_zone) == max(points.get(n, 0) for n in others) == 10


@pytest.mark.parametrize("minor", MINORS)
def test_a_pod_of_another_scheduler_gets_no_opinion(minor: str) -> None:
    assert ours.prioritize(ours.service(scheduler_name="other"))(requests(minor)) == (200, b"[]")
    assert ours.prioritize(ours.service(scheduler_name="nodewise"))(requests(minor))[1] != b"[]"


@quick
@given(body=st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_bytes_that_are_no_request_get_a_neutral_reply_from_prioritize_and_400_from_filter(body: bytes) -> None:
    assert PRIORITIZE(body) == (200, b"[]")
    assert FILTER(body)[0] == 400


@quick
@given(cut=st.integers(0, len(requests("1.36")) - 1), junk=st.binary(max_size=4))
def test_a_truncated_request_gets_a_neutral_reply_from_prioritize_and_400_from_filter(cut: int, junk: bytes) -> None:
    body = requests("1.36")[:cut] + junk
    assert PRIORITIZE(body) == (200, b"[]")
    assert FILTER(body)[0] == 400


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(p for key, each in inner for p in paths(each, (*here, key)))]


GOLDEN = json.loads(requests("1.36"))


@quick
@given(path=st.sampled_from(paths(GOLDEN)[1:]), value=JSON)
def test_a_request_with_any_one_value_replaced_never_gets_an_error_from_prioritize(
    path: Sequence[Any], value: Any
) -> None:
    asked = copy.deepcopy(GOLDEN)
    at = asked
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    names = asked["NodeNames"]
    status, body = PRIORITIZE(json.dumps(asked).encode())
    assert status == 200
    assert (
        strict_priorities(body, [n for n in names if isinstance(n, str)] if isinstance(names, list) else []) is not None
    )


@pytest.mark.parametrize("key", ["uid", "namespace", "name"])
def test_a_malformed_identity_leaves_nothing_behind_that_could_break_later_decisions(key: str) -> None:
    made = ours.service()
    for wrong in (7.5, True, ["a"], {"a": 1}, *([None] if key == "uid" else [])):
        asked = ours.pod()
        asked["metadata"][key] = wrong
        assert ours.prioritize(made)(ours.args(asked, ours.NODES)) == (200, b"[]")
    for k in range(10):
        assert ours.prioritize(made)(ours.args(ours.pod(f"good-{k}"), ours.NODES))[1] != b"[]"


NAMES = st.lists(st.sampled_from([*ours.NODES, "gone", "node-é", ""]), max_size=12)


@quick
@given(names=NAMES, whole_nodes=st.booleans())
def test_filter_keeps_every_node_it_was_given_in_the_form_it_was_given(names: list[str], whole_nodes: bool) -> None:
    status, body = FILTER(ours.args(ours.pod(), *((None, names) if whole_nodes else (names, None))))
    assert status == 200
    got = strict_filter(body, names)
    assert (got.nodes if whole_nodes else got.node_names) == names
    assert (got.node_names if whole_nodes else got.nodes) is None
    assert not got.failed
    assert not got.unresolvable


def affinity(zone: str, by_pods: bool) -> Json:
    term = {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}
    spread = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    if by_pods:
        return {"podAntiAffinity": {preferred: [{"weight": 1, "podAffinityTerm": spread}]}}
    return {"nodeAffinity": {preferred: [{"weight": 1, "preference": term}]}}


@quick
@given(
    names=NAMES,
    uid=st.uuids(),
    preference=st.none() | st.builds(affinity, st.sampled_from(["zone-0", "zone-9"]), st.booleans()),
    whole_nodes=st.booleans(),
)
def test_prioritize_answers_with_the_winner_alone_or_with_a_ranking_where_the_pod_prefers(
    names: list[str], uid: Any, preference: Json | None, whole_nodes: bool
) -> None:
    asked = ours.pod(str(uid), **({"affinity": preference} if preference else {}))
    status, body = PRIORITIZE(ours.args(asked, *((None, names) if whole_nodes else (names, None))))
    assert status == 200
    got = strict_priorities(body, names)
    known = set(names) & set(ours.NODES)
    assert {host for host, _ in got} <= known
    if not known:
        assert got == []
    elif preference is None:
        assert [score for _, score in got] == [10]
    else:
        assert max(score for _, score in got) == 10
        assert min(score for _, score in got) > 0  # what is left out counts 0 anyway
