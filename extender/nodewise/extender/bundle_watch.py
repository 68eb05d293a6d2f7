"""A bundle's folder while it is served: what is new and good there decides next; the last good one until then."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.extender.service import Service
from nodewise.extender.warm_up import warm_up
from nodewise.policies import DEFAULT
from nodewise.policies.learned import load

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[str | int, ...], ...]


class BundleWatch:
    """Looks at `folder` each `poll_s` seconds; make it before the bundle is loaded, so that no change is missed.

    The folder, or a link in its place, may be exchanged, and its files may be copied over: it is read when it looks the
    same twice, so that a copy under way is not taken for a bad bundle.
    """

    def __init__(self, folder: Path, poll_s: float) -> None:
        self.folder, self._poll_s = folder, poll_s
        self.refused = ""
        """Why what lies in the folder now does not decide; empty if it does."""
        self._seen = self._tried = _stamp(folder)

    async def run(self, service: Service) -> None:
        """Look for ever, and let `service` use what is found."""
        service.telemetry.gauge(
            "bundle_refused",
            "1 while what lies in the watched folder is refused and the bundle before it decides",
            lambda: float(bool(self.refused)),
        )
        while True:
            await asyncio.sleep(self._poll_s)
            stamp = await asyncio.to_thread(_stamp, self.folder)
            settled, self._seen = stamp == self._seen, stamp
            if settled and stamp != self._tried:
                self._tried = stamp
                await self._read(service)

    async def _read(self, service: Service) -> None:
        try:
            policy = await asyncio.to_thread(_ready, self.folder)
        except Exception as error:  # noqa: BLE001  whatever lies there, the last good one keeps deciding
            why = str(error) if isinstance(error, UserError) else f"{self.folder} cannot be loaded: {error!r}"
            service.telemetry.bundles.labels("refused").inc()
            if why != self.refused:
                log.error("the new bundle is refused, so %s still decides: %s", service.policy.digest, why)
            self.refused = why
            return
        self.refused = ""
        if policy.digest != service.policy.digest:
            service.telemetry.bundles.labels("served").inc()
            log.info("%s decides from now on, instead of %s", policy.digest, service.policy.digest)
            service.use(policy)


def _ready(folder: Path) -> Policy:
    policy = load(folder)
    warm_up(policy, DEFAULT)
    return policy


def _stamp(folder: Path) -> _Stamp:
    """Changes when a file of the folder is written or exchanged; links are followed."""
    try:
        files = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    except OSError as error:
        return ((error.errno or 0,),)
    return tuple((name, s.st_dev, s.st_ino, s.st_size, s.st_ctime_ns) for name, s in files)
