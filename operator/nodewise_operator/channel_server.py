"""The operator's end of the channel, as HTTP: every route reads, checks, calls one function and answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from nodewise.channel.messages import VERSION, Ack, DecisionRow, Heard, PredictorUpdate, Report, Segment
from nodewise.core.estimator import Observation
from nodewise_operator.auth import Auth, NotAllowedError
from nodewise_operator.predictor import Predictor

MOST_SENT_BYTES = 8 << 20
"""Of a body as it arrives."""
MOST_BYTES = 32 << 20
"""Of a body that was compressed, and of one that was not."""
LONGEST_WAIT_S = 30.0
_BODY_S = 30.0
"""Time that a body may take to arrive."""
_LOOK_S = 0.1
"""Between looks for something new while a follower waits."""
_COMPRESS_FROM = 8 << 10
_LONGEST_NAME = 253  # a DNS subdomain, the longest name that Kubernetes knows

MOST_POLICIES, MOST_OBSERVATIONS = 1_000, 1_000
"""Of a report; an extender sends 500 observations at most."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class RefusedError(Exception):
    """What was sent is answered with this HTTP status and a sentence; 400 and 413 say that it will never be taken."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Version(msgspec.Struct):
    v: int = VERSION


CLOSING = "closing"
"""Set in the app's state when the server is to end: a request that waits for news is then answered without any."""


def channel_app(
    *,
    store: Callable[[Segment], Awaitable[int]],
    predictor: Predictor,
    update: Callable[[str, int], Awaitable[PredictorUpdate]],
    learn: Callable[[list[Observation]], Awaitable[list[str]]],
    report: Callable[[Report], Awaitable[None]],
    auth: Auth,
) -> FastAPI:
    """The app that the operator serves to extenders.

    `store` returns when the segment is on disk (whether now or before) with what is acknowledged of its extender.
    `update` and `learn` go to whoever owns `predictor`: its `update`, and its `learn` for each observation, which is
    then written; `learn` returns the uids that were known. `report` takes note.
    """
    app = FastAPI(title="Nodewise channel", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/segments")
    async def segments(request: Request) -> Response:
        """Store a segment."""
        await auth(request.headers.get("authorization", ""))
        body = await _body(request)
        version = _decoded(body, _Version).v
        if version != VERSION:
            raise RefusedError(
                422, f"segments of version {version} are not known here, only {VERSION}: upgrade the older side"
            )
        segment = _decoded(body, Segment)
        if why := wrong(segment):
            raise RefusedError(400, why)
        return _answer(Ack(acknowledged=await _now(store(segment))))

    @app.get("/v1/predictor")
    async def follow(request: Request, epoch: str = "", since: int = 0, wait_s: float = 0.0) -> Response:
        """What the follower lacks; if that is nothing, after `wait_s` or when there is something."""
        await auth(request.headers.get("authorization", ""))
        until_s = time.monotonic() + (min(wait_s, LONGEST_WAIT_S) if math.isfinite(wait_s) else 0.0)
        while epoch == predictor.epoch and since == predictor.revision and time.monotonic() < until_s:
            if getattr(app.state, CLOSING, False):
                break
            await asyncio.sleep(_LOOK_S)  # what is learned may be learned in another thread
        return _answer(await _now(update(epoch, since)), request.headers.get("accept-encoding", ""))

    @app.post("/v1/reports")
    async def reports(request: Request) -> Response:
        """Take note of a report, and learn what it tells of."""
        await auth(request.headers.get("authorization", ""))
        told = _decoded(await _body(request), Report)
        if why := wrong_report(told):
            raise RefusedError(400, why)
        known = await _now(learn([row.observation() for row in told.observations])) if told.observations else []
        await _now(report(told))
        return _answer(Heard(known=known))

    @app.exception_handler(RefusedError)
    @app.exception_handler(NotAllowedError)
    async def refused(_: Request, error: RefusedError | NotAllowedError) -> Response:
        return _error(error.status, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return _error(400, "the body did not arrive")

    return app


def wrong(segment: Segment) -> str:
    """Why a segment cannot be stored, in a sentence; empty if it can."""
    if not 0 < len(segment.extender) <= _LONGEST_NAME or segment.sequence < 1 or segment.dropped < 0:
        return "a segment needs the name of its extender and a sequence number from 1 on"
    for k, row in enumerate(segment.rows):
        if why := _wrong_row(row):
            return f"row {k} (pod {row.namespace[:_LONGEST_NAME]}/{row.pod[:_LONGEST_NAME]}) {why}"
    return ""


def wrong_report(report: Report) -> str:
    """Why nothing can be made of a report, in a sentence; empty if something can."""
    if not 0 < len(report.extender) <= _LONGEST_NAME or not math.isfinite(report.time_s):
        return "a report needs the name of its extender and its time"
    if len(report.placement_policies) > MOST_POLICIES or len(report.observations) > MOST_OBSERVATIONS:
        return f"a report has at most {MOST_POLICIES} PlacementPolicies and {MOST_OBSERVATIONS} observations"
    if any(not 0 < len(one.name) <= _LONGEST_NAME for one in report.placement_policies):
        return "a report has a PlacementPolicy without a name, or with one that is none"
    if any(not 0 < len(seen.uid) <= _LONGEST_NAME for seen in report.observations):
        return "a report has an observation without the uid of its pod"
    return ""


def _wrong_row(row: DecisionRow) -> str:
    featured, columns = len(row.featured), len(row.columns)
    if not 0 < len(row.uid) <= _LONGEST_NAME:
        return "has no uid"
    if row.source != "extender":
        return f"has source {row.source[:40]!r}; an extender sends its own decisions only"
    if len(row.scores) != len(row.candidates):
        return f"has {len(row.scores)} scores for {len(row.candidates)} candidates"
    if any(not 0 <= k < len(row.candidates) for k in row.featured):
        return "has features of a candidate that it does not have"
    if len(row.features) != 4 * featured * columns:
        return f"has {len(row.features)} bytes of features for {featured} candidates and {columns} columns"
    if not all(map(math.isfinite, (row.time_s, row.propensity, row.latency_us, *row.scores))):
        return "has a number that is not finite"
    return ""


async def _now(work: Awaitable[T]) -> T:
    try:
        return await work
    except RefusedError:
        raise
    except Exception as error:
        log.exception("what an extender sent was not taken; it will send it again")
        raise RefusedError(503, "the operator cannot take this now") from error


async def _body(request: Request) -> bytes:
    """The body, inflated; neither what is sent nor what it inflates to may be long."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise RefusedError(415, f"content encoding {encoding[:40]!r} is not known here: use gzip")
    sent = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                sent += chunk
                if len(sent) > MOST_SENT_BYTES:
                    raise RefusedError(413, f"the body is longer than {MOST_SENT_BYTES} bytes")
    except TimeoutError:
        raise RefusedError(408, "the body took too long to arrive") from None
    return _inflated(bytes(sent)) if encoding == "gzip" else bytes(sent)


def _inflated(sent: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        made = unpacker.decompress(sent, MOST_BYTES + 1)
    except zlib.error as error:
        raise RefusedError(400, f"the body is not gzip ({error})") from None
    if len(made) > MOST_BYTES:
        raise RefusedError(413, f"the body inflates to more than {MOST_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise RefusedError(400, "the body is not one whole gzip stream")
    return made


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, f"the body makes no sense: {str(error)[:200]}") from None


def _answer(message: Any, accepted: str = "") -> Response:
    body, headers = msgspec.json.encode(message), {}
    if len(body) >= _COMPRESS_FROM and "gzip" in accepted:
        packer = zlib.compressobj(1, wbits=31)
        body, headers = packer.compress(body) + packer.flush(), {"Content-Encoding": "gzip"}
    return Response(body, media_type="application/json", headers=headers)


def _error(status: int, why: str) -> Response:
    return Response(msgspec.json.encode({"error": why}), status, media_type="application/json")
