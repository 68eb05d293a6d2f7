"""One extender on a real socket, asked as Go's HTTP client asks: over connections that stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from nodewise.extender.server import Running, running
from nodewise.extender.settings import ExtenderSettings
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.world import node_manifest

from . import ours
from .go_json import strict_filter, strict_priorities

REQUEST = ours.args(ours.pod(), ours.NODES)


class Connection:
    """A connection that is kept; `post` gives status, headers and body, all of which must be framed by a length."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes, *, chunks: int = 0) -> tuple[int, dict[str, str], bytes]:
        """`chunks` above 0 sends the body in pieces, without its length."""
        length = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
        self._writer.write(head.encode())
        if chunks:
            size = -(-len(body) // chunks)
            for start in range(0, len(body), size):
                piece = body[start : start + size]
                self._writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self._writer.write(b"0\r\n\r\n")
        else:
            self._writer.write(body)
        async with asyncio.timeout(20):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:-1])}
            return int(lines[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))


@pytest.fixture
async def extender(tmp_path: Path) -> AsyncIterator[Running]:
    with FakeApi() as api:
        for k, name in enumerate(ours.NODES):
            api.put(
                "nodes",
                node_manifest(
                    name, cpu_milli=8000, memory_bytes=32 * ours.GIB, instance_type="m", price_usd_per_h=1 + k
                ),
            )
        settings = ExtenderSettings.model_validate(
            {"port": 0, "admin_port": 0, "kubeconfig": api.kubeconfig(tmp_path / "kubeconfig"), "scheduler_name": ""}
        )
        async with running(settings) as started:
            async with asyncio.timeout(20):
                await asyncio.gather(started.nodes.synced.wait(), started.pods.synced.wait())
            yield started


async def test_a_connection_answers_again_and_again_and_after_six_idle_seconds(extender: Running) -> None:
    async with Connection(extender.port) as kept:
        for idle_s in (0.0, 0.0, 6.0):  # many servers close what is idle for 5 s, and Go does not repeat a POST
            await asyncio.sleep(idle_s)
            status, headers, body = await kept.post("/prioritize", REQUEST)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert "close" not in headers.get("connection", "")
            assert strict_priorities(body, ours.NODES) == [("node-0", 10)]


@pytest.mark.parametrize("path", ["/{}", "/{}/", "//{}", "/scheduler/{}", "/scheduler/{}?timeout=5s"])
async def test_any_prefix_and_a_trailing_slash_answer_without_redirect(extender: Running, path: str) -> None:
    async with Connection(extender.port) as kept:
        status, _, body = await kept.post(path.format("prioritize"), REQUEST)
        assert (status, len(strict_priorities(body, ours.NODES))) == (200, 1)
        status, _, body = await kept.post(path.format("filter"), REQUEST)
        assert status == 200
        strict_filter(body, ours.NODES)


async def test_a_megabyte_of_names_is_answered_on_the_same_connection(extender: Running) -> None:
    names = [*ours.NODES, *(f"ip-10-0-{k // 250}-{k % 250}.eu-central-1.compute.internal" for k in range(25_000))]
    body = ours.args(ours.pod(), names)
    assert len(body) > 1 << 20
    async with Connection(extender.port) as kept:
        status, _, reply = await kept.post("/prioritize", body)
        assert (status, strict_priorities(reply, ours.NODES)) == (200, [("node-0", 10)])
        status, _, reply = await kept.post("/filter", body, chunks=7)
        assert (status, strict_filter(reply, names).node_names) == (200, names)
        assert (await kept.post("/prioritize", REQUEST))[0] == 200


async def test_bad_bodies_are_answered_on_a_connection_that_stays_good(extender: Running) -> None:
    async with Connection(extender.port) as kept:
        for bad in (b"", b"{", b"\xff" * 100, b"[" * 100_000, REQUEST[:-5]):
            status, _, body = await kept.post("/prioritize", bad)
            assert (status, body) == (200, b"[]")
        status, _, body = await kept.post("/prioritize", REQUEST)
        assert (status, strict_priorities(body, ours.NODES)) == (200, [("node-0", 10)])


async def test_fifty_at_once_are_all_answered(extender: Running) -> None:
    async def one(k: int) -> None:
        async with Connection(extender.port) as kept:
            status, _, body = await kept.post("/prioritize", ours.args(ours.pod(f"p-{k}"), ours.NODES))
            assert status == 200
            assert len(strict_priorities(body, ours.NODES)) == 1

    await asyncio.gather(*map(one, range(50)))
