"""The two ports of one extender, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodewise.core.errors import UserError
from nodewise.extender.server import running
from nodewise_simulator.fake_api import FakeApi

from .extender_objects import NODES, NOW_S, eventually, get, hosts, node, pod, post, request, serving, settings


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        for name in NODES:
            server.put("nodes", node(name))
        yield server


async def test_any_prefix_and_a_trailing_slash_reach_the_verbs_on_one_connection(api: FakeApi, tmp_path: Path) -> None:
    paths = ("/prioritize", "/prioritize/", "/scheduler/v1/prioritize", "/filter", "/filter/", "/x/filter")
    async with serving(api, tmp_path) as extender:
        replies = await asyncio.to_thread(post, extender.port, {path: request(pod("a")) for path in paths})
        for path, (status, body, headers) in replies.items():
            assert (status, headers["content-length"]) == (200, str(len(body)))
            kept = json.loads(body)["NodeNames"] if "filter" in path else hosts(body)
            assert len(kept) == (4 if "filter" in path else 1)
        assert (await asyncio.to_thread(get, extender.port, "/prioritize"))[0] == 404


async def test_a_body_that_is_too_long_gets_no_opinion_and_the_connection_stays(api: FakeApi, tmp_path: Path) -> None:
    long = b"x" * 300_000
    async with serving(api, tmp_path, max_body_bytes=100_000) as extender:
        sent = {"/prioritize": long, "/filter": long, "/prioritize/": request(pod("a"))}
        replies = await asyncio.to_thread(post, extender.port, sent)
        assert [reply[0] for reply in replies.values()] == [200, 413, 200]
        assert replies["/prioritize"][1] == b"[]"
        assert len(hosts(replies["/prioritize/"][1])) == 1


async def test_a_replayed_request_brings_its_time_and_waits_for_the_version_it_presupposes(
    api: FakeApi, tmp_path: Path
) -> None:
    async with serving(api, tmp_path, replay=True) as extender:
        version = api.put("pods", pod("full", "node-0", "Running"))
        headers = {"X-Nodewise-Now": str(NOW_S + 5), "X-Nodewise-Resource-Version": str(version)}
        await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod("a"))}, headers)
        record = extender.service.records.find("default", "a")
        assert record is not None
        assert record.view is not None
        assert record.time_s == NOW_S + 5
        assert record.view.nodes.cpu_requested_milli[record.view.nodes.row["node-0"]] == 1000


async def test_the_headers_of_a_replay_mean_nothing_in_production(api: FakeApi, tmp_path: Path) -> None:
    async with serving(api, tmp_path) as extender:
        headers = {"X-Nodewise-Now": "5", "X-Nodewise-Resource-Version": "999999"}
        await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod("a"))}, headers)
        record = extender.service.records.find("default", "a")
        assert record is not None
        assert record.time_s > NOW_S - 3e7


async def test_the_admin_port_probes_measures_and_explains(api: FakeApi, tmp_path: Path) -> None:
    async with serving(api, tmp_path) as extender:

        async def ask(path: str) -> tuple[int, bytes]:
            return await asyncio.to_thread(get, extender.admin_port, path)

        assert (await ask("/healthz"))[0] == (await ask("/readyz"))[0] == 200
        api.put("pods", pod("a"))
        await eventually(lambda: extender.service.cache.waiting)
        reply = await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod("a"))})
        winner = hosts(reply["/prioritize"][1])[0]
        api.bind("default", "a", winner)
        await eventually(lambda: not extender.service.cache.waiting)
        told = json.loads((await ask("/explain/default/a"))[1])
        assert (told["winner"], told["bound"], told["agreed"], told["policy"]) == (winner, winner, True, "economic")
        status, said = await ask("/explain/default/b")
        assert (status, "nothing is known of pod default/b" in json.loads(said)["error"]) == (404, True)
        metrics = (await ask("/metrics"))[1].decode()
        assert 'nodewise_extender_requests_total{outcome="scored",verb="prioritize"} 1.0' in metrics
        assert 'nodewise_extender_bound_total{as="winner"} 1.0' in metrics
        assert "nodewise_extender_nodes 4.0" in metrics


async def test_probes_may_listen_elsewhere_than_the_scheduler_is_answered(api: FakeApi, tmp_path: Path) -> None:
    async with serving(api, tmp_path, admin_host="127.0.0.2") as extender:
        await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod("a"))})
        for host, port, answers in (
            ("127.0.0.2", extender.admin_port, True), ("127.0.0.1", extender.admin_port, False),
            ("127.0.0.2", extender.port, False),
        ):  # fmt: skip
            with socket.socket() as asked:
                assert (asked.connect_ex((host, port)) == 0) == answers


async def test_it_is_not_ready_and_has_no_opinion_before_it_has_read_the_lists(api: FakeApi, tmp_path: Path) -> None:
    api.refuse(1000)
    async with running(settings(kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"))) as extender:
        status, said = await asyncio.to_thread(get, extender.admin_port, "/readyz")
        assert (status, json.loads(said)["status"]) == (503, "nodes-not-synced")
        reply = await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod("a"))})
        assert reply["/prioritize"][1] == b"[]"


async def test_a_cache_that_nothing_refreshes_goes_stale(tmp_path: Path) -> None:
    with FakeApi(bookmark_s=1000) as api:
        api.put("nodes", node("node-0"))
        async with serving(api, tmp_path, stale_after_s=0.05) as extender:
            await eventually(lambda: extender.service.unready() == "stale")


async def test_a_port_in_use_and_an_unknown_policy_are_told_in_a_sentence(api: FakeApi, tmp_path: Path) -> None:
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for given, said in (
            ({"port": port}, f"127.0.0.1:{port} .*--port"),
            ({"admin_port": port}, f"127.0.0.1:{port} .*--admin-port"),
            ({"policy": "nope"}, "there is no policy 'nope'"),
            ({"kubeconfig": tmp_path / "none"}, "none does not exist"),
        ):
            with pytest.raises(UserError, match=said):
                async with running(settings(**({"kubeconfig": kubeconfig} | given))):
                    pass
