"""A bundle's folder while it is served: what is new and good there decides next; the last good one until then."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.extender.telemetry import Telemetry
from nodewise.extender.warm_up import warm_up
from nodewise.policies import DEFAULT
from nodewise.policies.learned import load

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[str | int, ...], ...]


class Served(Protocol):
    """Where a bundle decides."""

    refused: str
    """Why the bundle that should decide does not; empty if it does."""
    telemetry: Telemetry

    @property
    def policy(self) -> Policy:
        """What decides now."""
        ...

    def use(self, policy: Policy) -> None:
        """Let `policy` decide from the next request on."""
        ...


class BundleWatch:
    """Looks at `folder` each `poll_s` seconds; make it before the bundle is loaded, so that no change is missed.

    The folder, or a link in its place, may be exchanged, and its files may be copied over: it is read when it looks the
    same twice, so that a copy under way is not taken for a bad bundle.
    """

    def __init__(self, folder: Path, poll_s: float) -> None:
        self.folder, self._poll_s = folder, poll_s
        self._seen = _stamp(folder)
        self._tried: _Stamp | None = self._seen
        self._told: _Stamp | None = None

    def refuse(self, error: Exception) -> bool:
        """Take note that what was seen last could not be loaded; whether that is news.

        What lasts is not tried again before the files change; what may pass, such as a lack of memory, at each look.
        """
        lasts = isinstance(error, UserError) and not isinstance(error.__cause__, OSError | MemoryError)
        self._tried = self._seen if lasts else None
        news, self._told = self._told != self._seen, self._seen
        return news

    async def run(self, served: Served) -> None:
        """Look for ever, and let `served` use what is found."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="bundle")  # asyncio's own would be waited for in the end
        try:
            while True:
                await asyncio.sleep(self._poll_s)
                await self.look(served, threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def begin(self, served: Served, threads: ThreadPoolExecutor) -> None:
        """Load what lies there now."""
        policy = await self._loaded(served, threads, self._seen)
        if policy is not None:
            served.use(policy)

    async def look(self, served: Served, threads: ThreadPoolExecutor) -> None:
        """Load what lies there if it is new and at rest."""
        stamp = await asyncio.get_running_loop().run_in_executor(threads, _stamp, self.folder)
        settled, self._seen = stamp == self._seen, stamp
        if not settled or stamp == self._tried:
            return
        policy = await self._loaded(served, threads, stamp)
        if policy is not None and policy.digest != served.policy.digest:
            served.telemetry.bundles.labels("served").inc()
            log.info("%s decides from now on, instead of %s", policy.digest, served.policy.digest)
            served.use(policy)

    async def _loaded(self, served: Served, threads: ThreadPoolExecutor, stamp: _Stamp) -> Policy | None:
        """What lies there, if it is good."""
        try:
            policy = await asyncio.get_running_loop().run_in_executor(threads, _ready, self.folder)
        except Exception as error:  # noqa: BLE001  whatever lies there, the last good one keeps deciding
            why = reason(error, self.folder)
            if self.refuse(error):
                served.telemetry.bundles.labels("refused").inc()
            if why != served.refused:
                log.error("the new bundle is refused, so %s still decides: %s", served.policy.digest, why)
            served.refused = why
            return None
        self._tried, self._told, served.refused = stamp, None, ""
        return policy


def reason(error: Exception, folder: Path) -> str:
    """Why what lies in `folder` could not be loaded, in a sentence."""
    return str(error) if isinstance(error, UserError) else f"{folder} cannot be loaded: {error!r}"


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
