"""What is made of kopf's events and of censuses, against a fake API server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nodewise_operator import watch
from nodewise_operator.app import working
from nodewise_operator.census import CensusError, census
from nodewise_operator.intake import node_item, pod_item
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import Store
from nodewise_operator.watch import RESOURCES, KopfSource
from nodewise_simulator.controlplane import node, pod
from nodewise_simulator.fake_api import FakeApi

Json = dict[str, Any]


class Told:
    """An intake that remembers what it was told."""

    def __init__(self) -> None:
        self.lists: dict[str, int] = {}
        self.gone: list[str] = []

    def replaced(self, resource: str, items: list[Any]) -> None:
        self.lists[resource] = len(items)

    def vanished(self, _resource: str, uids: list[str]) -> None:
        self.gone += uids

    def event(self, *_: Any) -> None:
        pass

    def gap(self, *_: Any) -> None:
        pass


def a_pod(name: str) -> Json:
    made = pod(name, cpu_milli=100, memory_bytes=1 << 20, scheduler_name="any")
    made["metadata"]["uid"] = name
    return made


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(watch, "GRACE_S", 0.2)
    monkeypatch.setattr(watch, "QUIET_S", 0.0)
    with FakeApi() as made:
        there = node("n", cpu_milli=1000, memory_bytes=1 << 30)
        made.put("nodes", there | {"metadata": there["metadata"] | {"uid": "n"}})
        made.put("pods", a_pod("seen"))
        yield made


class Source(KopfSource):
    """Without kopf: the test hands on what kopf would."""

    def __init__(self, told: Told, census_s: float = 300.0) -> None:
        super().__init__(told, None, lambda *_: None, census_s)  # type: ignore[arg-type]

    def take(self, resource: str, kind: str | None, obj: Json, version: int) -> None:
        obj = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(version)}}
        self._take(resource, kind, obj, pod_item if resource == "pods" else node_item)

    async def census(self, session: aiohttp.ClientSession, api: FakeApi) -> None:
        await self._compare(session, api.url, "pods", dict.fromkeys(RESOURCES, time.time()))

    @asynccontextmanager
    async def counting(self, session: aiohttp.ClientSession, api: FakeApi) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self._censuses(session, api.url))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_pod_that_the_watch_never_showed_makes_it_lag(api: FakeApi) -> None:
    source = Source(Told())
    source.take("pods", None, a_pod("seen"), 2)
    async with aiohttp.ClientSession() as session:
        await source.census(session, api)
        assert source.behind["pods"] == 0
        heard_s = time.monotonic() - source.age_s("pods")
        api.put("pods", a_pod("unseen"))
        api.put("pods", a_pod("deleted"))
        counting = asyncio.create_task(source.census(session, api))
        await asyncio.sleep(0.1)
        source.take("pods", "DELETED", a_pod("deleted"), 5)
        heard_then_s = time.monotonic() - source.age_s("pods")
        await counting
    assert source.behind["pods"] == 1
    assert heard_then_s > heard_s
    assert time.monotonic() - source.age_s("pods") == pytest.approx(heard_then_s, abs=1e-3)  # a census renews nothing


async def test_what_a_census_has_not_confirmed_was_not_seen(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(Told())
    source.take("pods", None, a_pod("seen"), 2)
    heard_s = time.time()
    real = time.monotonic

    def later() -> float:
        return real() + 1000.0

    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", later)
        assert source.seen_until_s() == pytest.approx(heard_s - 1000.0, abs=10.0)
    async with aiohttp.ClientSession() as session:
        source._heard_s["pods"] -= 1000.0
        begun_s = time.time()
        api.refuse(1)
        with pytest.raises(CensusError):
            await source.census(session, api)
        assert source.seen_until_s() < begun_s - 900.0
        await source.census(session, api)
        assert begun_s - 0.1 <= source.seen_until_s() <= time.time()


async def test_a_census_that_breaks_in_an_unforeseen_way_is_made_again(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    source = Source(told, census_s=0.1)
    breaks = [1, 1, 1]

    async def broken(*given: Any) -> dict[str, int]:
        if breaks and breaks.pop():
            raise RuntimeError("nobody thought of this")
        return await census(*given)

    monkeypatch.setattr(watch, "census", broken)
    source.take("nodes", None, {"metadata": {"name": "n", "uid": "n"}}, 1)
    source.take("pods", None, a_pod("seen"), 2)
    async with aiohttp.ClientSession() as session, source.counting(session, api) as task, asyncio.timeout(20.0):
        while not told.lists:
            assert not task.done()
            await asyncio.sleep(0.05)
        breaks += [1]
        while breaks:
            assert not task.done()
            await asyncio.sleep(0.05)
        api.delete("pods", "seen")
        while not told.gone:
            assert not task.done()
            await asyncio.sleep(0.05)
    assert told.lists == {"nodes": 1, "pods": 1}
    assert told.gone == ["seen"]


async def test_an_operator_whose_first_lists_never_come_is_not_alive(api: FakeApi, tmp_path: Path) -> None:
    api.deny("pods", 500)
    given = {"store": str(tmp_path / "store.db"), "port": 0, "source": "informer", "first_sync_s": 1.0}
    settings = OperatorSettings.model_validate(given | {"kubeconfig": api.kubeconfig(tmp_path / "kubeconfig")})
    async with working(settings) as operator, asyncio.timeout(20.0):
        assert operator.dead() == ""
        while not operator.dead():  # noqa: ASYNC110  nobody says so
            await asyncio.sleep(0.1)
        assert operator.dead() == "the first lists were not read in time"


async def test_an_operator_without_rights_says_which_once_and_its_readiness_shows_them(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.deny("pods", 403)
    source = Source(Told())
    source.take("nodes", None, {"metadata": {"name": "n", "uid": "n"}}, 1)
    source.take("pods", None, a_pod("seen"), 2)
    why = (
        "the API server lets nobody of our name list pods (HTTP 403): grant get, list and watch on nodes and pods, "
        "cluster-wide"
    )
    async with aiohttp.ClientSession() as session, source.counting(session, api), asyncio.timeout(30.0):
        while not source.trouble:  # noqa: ASYNC110  nobody says so
            await asyncio.sleep(0.1)
        assert source.trouble == why  # as /readyz shows it
        asked = len(api.requests)
        while len(api.requests) < asked + 4:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert [r.getMessage() for r in caplog.records] == [f"the first census was not finished: {why}"]
        api.deny("pods", 0)
        while source.trouble:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_an_orderly_end_is_written_down_so_that_a_downtime_begins_there(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "store.db")
    given = {"store": path, "port": 0, "source": "informer", "seen_every_s": 1000.0, "identity": "first"}
    settings = OperatorSettings.model_validate(given | {"kubeconfig": api.kubeconfig(tmp_path / "kubeconfig")})
    async with working(settings) as operator, asyncio.timeout(20.0):
        while not operator.intake.synced.is_set():  # noqa: ASYNC110  a thread sets it
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)
        api.put("pods", a_pod("late"))
        put_s = time.time()
        while operator.intake.pods < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    store = Store.open(path, create=False)
    assert abs(store.last_seen_s() - put_s) < 0.5
    store.close()
    async with working(settings.model_copy(update={"identity": "second"})):
        pass
    assert "seems to write" not in caplog.text  # the first has said goodbye


async def test_whoever_takes_the_store_from_one_that_works_says_so(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"store": str(tmp_path / "store.db"), "port": 0, "source": "informer", "identity": "first"}
    settings = OperatorSettings.model_validate(given | {"kubeconfig": api.kubeconfig(tmp_path / "kubeconfig")})
    async with working(settings), working(settings.model_copy(update={"identity": "second"})):
        pass
    said = [record.getMessage() for record in caplog.records if "seems to write" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("first seems to write this store still")
    assert "stop one of them, or start both with --lease" in said[0]


async def test_kopf_does_not_warn_of_signals_that_the_process_handles(
    api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"store": str(tmp_path / "store.db"), "port": 0, "source": "kopf"}
    settings = OperatorSettings.model_validate(given | {"kubeconfig": api.kubeconfig(tmp_path / "kubeconfig")})
    async with working(settings), asyncio.timeout(20.0):
        while not any(asked.startswith("/api") and "pods" not in asked for asked in api.requests):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # kopf has begun
        await asyncio.sleep(0.5)
    assert "signals" not in caplog.text
