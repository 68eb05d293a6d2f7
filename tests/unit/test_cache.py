"""What the watches tell becomes what policies see: over sockets where the wire matters, directly where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.core.types import PodRequest
from nodewise.kube.cache import Cache, seen_node, seen_pod
from nodewise.kube.overrides import Override
from nodewise_simulator.fake_api import FakeApi

from .extender_objects import NODES, NOW_S, eventually, finished, node, pod, serving


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        for name in NODES:
            server.put("nodes", node(name))
        yield server


@pytest.fixture
def cache() -> Cache:
    made = Cache(ClusterState(RunTimeEstimator()), lambda *_: None)
    made.replace_nodes([seen_node(node(name)) for name in NODES])
    made.replace_pods([])
    return made


def asked() -> PodRequest:
    return seen_pod(pod("asked"), "nodewise").state.request


def belief_s(state: ClusterState, on: str) -> float:
    view = state.view(asked(), NOW_S)
    return float(view.beliefs.run_mean[view.belief_row, view.nodes.node_class[view.nodes.row[on]]])


async def test_a_pod_is_followed_from_the_queue_to_its_node_to_what_it_teaches(api: FakeApi, tmp_path: Path) -> None:
    api.put("pods", pod("other", schedulerName="default-scheduler"))
    async with serving(api, tmp_path) as extender:
        cache = extender.service.cache
        before_s = belief_s(cache.state, "node-1")
        api.put("pods", pod("a"))
        await eventually(lambda: cache.waiting == 1)  # the other scheduler's pod is not in our queue
        api.bind("default", "a", "node-1")
        await eventually(lambda: cache.state.node_of("uid-a") == "node-1")
        assert cache.waiting == 0
        api.put("pods", finished("a", "node-1", 600))
        await eventually(lambda: not cache.state.node_of("uid-a"))
        assert cache.learned == 1
        assert belief_s(cache.state, "node-1") > 1.5 * before_s


async def test_a_new_list_teaches_nothing_twice(api: FakeApi, tmp_path: Path) -> None:
    api.put("pods", finished("done", "node-0", 600))
    api.put("pods", pod("a", "node-1", "Running"))
    async with serving(api, tmp_path) as extender:
        cache = extender.service.cache
        assert (cache.learned, [*cache.state.pods()]) == (1, ["uid-a"])  # also from what ended before we began
        learned_s = belief_s(cache.state, "node-0")
        await eventually(lambda: any("/pods?" in asked and "watch" in asked for asked in api.requests))
        api.expire_watches()
        await eventually(lambda: extender.pods.relists)
        api.put("pods", pod("b", "node-2", "Running"))
        await eventually(lambda: cache.state.node_of("uid-b"))
        assert (cache.learned, belief_s(cache.state, "node-0")) == (1, learned_s)


def test_what_a_new_list_lacks_is_gone(cache: Cache) -> None:
    a, b = (seen_pod(pod(name, "node-1", "Running"), "nodewise") for name in "ab")
    waiting = seen_pod(pod("c"), "nodewise")
    cache.replace_pods([a, b, waiting])
    cache.replace_pods([b])
    assert ([*cache.state.pods()], cache.bound, cache.waiting) == (["uid-b"], 1, 0)
    assert cache.state.view(asked(), NOW_S).queued_by_sla.sum() == 0
    cache.replace_nodes([seen_node(node("node-2"))])
    assert cache.state.view(asked(), NOW_S).nodes.name == ("node-2",)


async def test_an_object_that_cannot_be_read_is_counted_and_hides_no_other(api: FakeApi, tmp_path: Path) -> None:
    broken = pod("broken", "node-1", "Running")
    broken["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "many"
    api.put("pods", broken)
    api.put("pods", pod("a", "node-1", "Running"))
    async with serving(api, tmp_path) as extender:
        assert [*extender.service.cache.state.pods()] == ["uid-a"]
        assert extender.pods.errors["projection"] == 1


def test_a_nominated_node_is_charged_until_the_nomination_ends(cache: Cache) -> None:
    preemptor = pod("a", schedulerName="default-scheduler")
    preemptor["status"]["nominatedNodeName"] = "node-1"
    cache.pod_event("ADDED", seen_pod(preemptor, "nodewise"))
    row = cache.state.view(asked(), NOW_S).nodes.row["node-1"]
    assert cache.state.view(asked(), NOW_S).nodes.cpu_requested_milli[row] == 1000
    cache.pod_event("MODIFIED", seen_pod(pod("a", schedulerName="default-scheduler"), "nodewise"))
    assert cache.state.view(asked(), NOW_S).nodes.cpu_requested_milli[row] == 0


def test_room_that_is_held_for_another_pod_is_passed_over_while_there_is_other_room(cache: Cache) -> None:
    def chosen(priority: int, cpu_milli: float, rows: list[int]) -> list[int]:
        request = replace(asked(), priority=priority, cpu_milli=cpu_milli)
        left: list[int] = cache.unclaimed(request, cache.state.view(request, NOW_S), np.array(rows)).tolist()
        return left

    table = cache.state.view(asked(), NOW_S).nodes
    held, free_milli = table.row["node-1"], table.cpu_allocatable_milli[table.row["node-1"]] - 1000
    other = next(row for row in range(len(NODES)) if row != held)
    assert chosen(0, free_milli + 1, [held, other]) == [held, other]
    preemptor = pod("a", schedulerName="default-scheduler", priority=100)
    preemptor["status"]["nominatedNodeName"] = "node-1"  # for 1000 milli
    cache.pod_event("ADDED", seen_pod(preemptor, "nodewise"))
    assert chosen(100, free_milli + 1, [held, other]) == [other]
    assert chosen(0, free_milli + 1, [other, held]) == [other]
    assert chosen(100, free_milli, [held, other]) == [held, other]  # beside it there is room
    assert chosen(101, free_milli + 1, [held, other]) == [held, other]  # it matters more
    assert chosen(100, free_milli + 1, [held]) == [held]  # better there than nowhere
    cache.pod_event("DELETED", seen_pod(preemptor, "nodewise"))
    assert chosen(100, free_milli + 1, [held, other]) == [held, other]


def test_a_pod_that_failed_or_was_deleted_frees_its_room_and_teaches_nothing(cache: Cache) -> None:
    before_s = belief_s(cache.state, "node-1")
    for name, last in (("a", finished("a", "node-1", 600, "Failed")), ("b", pod("b", "node-1", "Running"))):
        cache.pod_event("ADDED", seen_pod(pod(name, "node-1", "Running"), "nodewise"))
        cache.pod_event("DELETED" if name == "b" else "MODIFIED", seen_pod(last, "nodewise"))
    assert not [*cache.state.pods()]
    assert belief_s(cache.state, "node-1") == before_s


def test_gated_and_dying_pods_do_not_queue(cache: Cache) -> None:
    cache.pod_event("ADDED", seen_pod(pod("a", schedulingGates=[{"name": "quota"}]), "nodewise"))
    dying = pod("b")
    dying["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:01Z"
    cache.pod_event("ADDED", seen_pod(dying, "nodewise"))
    assert cache.waiting == 0
    cache.pod_event("MODIFIED", seen_pod(pod("a"), "nodewise"))
    assert cache.waiting == 1


def test_the_end_of_an_old_node_does_not_remove_the_new_one_of_its_name(cache: Cache) -> None:
    old = node("node-1") | {"metadata": {**node("node-1")["metadata"], "uid": "the-old-one"}}
    cache.node_event("DELETED", seen_node(old))
    assert cache.nodes == 4
    cache.node_event("DELETED", seen_node(node("node-1")))
    assert cache.nodes == 3


def test_a_list_read_at_once_gives_the_same_picture_as_its_pods_one_by_one(cache: Cache) -> None:
    pods = [pod(f"p{k:02}", NODES[k * 7 % 4], "Running") for k in range(40)]
    cache.replace_pods([seen_pod(each, "nodewise") for each in pods])
    other = Cache(ClusterState(RunTimeEstimator()), lambda *_: None)
    other.replace_nodes([seen_node(node(name)) for name in NODES])
    for each in pods:
        other.pod_event("ADDED", seen_pod(each, "nodewise"))
    a, b = (c.state.view(asked(), NOW_S).nodes for c in (cache, other))
    assert a.resident_offsets.tolist() == b.resident_offsets.tolist()
    assert a.cpu_requested_milli.tolist() == b.cpu_requested_milli.tolist() != [0.0] * 4
    assert math.isclose(a.work_remaining_s.sum(), b.work_remaining_s.sum())


def test_what_an_owner_says_of_price_and_power_stands_above_what_nodes_say_until_it_is_taken_back(cache: Cache) -> None:
    def told() -> list[tuple[float, float, float]]:
        return [(n.price_usd_per_h, n.idle_w, n.peak_w) for n in cache.state.nodes()]

    before = told()
    node_class = cache.state.nodes()[0].node_class
    cache.replace_overrides([Override("b", node_class, price_usd_per_h=9.0), Override("a", node_class, idle_w=500.0)])
    after = [(0.4, 500.0, 500.0), *before[1:]]  # of two the first by name; the peak is not below idle
    assert before[0] == (0.4, 0.0, 200.0)
    assert told() == after
    cache.node_event("MODIFIED", seen_node(node(NODES[0]) | {"spec": {"unschedulable": True}}))
    assert cache.state.nodes()[0].unschedulable
    assert told() == after
    cache.replace_overrides([Override("z", "another class", idle_w=1.0)])
    assert told() == before
