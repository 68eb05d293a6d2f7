"""Decisions go up and observations come down over real sockets, whatever happens to them on the way."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from nodewise.channel import client
from nodewise.channel.endpoint import Endpoint
from nodewise.channel.messages import Segment
from nodewise.channel.spool import Spool
from nodewise_operator.store import Store

from . import channel_objects
from .channel_ends import end, joined, post
from .channel_objects import ExtenderEnd, OperatorEnd, Proxy, encoded, eventually, observation, row

__all__ = ["end"]


# --- decisions up ----------------------------------------------------------------------------------------------------


async def test_a_decision_arrives_as_it_was_made(end: OperatorEnd, tmp_path: Path) -> None:
    async with joined(end, tmp_path / "spool") as extender:
        extender.spool.add(encoded("a"))
        await eventually(lambda: not extender.spool.segments)
    assert list(end.store.decisions()) == [row("a")]
    assert extender.client.uploaded == 1


@contextmanager
def killable(store: Path) -> Iterator[tuple[int, Any]]:
    """An operator's end in a process, on a port of its own; the second value kills it and starts the next."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, channel_objects.__file__, str(store), str(port)])

    running = [start()]

    def again() -> None:
        running[0].kill()
        running[0].wait()
        running[0] = start()

    try:
        yield port, again
    finally:
        running[0].kill()
        running[0].wait()


async def test_nothing_is_lost_and_nothing_stored_twice_when_the_channel_is_cut_and_the_operator_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random(1)
    sent: list[str] = []
    most_bytes = 1 << 20
    with killable(tmp_path / "nodewise.db") as (port, kill):
        spool = Spool(tmp_path / "spool", most_bytes)
        async with (
            Proxy(port).running() as proxy,
            ExtenderEnd(f"http://127.0.0.1:{proxy.port}", spool=spool).running() as extender,
        ):
            spool.add(encoded("first"))
            sent.append("first")
            await eventually(lambda: not spool.segments)
            for cut in range(20):
                for _ in range(10):
                    uids = [f"{len(sent) + k}" for k in range(chance.randint(1, 5))]
                    sent += uids
                    await asyncio.to_thread(spool.add, encoded(*uids))
                    await asyncio.sleep(chance.random() * 0.01)
                assert spool.size <= most_bytes
                proxy.cut()
                if cut % 5 == 4:
                    await asyncio.to_thread(kill)
                await asyncio.sleep(chance.random() * 0.2)
                proxy.mend()
                await asyncio.sleep(chance.random() * 0.3)
            await eventually(lambda: not spool.segments)
        assert (spool.dropped, extender.client.trouble) == (0, {})
    store = Store.open(str(tmp_path / "nodewise.db"))
    assert sorted(r.uid for r in store.decisions()) == sorted(sent)
    assert store.acknowledged(spool.extender) == 201
    store.close()


async def test_an_extender_that_restarts_sends_what_the_one_before_left(end: OperatorEnd, tmp_path: Path) -> None:
    before = Spool(tmp_path / "spool", extender="before-0000000a")
    before.add(encoded("a", "b"))
    before.close()
    async with joined(end, tmp_path / "spool") as extender:
        extender.spool.add(encoded("c"))
        await eventually(lambda: not extender.spool.segments)
    assert end.uids() == ["a", "b", "c"]
    assert (end.store.acknowledged(before.extender), end.store.acknowledged(extender.spool.extender)) == (1, 1)


async def test_a_segment_that_comes_again_is_stored_once(end: OperatorEnd) -> None:
    segment = Segment(extender="e", sequence=1, rows=[row("a")])
    async with end.serving() as port:
        replies = [await post(port, "/v1/segments", msgspec.json.encode(segment)) for _ in range(3)]
    assert replies == [(200, b'{"acknowledged":1}')] * 3
    assert end.uids() == ["a"]


async def test_while_the_store_fails_decisions_wait_and_the_failure_is_told_once(
    end: OperatorEnd, caplog: pytest.LogCaptureFixture
) -> None:
    end.broken = True
    async with joined(end) as extender:
        extender.spool.add(encoded("a"))
        await eventually(lambda: "upload" in extender.client.trouble)
        await asyncio.sleep(1.0)
        told = [r.getMessage() for r in caplog.records if r.name == "nodewise.channel.client"]
        assert len(told) == 1
        assert told[0].endswith("status 503: the operator cannot take this now")
        end.broken = False
        await eventually(lambda: not extender.spool.segments)
    assert end.uids() == ["a"]


async def test_a_segment_that_will_never_be_taken_does_not_hold_up_the_next(
    end: OperatorEnd, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined(end) as extender:
        extender.spool.add([msgspec.json.encode(row("bad", scores=[1.0]))])
        extender.spool.add(encoded("good"))
        await eventually(lambda: not extender.spool.segments)
    assert end.uids() == ["good"]
    assert extender.spool.dropped == 1
    assert "row 0 (pod default/pod-bad) has 1 scores for 2 candidates" in caplog.text


@asynccontextmanager
async def answering(head: bytes, body: bytes) -> AsyncIterator[int]:
    """Whoever is at this port gives the same answer to everything."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    "body", [b"<html>413 Request Entity Too Large</html>", b"", b'{"message":"no such route"}', b'{"error":7}']
)
async def test_a_proxy_that_refuses_loses_no_decision(end: OperatorEnd, body: bytes) -> None:
    """Only the operator's own word is final."""
    async with (
        answering(b"413 Request Entity Too Large", body) as before,
        end.serving() as port,
        ExtenderEnd(f"http://127.0.0.1:{before}").running() as extender,
    ):
        extender.spool.add(encoded("a"))
        await eventually(lambda: "upload" in extender.client.trouble)
        assert extender.client.trouble["upload"].startswith("status 413: ")
        extender.client._operator = Endpoint(f"http://127.0.0.1:{port}")
        await eventually(lambda: not extender.spool.segments)
    assert (end.uids(), extender.spool.dropped) == (["a"], 0)


async def test_the_disk_is_never_waited_for_by_those_who_decide(
    end: OperatorEnd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither on the way up, nor when a segment is given up."""
    loop, seen = threading.get_ident(), set[str]()
    really = {name: getattr(Spool, name) for name in ("oldest", "read", "done")}
    for name in really:

        def noted(*args: Any, name: str = name, **given: Any) -> Any:
            assert threading.get_ident() != loop
            seen.add(f"{name} {given.get('kept', '')}".strip())
            return really[name](*args, **given)

        monkeypatch.setattr(Spool, name, noted)
    async with joined(end, tmp_path / "spool") as extender:
        extender.spool.add([msgspec.json.encode(row("bad", scores=[1.0]))])
        extender.spool.add(encoded("good"))
        await eventually(lambda: not extender.spool.segments)
    assert seen == {"oldest", "read", "done", "done False"}


async def test_an_operator_that_says_nothing_is_given_up_and_found_again(
    end: OperatorEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-open connection: what is sent goes nowhere, and no error comes back."""
    monkeypatch.setattr(client, "_ANSWER_S", 0.5)
    async with end.serving() as port, Proxy(port).running() as proxy:
        proxy.deaf = True
        async with ExtenderEnd(f"http://127.0.0.1:{proxy.port}").running() as extender:
            extender.spool.add(encoded("a"))
            await eventually(lambda: extender.client.trouble.get("upload") == "no answer in time")
            proxy.deaf = False
            await eventually(lambda: not extender.spool.segments)
    assert end.uids() == ["a"]


# --- observations down -----------------------------------------------------------------------------------------------


async def test_what_the_operator_learns_is_believed_by_an_extender_within_a_second(end: OperatorEnd) -> None:
    end.see(observation("old"))
    async with joined(end) as extender:
        await eventually(lambda: extender.follower.revision == 1)
        end.see(observation("new"))
        await eventually(lambda: extender.follower.revision == 2)
    beliefs = extender.follower.estimator.beliefs()
    assert beliefs.run_mean.tolist() == end.predictor.estimator.beliefs().run_mean.tolist()


async def test_what_an_extender_learned_alone_reaches_the_operator_and_its_disk(end: OperatorEnd) -> None:
    extender = ExtenderEnd("http://127.0.0.1:9")
    extender.follower._heard_s -= 100.0  # nobody was heard for long
    for k in range(3):
        extender.follower.learn(observation(f"alone-{k}"))
    end.see(observation("alone-1"))
    async with end.serving() as port:
        extender.client._operator = Endpoint(f"http://127.0.0.1:{port}")
        async with extender.running():
            await eventually(lambda: extender.follower.revision == 3 and extender.follower.own == 0)
            await eventually(lambda: not extender.follower.rebuild())
    assert sorted(seen.uid for _, seen in end.store.observations()) == ["alone-0", "alone-1", "alone-2"]
    ours, theirs = extender.follower.estimator.beliefs(), end.predictor.estimator.beliefs()
    assert ours.run_mean.tolist() == theirs.run_mean.tolist()


async def test_who_waits_for_news_is_answered_when_the_operator_ends(end: OperatorEnd) -> None:
    async with aiohttp.ClientSession() as session:
        async with end.serving() as port:
            asked = {"epoch": end.predictor.epoch, "since": str(end.predictor.revision), "wait_s": "20"}
            waits = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/v1/predictor", params=asked).__aenter__())
            await asyncio.sleep(0.5)
            assert not waits.done()
        reply = await waits
        assert reply.status == 200


async def test_a_report_tells_who_sends_it_and_what_only_the_channel_knows(end: OperatorEnd) -> None:
    async with joined(end) as extender:
        extender.spool.dropped = 5
        await eventually(lambda: end.reports)
    told = end.reports[0]
    assert (told.extender, told.dropped, told.policy) == (extender.spool.extender, 5, "p")
