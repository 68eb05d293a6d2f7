"""What the operator's port of probes tells of its store, over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from fastapi import FastAPI

from nodewise.kube.snapshot import Snapshot
from nodewise_operator import recorded
from nodewise_operator import snapshot as snapshots
from nodewise_operator.app import _uvicorn
from nodewise_operator.recorded import AT_ONCE, MOST_DECISIONS, add_recorded
from nodewise_operator.store import Batch, Fate, NodeRow, Store

from .stored import decision_row, pod_row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two pods of one name, the older one with many decisions, and a node."""
    made = Store.open(str(tmp_path / "store.db"))
    made.take_over("operator-0")
    made.write(
        Batch(
            pods=(
                pod_row("old", name="a", created_s=100.0),
                pod_row("new", Fate.RUNNING, name="a", created_s=200.0),
                pod_row("other", name="a", namespace="elsewhere"),
            ),
            nodes=(NodeRow("node-1", "n", "old", {"metadata": {"name": "n"}}, 1.0, float("inf")),),
            decisions=tuple(decision_row("old", 100.0 + k, seed=k) for k in range(MOST_DECISIONS + 5)),
            seen_s=300.0,
        )
    )
    return made


@asynccontextmanager
async def asking(store: Store | None) -> AsyncIterator[aiohttp.ClientSession]:
    app = FastAPI()
    add_recorded(app, lambda: store)
    server = _uvicorn(app)
    server.config.port = 0
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", auto_decompress=False) as session:
        yield session
    server.should_exit = True
    await serving


async def asked(session: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with session.get(path) as reply:
        return reply.status, await reply.json()


async def test_pods_of_one_name_are_told_newest_first_with_their_newest_decisions(store: Store) -> None:
    async with asking(store) as session:
        status, told = await asked(session, "/pods?namespace=default&name=a")
        assert (status, [pod["uid"] for pod in told["pods"]]) == (200, ["new", "old"])
        new, old = told["pods"]
        assert (new["fate"], new["finished_s"], new["decisions"]) == ("running", None, [])
        assert (old["fate"], old["node"], old["finished_s"]) == ("succeeded", "n", 121.0)
        times = [decision["time_s"] for decision in old["decisions"]]
        assert times == [100.0 + k for k in reversed(range(5, MOST_DECISIONS + 5))]
        scores = [candidate["score"] for candidate in old["decisions"][0]["candidates"]]
        assert (scores, old["decisions"][0]["candidates_seen"]) == (sorted(scores, reverse=True), 40)
        assert (await asked(session, "/pods?namespace=default&uid=old"))[1]["pods"] == [old]
        assert (await asked(session, "/pods?namespace=elsewhere&uid=old"))[1] == {"pods": []}
        assert (await asked(session, "/pods?namespace=default"))[0] == 422


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
async def test_the_snapshot_that_is_sent_holds_what_the_command_writes(
    store: Store, accepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_PODS", 2)  # more pieces than one
    async with asking(store) as session, session.get("/snapshot", headers={"Accept-Encoding": accepted}) as reply:
        body = await reply.read()
    assert (body[:2] == b"\x1f\x8b") == (accepted == "gzip") == (reply.headers.get("Content-Encoding") == "gzip")
    sent = msgspec.json.decode(gzip.decompress(body) if accepted == "gzip" else body, type=Snapshot)
    whole = msgspec.json.decode(msgspec.json.encode(snapshots.recorded(store)), type=Snapshot)
    assert len(sent.pods) == 3
    assert msgspec.structs.replace(sent, made_s=0.0) == msgspec.structs.replace(whole, made_s=0.0)


async def test_a_snapshot_without_pods_is_one_too(tmp_path: Path) -> None:
    empty = Store.open(str(tmp_path / "store.db"))
    async with asking(empty) as session:
        status, said = await asked(session, "/snapshot")
        assert (status, "has seen no node yet" in said["error"]) == (503, True)
        empty.take_over("operator-0")
        node = NodeRow("node-1", "n", "old", {"metadata": {"name": "n"}}, 1.0, float("inf"))
        empty.write(Batch(nodes=(node,), seen_s=300.0))
        async with session.get("/snapshot") as reply:
            assert json.loads(gzip.decompress(await reply.read()))["pods"] == []


async def test_a_replica_that_stands_by_says_so() -> None:
    async with asking(None) as session:
        for path in ("/snapshot", "/pods?namespace=a&name=b"):
            assert await asked(session, path) == (503, {"error": "standing by: another replica works"})


async def test_few_look_at_once_and_whoever_went_away_leaves_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()

    def slow(held: Store) -> Iterator[bytes]:
        yield b"{"
        going.wait()
        yield from snapshots.pieces(held)

    monkeypatch.setattr(recorded, "pieces", slow)
    async with asking(store) as session:
        held = [await session.get("/snapshot") for _ in range(AT_ONCE)]
        for path in ("/snapshot", "/pods?namespace=default&name=a"):
            async with session.get(path) as reply:
                assert reply.status == 429
        held[0].close()
        going.set()
        await held[1].read()
        for _ in range(200):
            async with session.get("/pods?namespace=default&name=a") as reply:
                if reply.status == 200:
                    return
            await asyncio.sleep(0.05)
        pytest.fail("no room was left")
