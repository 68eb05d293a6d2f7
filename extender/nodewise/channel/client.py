"""The extender's end of the channel: segments up, predictor updates down, and a report now and then.

Whatever fails here is logged once and tried again: it must never reach the decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import aiohttp
import msgspec

from nodewise.channel.endpoint import Endpoint
from nodewise.channel.follower import Follower, read
from nodewise.channel.messages import Ack, Heard, Report
from nodewise.channel.spool import Spool, SpoolError

POLL_S = 0.25
"""Time between looks at an empty spool."""
REPORT_S = 3.0
WAIT_S = 5.0
"""How long the operator may wait for something to tell; shorter than `follower.STALE_S`."""
ADOPT_S = 60.0
LEARN_S = 0.1
"""Time between looks for something to learn."""
_PAUSE_S = 0.003
"""For decisions, between two moments of learning."""
_ANSWER_S = 10.0
_GOODBYE_S = 1.0
"""For the last report, while the process is to end."""
_FIRST_S, _LONGEST_S = 0.2, 5.0
"""Of waiting after a failure; the operator is one process of ours, and a stale predictor costs placements."""
_LONGEST_REPLY = 64 << 20
_UNUSABLE = (400, 413)
"""Statuses with which the operator says that what was sent will never be taken; a proxy in between may have others."""

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The operator, or a proxy before it, answered, and not with what was asked for."""

    def __init__(self, status: int, why: str, *, for_good: bool = False) -> None:
        super().__init__(f"status {status}: {why}")
        self.for_good = for_good  # the operator itself says that it will never take it


class Client:
    """Owned by the event loop; `run` serves until it is cancelled.

    `report` gives the report to send; who sends it and what only the channel knows is filled in here.
    """

    def __init__(self, operator: Endpoint, spool: Spool, follower: Follower, report: Callable[[], Report]) -> None:
        self.uploaded = 0  # rows that the operator has on disk
        self.trouble: dict[str, str] = {}
        """What does not work now, and why; empty while all is well."""
        self._connected = False  # the operator has answered once
        self._operator, self._spool, self._follower, self._report = operator, spool, follower, report
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._tables = ThreadPoolExecutor(1, thread_name_prefix="predictor")

    async def run(self) -> None:
        """Upload, follow and report, for ever."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=3.0)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                try:
                    async with asyncio.TaskGroup() as group:
                        for name, step in (("upload", self._upload), ("follow", self._follow), ("report", self._tell)):
                            group.create_task(self._forever(name, step, session))
                        group.create_task(self._learn())
                        group.create_task(self._adopt())
                finally:
                    await self._say_goodbye(session)
        finally:
            for executor in (self._disk, self._tables):
                executor.shutdown(wait=False, cancel_futures=True)

    async def _forever(
        self, name: str, step: Callable[[aiohttp.ClientSession], Awaitable[float]], session: aiohttp.ClientSession
    ) -> None:
        """Take steps; each says how long to wait before the next."""
        failures = 0
        while True:
            try:
                wait_s = await step(session)
                failures = 0
                self._works(name)
            except Exception as error:  # noqa: BLE001  whatever the operator or the network does
                self._fails(name, error)
                wait_s = min(_FIRST_S * 2.0**failures, _LONGEST_S) * random.uniform(0.5, 1.0)
                failures = min(failures + 1, 10)
            await asyncio.sleep(wait_s)

    async def _upload(self, session: aiohttp.ClientSession) -> float:
        loop, spool = asyncio.get_running_loop(), self._spool
        waiting = await loop.run_in_executor(self._disk, spool.oldest)
        if waiting is None:
            return POLL_S
        try:
            data = await loop.run_in_executor(self._disk, spool.read, waiting)
            reply = await self._ask(session, "POST", "/v1/segments", data, {"Content-Encoding": "gzip"})
            msgspec.json.decode(reply, type=Ack)
        except SpoolError as error:
            why = str(error)
        except RefusedError as error:
            if not error.for_good:
                raise
            why = str(error)
        else:
            self.uploaded += waiting.rows
            await loop.run_in_executor(self._disk, spool.done, waiting)
            return 0.0
        log.error("%d decisions of %s are lost: %s", waiting.rows, waiting.extender, why)
        await loop.run_in_executor(self._disk, partial(spool.done, waiting, kept=False))
        return 0.0

    async def _follow(self, session: aiohttp.ClientSession) -> float:
        loop, follower = asyncio.get_running_loop(), self._follower
        epoch, revision = follower.asked
        asked = {"epoch": epoch, "since": str(revision), "wait_s": str(WAIT_S)}
        reply = await self._ask(session, "GET", "/v1/predictor", params=asked)
        follower.heard(await loop.run_in_executor(self._tables, read, reply, follower.estimator.settings))
        return 0.05  # an operator that never waits shall not keep us busy

    async def _tell(self, session: aiohttp.ClientSession) -> float:
        told = self._report()
        report = msgspec.structs.replace(
            told,
            extender=self._spool.extender,
            dropped=told.dropped + self._spool.dropped,
            predictor_revision=self._follower.revision,
            observations=self._follower.overdue(),
        )
        reply = await self._ask(session, "POST", "/v1/reports", msgspec.json.encode(report))
        self._follower.known(msgspec.json.decode(reply, type=Heard).known)
        return REPORT_S

    async def _say_goodbye(self, session: aiohttp.ClientSession) -> None:
        """Let the operator know that nobody is missing; if it does not hear, it finds out by itself."""
        if not self._connected:
            return
        report = msgspec.structs.replace(self._report(), extender=self._spool.extender, ended=True)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE_S):
                await self._ask(session, "POST", "/v1/reports", msgspec.json.encode(report))

    async def _learn(self) -> None:
        loop, follower = asyncio.get_running_loop(), self._follower
        while True:
            wait_s = _PAUSE_S
            try:
                make = follower.rebuild()
                if make is not None:
                    follower.adopt(await loop.run_in_executor(self._tables, make))
                elif not follower.tick():
                    wait_s = LEARN_S
            except Exception:
                log.exception("the predictor could not learn what was seen")
                wait_s = _LONGEST_S
            await asyncio.sleep(wait_s)

    async def _adopt(self) -> None:
        while True:
            await asyncio.sleep(ADOPT_S)
            try:
                await asyncio.get_running_loop().run_in_executor(self._disk, self._spool.adopt)
            except Exception:
                log.exception("what earlier extenders left in the spool was not taken over")

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> bytes:
        operator = self._operator
        async with session.request(
            method,
            operator.url + path,
            data=body,
            params=params,
            headers={**operator.headers(), **(headers or {}), "Content-Type": "application/json"},
            ssl=operator.tls(),
            allow_redirects=False,  # the token is for nobody else
        ) as reply:
            content = bytearray()
            async for chunk in reply.content.iter_chunked(1 << 16):
                content += chunk
                if len(content) > _LONGEST_REPLY:
                    raise RefusedError(reply.status, f"its reply to {path} is longer than {_LONGEST_REPLY} bytes")
            if reply.status != 200:
                raise _refused(reply.status, bytes(content))
            return bytes(content)

    def _works(self, name: str) -> None:
        if not self._connected and name != "upload":  # which works also while there is nothing to send
            self._connected = True
            log.info("connected to the operator at %s", self._operator.url)
        if self.trouble.pop(name, None) is not None and not self.trouble:
            log.info("the operator at %s answers", self._operator.url)

    def _fails(self, name: str, error: Exception) -> None:
        why = explained(error, encrypted=self._operator.url.startswith("https://"))
        news = why not in self.trouble.values()
        self.trouble[name] = why
        if news:
            log.warning("the operator at %s: %s", self._operator.url, why)


def explained(error: Exception, *, encrypted: bool) -> str:
    """What is wrong with a connection, in a sentence; with what to do about it where that can be told."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"its certificate is not trusted ({error.certificate_error}): name the authority that signed it with "
            "--operator-ca-file, and the host as the certificate has it in --operator-url"
        )
    if encrypted and isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) and _talks_plainly(error):
        return (
            f"it does not speak TLS on this port ({error}): give the operator --channel-cert and --channel-key, or on "
            "loopback write http:// in --operator-url"
        )
    if not encrypted and isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return (
            f"it closed the connection without an answer ({error}), as a port does that expects TLS: write https:// in "
            "--operator-url if the operator has --channel-cert"
        )
    return str(error) or type(error).__name__


def _talks_plainly(error: Exception) -> bool:
    """Whether OpenSSL met something that is no TLS at all; its words for that differ by version."""
    return any(said in str(error).upper() for said in ("WRONG_VERSION_NUMBER", "WRONG VERSION", "RECORD LAYER"))


class _Error(msgspec.Struct):
    error: str


def _refused(status: int, body: bytes) -> RefusedError:
    """With the sentence of the refusal, if it has one."""
    try:
        why = msgspec.json.decode(body, type=_Error).error
    except msgspec.MsgspecError:
        return RefusedError(status, body[:200].decode(errors="replace") or "no reason given")
    return RefusedError(status, why[:500], for_good=status in _UNUSABLE)
