"""Who of several replicas works: a Lease of coordination.k8s.io, held as client-go's leaderelection does.

A Lease says who should write; that nobody else does is the store's business (`Store.take_over`), since a paused process
wakes up believing that it still leads. Clocks of the replicas are never compared: a standby measures by its own clock
for how long the Lease has not changed.

Source: client-go `tools/leaderelection/leaderelection.go` at 1.36.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, CoordinationV1Api
from kubernetes.aio.client.exceptions import ApiException

log = logging.getLogger(__name__)

Json = dict[str, Any]


class LeaseLost(Exception):  # noqa: N818
    """Another holds the Lease now, or it could not be renewed in time."""


class Lease:
    """One replica's part in the election."""

    def __init__(
        self,
        api: ApiClient,
        name: str,
        namespace: str,
        identity: str,
        duration_s: float = 15.0,
        count: Callable[[str, str], None] = lambda _verb, _resource: None,
    ) -> None:
        self.holder = ""  # as last seen
        self.leads = False
        self.count = count
        self._api: Any = api
        self._calls: Any = CoordinationV1Api(api)  # its parameters are models, and takes plain JSON as well
        self._name, self._namespace, self._identity, self._duration_s = name, namespace, identity, duration_s
        self._seen: tuple[Any, Any] | None = None  # (holder, renewTime)
        self._changed_s = 0.0
        self._renewed_s = -math.inf  # monotonic time before the last request that renewed it

    async def acquire(self) -> None:
        """Return once we hold it; a free one at once, another's when it was silent for the whole duration."""
        while not await self._renewed():  # noqa: ASYNC110  it is the API server that is waited for
            await asyncio.sleep(self._duration_s / 7.5)
        self.leads = True
        log.info("%s holds the Lease %s/%s", self._identity, self._namespace, self._name)

    async def keep(self) -> None:
        """Renew for ever. Raises LeaseLost when another has it, or after two thirds of its duration without success."""
        while True:
            await asyncio.sleep(self._duration_s / 7.5)
            try:
                async with asyncio.timeout(self._left_s()):
                    if not await self._renewed() and self.holder not in ("", self._identity):
                        self.leads = False
                        raise LeaseLost(f"{self.holder} holds the Lease now")
            except TimeoutError:
                pass
            self.check()

    def check(self) -> None:
        """Raises LeaseLost if it is not ours any more, or was not renewed in time; may be called from any thread."""
        if not self.leads or self._left_s() <= 0.0:
            self.leads = False
            raise LeaseLost("the Lease could not be renewed in time")

    async def release(self) -> None:
        """Give it up, so that the next need not wait."""
        if self.leads:
            self.leads = False
            try:
                found = await self._read()
                if found is not None and found["spec"].get("holderIdentity") == self._identity:
                    await self._write(found, "")
            except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
                log.info("the Lease was not released: %s", error)

    def _left_s(self) -> float:
        return self._renewed_s + self._duration_s * 2 / 3 - time.monotonic()

    async def _renewed(self) -> bool:
        begun_s = time.monotonic()  # others count from when the API server was told, which is after this
        if not await self._try():
            return False
        self._renewed_s = begun_s
        return True

    async def _try(self) -> bool:
        try:
            found = await self._read()
            if found is None:
                await self._create()
                self.holder = self._identity
                return True
            spec = found.get("spec") or {}
            self.holder = spec.get("holderIdentity") or ""
            if self.holder not in ("", self._identity):
                seen = (self.holder, spec.get("renewTime"))
                if seen != self._seen:
                    if self._seen is None or self._seen[0] != self.holder:
                        log.info("%s holds the Lease %s/%s; standing by", self.holder, self._namespace, self._name)
                    self._seen, self._changed_s = seen, time.monotonic()
                silent_s = float(spec.get("leaseDurationSeconds") or self._duration_s)
                if time.monotonic() - self._changed_s < silent_s:
                    return False
            await self._write(found, self._identity)
            self.holder = self._identity
        except ApiException as error:
            if error.status != 409:  # 409: another was faster
                log.warning(
                    "the Lease %s/%s cannot be had: HTTP %s %s", self._namespace, self._name, error.status, error.reason
                )
            return False
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the Lease %s/%s cannot be had: %s", self._namespace, self._name, error)
            return False
        return True

    async def _read(self) -> Json | None:
        self.count("get", "leases")
        try:
            lease = await self._calls.read_namespaced_lease(
                self._name, self._namespace, _request_timeout=self._duration_s / 3
            )
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return dict(self._api.sanitize_for_serialization(lease))

    async def _create(self) -> None:
        self.count("create", "leases")
        body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": self._spec({}, self._identity)}
        await self._calls.create_namespaced_lease(self._namespace, body, _request_timeout=self._duration_s / 3)

    async def _write(self, found: Json, holder: str) -> None:
        """The resourceVersion in `found` makes the API server refuse it if anybody wrote since."""
        self.count("update", "leases")
        body = {**found, "spec": self._spec(found.get("spec") or {}, holder)}
        await self._calls.replace_namespaced_lease(
            self._name, self._namespace, body, _request_timeout=self._duration_s / 3
        )

    def _spec(self, before: Json, holder: str) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        kept = before.get("holderIdentity") == holder
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._duration_s)),
            "acquireTime": before.get("acquireTime") if kept else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not kept),
        }
