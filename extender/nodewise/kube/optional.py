"""A resource that need not be there: its definition may not be installed, or we may not be permitted to read it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from aiohttp import ClientResponse

from nodewise.kube.api import Call
from nodewise.kube.informer import Gone, Informer

log = logging.getLogger(__name__)

T = TypeVar("T")

_WATCH_S = 20
"""A watch is asked for anew so often, so that `age_s` stays small in a quiet cluster and says something when large."""
_STALE_S = 3.0 * _WATCH_S
_REFUSED = {403: "not permitted", 404: "not installed"}


class OptionalResource(Generic[T]):
    """An `Informer` of a resource that may be refused; it is then asked for again every `again_s` seconds.

    If it is not installed, `on_replace` is told that there are none of it. If it is not permitted (any more), what was
    read before stands.
    """

    def __init__(
        self,
        call: Call,
        project: Callable[[dict[str, Any]], T],
        on_replace: Callable[[list[T]], None],
        on_event: Callable[[str, T], None],
        *,
        name: str,
        again_s: float = 30.0,
    ) -> None:
        self.answered = asyncio.Event()  # it was read, or we were told that it cannot be
        self.refused = ""  # why it is not read; empty if it is
        self.informer = Informer(self._ask, project, self._replaced, on_event, name=name)
        self._call, self._on_replace, self._again_s = call, on_replace, again_s
        self._refused_s = -math.inf

    @property
    def age_s(self) -> float:
        """Time since the API server said anything of it; inf if it never did."""
        return time.monotonic() - (self._refused_s if self.refused else self.informer.last_event_s)

    def says(self) -> str:
        """How it stands, for people."""
        if self.refused:
            return self.refused
        if not self.answered.is_set():
            return "not read yet"
        age_s = self.age_s
        return f"heard of {age_s:.1f} s ago" if age_s < _STALE_S else f"stale: nothing was heard for {age_s:.0f} s"

    async def run(self) -> None:
        """Watch for ever; the owner cancels it."""
        await self.informer.run()

    async def _ask(self, **asked: Any) -> ClientResponse:
        watches = asked.get("watch", False)
        if watches:
            asked |= {"timeout_seconds": _WATCH_S, "_request_timeout": _WATCH_S + 10.0}
        while True:
            reply = await self._call(**asked)
            if reply.status not in _REFUSED:
                if self.refused and reply.status == 200:
                    log.info("%s can be read now", self.informer.name)
                    self.refused = ""
                return reply
            reply.close()
            self._refuse(reply.status)
            if watches:
                raise Gone(f"{self.informer.name} are {self.refused}")  # a list may be waited for, a watch may not
            await asyncio.sleep(self._again_s * random.uniform(0.8, 1.0))

    def _refuse(self, status: int) -> None:
        if self.refused != _REFUSED[status]:
            log.info("%s are %s; asking again every %g s", self.informer.name, _REFUSED[status], self._again_s)
        self.refused, self._refused_s = _REFUSED[status], time.monotonic()
        if status == 404:
            self._on_replace([])
        self.answered.set()

    def _replaced(self, objects: list[T]) -> None:
        self._on_replace(objects)
        self.answered.set()
