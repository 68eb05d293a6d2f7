"""The operator process put together: lease, store, intake, watches, probes, and whatever else is plugged in."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import math
import os
import platform
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import uvicorn
import uvloop
from kubernetes.aio.client import ApiClient

from nodewise import policies
from nodewise.core.errors import UserError
from nodewise.core.state import ClusterState
from nodewise.core.types import Policy
from nodewise.kube import api as kube
from nodewise_operator.health import health_app
from nodewise_operator.intake import MOST_CALLS, Intake
from nodewise_operator.lease import Lease
from nodewise_operator.observed import Observer, builtin_policy
from nodewise_operator.predictor import Predictor
from nodewise_operator.recorded import add_recorded
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import Fenced, Store, StoreUnavailable
from nodewise_operator.telemetry import Telemetry
from nodewise_operator.watch import KopfSource
from nodewise_operator.watch_informer import InformerSource

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Operator:
    """One operator that works, for its hooks and its probes."""

    settings: OperatorSettings
    store: Store
    """Any thread may read; only the intake's thread writes (`on_intake`)."""
    intake: Intake
    predictor: Predictor
    state: ClusterState
    """Of the intake's thread: use it through `on_intake`."""
    source: KopfSource | InformerSource
    telemetry: Telemetry
    api: ApiClient
    generation: int
    """Of the store, since we took it over."""
    port: int = 0
    """Of probes and metrics."""
    tasks: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.monotonic)
    scheduler_leads: Callable[[], float] = lambda: math.nan
    """1 while a scheduler of ours holds its Lease, 0 while none does, nan while that is not known; of the hook that
    follows the Lease."""

    async def on_intake(self, work: Callable[[], T], *, within_s: float | None = None) -> T:
        """Run `work` in the intake's thread, where state, store and estimator may be used; its result.

        With `within_s`, raises TimeoutError if it did not happen by then (and may never), or if too much waits already,
        and StoreUnavailable at once while the store is away. Without, waits as long as it takes.
        """
        if within_s is None:
            return await asyncio.wrap_future(self.intake.call(work))
        if self.intake.unavailable:
            raise StoreUnavailable(self.intake.unavailable)
        if self.intake.calls >= MOST_CALLS:
            raise TimeoutError(f"{MOST_CALLS} requests wait already")
        return await asyncio.wait_for(asyncio.wrap_future(self.intake.call(work)), within_s)

    def count(self, verb: str, resource: str) -> None:
        """Count a request to the API server."""
        self.telemetry.requests.labels(verb, resource).inc()

    def dead(self) -> str:
        """Why a restart is due; empty if it is not."""
        if self.intake.failed is not None:
            return f"the intake has ended: {self.intake.failed}"
        for name, task in self.tasks.items():
            if task.done():
                return f"{name} has ended"
        if not self.intake.synced.is_set():
            late = time.monotonic() - self.begun_s > self.settings.first_sync_s
            # A new process does not bring the store back.
            return "the first lists were not read in time" if late and not self.intake.unavailable else ""
        for resource in ("nodes", "pods"):
            age_s = self.source.age_s(resource)
            if age_s > self._silent_after_s():
                return f"nothing was heard of {resource} for {age_s:.0f} s"
        return ""

    def unready(self) -> str:
        """Why it does not do its work now; empty if it does."""
        if not self.intake.synced.is_set():
            return "the lists are not read yet" + (f": {self.source.trouble}" if self.source.trouble else "")
        return self.dead() or self.intake.unavailable

    def _silent_after_s(self) -> float:
        """Kopf does not hand bookmarks on: in a quiet cluster only the census speaks."""
        settings = self.settings
        return settings.stale_after_s + (settings.census_s if settings.source == "kopf" else 0.0)


Hook = Callable[[Operator], Coroutine[Any, Any, None]]
"""What runs beside the watches for as long as the operator works, such as the channel's server; it is cancelled in the
end, and the operator ends with an error if it ends before."""


class Probes:
    """The port of probes and metrics, open from the start: a replica that stands by is alive, and not ready."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.operator: Operator | None = None

    def dead(self) -> str:
        """Why a restart is due; empty if it is not."""
        return self.operator.dead() if self.operator else ""

    def unready(self) -> str:
        """Why it does not do its work now; empty if it does."""
        return self.operator.unready() if self.operator else "standing by"

    def metrics(self) -> bytes:
        """The Prometheus text format."""
        return self.operator.telemetry.text() if self.operator else b""


@contextlib.asynccontextmanager
async def probes(settings: OperatorSettings) -> AsyncIterator[Probes]:
    """Serve them. Raises UserError if the port is taken."""
    with _listen(settings.host, settings.port) as sock:
        made = Probes(sock.getsockname()[1])
        app = health_app(made)
        add_recorded(app, lambda: made.operator.store if made.operator else None)
        server = _uvicorn(app)
        serving = asyncio.create_task(server.serve([sock]))
        try:
            yield made
        finally:
            server.should_exit = True
            await asyncio.wait([serving], timeout=2.0)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def working(
    settings: OperatorSettings,
    hooks: Sequence[Hook] = (),
    *,
    told: Probes | None = None,
    lease: Lease | None = None,
) -> AsyncIterator[Operator]:
    """Everything of a leader, who keeps `lease` if there is one. Raises UserError for settings that cannot work."""
    async with contextlib.AsyncExitStack() as stack:
        tasks: dict[str, asyncio.Task[Any]] = {}
        stack.push_async_callback(_end, tasks)
        if lease is not None:  # from now on: what follows may take longer than the Lease lasts
            tasks["the lease"] = asyncio.create_task(lease.keep())
        if told is None:
            told = await stack.enter_async_context(probes(settings))
        api = await kube.connect(settings.kubeconfig)
        stack.push_async_callback(api.close)
        policy = await asyncio.to_thread(_policy, settings)
        store = await asyncio.to_thread(Store.open, settings.store)
        stack.callback(store.close)
        generation = await asyncio.to_thread(_take_over, store, settings.identity or identity(), lease)
        operator = await asyncio.to_thread(_assemble, settings, store, policy, api, generation)
        operator.port, told.operator = told.port, operator
        if lease is not None:
            lease.count = operator.count
        intake = operator.intake
        thread = threading.Thread(target=intake.run, name="intake", daemon=True)
        thread.start()
        jobs = {"the watch": operator.source.run(), "the heartbeat": _heartbeat(operator)}
        jobs |= {
            f"{getattr(hook, '__module__', '')}.{getattr(hook, '__name__', hook)}": hook(operator) for hook in hooks
        }
        tasks |= {name: asyncio.create_task(job, name=name) for name, job in jobs.items()}
        operator.tasks = tasks
        shown = re.sub(r"//[^/]*@", "//", settings.store)  # without user and password
        log.info("%s scores bindings; recording in %s; probes and metrics on port %d", policy.name, shown, told.port)
        try:
            yield operator
        finally:
            await _end(tasks)
            if intake.synced.is_set():  # the next downtime begins here, and not where it was written down before
                intake.seen(operator.source.seen_until_s(), last=True)
            intake.stop()
            await asyncio.to_thread(thread.join, 10.0)
            if intake.failed is None and not thread.is_alive():
                await asyncio.to_thread(_release, store)


async def serve(settings: OperatorSettings, hooks: Sequence[Hook] = ()) -> None:
    """Work until SIGTERM or SIGINT; first wait for the Lease, if there is to be one.

    Raises UserError for settings that cannot work, and what ended a part; then another process should take our place.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        told = await stack.enter_async_context(probes(settings))
        lease = None
        if settings.lease:
            api = await kube.connect(settings.kubeconfig)
            stack.push_async_callback(api.close)
            lease = Lease(
                api, settings.lease_name, settings.lease_namespace, settings.identity or identity(),
                settings.lease_duration_s,
            )  # fmt: skip
            if not await _unless(stop, lease.acquire()):
                return
            stack.push_async_callback(lease.release)
        async with working(settings, hooks, told=told, lease=lease) as operator:
            ended = [asyncio.create_task(stop.wait()), *operator.tasks.values()]
            trimmed = False
            while not stop.is_set():
                await asyncio.wait(ended, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                _raise_failure(operator)
                if not trimmed and operator.intake.synced.is_set() and not operator.intake.unwritten:
                    trimmed = True
                    await asyncio.to_thread(_trim_memory)


async def _end(tasks: dict[str, asyncio.Task[Any]]) -> None:
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


def run(settings: OperatorSettings, hooks: Sequence[Hook] = ()) -> None:
    """`serve` on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, hooks))


def identity() -> str:
    """Name of this process among replicas."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _take_over(store: Store, holder: str, lease: Lease | None) -> int:
    """The new generation. Raises LeaseLost where another replica may work by now: it must not be fenced off."""
    if lease is not None:  # opening the store may have taken longer than the Lease lasts
        lease.check()
    elif other := store.rival(holder):
        log.warning(
            "%s seems to write this store still, and is refused from now on: of two operators on one store only the "
            "last to start works; stop one of them, or start both with --lease",
            other,
        )
    return store.take_over(holder)


def _release(store: Store) -> None:
    """Say that nobody holds the store, so that whoever comes next need not wonder."""
    try:
        store.release()
    except (Fenced, StoreUnavailable) as error:
        log.info("the store was not released: %s", error)


def _assemble(settings: OperatorSettings, store: Store, policy: Policy, api: ApiClient, generation: int) -> Operator:
    saved: list[Callable[[int, dict[str, Any]], None]] = []  # the intake's, which does not exist yet

    def save(revision: int, state: dict[str, Any]) -> None:
        saved[0](revision, state)

    predictor = Predictor(save=save)
    predictor.restore(store)
    state = ClusterState(predictor.estimator)
    intake = Intake(
        store, predictor, Observer(policy, policies.DEFAULT), state, batch_s=settings.batch_s,
        batch_rows=settings.batch_rows, seen_every_s=settings.seen_every_s, unknown_after_s=settings.unknown_after_s,
        retain_s=settings.retain_days * 86400.0 or math.inf,
    )  # fmt: skip
    saved.append(intake.save_estimator)
    telemetry = Telemetry(intake)

    def count(verb: str, resource: str) -> None:
        telemetry.requests.labels(verb, resource).inc()

    source: KopfSource | InformerSource
    if settings.source == "kopf":
        source = KopfSource(intake, settings.kubeconfig, count, settings.census_s)
    else:
        source = InformerSource(intake, kube.node_call(api), kube.pod_call(api), count)
    for resource in ("nodes", "pods"):
        telemetry.age(resource, partial(source.age_s, resource))
    return Operator(settings, store, intake, predictor, state, source, telemetry, api, generation)


def _policy(settings: OperatorSettings) -> Policy:
    return builtin_policy() if settings.policy in (None, policies.LEARNED) else policies.rule(settings.policy)


async def _heartbeat(operator: Operator) -> None:
    """Say up to when all was seen, while it is."""
    while True:
        await asyncio.sleep(min(operator.settings.seen_every_s, 1.0))
        if operator.intake.synced.is_set():
            operator.intake.seen(operator.source.seen_until_s())


def _raise_failure(operator: Operator) -> None:
    if operator.intake.failed is not None:
        raise operator.intake.failed
    for name, task in operator.tasks.items():
        if task.done():
            task.result()
            raise RuntimeError(f"{name} ended by itself")


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` was done before `stop` was set."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not doing.done():
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        return False
    await doing
    return True


def _trim_memory() -> None:
    """The first lists leave holes behind; what is here now stays, so later collections need not look at it."""
    gc.collect()
    gc.freeze()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another with --port") from error
    with sock:
        yield sock


class _Server(uvicorn.Server):
    """Signals are ours to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn(app: Any) -> _Server:
    return _Server(
        uvicorn.Config(
            app, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, log_level="warning",
            server_header=False, date_header=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
