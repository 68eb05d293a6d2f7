"""The operator on a real API server: its rows are right whatever happens to it."""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import ControlPlane, Kubelet

from .operator_runs import Running, Scheduled, audited, conserved, lasting, namespace, run_s, source, start, world
from .operator_truth import Truth, judged

__all__ = ["audited", "namespace", "source", "start", "world"]


KILLS = int(os.environ.get("NODEWISE_OPERATOR_KILLS", "6"))


@pytest.mark.timeout(1800)
def test_killed_at_any_moment_it_loses_no_row_that_was_written_and_repeats_none(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    seed = int(os.environ.get("NODEWISE_SEED", "1"))
    chance = random.Random(seed)
    operator = start("--source", source)
    written: dict[str, tuple[str, float]] = {}
    with Kubelet(audited.url, audited.token, run_s) as kubelet:
        truth = Truth(world, namespace, seed, per_s=min(8.0, 100.0 / KILLS))
        operator.ready()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 3.0))
            operator.process.signal(signal.SIGKILL)
            operator.process.stop()
            with contextlib.suppress(UserError):
                rows = operator.rows()
                for name, (uid, bound_s) in written.items():
                    assert (rows[name].uid, rows[name].bound_s) == (uid, bound_s)  # what was written stays
                written = {name: (row.uid, row.bound_s) for name, row in rows.items()}
            operator.start()
            if chance.random() < 0.8:  # else it is killed before it is ready
                operator.ready()
        operator.ready()
        truth.stop()
        kinds = judged(operator, truth, kubelet)
    print(f"\n{source}: {KILLS} kills, {len(truth.uids)} pods: {dict(kinds)}")
    assert kinds["succeeded"] > 20


class Proxy:
    """A TCP proxy to the API server whose connections can be cut."""

    def __init__(self, url: str) -> None:
        self._host, self._port = url.removeprefix("https://").split(":")
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(5)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, downstream}
        await asyncio.gather(self._pump(reader, downstream), self._pump(upstream, writer), return_exceptions=True)
        self._writers -= {writer, downstream}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        finally:
            writer.close()

    def cut(self) -> int:
        async def abort() -> int:
            cut = len(self._writers)
            for writer in self._writers:
                writer.transport.abort()
            return cut

        return asyncio.run_coroutine_threadsafe(abort(), self._loop).result(5)

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


CUTS = int(os.environ.get("NODEWISE_OPERATOR_CUTS", "8"))


@pytest.mark.timeout(600)
def test_a_connection_that_is_cut_costs_no_row(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    proxy = Proxy(audited.url)
    operator = start("--source", source, url=proxy.url).ready()
    chance = random.Random(2)
    with Kubelet(audited.url, audited.token, run_s) as kubelet:
        truth = Truth(world, namespace, 2)
        cut = 0
        for _ in range(CUTS):
            time.sleep(chance.uniform(0.2, 2.0))
            cut += proxy.cut()
        truth.stop()
        kinds = judged(operator, truth, kubelet)
    operator.process.stop()
    proxy.close()
    print(f"\n{source}: {cut} connections cut, {len(truth.uids)} pods: {dict(kinds)}")
    assert cut >= CUTS
    assert kinds["never seen"] == 0
    assert kinds["downtime"] == 0  # the API server still knew where each watch was


def test_a_second_replica_takes_over_within_the_lease_and_repeats_nothing(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running]
) -> None:
    flags = ("--lease", "--lease-namespace", "default", "--lease-name", namespace, "--lease-duration-s", "5")
    first = start(*flags, "--identity", "first").ready()
    second = start(*flags, "--identity", "second")
    with Kubelet(audited.url, audited.token, run_s) as kubelet:
        truth = Truth(world, namespace, 3)
        second.process.wait_until(lambda: "standing by" in second.process.log_tail(), 60.0)
        time.sleep(2.0)
        assert (bool(second.get("/healthz")), second.get("/readyz")) == (True, "")  # alive, and not ready
        first.process.signal(signal.SIGKILL)
        first.process.stop()
        died_s = time.monotonic()
        path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{namespace}"
        second.process.wait_until(lambda: audited.call("GET", path)["spec"]["holderIdentity"] == "second", 30.0)
        took_s = time.monotonic() - died_s
        second.ready()
        truth.stop()
        kinds = judged(second, truth, kubelet)
    print(f"\ntaken over after {took_s:.1f} s of a lease of 5 s, {len(truth.uids)} pods: {dict(kinds)}")
    assert kinds["downtimes"] == 1


def test_whoever_was_paused_and_wakes_up_without_the_lease_ends_without_writing(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running]
) -> None:
    flags = ("--lease", "--lease-namespace", "default", "--lease-name", namespace, "--lease-duration-s", "3")
    first = start(*flags, "--identity", "first").ready()
    first.process.signal(signal.SIGSTOP)
    second = start(*flags, "--identity", "second").ready()
    world.run(namespace, lasting(namespace, "p1", -1))
    second.wait_rows(1, lambda r: bool(r.node))
    first.process.signal(signal.SIGCONT)
    for _ in range(200):
        if first.process.returncode is not None:
            break
        time.sleep(0.1)
    assert first.process.returncode not in (None, 0)
    assert second.process.returncode is None
    conserved(second)
