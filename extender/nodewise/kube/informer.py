"""List and watch one Kubernetes resource over raw JSON, telling a consumer what it is now and what changed.

The protocol is that of "Kubernetes API Concepts: efficient detection of changes". Whole objects are never kept:
each is projected as it arrives, so 5,000 nodes cost what the consumer keeps of them, plus one page of bytes.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

import msgspec
from aiohttp import ClientResponse

from nodewise.kube.api import Call

log = logging.getLogger(__name__)

T = TypeVar("T")

LIST_PAGE_TIMEOUT_S = 60.0
YIELD_EVERY_S = 0.002
"""The event loop also answers the scheduler: decoding never holds it for longer than this plus one object."""


class Gone(Exception):  # noqa: N818 (the name of the HTTP status)
    """What we know is too old to continue from: list again."""


class _Failed(Exception):  # noqa: N818
    """Try again later from where we are; `reason` is a key of `Informer.errors`."""

    def __init__(self, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


class _LongLine(Exception):  # noqa: N818
    pass


class _Lines:
    """Cuts a stream into lines. A line that lacks its end is never given out: its event comes again on reconnecting."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._pending = max_bytes, bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if self._pending:
                self._pending += line
                line = bytes(self._pending)
                self._pending.clear()
            if len(line) > self._max_bytes:
                raise _LongLine(f"a watch event is longer than {self._max_bytes} bytes")
            if line:
                yield line
        self._pending += rest
        if len(self._pending) > self._max_bytes:
            raise _LongLine(f"a watch event is longer than {self._max_bytes} bytes")


class _ListMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_token: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None  # raw, so that one object at a time is a dict


class Informer(Generic[T]):
    """One resource, listed in pages and then watched, for as long as `run` runs.

    `project` turns an object's JSON into what the consumer keeps, and sees the objects of DELETED events too.
    `on_replace` receives the whole list, on start and after every gap: what is missing from it is gone, though no event
    said so. `on_event` receives (ADDED | MODIFIED | DELETED, projected object) in order; match DELETED by uid, since a
    name may already belong to a new object. A DELETED object has the *previous* content with the event's
    resourceVersion; what that means for pods under a selector is told at `api.ACTIVE_PODS`.

    The callbacks run in the event loop and should be short. If one raises, it is counted and logged: an event is then
    lost to that consumer, a list is asked for again (`synced` is not set by a list that nobody took).

    `page` objects per request; `stall_s` without a byte ends a watch; `backoff_s` first and longest wait between tries;
    `max_line_bytes` per watch event. Bookmarks come about once a minute, so silence usually means a dead connection.
    But kube-apiserver sends none while nothing has happened since the watch began (cache_watcher.go, process: only what
    is newer than the start): in a quiet cluster `errors["stall"]` grows without harm, and the new watch proves life.
    """

    def __init__(
        self,
        call: Call,
        project: Callable[[dict[str, Any]], T],
        on_replace: Callable[[list[T]], None],
        on_event: Callable[[str, T], None],
        *,
        name: str,
        page: int = 500,
        stall_s: float = 75.0,
        backoff_s: tuple[float, float] = (1.0, 30.0),
        max_line_bytes: int = 8 << 20,
    ) -> None:
        self.name = name
        self.synced = asyncio.Event()  # set by the first list that the consumer took; never cleared: see last_event_s
        self.resource_version: str | None = None  # the last one seen; None until listed and while a new list is due
        self.last_event_s = -math.inf  # time.monotonic() of the last list, accepted watch, event or bookmark
        self.relists = 0  # lists after the first
        self.reconnects = 0  # watches resumed without a list, the regular ends after 300–600 s included
        self.errors: Counter[str] = Counter()  # by reason, a small fixed set; fit for a metric label
        self._call, self._project, self._on_replace, self._on_event = call, project, on_replace, on_event
        self._page, self._stall_s, self._backoff_s, self._max_line_bytes = page, stall_s, backoff_s, max_line_bytes
        self._failures = 0  # in a row, without a list or an event between them
        self._expiries = 0  # in a row, without an event between them
        self._unreadable_at: str | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._yielded_s = 0.0

    async def run(self) -> NoReturn:
        """List, then watch, for ever; the owner cancels it. No error of the server or of a callback ends it."""
        while True:
            try:
                if self.resource_version is None:
                    self.relists += self.synced.is_set()
                    await self._list()
                else:
                    self.reconnects += 1
                await self._watch()
            except Gone as gone:
                self.resource_version = None
                self._expiries += 1
                log.info("%s: listing again: %s", self.name, gone)
                if self._expiries > 1:  # list, 410, list, 410 … must slow down; the first one must not
                    await self._back_off("expired", str(gone), self._expiries - 2)
            except _Failed as failed:
                self._failures += 1
                await self._back_off(failed.reason, str(failed), self._failures - 1, failed.retry_after_s)
            except Exception as error:  # noqa: BLE001  (whatever the transport raises; the loop must outlive it)
                self._failures += 1
                await self._back_off("connection", f"{type(error).__name__}: {error}", self._failures - 1)

    async def wait_for(self, resource_version: int, timeout_s: float) -> None:
        """Return once everything up to `resource_version` has been handed to the consumer.

        resourceVersions count over all resources of the server, so one that belongs to another resource is reached only
        by a later event or bookmark of this one.

        Errors: TimeoutError after `timeout_s`.
        """
        if self.resource_version is not None and int(self.resource_version) >= resource_version:
            return
        waiter = (resource_version, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1]
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    # --- list

    async def _list(self) -> None:
        objects: list[T] = []
        token: str | None = None
        restarted = False
        while True:
            more = {"_continue": token} if token else {}
            reply = await self._call(limit=self._page, _request_timeout=LIST_PAGE_TIMEOUT_S, **more)
            if reply.status == 410 and token and not restarted:
                reply.close()
                log.info("%s: the list's continue token has expired; starting the list again", self.name)
                objects, token, restarted = [], None, True
                continue
            await self._require_ok(reply, "list")
            page = msgspec.json.decode(await reply.read(), type=_Page)
            for raw in page.items or ():
                self._add_projected(objects, raw)
                await self._breathe()
            token = page.metadata.continue_token
            if not token:
                break
        try:
            self._on_replace(objects)
        except Exception as error:
            log.exception("%s: the consumer of the list failed", self.name)
            raise _Failed("callback", f"the consumer of the list failed: {error}") from error
        self._seen(page.metadata.resource_version)
        self.synced.set()

    def _add_projected(self, objects: list[T], raw: msgspec.Raw) -> None:
        try:
            objects.append(self._project(msgspec.json.decode(raw)))
        except Exception:  # noqa: BLE001  (one bad object must not hide all others)
            self._count_with_traceback("projection")

    # --- watch

    async def _watch(self) -> None:
        """One watch, until the server ends it, or nothing arrives for `stall_s`."""
        timeout_seconds = random.randint(300, 600)  # spread, so that replicas do not reconnect together
        started_s, before = time.monotonic(), self.resource_version
        reply: ClientResponse | None = None
        try:
            async with asyncio.timeout(self._stall_s) as silence:
                reply = await self._call(
                    watch=True,
                    allow_watch_bookmarks=True,
                    resource_version=before,
                    timeout_seconds=timeout_seconds,
                    _request_timeout=timeout_seconds + 60.0,  # the client's own default would end a watch at 300 s
                )
                if reply.status == 410:
                    raise Gone("HTTP 410 for the watch")
                await self._require_ok(reply, "watch")
                self.last_event_s = time.monotonic()  # the server still knows our resourceVersion: nothing was missed
                loop, lines = asyncio.get_running_loop(), _Lines(self._max_line_bytes)
                async for chunk in reply.content.iter_any():
                    for line in lines.feed(chunk):
                        self._handle(line)
                        await self._breathe()
                    silence.reschedule(loop.time() + self._stall_s)  # after the work: a slow consumer is not silence
        except _LongLine as long:
            self.errors["line_too_long"] += 1
            log.error("%s: %s", self.name, long)
            raise Gone(str(long)) from long
        except TimeoutError:
            if not silence.expired():
                raise
            self.errors["stall"] += 1
            log.info("%s: nothing from the watch for %g s; reconnecting", self.name, self._stall_s)
            return
        finally:
            if reply is not None:
                reply.close()  # not release: the rest of an endless body is of no use
        if self.resource_version == before and time.monotonic() - started_s < 1.0:
            raise _Failed("short_watch", "the server ended the watch at once and sent nothing")

    def _handle(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line)
            kind, obj = event["type"], event["object"]
            if kind != "ERROR":
                version = obj["metadata"]["resourceVersion"]
                int(version)
        except (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError) as error:
            if self._unreadable_at == self.resource_version:  # the same place twice: not the wire's fault
                self.errors["unreadable"] += 1
                raise Gone("an event cannot be read, again") from error
            self._unreadable_at = self.resource_version
            raise _Failed("unreadable", f"a watch event cannot be read: {line[:80]!r}") from error
        if kind == "ERROR":
            if obj.get("code") == 410:
                raise Gone(obj.get("message") or "ERROR 410")
            raise _Failed("server", f"the watch ended with {obj.get('code')}: {obj.get('message')}")
        if kind != "BOOKMARK":
            self._tell(kind, obj)
        self._expiries = 0
        self._seen(version)

    def _tell(self, kind: str, obj: dict[str, Any]) -> None:
        try:
            projected = self._project(obj)
        except Exception:  # noqa: BLE001
            self._count_with_traceback("projection")
            return
        try:
            self._on_event(kind, projected)
        except Exception:  # noqa: BLE001
            self._count_with_traceback("callback")

    # --- bookkeeping

    def _seen(self, version: str) -> None:
        self.resource_version = version
        self.last_event_s = time.monotonic()
        self._failures = 0
        if self._waiters:
            reached = int(version)
            for wanted, future in self._waiters:
                if wanted <= reached and not future.done():
                    future.set_result(None)

    async def _require_ok(self, reply: ClientResponse, verb: str) -> None:
        if reply.status == 200:
            return
        try:
            said = (await reply.content.read(2000)).decode(errors="replace")
        finally:
            reply.close()
        retry_after = reply.headers.get("Retry-After", "")
        raise _Failed(
            "http", f"{verb}: HTTP {reply.status}: {said}", float(retry_after) if retry_after.isdigit() else 0.0
        )

    async def _back_off(self, reason: str, message: str, before: int, at_least_s: float = 0.0) -> None:
        """Counts the error and waits, the longer the more of them came `before` in a row."""
        self.errors[reason] += 1
        first_s, longest_s = self._backoff_s
        wait_s = max(min(first_s * 2.0 ** min(before, 30), longest_s) * random.uniform(0.5, 1.5), at_least_s)
        log.warning("%s: %s; trying again in %.1f s", self.name, message, wait_s)
        await asyncio.sleep(wait_s)

    async def _breathe(self) -> None:
        now_s = time.monotonic()
        if now_s - self._yielded_s > YIELD_EVERY_S:
            await asyncio.sleep(0)
            self._yielded_s = time.monotonic()

    def _count_with_traceback(self, reason: str) -> None:
        """Logs the 1st, 2nd, 4th, 8th … failure: a consumer that always fails would otherwise fill the disk."""
        self.errors[reason] += 1
        count = self.errors[reason]
        if count & (count - 1) == 0:
            log.exception("%s: %s failed (%d times so far)", self.name, reason, count)
