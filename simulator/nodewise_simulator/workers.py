"""Processes that work for this one: they leave Ctrl-C to it, and end with it however it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
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
        # A terminal sends Ctrl-C to all of its processes, and one that has only begun would answer with a traceback.
        # What a thread blocks is blocked in what it starts, and it is not interrupted halfway through as we may be.
        block = (signal.SIG_BLOCK, {signal.SIGINT})
        self._starter = ThreadPoolExecutor(1, initializer=signal.pthread_sigmask, initargs=block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End them at once: whatever is not done by now is of no more use."""
        self._starter.shutdown(cancel_futures=True)
        started = list((self._pool._processes or {}).values())  # Python 3.14 has terminate_workers
        for process in started:
            process.terminate()
        # One of them may have been halfway through a result, whose end would be awaited for as long as we hold the
        # pipe open for writing ourselves.
        self._pool._result_queue._writer.close()  # type: ignore[attr-defined]
        self._pool.shutdown(cancel_futures=True)  # waits until their queues are gone too

    def submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function of a module called in one of them."""
        return self._starter.submit(self._pool.submit, job, *args, **kwargs).result()


def _follow() -> None:
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()  # a worker waits for work even if who gives it was killed
