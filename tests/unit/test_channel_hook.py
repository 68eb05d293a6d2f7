"""The channel in a whole operator process: what extenders send, what it watches itself, and its one store."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from nodewise.channel.messages import Report
from nodewise.core.errors import UserError
from nodewise_operator.app import working
from nodewise_operator.channel_hook import MOST_NAMES, channel_hooks, remember, wanted
from nodewise_operator.channel_server import RefusedError
from nodewise_operator.placement_status import FORGOTTEN_S, Reported
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import Batch, Fate, Store, StoreUnavailable
from nodewise_simulator.fake_api import FakeApi

from .channel_objects import ExtenderEnd, encoded, eventually, observation
from .extender_objects import finished, node, pod


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as made:
        made.put("nodes", node("node-0"))
        yield made


def settings(api: FakeApi, folder: Path, **given: object) -> OperatorSettings:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    asked: dict[str, object] = {
        "store": str(folder / "nodewise.db"), "kubeconfig": api.kubeconfig(folder / "kubeconfig"), "port": 0,
        "channel_port": port, "channel_unauthenticated": True, "source": "informer", "policy": "economic",
        "unknown_after_s": 0.5,
    }  # fmt: skip
    return OperatorSettings.model_validate(asked | given)


async def test_every_decision_has_its_pod_and_every_pod_that_ran_teaches_the_extender(
    api: FakeApi, tmp_path: Path
) -> None:
    api.put("pods", pod("here", on="node-0", phase="Running"))
    made = settings(api, tmp_path)
    async with working(made, channel_hooks()[:1]) as operator:
        await eventually(operator.intake.synced.is_set)
        extender = ExtenderEnd(f"http://127.0.0.1:{made.channel_port}")
        extender.follower.learn(observation("only-seen-here"))
        extender.follower._heard_s -= 100.0  # the operator was away
        extender.follower.tick()
        async with extender.running():
            extender.spool.add(encoded("uid-here", "uid-gone"))
            await eventually(lambda: not extender.spool.segments)
            api.put("pods", finished("here", "node-0", 30))
            await eventually(lambda: extender.follower.revision == 2 and not extender.follower.own)
        await eventually(lambda: _fate(operator.store, "uid-gone") is Fate.CENSORED)
        await eventually(lambda: not operator.intake.unwritten)
        ours, theirs = extender.follower.estimator.beliefs(), operator.predictor.estimator.beliefs()
        assert ours.observations.sum() == theirs.observations.sum() > 1.9
        assert operator.dead() == ""
    store = Store.open(str(tmp_path / "nodewise.db"))
    assert sorted((row.uid, row.source) for row in store.decisions()) == [
        ("uid-gone", "extender"), ("uid-here", "extender"), ("uid-here", "observed"),
    ]  # fmt: skip
    assert _fate(store, "uid-here") is Fate.SUCCEEDED
    assert [seen.uid for _, seen in store.observations()] == ["only-seen-here", "uid-here"]
    saved = store.estimator()
    assert saved
    assert saved[0] == 2
    store.close()


def _fate(store: Store, uid: str) -> Fate | None:
    row = store.pod(uid)
    return row.fate if row else None


async def test_without_service_accounts_nobody_may_use_the_channel(api: FakeApi, tmp_path: Path) -> None:
    made = settings(api, tmp_path, channel_unauthenticated=False)
    assert not wanted(made)
    async with working(made, channel_hooks()[:1]) as operator:
        await eventually(operator.intake.synced.is_set)
        with pytest.raises(OSError, match="111"):
            await asyncio.open_connection("127.0.0.1", made.channel_port)
        assert operator.dead() == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"channel_accounts": "a/b"}, "exclude each other"),
        ({"channel_accounts": "a", "channel_unauthenticated": False}, "'a' names no service account: write namespace"),
    ],
)
def test_settings_of_the_channel_that_make_no_sense_are_told(
    api: FakeApi, tmp_path: Path, given: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        wanted(settings(api, tmp_path, **given))


async def test_while_the_store_is_away_an_extender_is_told_so_at_once(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(batch: Batch) -> None:
        raise StoreUnavailable("the disk is full")

    made = settings(api, tmp_path)
    async with working(made, channel_hooks()[:1]) as operator, aiohttp.ClientSession() as session:
        await eventually(operator.intake.synced.is_set)
        with monkeypatch.context() as patched:
            patched.setattr(operator.store, "write", away)
            await eventually(lambda: bool(operator.intake.unavailable))
            free = threading.Event()
            stuck = operator.intake.call(lambda: free.wait(20.0))  # whoever waited now would wait for this
            body = b'{"extender": "e", "sequence": 1, "rows": []}'
            async with session.post(f"http://127.0.0.1:{made.channel_port}/v1/segments", data=body) as reply:
                assert (reply.status, "the disk is full" in await reply.text()) == (503, True)
            assert not stuck.done()
            assert operator.intake.calls == 1
            free.set()
        await eventually(lambda: not operator.intake.unavailable)
        async with session.post(f"http://127.0.0.1:{made.channel_port}/v1/segments", data=body) as reply:
            assert (reply.status, await reply.json()) == (200, {"acknowledged": 1})


async def test_what_did_not_happen_in_time_never_does(api: FakeApi, tmp_path: Path) -> None:
    async with working(settings(api, tmp_path)) as operator:
        free, done = threading.Event(), list[int]()
        stuck = operator.intake.call(lambda: free.wait(20.0))
        with pytest.raises(TimeoutError):
            await operator.on_intake(lambda: done.append(1), within_s=0.05)
        free.set()
        await asyncio.wrap_future(stuck)
        await operator.on_intake(lambda: done.append(2), within_s=10.0)
        assert done == [2]


def test_only_so_many_extenders_are_remembered_and_the_silent_make_room() -> None:
    reports: dict[str, Reported] = {}

    def hear(name: str, at_s: float) -> None:
        remember(reports, Reported(Report(extender=name, time_s=0.0, policy="p", digest="d"), at_s))

    for k in range(MOST_NAMES):
        hear(f"e-{k}", float(k))
    with pytest.raises(RefusedError, match=f"{MOST_NAMES} extenders report already"):
        hear("one more", 200.0)
    hear("e-1", 200.0)
    hear("one more", FORGOTTEN_S + 0.5)
    assert len(reports) == MOST_NAMES
    assert {"e-1", "one more"} < reports.keys()
    assert "e-0" not in reports
