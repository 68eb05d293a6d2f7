"""What is old and over leaves the store, so that it does not grow for ever."""

from __future__ import annotations

import asyncio
import logging

from nodewise_operator.app import Operator
from nodewise_operator.store import StoreUnavailable
from nodewise_operator.store.prune import Pruned

log = logging.getLogger(__name__)

EVERY_S = 3600.0
DAY_S = 86400.0


async def keep_retention(operator: Operator) -> None:
    """Once an hour delete what is older than `retain_days`, for ever."""
    older_than_s = operator.settings.retain_days * DAY_S
    if not older_than_s:
        await asyncio.Event().wait()
    while True:
        try:
            gone = await operator.on_intake(lambda: operator.store.prune(older_than_s))
        except StoreUnavailable as error:
            log.warning("nothing old was deleted, it is tried again in an hour: %s", error)
        else:
            if gone != Pruned():
                log.info(
                    "deleted what was over for %g days: %d pods, %d decisions, %d nodes",
                    operator.settings.retain_days, gone.pods, gone.decisions, gone.nodes,
                )  # fmt: skip
        await asyncio.sleep(EVERY_S)
