"""The ASGI application that kube-scheduler talks to.

FastAPI's routing costs as much as a decision (about 80 µs), so the two verbs are taken out before it sees them.
kube-scheduler appends the verb to whatever `urlPrefix` says and follows redirects as GET, so any prefix and a trailing
slash are taken as they come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI

from nodewise import __version__
from nodewise.extender.service import Reply, Service

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
SeenBy = Callable[[int, float], Awaitable[None]]
"""Waits until a resourceVersion was seen, for so many seconds at most; then TimeoutError."""

VERBS = ("prioritize", "filter")

_BODY_S = 5.0
"""A body that takes longer has a dead or hostile sender; kube-scheduler itself waits for 5 s at most."""
_REPLAY_WAIT_S = 2.0
_NOW, _VERSION = b"x-nodewise-now", b"x-nodewise-resource-version"


class _TooLongError(Exception):
    pass


class Front:
    """POST …/prioritize and …/filter go to the service, everything else to FastAPI."""

    def __init__(self, service: Service, seen_by: SeenBy) -> None:
        self._service, self._seen_by = service, seen_by
        self._most_bytes = service.settings.max_body_bytes
        self._replay = service.settings.replay
        self._app = _app(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        verb = scope["path"].rstrip("/").rpartition("/")[2] if scope["type"] == "http" else ""
        if verb not in VERBS or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(scope, receive)
        except _TooLongError:
            log.warning("%s: more than %d bytes; is nodeCacheCapable set to true?", verb, self._most_bytes)
            await _reply(send, self._service.refuse(verb, "too-long"))
            return
        except (ConnectionError, TimeoutError):
            self._service.refuse(verb, "incomplete")
            return
        await _reply(send, await self._answer(verb, body, scope))

    async def _answer(self, verb: str, body: bytes, scope: Scope) -> Reply:
        if verb == "filter":
            return self._service.filter(body)
        now_s = time.time()
        if self._replay:
            headers = dict(scope["headers"])
            try:
                now_s = float(headers.get(_NOW, now_s))
                if _VERSION in headers:
                    await self._seen_by(int(headers[_VERSION]), _REPLAY_WAIT_S)
            except (ValueError, TimeoutError):
                return self._service.refuse(verb, "replay-not-possible")
        return await self._service.prioritize(body, now_s)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._most_bytes:
                raise _TooLongError
        parts: list[bytes] = []
        size, more = 0, True
        async with asyncio.timeout(_BODY_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise ConnectionError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > self._most_bytes:
                    raise _TooLongError
                more = message.get("more_body", False)
        return b"".join(parts)


async def _reply(send: Send, reply: Reply) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _app(service: Service) -> FastAPI:
    app = FastAPI(title="Nodewise extender", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def about() -> dict[str, Any]:
        """What answers here."""
        return {
            "name": "nodewise",
            "version": __version__,
            "verbs": VERBS,
            "policy": service.policy.name,
            "digest": service.policy.digest,
        }

    return app
