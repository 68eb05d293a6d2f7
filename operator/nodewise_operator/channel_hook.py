"""The channel beside the watches: what extenders send goes through the intake's thread, the one that writes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from nodewise.channel.messages import PredictorUpdate, Report, Segment
from nodewise.core.errors import UserError
from nodewise.core.estimator import Observation
from nodewise_operator import placement_status
from nodewise_operator.app import Hook, Operator
from nodewise_operator.auth import Auth, TokenReviews, anyone, service_accounts
from nodewise_operator.channel_server import RefusedError, channel_app
from nodewise_operator.channel_serving import checked, serving
from nodewise_operator.placement_status import FORGOTTEN_S, Hearing, Reported
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import StoreUnavailable, Unstorable

log = logging.getLogger(__name__)

T = TypeVar("T")
Heard = Callable[[Report], Awaitable[None]]

MOST_NAMES = 200
"""Extenders whose reports are kept; each life of one has a name of its own."""
_ANSWER_S = 8.0
"""Less than an extender waits for an answer."""


def wanted(settings: OperatorSettings) -> bool:
    """Whether anybody may use the channel. Raises UserError for settings that exclude each other."""
    if settings.channel_accounts and settings.channel_unauthenticated:
        raise UserError("--channel-accounts and --channel-unauthenticated exclude each other: leave one out")
    return bool(service_accounts(settings.channel_accounts)) or settings.channel_unauthenticated


def check(settings: OperatorSettings) -> None:
    """Raises UserError for settings with which the channel could not be served."""
    if wanted(settings):
        checked(
            settings.channel_host, settings.channel_cert, settings.channel_key,
            open_to_all=settings.channel_unauthenticated, unauthenticated=settings.channel_unauthenticated,
        )  # fmt: skip


async def channel(operator: Operator, heard: Heard) -> None:
    """Serve extenders for ever; `heard` is told of each report."""
    settings = operator.settings
    if not wanted(settings):
        log.info("no extender may use the channel: name service accounts with --channel-accounts")
        await asyncio.Event().wait()
    auth: Auth = anyone
    if settings.channel_accounts:
        auth = TokenReviews(operator.api, service_accounts(settings.channel_accounts))

    async def store(segment: Segment) -> int:
        return await _on_intake(operator, partial(_store, operator, segment))

    async def update(epoch: str, since: int) -> PredictorUpdate:
        return await _on_intake(operator, partial(operator.predictor.update, epoch, since))

    async def learn(observations: list[Observation]) -> list[str]:
        return await _on_intake(operator, partial(_learn, operator, observations))

    app = channel_app(store=store, predictor=operator.predictor, update=update, learn=learn, report=heard, auth=auth)
    async with serving(
        app, settings.channel_host, settings.channel_port, auth=auth, cert_file=settings.channel_cert,
        key_file=settings.channel_key, unauthenticated=settings.channel_unauthenticated,
    ) as port:  # fmt: skip
        log.info("extenders may send decisions to port %d", port)
        await asyncio.Event().wait()


def channel_hooks() -> tuple[Hook, ...]:
    """The channel, and what is done with what is heard on it."""
    reports: dict[str, Reported] = {}

    async def heard(report: Report) -> None:
        remember(reports, Reported(report, time.time()))

    async def serve_channel(operator: Operator) -> None:
        await channel(operator, heard)

    async def keep_placement_status(operator: Operator) -> None:
        def hearing() -> Hearing:
            return Hearing(channel=wanted(operator.settings), leads=operator.scheduler_leads())

        await placement_status.run(operator.api, reports.values, hearing=hearing)

    return serve_channel, keep_placement_status


def remember(reports: dict[str, Reported], told: Reported) -> None:
    """Keep the last report by the name of its extender. Raises RefusedError if too many are kept already."""
    for name in [name for name, one in reports.items() if told.received_s - one.received_s > FORGOTTEN_S]:
        del reports[name]
    name = told.report.extender
    if told.report.ended:  # nobody is to miss it
        reports.pop(name, None)
        return
    if name not in reports and len(reports) >= MOST_NAMES:
        raise RefusedError(429, f"{MOST_NAMES} extenders report already; each is forgotten after {FORGOTTEN_S:.0f} s")
    reports[name] = told


async def _on_intake(operator: Operator, work: Callable[[], T]) -> T:
    """Its answer is wanted soon or never: who asked gives up, and asks again."""
    try:
        return await operator.on_intake(work, within_s=_ANSWER_S)
    except (StoreUnavailable, TimeoutError) as error:
        raise RefusedError(503, f"the operator cannot take this now: {error or 'it is busy'}") from error


def _store(operator: Operator, segment: Segment) -> int:
    """A segment that is acknowledged is not sent again."""
    intake, store = operator.intake, operator.store
    if segment.sequence > store.acknowledged(segment.extender):
        try:
            intake.take_segment(segment)
        except Unstorable as error:
            raise RefusedError(400, f"the store cannot hold it: {error}") from error
    return store.acknowledged(segment.extender)


def _learn(operator: Operator, observations: list[Observation]) -> list[str]:
    known = [seen.uid for seen in observations if operator.predictor.knows(seen.uid) or not seen.teaches]
    for seen in observations:
        operator.intake.learn(seen)
    return known
