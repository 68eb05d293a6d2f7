"""An informer on a fake API server: objects, a consumer that remembers, what the server was asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes.aio.client import ApiClient

from nodewise.kube.api import Call, connect
from nodewise.kube.informer import Informer
from nodewise_simulator.fake_api import FakeApi

Object = dict[str, Any]
LIMIT_S = 20.0  # only a hang reaches it


def node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}, "spec": {}, "status": {}}


def pod(name: str, phase: str, node_name: str | None = None) -> Object:
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    return {"metadata": meta, "spec": {"nodeName": node_name} if node_name else {}, "status": {"phase": phase}}


@dataclass
class Seen:
    """A consumer that remembers what it was told."""

    lists: list[list[str]] = field(default_factory=list)
    events: list[tuple[str, str, int]] = field(default_factory=list)  # kind, name, resourceVersion
    objects: dict[str, Object] = field(default_factory=dict)
    last: Object | None = None
    broken: str = ""  # the name that makes the callback of an event raise

    def replace(self, objects: list[Object]) -> None:
        self.objects = {o["metadata"]["name"]: o for o in objects}
        self.lists.append([o["metadata"]["name"] for o in objects])

    def event(self, kind: str, obj: Object) -> None:
        meta = obj["metadata"]
        if meta["name"] == self.broken:
            raise RuntimeError("no")
        self.last = obj
        self.events.append((kind, meta["name"], int(meta["resourceVersion"])))
        if kind == "DELETED":
            del self.objects[meta["name"]]
        else:
            self.objects[meta["name"]] = obj


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        yield server


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with await connect(api.kubeconfig(tmp_path / "kubeconfig")) as connection:
        yield connection


@asynccontextmanager
async def running(call: Call, seen: Seen, **settings: Any) -> AsyncIterator[Informer[Object]]:
    defaults: dict[str, Any] = {"backoff_s": (0.01, 0.05), "project": dict, "on_replace": seen.replace, "name": "test"}
    informer: Informer[Object] = Informer(call, on_event=seen.event, **(defaults | settings))
    task = asyncio.create_task(informer.run())
    try:
        yield informer
        assert not task.done(), "the informer died"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watching(api: FakeApi, call: Call, seen: Seen, **settings: Any) -> AsyncIterator[Informer[Object]]:
    """An informer that has synced and whose watch the server has accepted."""
    before = len(watches(api))
    async with running(call, seen, **settings) as informer:
        await eventually(lambda: informer.synced.is_set() and len(watches(api)) > before)
        yield informer


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  (what is waited for happens in another thread)
            await asyncio.sleep(0.005)


def queries(api: FakeApi) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(request).query) for request in list(api.requests)]


def watches(api: FakeApi) -> list[dict[str, list[str]]]:
    return [query for query in queries(api) if "watch" in query]
