"""What the port of probes tells of the store: one pod's fate and decisions, and the whole as a snapshot.

Every look runs in a thread of its own, in read transactions: neither the probes nor the intake wait for it. Who can
reach the port may look; so that nobody can keep the process busy, few looks are taken at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from math import isnan
from threading import BoundedSemaphore
from typing import Any
from weakref import finalize

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from nodewise.channel.messages import DecisionRow
from nodewise.core.errors import UserError
from nodewise_operator.snapshot import gzipped, pieces
from nodewise_operator.store import PodRow, Store
from nodewise_operator.store.codec import pod_row
from nodewise_operator.store.schema import PODS

log = logging.getLogger(__name__)

_KEPT = (
    "time_s", "source", "mode", "placement_policy", "policy", "digest", "fallback", "neutral", "winner", "bound",
    "latency_us",
)  # fmt: skip
MOST_PODS, MOST_DECISIONS, MOST_CANDIDATES = 20, 20, 10
"""Told of one name: pods, decisions on each, and candidates of each, the newest and best of them."""
AT_ONCE = 2
"""Looks; more are told to come again (429)."""
_BUSY = f"{AT_ONCE} others are looking already: try again"


def add_recorded(app: FastAPI, store: Callable[[], Store | None]) -> None:
    """Add /pods and /snapshot; `store` gives None while the replica stands by."""
    free = BoundedSemaphore(AT_ONCE)

    @app.get("/pods")
    def pods(namespace: str, name: str = "", uid: str = "") -> Response:
        """The pods of that name that there ever were, newest first; of a `uid` (which is found at once) only that."""
        held = store()
        if held is None:
            return _no("standing by: another replica works")
        if not name and not uid:
            return _no("tell the name or the uid of a pod", 422)
        if not free.acquire(blocking=False):
            return _no(_BUSY, 429)
        try:
            return _json({"pods": told(held, namespace, name, uid)})
        except UserError as error:
            return _no(str(error))
        finally:
            free.release()

    @app.get("/snapshot")
    def snapshot(request: Request) -> Response:
        """What `nodewise snapshot --store` writes, as it is read; gzip where that is accepted."""
        held = store()
        if held is None:
            return _no("standing by: another replica works")
        if not free.acquire(blocking=False):
            return _no(_BUSY, 429)
        parts = pieces(held)
        finalize(parts, free.release)  # when it has been read, or will be read by nobody
        try:
            whole = chain((next(parts),), _logged(parts))
        except UserError as error:
            return _no(str(error))
        squeezed = "gzip" in request.headers.get("accept-encoding", "")
        return StreamingResponse(
            gzipped(whole) if squeezed else whole,
            media_type="application/json",
            headers={"Content-Encoding": "gzip"} if squeezed else None,
        )


def told(store: Store, namespace: str, name: str, uid: str = "") -> list[dict[str, Any]]:
    """What is recorded of the pods of that name, newest first, as plain JSON; decisions newest first too."""
    return [
        _pod(row) | {"decisions": [_decision(made) for made in _newest(store, row.uid)]}
        for row in _rows(store, namespace, name, uid)
    ]


def _rows(store: Store, namespace: str, name: str, uid: str) -> list[PodRow]:
    if uid:
        found = store.pod(uid)
        return [found] if found and found.namespace == namespace else []
    named = [PODS.c.namespace == namespace, PODS.c.name == name]
    rows = map(pod_row, store.columns(PODS, named))
    return sorted(rows, key=lambda row: row.created_s, reverse=True)[:MOST_PODS]


def _newest(store: Store, uid: str) -> list[DecisionRow]:
    return [*store.decisions(uid=uid)][: -MOST_DECISIONS - 1 : -1]


def _pod(row: PodRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in PodRow.__slots__ if name != "manifest"}


def _decision(row: DecisionRow) -> dict[str, Any]:
    """Without features: who decided what, among which candidates, the best of them first."""
    best = sorted(zip(row.scores, row.candidates, strict=False), key=lambda pair: (isnan(pair[0]), -pair[0]))
    return {
        **{name: getattr(row, name) for name in _KEPT},
        "candidates_seen": len(row.candidates),
        "candidates": [{"node": node, "score": score} for score, node in best[:MOST_CANDIDATES]],
    }


def _logged(parts: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from parts
    except UserError as error:  # the answer has begun: all that can be done is to cut it short
        log.error("a snapshot was cut short: %s", error)
        raise


def _no(says: str, status: int = 503) -> Response:
    return _json({"error": says}, status)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    # msgspec writes nan and inf, which JSON has not, as null
    return Response(msgspec.json.encode(content), status, media_type="application/json")
