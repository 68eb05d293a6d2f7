"""What an extender does under a PlacementPolicy: replies, records, counts, and what decides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodewise import policies
from nodewise.channel.messages import PolicyReport
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.extender.explain import explain
from nodewise.extender.journal import Journal
from nodewise.extender.placement_watch import UNREAD
from nodewise.extender.service import Service
from nodewise.kube import api as kube
from nodewise.kube.cache import seen_node, seen_pod
from nodewise.kube.optional import OptionalResource
from nodewise.kube.placement import GROUP, PLURAL, VERSION, Mode, PlacementPolicy, placement_policy
from nodewise.policies.bundle import write_bundle
from nodewise.policies.learned import load
from nodewise_simulator.fake_api import FakeApi

from .bundles import card_of, golden, models, written
from .extender_objects import NODES, NOW_S, eventually, get, hosts, node, pod, post, request, serving, settings

Json = dict[str, Any]


class Likes:
    """A policy that prefers later nodes."""

    name, digest = "likes", "likes@1"

    def score(self, _: Any, view: Any, rows: Any) -> Any:
        return np.arange(len(rows), dtype=np.float32)


def resource(name: str, mode: str, generation: int = 1, **spec: Any) -> Json:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "generation": generation}, "spec": {"mode": mode, **spec}}


def told(name: str, mode: str, generation: int = 1, **spec: Any) -> PlacementPolicy:
    return placement_policy(resource(name, mode, generation, **spec))


def service(*placement: PlacementPolicy, policy: Any = None, journal: Journal | None = None, **given: Any) -> Service:
    state = ClusterState(RunTimeEstimator())
    made = Service(settings(**given), policy or policies.DEFAULT, policies.DEFAULT, state, journal)
    made.unready = lambda: ""
    made.cache.replace_nodes([seen_node(node(name)) for name in NODES])
    made.cache.replace_pods([])
    made.modes.replace_policies(list(placement))
    return made


async def ask(made: Service, name: str, **labels: str) -> list[str]:
    asked = pod(name)
    asked["metadata"]["labels"] = labels
    return hosts((await made.prioritize(request(asked), NOW_S)).body)


def bind(made: Service, name: str, to: str) -> None:
    made.cache.pod_event("MODIFIED", seen_pod(pod(name, to), "nodewise"))


def report(made: Service, name: str = "p") -> PolicyReport:
    return next(each for each in made.report().placement_policies if each.name == name)


@pytest.mark.parametrize(
    ("mode", "told_to_scheduler", "decided"),
    [("Active", ["node-3"], True), ("Shadow", [], True), ("Advise", [], False), ("Off", [], False)],
)
async def test_active_answers_shadow_only_decides_and_the_others_do_neither(
    mode: str, told_to_scheduler: list[str], decided: bool, tmp_path: Path
) -> None:
    made = service(told("p", mode), policy=Likes(), journal=Journal(tmp_path / "journal"))
    assert await ask(made, "a") == told_to_scheduler
    made.close()
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    seen = [(line["mode"], line["placement_policy"], line["winner"], line["reply"]) for line in lines]
    assert seen == ([(mode.lower(), "p", "node-3", [["node-3", 10]])] if decided else [])
    assert (report(made).decisions, report(made).mode) == (int(decided), mode.lower())
    assert made.cache.state.node_of("uid-a") == ("node-3" if mode == "Active" else "")  # nobody else is charged
    outcome = {"Active": "scored"}.get(mode, mode.lower())
    metrics = made.telemetry.text().decode()
    assert f'requests_total{{outcome="{outcome}",verb="prioritize"}} 1.0' in metrics
    assert ("neutral_total{" in metrics, 'decisions_total{policy="likes"} 1.0' in metrics) == (False, decided)


@pytest.mark.parametrize(("default", "replies"), [("active", 1), ("shadow", 0), ("advise", 0), ("off", 0)])
async def test_pods_that_no_policy_selects_are_treated_as_default_mode_says(default: str, replies: int) -> None:
    made = service(told("p", "Active", podSelector={"matchLabels": {"app": "sort"}}), default_mode=default)
    assert len(await ask(made, "a", app="web")) == replies
    assert len(await ask(made, "b", app="sort")) == 1


async def test_a_pod_that_is_asked_about_again_after_off_leaves_the_node_that_was_assumed_for_it() -> None:
    made = service()
    assumed = (await ask(made, "a"))[0]
    assert made.cache.state.node_of("uid-a") == assumed
    made.modes.policy_event("ADDED", told("p", "Off"))
    assert await ask(made, "a") == []
    assert made.cache.state.node_of("uid-a") == ""


async def test_nobody_is_answered_while_it_is_not_known_what_is_off() -> None:
    made = service()
    made.modes.unread = lambda: UNREAD
    assert await ask(made, "a") == []
    assert f'neutral_total{{reason="{UNREAD}"}} 1.0' in made.telemetry.text().decode()


async def test_each_policy_counts_its_own_pods_by_the_mode_in_which_they_were_decided() -> None:
    made = service(told("p", "Shadow", namespaces=["default"]), told("q", "Active", namespaces=["lab"]), policy=Likes())
    for name, to in (("a", "node-0"), ("b", "node-3"), ("c", "node-1")):
        await ask(made, name)
        if name == "c":
            made.modes.policy_event("MODIFIED", told("p", "Active", 2, namespaces=["default"]))
        bind(made, name, to)
    await ask(made, "d")
    bind(made, "d", "node-3")
    now = report(made)
    assert (now.generation, now.mode, now.decisions, now.bound_winner, now.bound_other) == (2, "active", 1, 1, 0)
    made.modes.policy_event("MODIFIED", told("p", "Shadow", 3, namespaces=["default"]))
    assert (report(made).decisions, report(made).bound_winner, report(made).bound_other) == (3, 1, 2)
    assert report(made, "q").decisions == 0
    metrics = made.telemetry.text().decode()
    assert 'placement_bound_total{as="other",mode="shadow",placement_policy="p"} 2.0' in metrics
    assert 'placement_decisions_total{mode="active",placement_policy="p"} 1.0' in metrics


async def test_metrics_name_fifty_policies_and_no_more() -> None:
    made = service()
    for k in range(60):
        made.modes.replace_policies([told(f"p-{k}", "Active")])
        await ask(made, "a")
    metrics = made.telemetry.text().decode()
    assert metrics.count("placement_decisions_total{") == 51
    assert 'placement_decisions_total{mode="active",placement_policy="other"} 10.0' in metrics


# --- what decides


async def test_a_policy_may_name_a_rule_and_others_go_on_with_what_was_started() -> None:
    sort = {"matchLabels": {"app": "sort"}}
    made = service(told("p", "Active", policy="economic", podSelector=sort), policy=Likes())
    await ask(made, "a", app="sort")
    await ask(made, "b")
    by = {name: record.decision.policy for name in "ab" if (record := made.records.find("default", name))}
    assert by == {"a": "economic", "b": "likes"}
    made.modes.policy_event("MODIFIED", told("p", "Active", 2, podSelector=sort))
    assert report(made).policy == "likes"
    await ask(made, "c", app="sort")
    record = made.records.find("default", "c")
    assert record is not None
    assert record.decision.policy == "likes"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"policy": "magic"}, "PlacementPolicy p: there is no policy 'magic'; choose one of "),
        ({"bundle": "x"}, "PlacementPolicy p names bundle x, but the extender was started without --bundles"),
        ({"bundle": "x", "policy": "index"}, "PlacementPolicy p names both rule index and bundle x: leave one out"),
    ],
)
async def test_what_cannot_decide_is_told_and_the_rule_does_or_what_did_before(spec: Json, why: str) -> None:
    made = service(told("p", "Active", **spec), policy=Likes())
    assert report(made).refused.startswith(why)
    assert report(made).policy == "economic"
    assert len(await ask(made, "a")) == 1
    made.modes.policy_event("MODIFIED", told("p", "Active", 2, policy="round-robin"))
    assert (report(made).refused, report(made).policy) == ("", "round-robin")
    made.modes.policy_event("MODIFIED", told("p", "Active", 3, **spec))
    assert report(made).refused.startswith(why)
    assert (report(made).policy, report(made).generation) == ("round-robin", 3)


@pytest.mark.parametrize("name", ["../other", ".", "a/b"])
async def test_a_bundle_is_a_folder_of_bundles_own(name: str, tmp_path: Path) -> None:
    made = service(told("p", "Active", bundle=name), bundles=tmp_path)
    assert report(made).refused == f"PlacementPolicy p names bundle {name}, which is no folder's name"


@contextlib.asynccontextmanager
async def loading(made: Service) -> AsyncIterator[None]:
    task = asyncio.create_task(made.courses.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_bundle_is_loaded_when_it_may_decide_and_a_refused_one_leaves_the_last_good_one(
    tmp_path: Path,
) -> None:
    good, other = written(tmp_path / "good"), written(tmp_path / "other", (-1, -1, -1, -1, -1), name="other")
    bad = written(tmp_path / "bad", name="bad")
    (bad / "head.onnx").write_bytes((other / "head.onnx").read_bytes())
    made = service(told("p", "Off", bundle="good"), bundles=tmp_path, bundle_poll_s=0.02)
    async with loading(made):
        await asyncio.sleep(0.2)
        assert (report(made).policy, report(made).refused) == ("economic", "")
        made.modes.policy_event("MODIFIED", told("p", "Shadow", 2, bundle="good"))
        assert report(made).refused == f"{good} is not loaded yet"
        await eventually(lambda: not report(made).refused)
        assert report(made).digest == load(good).digest

        made.modes.policy_event("MODIFIED", told("p", "Shadow", 3, bundle="bad"))
        await eventually(lambda: "not the file that the card was written for" in report(made).refused)
        assert report(made).digest == load(good).digest

        (bad / "head.onnx").write_bytes((good / "head.onnx").read_bytes())  # repaired in place
        await eventually(lambda: not report(made).refused)
        assert (report(made).policy, report(made).generation) == ("bad", 3)

        made.modes.policy_event("DELETED", told("p", "Shadow", 3, bundle="bad"))
        assert made.report().placement_policies == []
        made.modes.policy_event("ADDED", told("p", "Active", bundle="absent"))
        await eventually(lambda: "absent is not a whole bundle" in report(made).refused)
        assert report(made).policy == "economic"


async def test_a_bundle_that_comes_when_it_is_no_longer_asked_for_is_not_used(tmp_path: Path) -> None:
    written(tmp_path / "good")
    made = service(told("p", "Active", bundle="good"), bundles=tmp_path)
    course = made.courses.get("p")
    assert course is not None
    late = course.load
    assert late is not None
    made.modes.policy_event("MODIFIED", told("p", "Active", 2, policy="index"))
    late.use(load(tmp_path / "good"))
    assert (report(made).policy, report(made).refused) == ("index", "")


async def test_a_learned_policy_whose_ranges_the_weights_leave_falls_back_and_explain_says_so(tmp_path: Path) -> None:
    """An eighth of a node of 0.4 USD/h for a minute: 0.08 cents of room. The card has seen up to 1."""
    columns = tuple(
        replace(c, observed_low=0.0, observed_high=1.0) if c.name == "room_cents" else c for c in card_of().columns
    )
    write_bundle(tmp_path / "seen", models(), replace(card_of(), columns=columns), golden())
    made = service(told("p", "Active", bundle="seen"), bundles=tmp_path, bundle_poll_s=0.02, deadline_ms=20_000)
    async with loading(made):
        await eventually(lambda: not report(made).refused)
        await ask(made, "a")
        made.modes.policy_event("MODIFIED", told("p", "Active", 2, bundle="seen", weights={"cost": 100}))
        assert len(await ask(made, "b")) == 1
    assert (report(made).decisions, report(made).fallbacks) == (2, {"features-out-of-range": 1})
    record = made.records.find("default", "b")
    assert record is not None
    said = explain(record.decision, record.view, record.names, "", (), record.mode, record.placement_policy)
    assert said["weights"] == {"latency": 1.0, "sla": 1.0, "energy": 1.0, "cost": 100.0}
    assert "because linear did not: features-out-of-range, room_cents is " in said["words"]
    assert "the policy was trained on 0 to 1 with all weights 1.) PlacementPolicy p applied." in said["words"]


@pytest.mark.parametrize(
    ("mode", "bound", "words"),
    [
        ("Off", "", "a: no opinion (PlacementPolicy p says off); the scheduler's own ranking decided."),
        ("Advise", "node-1", " (PlacementPolicy p says advise); the scheduler's own ranking decided for node-1."),
        ("Shadow", "", " The scheduler was not told (PlacementPolicy p says shadow)."),
        ("Shadow", "node-1", " The scheduler was not told (PlacementPolicy p says shadow), and bound it to node-1."),
        ("Active", "", " PlacementPolicy p applied."),
    ],
)  # fmt: skip
async def test_explain_names_the_policy_that_applied_and_its_mode(mode: str, bound: str, words: str) -> None:
    made = service(told("p", mode), policy=Likes())
    await ask(made, "a")
    record = made.records.find("default", "a")
    assert record is not None
    said = explain(record.decision, record.view, record.names, bound, (), record.mode, record.placement_policy)
    assert (said["mode"], said["placement_policy"]) == (mode.lower(), "p")
    assert said["words"].endswith(words)


# --- through the API server


@pytest.fixture
def api() -> Any:
    with FakeApi() as server:
        for name in NODES:
            server.put("nodes", node(name))
        server.put("namespaces", {"metadata": {"name": "default", "uid": "ns", "labels": {"team": "web"}}})
        yield server


async def replies(extender: Any) -> bool:
    answered = await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod("a"))})
    return bool(hosts(answered["/prioritize"][1]))


async def test_where_no_placement_policies_are_installed_the_extender_is_ready_and_does_as_its_flags_say(
    api: FakeApi, tmp_path: Path
) -> None:
    async with serving(api, tmp_path) as extender:
        status, body = await asyncio.to_thread(get, extender.admin_port, "/readyz")
        assert (status, json.loads(body)["placement_policies"]) == (200, "not installed")
        assert await replies(extender)
        assert b"placement_policies_refused 1.0" in extender.service.telemetry.text()


async def test_a_policy_by_namespace_label_is_followed_from_the_watch(api: FakeApi, tmp_path: Path) -> None:
    api.deny("placementpolicies", 0)
    web: Json = {"namespaceSelector": {"matchLabels": {"team": "web"}}}
    api.put("placementpolicies", resource("p", "Off", **web))
    async with serving(api, tmp_path) as extender:
        assert not await replies(extender)
        api.put("placementpolicies", resource("p", "Active", 2, **web))
        await eventually(lambda: extender.service.modes.policies[0].generation == 2)
        assert await replies(extender)
        told_now = json.loads((await asyncio.to_thread(get, extender.admin_port, "/policy"))[1])
        assert [(p["name"], p["mode"], p["generation"]) for p in told_now["placement_policies"]] == [("p", "active", 2)]
        assert told_now["default_mode"] == "active"
        body = (await asyncio.to_thread(get, extender.admin_port, "/readyz"))[1]
        assert json.loads(body)["placement_policies"].startswith("heard of ")
        explained = json.loads((await asyncio.to_thread(get, extender.admin_port, "/explain/default/a"))[1])
        assert (explained["placement_policy"], explained["mode"]) == ("p", "active")


async def test_a_resource_that_is_taken_away_is_gone_one_that_is_forbidden_stands_and_both_are_told_once(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="nodewise.kube.optional")
    client = await kube.connect(api.kubeconfig(tmp_path / "kubeconfig"))
    held: dict[str, Mode] = {}

    def replaced(all_there_are: list[PlacementPolicy]) -> None:
        held.clear()
        held.update((each.name, each.mode) for each in all_there_are)

    def event(kind: str, each: PlacementPolicy) -> None:
        held[each.name] = each.mode
        if kind == "DELETED":
            del held[each.name]

    call = kube.custom_call(client, GROUP, VERSION, PLURAL)
    watched = OptionalResource(call, placement_policy, replaced, event, name="placement_policies", again_s=0.05)
    task = asyncio.create_task(watched.run())
    try:
        await asyncio.wait_for(watched.answered.wait(), 20)
        await asyncio.sleep(0.3)  # asked again several times
        assert watched.says() == "not installed"
        api.deny("placementpolicies", 0)
        api.put("placementpolicies", resource("p", "Shadow"))
        await eventually(lambda: held == {"p": Mode.SHADOW})
        assert watched.says().startswith("heard of ")
        watched.informer.last_event_s -= 100.0
        assert watched.says() == "stale: nothing was heard for 100 s"
        api.deny("placementpolicies", 403)
        await eventually(lambda: watched.refused == "not permitted")
        await asyncio.sleep(0.3)
        assert held == {"p": Mode.SHADOW}
        api.deny("placementpolicies", 404)
        await eventually(lambda: watched.refused == "not installed")
        assert held == {}
        assert watched.age_s < 5.0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()  # type: ignore[no-untyped-call]
    said = [line.message.partition(";")[0] for line in caplog.records if line.name == "nodewise.kube.optional"]
    assert said == [
        "placement_policies are not installed",
        "placement_policies can be read now",
        "placement_policies are not permitted",
        "placement_policies are not installed",
    ]
