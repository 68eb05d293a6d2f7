"""Who leads, as an API server that answers late sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from nodewise_operator.app import _take_over
from nodewise_operator.lease import Lease, LeaseLost
from nodewise_operator.store import Store

DURATION_S = 3.0


class Leases:
    """One Lease behind two ports; what comes to the first is answered late, or never, once `slow_s` says so."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.slow_s = 0.0
        self.written = asyncio.Event()

    def app(self, *, slow: bool) -> web.Application:
        async def handle(request: web.Request) -> web.Response:
            status = 200
            if slow and self.slow_s > DURATION_S:
                await asyncio.sleep(self.slow_s)
            if request.method != "GET":
                self.lease = await request.json()
                self.written.set()
            elif self.lease is None:
                status = 404
            if slow:
                await asyncio.sleep(self.slow_s)
            return web.json_response(self.lease or {}, status=status)

        made = web.Application()
        made.router.add_route("*", "/{path:.*}", handle)
        return made

    @asynccontextmanager
    async def serving(self, *, slow: bool) -> AsyncIterator[Any]:
        runner = web.AppRunner(self.app(slow=slow), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api: Any = ApiClient(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
        try:
            yield api
        finally:
            await api.close()
            await runner.cleanup()


async def test_a_leader_that_hears_late_or_nothing_has_stopped_before_another_begins() -> None:
    leases = Leases()
    async with leases.serving(slow=True) as slow, leases.serving(slow=False) as fast, asyncio.timeout(60.0):
        first = Lease(slow, "l", "n", "first", DURATION_S)
        second = Lease(fast, "l", "n", "second", DURATION_S)
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        leases.slow_s = 0.28 * DURATION_S  # the API server knows of the renewal so long before we do
        leases.written.clear()
        await leases.written.wait()
        standing_by = asyncio.create_task(second.acquire())
        await asyncio.sleep(leases.slow_s)
        leases.slow_s = 100.0
        await standing_by
        assert not first.leads
        with pytest.raises(LeaseLost, match="could not be renewed in time"):
            await keeping


async def test_whoever_lost_the_lease_while_it_opened_the_store_fences_nobody_off(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store.db"))
    leases = Leases()
    async with leases.serving(slow=False) as api:
        lease = Lease(api, "l", "n", "first", DURATION_S)
        await lease.acquire()
        assert _take_over(store, "first", lease) == 1
        await asyncio.sleep(DURATION_S)
        with pytest.raises(LeaseLost):
            _take_over(store, "first", lease)
    assert store.meta()["generation"] == 1
    store.close()
