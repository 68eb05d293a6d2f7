"""The extender's end of the channel: segments up, predictor updates down, and a report now and then.

Whatever fails here is logged once and tried again: it must never reach the decisions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import msgspec

from nodewise.channel.endpoint import Endpoint
from nodewise.channel.follower import Follower
from nodewise.channel.messages import Ack, Heard, PredictorUpdate, Report
from nodewise.channel.spool import Spool, Waiting

POLL_S = 0.25
"""Time between looks at an empty spool."""
REPORT_S = 3.0
WAIT_S = 5.0
"""How long the operator may wait for something to tell; shorter than `follower.STALE_S`."""
ADOPT_S = 60.0
_ANSWER_S = 10.0
_FIRST_S, _LONGEST_S = 0.2, 5.0
"""Of waiting after a failure; the operator is one process of ours, and a stale predictor costs placements."""
_LONGEST_REPLY = 64 << 20
_UNUSABLE = (400, 413)
"""Statuses that say that what was sent will never be taken."""

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The operator answered, and not with what was asked for."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"status {status}: {why}")
        self.status = status


class Client:
    """Owned by the event loop; `run` serves until it is cancelled.

    `report` gives the report to send; who sends it and what only the channel knows is filled in here.
    """

    def __init__(self, operator: Endpoint, spool: Spool, follower: Follower, report: Callable[[], Report]) -> None:
        self.uploaded = 0  # rows that the operator has on disk
        self.trouble: dict[str, str] = {}
        """What does not work now, and why; empty while all is well."""
        self._operator, self._spool, self._follower, self._report = operator, spool, follower, report
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")

    async def run(self) -> None:
        """Upload, follow and report, for ever."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=3.0)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
                for name, step in (("upload", self._upload), ("follow", self._follow), ("report", self._tell)):
                    group.create_task(self._forever(name, step, session))
                group.create_task(self._keep())
        finally:
            self._disk.shutdown(wait=False, cancel_futures=True)

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
        waiting = self._spool.oldest()
        if waiting is None:
            return POLL_S
        loop = asyncio.get_running_loop()
        try:
            data = await loop.run_in_executor(self._disk, self._spool.read, waiting)
        except OSError as error:
            self._give_up(waiting, str(error))
            return 0.0
        try:
            reply = await self._ask(session, "POST", "/v1/segments", data, {"Content-Encoding": "gzip"})
            msgspec.json.decode(reply, type=Ack)
        except RefusedError as error:
            if error.status not in _UNUSABLE:
                raise
            self._give_up(waiting, str(error))
            return 0.0
        self.uploaded += waiting.rows
        await loop.run_in_executor(self._disk, self._spool.done, waiting)
        return 0.0

    async def _follow(self, session: aiohttp.ClientSession) -> float:
        follower = self._follower
        asked = {"epoch": follower.epoch, "since": str(follower.revision), "wait_s": str(WAIT_S)}
        update = msgspec.json.decode(
            await self._ask(session, "GET", "/v1/predictor", params=asked), type=PredictorUpdate
        )
        follower.heard(update)
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

    async def _keep(self) -> None:
        loop, waited_s = asyncio.get_running_loop(), 0.0
        while True:
            await asyncio.sleep(1.0)
            waited_s += 1.0
            try:
                self._follower.tick()
                if waited_s >= ADOPT_S:
                    waited_s = 0.0
                    await loop.run_in_executor(self._disk, self._spool.adopt)
            except Exception:
                log.exception("the predictor could not learn what this extender saw")

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
                raise RefusedError(reply.status, _said(bytes(content)))
            return bytes(content)

    def _give_up(self, waiting: Waiting, why: str) -> None:
        log.error("%d decisions of %s are lost: %s", waiting.rows, waiting.extender, why)
        self._spool.done(waiting, kept=False)

    def _works(self, name: str) -> None:
        if self.trouble.pop(name, None) is not None and not self.trouble:
            log.info("the operator at %s answers", self._operator.url)

    def _fails(self, name: str, error: Exception) -> None:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        news = why not in self.trouble.values()
        self.trouble[name] = why
        if news:
            log.warning("the operator at %s: %s", self._operator.url, why)


class _Error(msgspec.Struct):
    error: str


def _said(body: bytes) -> str:
    """The sentence of a refusal."""
    try:
        return msgspec.json.decode(body, type=_Error).error[:500]
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace") or "no reason given"
