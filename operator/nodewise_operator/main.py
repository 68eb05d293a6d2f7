"""The operator process as it is started: logging, and its parts that live in other modules."""

from __future__ import annotations

import logging

from nodewise_operator.app import Hook, run
from nodewise_operator.channel_hook import channel_hooks, check
from nodewise_operator.profile_hook import follow_overrides, keep_profiles
from nodewise_operator.retention import keep_retention
from nodewise_operator.scheduler_lease import checked_lease, follow_scheduler
from nodewise_operator.settings import OperatorSettings


def hooks() -> tuple[Hook, ...]:
    """What runs beside the watches, from the channel's server to the look at the scheduler's Lease."""
    return (*channel_hooks(), keep_profiles, follow_overrides, keep_retention, follow_scheduler)


def start(settings: OperatorSettings) -> None:
    """Run an operator in this process until SIGTERM or SIGINT. Raises UserError for settings that cannot work."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("kopf", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    check(settings)  # before anything is opened
    checked_lease(settings)
    run(settings, hooks())
