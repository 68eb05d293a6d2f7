"""Worlds to learn from, made in other processes, which import no more than this module: torch would be most of them."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread

from nodewise_simulator import scenarios
from nodewise_simulator.compiled.flat import Flat, flatten


def world(scenario: str, seed: int) -> Flat:
    """The flat world of a scenario and seed. Raises UserError for one that is unknown or not modelled."""
    return flatten(scenarios.make(scenario, seed))


def processes(count: int) -> ProcessPoolExecutor:
    """Processes to call `world` in; they leave Ctrl-C to this one, and end with it however it ends."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_follow)


def _follow() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()  # a worker waits for work even if who gives it was killed
