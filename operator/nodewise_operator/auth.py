"""Who may use the channel: the service accounts that are named, by a token that the API server vouches for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from kubernetes.aio.client import ApiClient, AuthenticationV1Api, V1TokenReview, V1TokenReviewSpec

from nodewise.core.errors import UserError

AUDIENCE = "nodewise-operator"
"""What a projected token must be made for, so that nobody else who is shown it can use it here."""
ALLOWED_S, REFUSED_S = 60.0, 10.0
"""How long an answer of the API server holds: a token that was revoked works for that long."""
_REMEMBERED = 1_000
_LONGEST_TOKEN = 16 << 10
_REVIEW_S = 5.0
_AT_ONCE = 4
"""Reviews under way of tokens that were never allowed: whoever makes some up shall not reach the API server through us
as fast as he can, nor keep those waiting that are asked about again.
"""
_SUBJECT = "system:serviceaccount:"

log = logging.getLogger(__name__)


class NotAllowedError(Exception):
    """This caller is refused, with an HTTP status and a sentence that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Auth(Protocol):
    """Looks at the Authorization header of a request."""

    async def __call__(self, header: str) -> str:
        """The caller's name. Raises NotAllowedError."""
        ...


async def anyone(header: str) -> str:  # noqa: ARG001
    """Nobody is asked; for loopback, where it was chosen."""
    return "anyone"


@dataclass(frozen=True, slots=True)
class _Answer:
    until_s: float
    user: str
    status: int = 200
    why: str = ""


class TokenReviews:
    """Asks the API server about each bearer token, once a minute at most.

    `allowed` are service accounts as `namespace/name`. The right needed is `create` on tokenreviews
    (ClusterRole system:auth-delegator has it).
    """

    def __init__(
        self,
        api: ApiClient,
        allowed: frozenset[str],
        audience: str = AUDIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reviews = 0  # that the API server was asked for
        self._api = AuthenticationV1Api(api)
        self._users = frozenset(_SUBJECT + account.replace("/", ":") for account in allowed)
        self._audience, self._clock = audience, clock
        self._allowed: OrderedDict[bytes, _Answer] = OrderedDict()  # also those whose answer is too old by now
        self._refused: OrderedDict[bytes, _Answer] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Answer]] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, header: str) -> str:
        """The caller's user name."""
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN or not token.isascii():
            raise NotAllowedError(401, "a bearer token of a service account is needed in the Authorization header")
        answer = await self._answer(token)
        if answer.status != 200:
            raise NotAllowedError(answer.status, answer.why)
        return answer.user

    async def _answer(self, token: str) -> _Answer:
        key = hashlib.sha256(token.encode()).digest()  # tokens themselves are not kept
        known = self._allowed.get(key) or self._refused.get(key)
        if known is not None and self._clock() < known.until_s:
            return known
        if key not in self._asking:  # whoever asks meanwhile waits for the same answer
            turn = contextlib.nullcontext() if key in self._allowed else self._turn
            task = self._asking[key] = asyncio.create_task(self._review(token, turn))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        answer = await asyncio.shield(self._asking[key])
        if answer.until_s > 0.0:
            self._remember(key, answer)
        return answer

    def _remember(self, key: bytes, answer: _Answer) -> None:
        kept, other = (self._allowed, self._refused) if answer.status == 200 else (self._refused, self._allowed)
        other.pop(key, None)
        kept[key] = answer
        kept.move_to_end(key)
        while len(kept) > _REMEMBERED:
            kept.popitem(last=False)

    async def _review(self, token: str, turn: AbstractAsyncContextManager[None]) -> _Answer:
        asked = V1TokenReview(spec=V1TokenReviewSpec(token=token, audiences=[self._audience]))
        begin_s = self._clock()
        try:
            async with asyncio.timeout(_REVIEW_S), turn:
                self.reviews += 1
                status = (await self._api.create_token_review(asked)).status
        except Exception as error:  # noqa: BLE001  an API server that cannot be asked is no reason to let anybody in
            log.warning("the API server could not be asked about a token: %r", error)
            return _Answer(0.0, "", 503, "the API server could not be asked about the token")
        if status is None or not status.authenticated or self._audience not in (status.audiences or ()):
            why = f"the API server does not accept the token for audience {self._audience}"
            return _Answer(begin_s + REFUSED_S, "", 401, why)
        user = str(status.user.username) if status.user else ""
        if user not in self._users:
            why = f"{user} may not use this channel: name its service account in the operator's settings"
            return _Answer(begin_s + REFUSED_S, user, 403, why)
        return _Answer(begin_s + ALLOWED_S, user)


def service_accounts(text: str) -> frozenset[str]:
    """The setting: `namespace/name`, separated by commas. Raises UserError."""
    found = frozenset(word.strip() for word in text.split(",") if word.strip())
    for account in found:
        namespace, slash, name = account.partition("/")
        if not (namespace and slash and name) or "/" in name or ":" in account:
            raise UserError(f"{account!r} names no service account: write namespace/name")
    return found
