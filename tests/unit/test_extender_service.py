"""Requests and replies without sockets, on a cluster that is told to the cache directly."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from nodewise import policies
from nodewise.core.decide import PolicyRefusalError
from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.core.types import Fallback
from nodewise.extender.admin import admin_app
from nodewise.extender.explain import explain
from nodewise.extender.journal import Journal
from nodewise.extender.service import Service
from nodewise.kube.cache import seen_node, seen_pod

from .extender_objects import NODES, NOW_S, finished, hosts, node, pod, request, settings


class Scores:
    """A policy that is a function of the number of candidates."""

    name, digest = "under-test", "under-test@1"

    def __init__(self, fn: Callable[[int], Any]) -> None:
        self._fn = fn

    def score(self, _: Any, view: Any, rows: Any) -> Any:
        return self._fn(len(rows))


def service(policy: Any = policies.DEFAULT, journal: Journal | None = None, **given: Any) -> Service:
    made = Service(settings(**given), policy, policies.DEFAULT, ClusterState(RunTimeEstimator()), journal)
    made.unready = lambda: ""
    made.cache.replace_nodes([seen_node(node(name)) for name in NODES])
    made.cache.replace_pods([])
    return made


def watch(made: Service, kind: str, obj: dict[str, Any]) -> None:
    made.cache.pod_event(kind, seen_pod(obj, "nodewise"))


def refuse(_: int) -> Any:
    raise PolicyRefusalError(Fallback.OUT_OF_RANGE, "never seen such a node")


def fail(_: int) -> Any:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (fail, Fallback.ERROR),
        (refuse, Fallback.OUT_OF_RANGE),
        (lambda _: None, Fallback.ERROR),
        (lambda m: np.full(m, np.nan), Fallback.NON_FINITE),
        (lambda m: np.zeros(m + 1), Fallback.WRONG_SHAPE),
    ],
)
async def test_the_rule_stands_in_for_a_policy_that_fails_and_the_reason_is_counted(
    scores: Callable[[int], Any], reason: Fallback
) -> None:
    made, ruled = service(Scores(scores)), service()
    reply = await made.prioritize(request(pod("a")), NOW_S)
    assert reply == await ruled.prioritize(request(pod("a")), NOW_S)
    assert len(hosts(reply.body)) == 1
    record = made.records.find("default", "a")
    assert record is not None
    assert (record.decision.fallback, record.decision.policy) == (reason, "economic")
    assert f'fallbacks_total{{reason="{reason}"}} 1.0' in made.telemetry.text().decode()


async def test_a_refusal_is_part_of_the_day_and_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    made = service(Scores(refuse))
    await made.prioritize(request(pod("a")), NOW_S)
    made.close()
    gc.collect()
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_a_policy_that_answers_decides() -> None:
    made = service(Scores(lambda m: np.arange(m)))
    assert hosts((await made.prioritize(request(pod("a")), NOW_S)).body) == ["node-3"]


async def test_a_policy_that_hangs_is_late_once_and_not_asked_again_until_it_comes_back() -> None:
    release, asked = threading.Event(), []

    def hang(m: int) -> Any:
        asked.append(m)
        release.wait(20)
        return np.arange(m)

    made = service(Scores(hang), deadline_ms=30)
    try:
        for name in ("a", "b"):
            assert len(hosts((await made.prioritize(request(pod(name)), NOW_S)).body)) == 1
            record = made.records.find("default", name)
            assert record is not None
            assert record.decision.fallback is Fallback.DEADLINE
        assert len(asked) == 1
    finally:
        release.set()
        made.close()


async def test_a_policy_that_takes_over_answers_although_a_call_of_the_one_before_hangs() -> None:
    release, asked = threading.Event(), threading.Event()

    def hang(m: int) -> Any:
        asked.set()
        release.wait(20)
        return np.arange(m)

    before, after = Scores(hang), Scores(lambda m: -np.arange(m))
    after.name = after.digest = "after"
    made = service(before, deadline_ms=20_000)
    try:
        begun = asyncio.create_task(made.prioritize(request(pod("a")), NOW_S))
        assert await asyncio.to_thread(asked.wait, 20)
        made.use(after)
        assert hosts((await made.prioritize(request(pod("b")), NOW_S)).body) == ["node-0"]
        release.set()
        assert hosts((await begun).body) == ["node-3"]
    finally:
        release.set()
        made.close()
    by = [record and record.decision.policy for record in (made.records.find("default", name) for name in "ab")]
    assert by == ["under-test", "after"]
    assert 'policy_info{digest="after",name="after"} 1.0' in made.telemetry.text().decode()


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'{"Pod":null}', b'{"Pod":{}}', b"\xff\xfe", b"[" * 100_000]
)
async def test_what_cannot_be_read_gets_no_opinion_and_is_an_error_to_filter(body: bytes) -> None:
    made = service()
    reply = await made.prioritize(body, NOW_S)
    assert (reply.status, reply.body) == (200, b"[]")
    assert made.filter(body).status == 400
    assert 'outcome="malformed",verb="prioritize"} 1.0' in made.telemetry.text().decode()


@pytest.mark.parametrize("reason", ["nodes-not-synced", "stale"])
async def test_an_extender_that_does_not_know_the_cluster_has_no_opinion(reason: str) -> None:
    made = service()
    made.unready = lambda: reason
    assert (await made.prioritize(request(pod("a")), NOW_S)).body == b"[]"
    assert f'neutral_total{{reason="{reason}"}} 1.0' in made.telemetry.text().decode()


async def test_unknown_nodes_are_left_out_and_counted() -> None:
    made = service()
    assert hosts((await made.prioritize(request(pod("a"), ("gone", "node-2", "node-2")), NOW_S)).body) == ["node-2"]
    assert (await made.prioritize(request(pod("b"), ("gone",)), NOW_S)).body == b"[]"
    assert "unknown_nodes_total 2.0" in made.telemetry.text().decode()


async def test_a_pod_of_another_scheduler_gets_no_opinion_and_leaves_no_record() -> None:
    made = service()
    assert (await made.prioritize(request(pod("a", schedulerName="default-scheduler")), NOW_S)).body == b"[]"
    assert made.records.find("default", "a") is None


async def test_a_pod_with_a_volume_claim_gets_no_opinion() -> None:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    assert (await service().prioritize(request(pod("a", volumes=volumes)), NOW_S)).body == b"[]"


async def test_the_winner_is_charged_until_its_binding_is_seen_or_time_is_up() -> None:
    made = service(assumed_ttl_s=30)
    state = made.cache.state
    first = hosts((await made.prioritize(request(pod("a")), NOW_S)).body)[0]
    second = hosts((await made.prioritize(request(pod("b")), NOW_S)).body)[0]
    assert first != second  # alike nodes: the charged one is dearer now
    watch(made, "ADDED", pod("a"))
    assert state.node_of("uid-a") == first  # an event that is older than the decision takes nothing back
    watch(made, "MODIFIED", pod("a", first))
    watch(made, "ADDED", pod("b"))
    made.cache.expire(NOW_S + 31)
    assert (state.node_of("uid-a"), state.node_of("uid-b")) == (first, "")
    assert (made.cache.expired, made.cache.waiting) == (1, 1)


async def test_a_pod_that_is_asked_about_again_is_not_in_its_own_way() -> None:
    made = service()
    again = [hosts((await made.prioritize(request(pod("a")), NOW_S)).body)[0] for _ in range(5)]
    assert len(set(again)) == 1
    assert [*made.cache.state.pods()] == ["uid-a"]


async def test_a_request_that_no_watch_has_shown_leaves_nothing_behind() -> None:
    made = service()
    await made.prioritize(request(pod("a"), ()), NOW_S)  # no candidate, so no winner
    await made.prioritize(request(pod("b")), NOW_S)
    made.cache.expire(NOW_S + 1000)
    watch(made, "ADDED", pod("c"))
    asked = seen_pod(pod("d"), "nodewise").state.request
    assert made.cache.state.view(asked, NOW_S).queued_by_sla.sum() == 1.0


async def test_what_the_scheduler_bound_is_compared_with_what_we_said() -> None:
    made = service()
    for name in ("a", "b"):
        watch(made, "ADDED", pod(name))
        winner = hosts((await made.prioritize(request(pod(name)), NOW_S)).body)[0]
        other = next(n for n in NODES if n != winner)
        watch(made, "MODIFIED", pod(name, winner if name == "a" else other))
    watch(made, "ADDED", pod("c", "node-0"))
    told = made.telemetry.text().decode()
    for how in ("winner", "other", "not-asked"):
        assert f'bound_total{{as="{how}"}} 1.0' in told


async def test_an_explanation_adds_up_and_says_in_words_what_decided() -> None:
    made = service()
    for k in range(6):
        watch(made, "ADDED", finished(f"old-{k}", "node-1", 30))
        watch(made, "ADDED", finished(f"slow-{k}", "node-2", 300))
    await made.prioritize(request(pod("web-1")), NOW_S)
    record = made.records.find("default", "web-1")
    assert record is not None
    told = explain(record.decision, record.view, record.names, bound="node-2")
    assert (told["winner"], told["bound"], told["agreed"]) == ("node-1", "node-2", False)
    for candidate in told["candidates"]:
        assert sum(candidate["cents"].values()) == pytest.approx(-candidate["score"], rel=1e-6)
    assert told["words"].startswith("web-1 goes to node-1: least believed cost ")
    assert "runner-up" in told["words"]
    assert "mostly because of delay" in told["words"]
    assert "bound it to node-2 instead" in told["words"]
    json.dumps(told)


async def test_an_explanation_names_the_node_whose_room_is_held_for_another_pod() -> None:
    made = service(Scores(lambda m: np.arange(m)))
    whole = [{"name": "main", "resources": {"requests": {"cpu": "8"}}}]
    preemptor = pod("preemptor", schedulerName="default-scheduler", priority=100, containers=whole)
    preemptor["status"]["nominatedNodeName"] = "node-3"
    watch(made, "ADDED", preemptor)
    await made.prioritize(request(pod("a")), NOW_S)
    answer = TestClient(admin_app(made)).get("/explain/default/a").json()
    assert (answer["winner"], answer["passed_over"]) == ("node-2", ["node-3"])
    assert " node-3 was passed over, for a preemption holds room there " in answer["words"]
    watch(made, "DELETED", preemptor)
    await made.prioritize(request(pod("b")), NOW_S)
    answer = TestClient(admin_app(made)).get("/explain/default/b").json()
    assert (answer["winner"], answer["passed_over"]) == ("node-3", [])
    assert "passed over" not in answer["words"]


async def test_every_decision_on_our_pods_is_a_line_of_the_journal(tmp_path: Path) -> None:
    made = service(journal=Journal(tmp_path / "journal"))
    await made.prioritize(request(pod("a")), NOW_S)
    await made.prioritize(request(pod("b", schedulerName="other")), NOW_S)
    await made.prioritize(request(pod("c"), ("gone",)), NOW_S)
    made.close()
    first, second = map(json.loads, (tmp_path / "journal").read_text().splitlines())
    assert (first["pod"], first["reply"], first["propensity"]) == ("a", [[first["winner"], 10]], 1.0)
    assert len(first["candidates"]) == len(first["scores"]) == 4
    assert (second["pod"], second["neutral"], second["winner"]) == ("c", "no-known-candidate", "")
    assert [first["sequence"], second["sequence"]] == [0, 1]


def test_a_journal_that_cannot_be_written_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing/journal cannot be written"):
        Journal(tmp_path / "missing" / "journal")
