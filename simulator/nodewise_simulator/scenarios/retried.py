"""`NAME@retry=back-off`: how woken pods are tried again, for every scenario that has kube-scheduler's queues."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator.physics import AT_ONCE, BACK_OFF
from nodewise_simulator.world import World

_RETRIES = (AT_ONCE, BACK_OFF)


def retried(factory: Callable[..., World]) -> Callable[..., World]:
    """The scenario with a parameter `retry`: see `Queueing`. Raises UserError for another value than its two."""

    @wraps(factory)
    def made(*given: Any, retry: str = AT_ONCE, **told: Any) -> World:
        if retry not in _RETRIES:
            raise UserError(f"retry={retry!r}: a woken pod is tried again {' or '.join(_RETRIES)}; choose one of these")
        return _retrying(factory(*given, **told), retry)

    taken = inspect.signature(factory)
    more = inspect.Parameter("retry", inspect.Parameter.KEYWORD_ONLY, default=AT_ONCE, annotation=str)
    made.__signature__ = taken.replace(parameters=[*taken.parameters.values(), more])  # type: ignore[attr-defined]
    return made


def _retrying(world: World, retry: str) -> World:
    if world.queueing.retry == retry:
        return world
    again = world.again
    others = None if again is None else lambda number: _retrying(again(number), retry)
    return replace(world, queueing=replace(world.queueing, retry=retry), again=others)
