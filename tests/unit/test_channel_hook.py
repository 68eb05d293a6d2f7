"""The channel in a whole operator process: what extenders send, what it watches itself, and its one store."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodewise.core.errors import UserError
from nodewise_operator.app import working
from nodewise_operator.channel_hook import channel_hooks, wanted
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import Fate, Store
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
