"""One extender process: watches, two ports, a heartbeat. `guard` starts it; tests start `running` in their own loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from nodewise import policies
from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.core.types import Policy
from nodewise.extender.admin import admin_app
from nodewise.extender.bundle_watch import BundleWatch, reason
from nodewise.extender.front import Front
from nodewise.extender.journal import Journal
from nodewise.extender.link import link
from nodewise.extender.placement_watch import PlacementWatch
from nodewise.extender.service import Service
from nodewise.extender.settings import ExtenderSettings
from nodewise.extender.warm_up import warm_up
from nodewise.kube import api as kube
from nodewise.kube.cache import SeenNode, SeenPod, seen_node, seen_pod
from nodewise.kube.informer import Informer
from nodewise.kube.override_watch import OverrideWatch
from nodewise.policies.learned import load

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 120
"""kube-scheduler's client drops idle connections after 90 s and does not repeat a POST that meets a closing one."""
STARTING, READY, REFUSED = b"s", b"r", b"!"
"""Heartbeats before and after the first lists were read; REFUSED is followed by the sentence of a UserError."""
AGAIN = "again"
"""The guard's word for: a child before this one has served, so a bad bundle must not keep this one from it."""

_PLACEMENT_S = 2.0
"""Until PlacementPolicies are read there is no opinion; an extender that says it is ready should have one."""
_SYNC_POLL_S = 0.01
"""While the lists are read: the guard must hear soon that its patience may end."""


class _Uvicorn(uvicorn.Server):
    """Signals are ours to handle: two servers share this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Running:
    """An extender that serves."""

    service: Service
    nodes: Informer[SeenNode]
    pods: Informer[SeenPod]
    port: int
    admin_port: int
    tasks: tuple[asyncio.Task[None], ...]
    """What must run for ever: none of them ends before the extender does."""

    def check(self) -> None:
        """Raise what ended a task; a process that only looks alive would never be replaced."""
        for task in self.tasks:
            if task.done():
                task.result()
                raise RuntimeError("a part of the extender ended by itself")

    def synced(self) -> bool:
        """Both lists were read once."""
        return self.nodes.synced.is_set() and self.pods.synced.is_set()


@contextlib.asynccontextmanager
async def running(settings: ExtenderSettings, *, again: bool = False) -> AsyncIterator[Running]:
    """Start everything, and stop it in the end. Raises UserError for settings that cannot work.

    `again`: a bundle that cannot be loaded is replaced by a stand-in until it can, for it was good before.
    """
    rule = policies.DEFAULT
    watch = BundleWatch(settings.bundle, settings.bundle_poll_s) if settings.bundle else None  # before it is read
    policy, refused = _policy(settings, watch, again=again)
    async with contextlib.AsyncExitStack() as stack:
        sockets = [
            stack.enter_context(_listen(host, port, flag))
            for host, port, flag in (
                (settings.host, settings.port, "--port"),
                (settings.admin_host or settings.host, settings.admin_port, "--admin-port"),
            )
        ]
        api = await kube.connect(settings.kubeconfig)
        stack.push_async_callback(api.close)
        warm_up(policy, rule)
        state = ClusterState(RunTimeEstimator())
        to_operator = link(settings, state)
        if to_operator:
            stack.callback(to_operator.spool.close)
        spool = to_operator.spool if to_operator else None
        journal = Journal(settings.journal, spool=spool) if settings.journal or spool else None
        service = Service(settings, policy, rule, state, journal)
        service.refused = refused
        stack.callback(service.close)
        cache = service.cache
        nodes = Informer(kube.node_call(api), seen_node, cache.replace_nodes, cache.node_event, name="nodes")
        project = partial(seen_pod, scheduler_name=settings.scheduler_name)
        pods = Informer(kube.pod_call(api), project, cache.replace_pods, cache.pod_event, name="pods")
        placement = PlacementWatch(api, service)
        service.unready = partial(_unready, (nodes, pods), settings.stale_after_s)
        for informer in (nodes, pods):
            _watch_gauges(service, informer)
        servers = [_uvicorn(Front(service, pods.wait_for)), _uvicorn(admin_app(service, watch, placement))]
        jobs = [
            _watch(nodes, pods, placement),
            placement.run(),
            OverrideWatch(api, cache.replace_overrides).run(),
            _keep(service),
            *([watch.run(service)] if watch else []),
            *([to_operator.run(service)] if to_operator else []),
            *(server.serve([sock]) for server, sock in zip(servers, sockets, strict=True)),
        ]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            port, admin_port = (sock.getsockname()[1] for sock in sockets)
            told = (policy.name, policy.digest, port, admin_port)
            log.info("%s (%s) decides on port %d; probes and metrics on port %d", *told)
            yield Running(service, nodes, pods, port, admin_port, tuple(tasks))
        finally:
            for server in servers:
                server.should_exit = True
            await asyncio.wait(tasks[-len(servers) :], timeout=5.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def serve(settings: ExtenderSettings, heartbeat_fd: int | None = None, *, again: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, with a sign of life on `heartbeat_fd`."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    frozen = False
    async with running(settings, again=again) as extender:
        while not stop.is_set():
            extender.check()
            synced = extender.synced()
            if heartbeat_fd is not None:
                with contextlib.suppress(BlockingIOError):  # the guard itself is stopped; it must not stop us
                    os.write(heartbeat_fd, READY if synced else STARTING)
            if synced and not frozen:
                gc.collect()
                gc.freeze()  # what is here now stays: later collections need not look at it
                frozen = True  # gc.get_freeze_count() would count it all again, some 20 ms each time
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), settings.heartbeat_s if synced else _SYNC_POLL_S)


def run(settings: ExtenderSettings, heartbeat_fd: int | None = None, *, again: bool = False) -> None:
    """`serve` on uvloop. Raises UserError."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, heartbeat_fd, again=again))


def _policy(settings: ExtenderSettings, watch: BundleWatch | None, *, again: bool) -> tuple[Policy, str]:
    """What decides first, and why it is a stand-in if it is.

    That is what was asked for, else the bundle that is built in, else the rule. Only a bundle that nobody asked for, or
    that was served before, has a stand-in.
    """
    if settings.bundle is None and settings.policy is None and policies.builtin() is None:
        return policies.DEFAULT, ""
    if settings.bundle is None and settings.policy not in (None, policies.LEARNED):
        return policies.rule(settings.policy), ""
    folder = policies.bundle_folder(settings.bundle)
    try:
        return load(folder), ""
    except Exception as error:
        if not again and (settings.bundle is not None or settings.policy is not None):
            raise
        why = reason(error, folder)
        if watch:
            watch.refuse(error)
    stand_in = _stand_in(folder)
    which = "bundle" if settings.bundle else "learned policy that is built in"
    log.error("the %s is refused, so %s decides: %s", which, stand_in.name, why)
    return stand_in, why


def _stand_in(refused: Path) -> Policy:
    """The bundle that is built in, if it is another and good, else the rule."""
    folder = policies.builtin()
    if folder is None or os.path.realpath(folder) == os.path.realpath(refused):
        return policies.DEFAULT
    try:
        return load(folder)
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, something must decide
        log.error("nor can the learned policy that is built in decide: %s", reason(error, folder))
        return policies.DEFAULT


def _listen(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(512)
    except OSError as error:
        sock.close()
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}): choose another with {flag}") from error
    return sock


def _uvicorn(app: Callable[..., Any]) -> _Uvicorn:
    return _Uvicorn(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=2,
        )
    )


async def _watch(nodes: Informer[SeenNode], pods: Informer[SeenPod], placement: PlacementWatch) -> None:
    """Nodes first: what pods teach depends on where they run. PlacementPolicies are waited for, but not for long."""
    async with asyncio.TaskGroup() as group:
        group.create_task(nodes.run())
        await nodes.synced.wait()
        await placement.wait(_PLACEMENT_S)
        group.create_task(pods.run())


async def _keep(service: Service) -> None:
    """Expire assumptions also while nobody asks; a replay brings its own time with each request."""
    while True:
        await asyncio.sleep(1.0)
        if not service.settings.replay:
            service.cache.expire(time.time())


def _unready(informers: tuple[Informer[SeenNode], Informer[SeenPod]], stale_after_s: float) -> str:
    for informer in informers:
        if not informer.synced.is_set():
            return f"{informer.name}-not-synced"
    age_s = time.monotonic() - min(informer.last_event_s for informer in informers)
    return "stale" if age_s > stale_after_s else ""


def _watch_gauges(service: Service, informer: Informer[SeenNode] | Informer[SeenPod]) -> None:
    gauge, name = service.telemetry.gauge, informer.name
    gauge(
        f"{name}_age_seconds", f"Time since the watch of {name} spoke", lambda: time.monotonic() - informer.last_event_s
    )
    gauge(f"{name}_relists", f"Lists of {name} after the first", lambda: informer.relists)
    gauge(f"{name}_reconnects", f"Watches of {name} resumed", lambda: informer.reconnects)
    gauge(
        f"{name}_errors",
        f"Errors of the watch of {name}; a silent one in a quiet cluster is none",
        lambda: sum(n for what, n in informer.errors.items() if what != "stall"),
    )


def main() -> None:
    """The child of `guard`: settings as JSON and the heartbeat's file descriptor on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings, fd = ExtenderSettings.model_validate_json(sys.argv[1]), int(sys.argv[2])
    os.set_blocking(fd, False)
    status = 0
    try:
        run(settings, fd, again=AGAIN in sys.argv[3:])
    except UserError as error:
        os.write(fd, REFUSED + str(error).encode())
        status = 2
    logging.shutdown()
    os._exit(status)  # a hung policy's thread would be waited for otherwise


if __name__ == "__main__":
    main()
