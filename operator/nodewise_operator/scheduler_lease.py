"""Whether anybody schedules the pods that name our scheduler: its Lease, and how long they have waited.

A pod that names a scheduler is looked at by no other, and a waiting pod cannot change its scheduler. So a namespace
that has joined, and a scheduler that is gone, make pods that wait for ever, and nothing else in the cluster says so.

Clocks are not compared: how old a Lease is, is measured from when our own look first found it renewed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, CoordinationV1Api
from kubernetes.aio.client.exceptions import ApiException

from nodewise.core.errors import UserError
from nodewise_operator.app import Operator
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import StoreUnavailable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 15.0
OLDER_THAN_S = (0, 60, 300, 900)
"""Pods are counted by these ages, each count within the one before."""
_ANSWER_S = 5.0
_UNREAD_S = 4 * LOOK_EVERY_S
"""What was read last says nothing any more after so long."""


class SchedulerLease:
    """What is known of the Lease `namespace/name` of a scheduler; `look` is owned by the event loop."""

    def __init__(
        self,
        api: ApiClient,
        namespace: str,
        name: str,
        count: Callable[[str, str], None] = lambda _verb, _resource: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holder = ""  # as last read; empty too where there is no Lease
        self.trouble = ""  # why it could not be read the last time
        self._calls: Any = CoordinationV1Api(api)
        self._namespace, self._name, self._count, self._clock = namespace, name, count, clock
        self._renewed: Any = None  # (holder, renewTime) as last read
        self._renewed_s, self._read_s = -math.inf, -math.inf  # by our clock
        self._duration_s = 0.0

    @property
    def age_s(self) -> float:
        """Time since a renewal was seen; inf where nobody holds it, and before the first look."""
        return self._clock() - self._renewed_s if self.holder else math.inf

    @property
    def unread(self) -> bool:
        """Whether what is known is too old to say anything, or there was no look yet."""
        return self._clock() - self._read_s > _UNREAD_S

    @property
    def held(self) -> float:
        """1 while a scheduler holds it, 0 while none does, nan while that is not known."""
        if self.unread:
            return math.nan
        # A renewal is seen by the next look only.
        return float(bool(self.holder) and self.age_s <= self._duration_s + LOOK_EVERY_S + _ANSWER_S)

    async def look(self) -> None:
        """Read the Lease; what goes wrong is logged once and kept in `trouble`."""
        self._count("get", "leases")
        try:
            lease = await self._calls.read_namespaced_lease(self._name, self._namespace, _request_timeout=_ANSWER_S)
            holder, renewed, duration_s = _spec(lease)
        except ApiException as error:
            if error.status != 404:
                remedy = ": grant `get` on it" if error.status in (401, 403) else ""
                self._fails(f"HTTP {error.status} {error.reason}{remedy}")
                return
            holder, renewed, duration_s = "", None, 0.0
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._fails(str(error) or type(error).__name__)
            return
        now_s = self._clock()
        if (holder, renewed) != self._renewed:
            self._renewed, self._renewed_s = (holder, renewed), now_s
        self.holder, self._duration_s, self._read_s, self.trouble = holder, duration_s, now_s, ""

    def _fails(self, why: str) -> None:
        if why != self.trouble:
            log.warning("the scheduler's Lease %s/%s cannot be read: %s", self._namespace, self._name, why)
        self.trouble = why


class Waiting:
    """Since when (epoch) the pods wait that want a node from our scheduler."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._since_s: list[float] = []
        self._clock = clock

    def seen(self, since_s: list[float]) -> None:
        """These wait now."""
        self._since_s = sorted(since_s)

    def counts(self) -> Mapping[str, float]:
        """Pods that have waited for at least so many seconds."""
        now_s = self._clock()
        # A clock that is behind the API server's must not make a new pod one that does not wait.
        return {
            str(age_s): float(bisect_right(self._since_s, now_s - age_s) if age_s else len(self._since_s))
            for age_s in OLDER_THAN_S
        }

    def oldest_s(self) -> float:
        """Age of the one that has waited longest; 0 if none waits."""
        return max(self._clock() - self._since_s[0], 0.0) if self._since_s else 0.0


async def follow_scheduler(operator: Operator) -> None:
    """Look at both now and then, for ever, if `scheduler_name` is set."""
    settings = operator.settings
    if not settings.scheduler_name:
        await asyncio.Event().wait()
    waiting, lease = Waiting(), _lease(operator)
    if lease is not None:
        operator.scheduler_leads = lambda: lease.held
    _gauges(operator, waiting, lease)
    while True:
        if lease is not None:
            await lease.look()
        try:
            waiting.seen(
                await operator.on_intake(
                    lambda: operator.intake.waiting_since(settings.scheduler_name), within_s=_ANSWER_S
                )
            )
        except (StoreUnavailable, TimeoutError):  # events wait too: what was known is all that is known
            log.debug("the pods that wait were not counted")
        await asyncio.sleep(LOOK_EVERY_S)


def checked_lease(settings: OperatorSettings) -> tuple[str, str] | None:
    """Namespace and name of the Lease to follow. Raises UserError for settings that cannot work."""
    told = settings.scheduler_lease
    if not told:
        return None
    namespace, slash, name = told.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise UserError(f"--scheduler-lease {told} is not a Lease: write it as namespace/name")
    if not settings.scheduler_name:
        raise UserError("--scheduler-lease needs --scheduler-name: name the scheduler that holds this Lease")
    return namespace, name


def _lease(operator: Operator) -> SchedulerLease | None:
    told = checked_lease(operator.settings)
    return SchedulerLease(operator.api, *told, count=operator.count) if told else None


def _gauges(operator: Operator, waiting: Waiting, lease: SchedulerLease | None) -> None:
    gauge = operator.telemetry.gauge
    operator.telemetry.gauges(
        "waiting_pods", "Pods that name our scheduler and have no node", "older_than_seconds", waiting.counts
    )
    gauge("oldest_waiting_pod_seconds", "Age of the oldest of them; 0 if there is none", waiting.oldest_s)
    if lease is not None:
        gauge("scheduler_lease_held", "1 while a scheduler holds the Lease; NaN while not known", lambda: lease.held)
        gauge("scheduler_lease_age_seconds", "Time since the Lease was seen renewed", lambda: lease.age_s)
        gauge("scheduler_lease_unread", "1 while the Lease cannot be read", lambda: float(lease.unread))


def _spec(lease: Any) -> tuple[str, Any, float]:
    """Holder, renewTime and duration in seconds."""
    spec = lease.spec
    if spec is None:
        return "", None, 0.0
    return spec.holder_identity or "", spec.renew_time, float(spec.lease_duration_seconds or 0)
