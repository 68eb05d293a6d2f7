"""Processes that work for this one: they leave Ctrl-C to it, and end with it however it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """At most `count` processes, each started when it is needed. Use as a context manager."""

    def __init__(self, count: int) -> None:
        # spawn: a fork of a process that holds an inference session or threads may hang
        self._pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_follow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End them at once: whatever is not done by now is of no more use."""
        started = list((self._pool._processes or {}).values())  # Python 3.14 has terminate_workers
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.terminate()
        self._pool.shutdown()  # or their queues would outlive us

    def submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function of a module called in one of them."""
        # A terminal sends Ctrl-C to all of its processes, and one that has only begun would answer with a traceback;
        # what is blocked here stays so in what is started meanwhile.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(job, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow() -> None:
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()  # a worker waits for work even if who gives it was killed
