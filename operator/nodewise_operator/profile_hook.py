"""NodeProfiles beside the watches: what is learned goes into their status, what their owners say of them comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from nodewise.kube.override_watch import OverrideWatch
from nodewise.kube.overrides import Override
from nodewise_operator import profiles
from nodewise_operator.app import Operator
from nodewise_operator.profiles import Known
from nodewise_operator.speeds import Learned


async def keep_profiles(operator: Operator) -> None:
    """Write what is known of each class of nodes, for ever."""

    async def known() -> Known:
        return await operator.on_intake(lambda: Known(Learned.of(operator.predictor.estimator), operator.state.nodes()))

    await profiles.run(operator.api, known)


async def follow_overrides(operator: Operator) -> None:
    """Take over the prices and watts that are set in NodeProfiles, for ever."""
    queue: asyncio.Queue[tuple[Override, ...]] = asyncio.Queue()

    def told(overrides: Iterable[Override]) -> None:
        queue.put_nowait(tuple(overrides))

    async with asyncio.TaskGroup() as group:
        group.create_task(OverrideWatch(operator.api, told).run())
        while True:
            overrides = await queue.get()
            await operator.on_intake(lambda overrides=overrides: operator.intake.cache.replace_overrides(overrides))  # type: ignore[misc]
