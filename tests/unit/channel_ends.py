"""Both ends of the channel put together, and what is sent to the operator's without an extender."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from nodewise_operator.store import Store

from .channel_objects import ExtenderEnd, OperatorEnd


@pytest.fixture
def end(tmp_path: Path) -> Iterator[OperatorEnd]:
    store = Store.open(str(tmp_path / "nodewise.db"))
    yield OperatorEnd(store)
    store.close()


@asynccontextmanager
async def joined(end: OperatorEnd, folder: Path | None = None) -> AsyncIterator[ExtenderEnd]:
    async with end.serving() as port, ExtenderEnd(f"http://127.0.0.1:{port}", folder).running() as extender:
        yield extender


async def post(port: int, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as reply:
        return reply.status, await reply.read()
