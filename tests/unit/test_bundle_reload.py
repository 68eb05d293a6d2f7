"""What decides: asked for or built in, and exchanged while the extender serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise import policies
from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.extender.server import Running, running
from nodewise.policies.learned import load
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.run import resolve

from .bundles import written
from .extender_objects import LIMIT_S, NODES, eventually, get, hosts, node, pod, post, request, serving, settings

Put = Callable[[Path, Path], None]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        for name in NODES:
            server.put("nodes", node(name))
        yield server


def linked(new: Path, at: Path) -> None:
    """The link is pointed elsewhere, as a volume of Kubernetes does."""
    link = at.with_name("link")
    link.symlink_to(new)
    link.replace(at)


def moved(new: Path, at: Path) -> None:
    """The folder is moved away and another put in its place."""
    if at.exists():
        at.rename(at.with_name("old"))
        shutil.rmtree(at.with_name("old"))
    shutil.copytree(new, at)


def copied(new: Path, at: Path) -> None:
    """The files are written over, the card first: for a moment it does not fit the others."""
    at.mkdir(exist_ok=True)
    for path in sorted(new.iterdir()):
        shutil.copyfile(path, at / path.name)


@pytest.mark.parametrize("put", [linked, moved, copied])
async def test_a_new_bundle_decides_and_a_bad_one_leaves_the_last_good_one_deciding(
    put: Put, api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="nodewise")
    first, bad = written(tmp_path / "first"), written(tmp_path / "bad", (-9, -9, -9, -9, -9), name="bad")
    second = written(tmp_path / "second", (-1, -1, -1, -1, -1), name="second")
    (bad / "head.onnx").write_bytes((second / "head.onnx").read_bytes())
    at = tmp_path / "served"
    put(first, at)
    async with serving(api, tmp_path, bundle=at, bundle_poll_s=0.02, deadline_ms=1000 * LIMIT_S) as extender:
        decided: list[str] = []
        asking = asyncio.create_task(keep_asking(extender, decided))
        try:
            await decides(decided, load(first).digest)

            put(bad, at)
            await eventually(lambda: extender.service.telemetry.text().count(b"bundle_refused 1.0"))
            told = await policy(extender)
            assert (told["name"], told["digest"], told["bundle"]) == ("linear", load(first).digest, str(at))
            refusal = f"{at}/head.onnx is not the file that the card was written for; copy the bundle again"
            assert told["refused"] == refusal
            await asyncio.sleep(0.2)  # many looks
            await decides(decided, load(first).digest)
            logged = [record.message for record in caplog.records if "refused" in record.message]
            assert logged == [f"the new bundle is refused, so {load(first).digest} still decides: {refusal}"]

            put(second, at)
            await decides(decided, load(second).digest)
            told = await policy(extender)
            assert (told["name"], told["digest"], told["refused"]) == ("second", load(second).digest, None)
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        metrics = extender.service.telemetry.text().decode()
        assert 'nodewise_extender_bundles_total{outcome="refused"} 1.0' in metrics
        assert 'nodewise_extender_bundles_total{outcome="served"} 1.0' in metrics
        assert f'nodewise_extender_policy_info{{digest="{load(second).digest}",name="second"}} 1.0' in metrics
        assert "nodewise_extender_bundle_refused 0.0" in metrics
        assert set(decided) == {load(first).digest, load(second).digest}


async def test_a_folder_that_vanishes_or_cannot_be_understood_ends_nothing(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = written(tmp_path / "served")
    async with serving(api, tmp_path, bundle=at, bundle_poll_s=0.02) as extender:
        at.rename(tmp_path / "away")
        await eventually(lambda: extender.service.telemetry.text().count(b"bundle_refused 1.0"))
        assert "served is not a whole bundle: card.json cannot be read" in (await policy(extender))["refused"]
        monkeypatch.setattr("nodewise.extender.bundle_watch.load", lambda folder: 1 / 0)
        (tmp_path / "away").rename(at)
        await eventually(lambda: b'outcome="refused"} 2.0' in extender.service.telemetry.text())
        assert "served cannot be loaded: ZeroDivisionError" in (await policy(extender))["refused"]
        extender.check()


def caused_by(error: Exception) -> UserError:
    refused = UserError("head.onnx cannot be read")
    refused.__cause__ = error
    return refused


@pytest.mark.parametrize("error", [OSError("too many files"), caused_by(OSError()), caused_by(MemoryError())])
async def test_a_bundle_that_could_not_be_loaded_for_a_while_decides_as_soon_as_it_can(
    error: Exception, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, second = written(tmp_path / "served"), written(tmp_path / "second", name="second")
    async with serving(api, tmp_path, bundle=at, bundle_poll_s=0.02) as extender:
        loads = loading(monkeypatch, error, error, error)
        moved(second, at)
        await eventually(lambda: extender.service.policy.name == "second")
        assert len(loads) == 4
        assert (await policy(extender))["refused"] is None
        assert b'outcome="refused"} 1.0' in extender.service.telemetry.text()  # one bundle, however often it was tried


async def test_a_bundle_that_is_refused_for_good_is_read_once(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, second = written(tmp_path / "served"), written(tmp_path / "second", name="second")
    async with serving(api, tmp_path, bundle=at, bundle_poll_s=0.02) as extender:
        loads = loading(monkeypatch, UserError("the card is not JSON"))
        moved(second, at)
        await eventually(lambda: extender.service.refused)
        await asyncio.sleep(0.2)  # many looks
        assert len(loads) == 1


def loading(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Path]:
    """The next loads of a new bundle fail with these, the others do not; the folders that are loaded from now on."""
    loads: list[Path] = []

    def faulty(folder: Path) -> Policy:
        loads.append(folder)
        if len(loads) <= len(errors):
            raise errors[len(loads) - 1]
        return load(folder)

    monkeypatch.setattr("nodewise.extender.bundle_watch.load", faulty)
    return loads


def test_a_new_bundle_whose_check_hangs_does_not_hold_up_the_end(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, second = written(tmp_path / "served"), written(tmp_path / "second", name="second")
    hangs, released = threading.Event(), threading.Event()

    def hang(folder: Path) -> Policy:
        hangs.set()
        released.wait()
        return load(folder)

    async def serve() -> None:
        async with serving(api, tmp_path, bundle=at, bundle_poll_s=0.02):
            monkeypatch.setattr("nodewise.extender.bundle_watch.load", hang)
            moved(second, at)
            await eventually(hangs.is_set)

    served = threading.Thread(target=lambda: asyncio.run(serve()))
    served.start()
    try:
        served.join(3 * LIMIT_S)
        assert hangs.is_set()
        assert not served.is_alive()
    finally:
        released.set()
        served.join()


async def policy(extender: Running) -> dict[str, Any]:
    _, body = await asyncio.to_thread(get, extender.admin_port, "/policy")
    told: dict[str, Any] = json.loads(body)
    return told


async def keep_asking(extender: Running, decided: list[str]) -> None:
    """One request after another; what decided each, and an AssertionError where nothing did."""
    number = 0
    while True:
        name = f"p{number}"
        reply = await asyncio.to_thread(post, extender.port, {"/prioritize": request(pod(name))})
        assert (reply["/prioritize"][0], len(hosts(reply["/prioritize"][1]))) == (200, 1)
        record = extender.service.records.find("default", name)
        assert record is not None
        assert not record.decision.fallback
        decided.append(record.decision.digest)
        number += 1


async def decides(decided: list[str], digest: str) -> None:
    """The next three requests and all after them, as far as is seen, are decided by this."""
    await eventually(lambda: decided and decided[-1] == digest)
    count = len(decided)
    await eventually(lambda: len(decided) >= count + 3)
    assert set(decided[count:]) == {digest}


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a bundle that is built in, still to be written."""
    monkeypatch.setattr("nodewise.policies._BUNDLES", tmp_path)
    monkeypatch.setattr("nodewise.policies.BUILT_IN", "own")
    return tmp_path / "own"


async def test_what_is_built_in_decides_unless_something_else_is_asked_for(
    api: FakeApi, tmp_path: Path, built_in: Path
) -> None:
    written(built_in)
    other, digest = written(tmp_path / "other", name="other"), load(built_in).digest
    assert (await deciding(api, tmp_path, policy=None)).digest == digest
    assert (await deciding(api, tmp_path, policy="learned")).digest == digest
    assert (await deciding(api, tmp_path, policy="economic")).name == "economic"
    assert (await deciding(api, tmp_path, policy="learned", bundle=other)).name == "other"
    assert resolve("learned")[0].digest == digest
    assert resolve("learned", other)[0].name == "other"


async def test_the_rule_decides_where_what_is_built_in_is_refused_or_nothing_is(
    api: FakeApi, tmp_path: Path, built_in: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written(built_in) / "head.onnx").write_bytes(b"")
    async with running(settings(kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), policy=None)) as extender:
        assert extender.service.policy is policies.DEFAULT
        told = await policy(extender)
        assert (told["name"], told["bundle"]) == ("economic", None)
        assert "head.onnx is not the file that the card was written for" in told["refused"]
        assert b"nodewise_extender_bundle_refused 1.0" in extender.service.telemetry.text()
    (said,) = [record.message for record in caplog.records if "built in" in record.message]
    assert "is refused, so economic decides" in said
    assert "head.onnx is not the file that the card was written for" in said
    with pytest.raises(UserError, match=r"head\.onnx is not the file"):
        await deciding(api, tmp_path, policy="learned")
    monkeypatch.setattr("nodewise.policies.BUILT_IN", None)
    assert await deciding(api, tmp_path, policy=None) is policies.DEFAULT
    with pytest.raises(UserError, match="none is built in: name its folder with --bundle"):
        await deciding(api, tmp_path, policy="learned")


@pytest.mark.parametrize("builtin", ["good", "bad", "none", "the same"])
async def test_where_a_bundle_was_served_before_another_stands_in_for_it_until_it_is_mended(
    builtin: str, api: FakeApi, tmp_path: Path, built_in: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if builtin == "none":
        monkeypatch.setattr("nodewise.policies.BUILT_IN", None)
    elif builtin != "the same":
        written(built_in, name="own")
    if builtin == "bad":
        (built_in / "head.onnx").unlink()
    at, good = (built_in if builtin == "the same" else tmp_path / "served"), written(tmp_path / "good", name="good")
    copied(good, at)
    (at / "card.json").write_text("{")
    asked = settings(kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), bundle=at, bundle_poll_s=0.02)
    with pytest.raises(UserError, match="the card is not JSON"):
        async with running(asked):
            pass
    async with running(asked, again=True) as extender:
        stand_in = "own" if builtin == "good" else "economic"
        told = await policy(extender)
        assert (told["name"], told["bundle"]) == (stand_in, str(at))
        assert told["refused"].startswith("the card is not JSON")
        (said,) = [record.message for record in caplog.records if record.message.startswith("the bundle is refused")]
        assert said == f"the bundle is refused, so {stand_in} decides: {told['refused']}"
        copied(good, at)
        await eventually(lambda: extender.service.policy.name == "good")
        assert (await policy(extender))["refused"] is None


async def deciding(api: FakeApi, folder: Path, **given: object) -> Policy:
    async with running(settings(kubeconfig=api.kubeconfig(folder / "kubeconfig"), **given)) as extender:
        return extender.service.policy
