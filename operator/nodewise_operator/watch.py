"""Nodes and pods from kopf, in a thread of its own; its handlers do nothing but hand on what they are told.

Only `@kopf.on.event` is used: every other kind of handler would patch what it handles (annotations, finalizers). kopf
does not try an event handler again, so nothing in it may fail. It patches what a handler returns, so nothing is
returned. It does not say when a list is complete, nor who left while its watch was cut: a census does (`census`).

The thread is there because kopf takes over the loop that it runs in: at its end it cancels every task that it finds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import uvloop
from kopf._core.engines.peering import Identity

from nodewise.kube.api import connect
from nodewise_operator.census import CensusError, census
from nodewise_operator.intake import Intake, NodeItem, PodItem, node_item, pod_item

log = logging.getLogger(__name__)

PREFIX = "nodewise.dev"
RESOURCES = ("nodes", "pods")
GRACE_S = 5.0
"""An event may be under way while a census already shows what it will say."""
QUIET_S = 1.0
"""A list is complete when a census found nobody else and nothing of it came for so long."""

Item = PodItem | NodeItem
Count = Callable[[str, str], None]


def kopf_settings() -> kopf.OperatorSettings:
    """No writes, no scans, small memory."""
    made = kopf.OperatorSettings()
    made.scanning.disabled = True
    made.posting.enabled = False
    made.watching.chunk_size = 500
    made.watching.server_timeout = 600
    made.networking.request_timeout = 30
    made.networking.connect_timeout = 10
    made.networking.enforce_retry_after = True
    # A worker holds its object until it has been idle for so long; by default 5 s, in which the whole list passes.
    made.queueing.idle_timeout = 0.2
    made.execution.max_workers = 1  # no handler is synchronous
    made.process.ultimate_exiting_timeout = None  # the process is not kopf's to end
    made.persistence.finalizer = f"{PREFIX}/operator"
    made.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX)
    made.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=PREFIX)
    return made


class KopfSource:
    """Watches both resources and feeds the intake."""

    def __init__(self, intake: Intake, kubeconfig: Path | None, count: Count, census_s: float = 300.0) -> None:
        self.failures = 0  # objects that could not be read
        self.trouble = ""  # why the first lists are not complete, if something is in the way
        self.relists = 0
        self.behind = dict.fromkeys(RESOURCES, 0)  # objects that the last census knew newer than the watch
        self._intake, self._kubeconfig, self._count, self._census_s = intake, kubeconfig, count, census_s
        self._known: dict[str, dict[str, int]] = {resource: {} for resource in RESOURCES}  # version by uid
        self._first: dict[str, dict[str, Item]] | None = {resource: {} for resource in RESOURCES}
        self._later: list[tuple[str, str, Item]] = []  # removals before the first lists were complete
        self._listed_s = dict.fromkeys(RESOURCES, time.monotonic())  # when something of a list came last
        self._heard_s = dict.fromkeys(RESOURCES, float("-inf"))  # monotonic
        self._deleted: dict[str, set[str]] = {resource: set() for resource in RESOURCES}  # since a census began
        self._relisted: dict[str, float] = {}  # since when (epoch) a resource may have been missed
        self._stop = threading.Event()
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Until cancelled; raises what ended kopf."""
        thread = threading.Thread(target=self._thread, name="kopf", daemon=True)
        thread.start()
        try:
            while thread.is_alive():  # noqa: ASYNC110  a thread sets no asyncio.Event
                await asyncio.sleep(0.1)
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, 5.0)
        raise self._error or RuntimeError("kopf ended by itself")

    def age_s(self, resource: str) -> float:
        """Time since a resource was heard of, by an event or by a census that found nothing unheard; inf before."""
        return time.monotonic() - self._heard_s[resource]

    def seen_until_s(self) -> float:
        """Epoch time up to which every event of a pod was handed on: the last event's, or that of a clean census."""
        return time.time() - self.age_s("pods")

    # --- the thread

    def _thread(self) -> None:
        logging.getLogger("kopf._core.reactor.running").addFilter(_not_of_signals)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # noqa: BLE001  `run` raises it
            self._error = error

    async def _main(self) -> None:
        api: Any = await connect(self._kubeconfig)
        try:
            async with _session(api, self._count) as session:
                counting = asyncio.create_task(self._censuses(session, api.configuration.host))
                counting.add_done_callback(lambda _: self._stop.set())  # without it nothing would ever be complete
                try:
                    await kopf.operator(
                        registry=self._registry(api), settings=kopf_settings(), clusterwide=True, standalone=True,
                        stop_flag=self._stop,
                        identity=Identity("nodewise"),  # kopf would ask for the user's name, who may have none
                    )  # fmt: skip
                    if counting.done():
                        counting.result()
                finally:
                    counting.cancel()
                    await asyncio.gather(counting, return_exceptions=True)
        finally:
            await api.close()

    def _registry(self, api: Any) -> kopf.OperatorRegistry:
        made = kopf.OperatorRegistry()

        @kopf.on.login(registry=made)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=api.configuration.host, aiohttp_session=_session(api, self._count))

        @kopf.on.event("nodes", registry=made)
        async def node(event: Any, **_: Any) -> None:
            self._take("nodes", event["type"], event["object"], node_item)

        @kopf.on.event("pods", registry=made)
        async def pod(event: Any, **_: Any) -> None:
            self._take("pods", event["type"], event["object"], pod_item)

        return made

    def _take(self, resource: str, kind: str | None, obj: Any, project: Callable[[Any], Item]) -> None:
        uid, version = obj["metadata"]["uid"], int(obj["metadata"].get("resourceVersion") or 0)
        heard_s = self._heard_s[resource]
        self._heard_s[resource] = now_s = time.monotonic()
        known = self._known[resource]
        if kind == "DELETED":
            known.pop(uid, None)
            self._deleted[resource].add(uid)
        else:
            known[uid] = version
        try:
            item = project(obj)
        except Exception:  # one bad object must not hide all others
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:
                log.exception("one of %s cannot be read (%d so far)", resource, self.failures)
            return
        if kind is None:
            self._listed_s[resource] = now_s
        if self._first is not None:
            if kind == "DELETED":
                self._first[resource].pop(uid, None)
                self._later.append((resource, kind, item))
            else:
                self._first[resource][uid] = item
            return
        if kind is None and resource not in self._relisted:
            self.relists += 1
            self._relisted[resource] = time.time() - (now_s - heard_s)
        self._intake.event(resource, kind or "LISTED", item)

    async def _censuses(self, session: aiohttp.ClientSession, server: str) -> None:
        await self._complete(session, server)
        again_s = time.monotonic() + self._census_s
        clean_s = dict.fromkeys(RESOURCES, time.time())  # until when nobody left unseen
        while True:
            await asyncio.sleep(1.0)
            due = time.monotonic() >= again_s
            for resource in RESOURCES:
                listing = time.monotonic() - self._listed_s[resource] < QUIET_S
                if not due and (resource not in self._relisted or listing):
                    continue
                try:
                    await self._compare(session, server, resource, clean_s)
                except CensusError as error:
                    log.warning("the census of %s was not finished: %s", resource, error)
                except Exception:  # the next one may succeed
                    log.exception("the census of %s was not finished", resource)
            if due:
                again_s = time.monotonic() + self._census_s

    async def _complete(self, session: aiohttp.ClientSession, server: str) -> None:
        """Hand the first lists on once they are complete."""
        wait_s = 1.0
        while True:
            await asyncio.sleep(0.1 if not self.trouble else 2.0)
            if any(time.monotonic() - self._listed_s[resource] < QUIET_S for resource in RESOURCES):
                continue
            try:
                there = {resource: await census(session, server, resource) for resource in RESOURCES}
            except Exception as error:
                if self.trouble != (said := str(error)):
                    known = isinstance(error, CensusError)
                    log.warning("the first census was not finished: %s", error, exc_info=not known)
                self.trouble = said
                continue
            self.trouble = ""
            if all(there[resource].keys() <= self._seen_first(resource) for resource in RESOURCES):
                break
            await asyncio.sleep(wait_s)  # kopf has not begun yet, or somebody left between census and list
            wait_s = min(2.0 * wait_s, 30.0)
        first, self._first = self._first or {}, None
        for resource in RESOURCES:
            self._heard_s[resource] = time.monotonic()
            self._intake.replaced(resource, list(first[resource].values()))
        for event in self._later:
            self._intake.event(*event)
        self._later.clear()

    def _seen_first(self, resource: str) -> set[str]:
        away = {_uid(item) for of, _, item in self._later if of == resource}
        return self._known[resource].keys() | away

    async def _compare(
        self, session: aiohttp.ClientSession, server: str, resource: str, clean_s: dict[str, float]
    ) -> None:
        """Who left unseen, and whether the watch lags."""
        known = self._known[resource]
        before, begun_s, begun = set(known), time.time(), time.monotonic()
        relisted_s = self._relisted.get(resource)
        self._deleted[resource].clear()
        there = await census(session, server, resource)
        await asyncio.sleep(GRACE_S)
        missing = [uid for uid in before if uid not in there and uid in known]
        for uid in missing:
            known.pop(uid, None)
        since_s = relisted_s if relisted_s is not None else clean_s[resource]
        if missing or relisted_s is not None:
            if resource == "pods":
                self._intake.gap(since_s, "the watch of pods was cut")
            self._intake.vanished(resource, missing)
            self._relisted.pop(resource, None)
        expected = there.keys() - self._deleted[resource]
        self.behind[resource] = sum(known.get(uid, -1) < there[uid] for uid in expected)
        if not self.behind[resource]:
            self._heard_s[resource] = max(self._heard_s[resource], begun)
        clean_s[resource] = begun_s


def _not_of_signals(record: logging.LogRecord) -> bool:
    """Kopf warns that it handles no signals in a thread; the process does."""
    return "OS signals are ignored" not in record.getMessage()


def _uid(item: Item) -> str:
    return item.facts.request.uid if isinstance(item, PodItem) else item.node.uid


def _session(api: Any, count: Count) -> aiohttp.ClientSession:
    """A session with the certificates and the token of `api`; the token is read anew for each request."""

    async def begin(_session: Any, _context: Any, params: aiohttp.TraceRequestStartParams) -> None:
        told = await api.configuration.auth_settings()
        if token := (told.get("BearerToken") or {}).get("value"):
            params.headers["Authorization"] = token
        resource = params.url.path.rsplit("/", 1)[-1]
        if resource not in RESOURCES:
            count("get", "discovery")
        else:
            count("watch" if "watch" in params.url.query else "list", resource)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begin)
    connector = aiohttp.TCPConnector(limit=0, ssl=api.rest_client.ssl_context)
    return aiohttp.ClientSession(
        connector=connector, trace_configs=[trace], headers={"User-Agent": "nodewise-operator"}
    )
