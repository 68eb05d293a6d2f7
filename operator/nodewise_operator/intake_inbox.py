"""What waits for the intake's thread, and how it is taken out: in order, again in place, or parked."""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from nodewise.kube.cache import SeenPod, seen_pod
from nodewise_operator import outcomes
from nodewise_operator.intake_nodes import NodeItem
from nodewise_operator.intake_writer import Counts, Writer
from nodewise_operator.outcomes import Facts
from nodewise_operator.store.errors import Fenced, StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 5
"""An event that cannot be taken in is tried so often, one try after the other, then parked."""
MOST_CALLS = 64
"""Calls with a time limit are refused while so many wait."""
_SETTLE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class PodItem:
    """One v1.Pod as it waits in the queue."""

    pod: SeenPod
    facts: Facts


def pod_item(pod: dict[str, Any]) -> PodItem:
    """Project a v1.Pod; raises as `pod_request` does."""
    seen = seen_pod(pod, "")
    return PodItem(seen, outcomes.facts(pod, seen.state.request))


class Inbox:
    """Its heir has a method `_on_<what>` for each thing that is put, and `_on_settle(now_s)` for every second."""

    def __init__(self, writer: Writer, counts: Counts, clock: Callable[[], float]) -> None:
        self.counts = counts
        self._writer, self._clock = writer, clock
        self._queue: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._calls: set[Future[Any]] = set()  # those that wait
        self._again: tuple[str, tuple[Any, ...]] | None = None  # what the store's absence interrupted
        self._settled_s = 0.0

    # --- from any thread

    def event(self, resource: str, kind: str, item: PodItem | NodeItem) -> None:
        """One object of `pods` or `nodes` as it is now: kind ADDED, MODIFIED or DELETED.

        LISTED if it was found in a list after a gap: then nobody saw what it went through.
        """
        self._queue.put(("event", (resource, kind, item, self._clock())))

    def replaced(self, resource: str, items: list[Any], begin_s: float = math.nan) -> None:
        """All objects there are; what is missing went unseen.

        `begin_s` (epoch) is when something was last heard of them, nan on the first list.
        """
        self._queue.put(("replaced", (resource, items, begin_s, self._clock())))

    def vanished(self, resource: str, uids: Iterable[str]) -> None:
        """These objects are gone, though no event said so."""
        self._queue.put(("vanished", (resource, tuple(uids), self._clock())))

    def gap(self, begin_s: float, why: str) -> None:
        """Nothing was seen from `begin_s` (epoch) until now."""
        self._queue.put(("gap", (begin_s, self._clock(), why)))

    def seen(self, until_s: float, *, last: bool = False) -> None:
        """Everything that happened before `until_s` (epoch) was put into the queue. It is not written every time,
        unless it is the `last`.
        """
        self._queue.put(("seen", (until_s, last)))

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in the thread, between two events; it may use all that the thread owns.

        What is cancelled before its turn is let go of at once.
        """
        future: Future[T] = Future()
        waits = [work]

        def over(_: Future[T]) -> None:
            waits.clear()
            self._calls.discard(future)

        self._calls.add(future)
        future.add_done_callback(over)
        self._queue.put(("call", (waits, future)))
        return future

    def stop(self) -> None:
        """Write what is there and end `run`."""
        self._queue.put(("stop", ()))

    @property
    def waiting(self) -> int:
        """Things in the queue."""
        return self._queue.qsize()

    @property
    def calls(self) -> int:
        """Of them calls that nobody has cancelled."""
        return len(self._calls)

    @property
    def unwritten(self) -> int:
        """Rows that are not in the store yet."""
        return self._writer.pending.rows()

    @property
    def unavailable(self) -> str:
        """Why the store cannot be used; empty if it can."""
        return self._writer.unavailable

    @property
    def parked(self) -> deque[tuple[str, str]]:
        """What was left out, and why."""
        return self._writer.parked

    @property
    def on_written(self) -> list[Callable[[], None]]:
        """Called in the thread after every transaction: something may have changed."""
        return self._writer.on_written

    # --- the thread

    def _begin(self) -> None:
        """Something else is taken out."""

    def _turn(self) -> bool:
        """Take in what is there, for one batch at most; False if it was told to stop."""
        writer = self._writer
        held_s = min(writer.back_off_s(), 0.5) if writer.overfull or self._again is not None else 0.0
        if held_s > 0.0:
            time.sleep(held_s)
            self.counts.held_s += held_s
        if writer.overfull:
            writer.flush()
            return True
        wait_s = max(min(writer.due_s - time.monotonic(), 1.0), 0.0)
        try:
            what, given = self._again or self._queue.get(timeout=wait_s)
            self._again = None
        except queue.Empty:
            what, given = "nothing", ()
        if what == "stop":
            return False
        if what != "nothing":
            self._handle(what, given)
        if self._again is None and time.monotonic() - self._settled_s >= _SETTLE_EVERY_S:
            self._settled_s = time.monotonic()
            self._handle("settle", (self._clock(),))
        if writer.full or time.monotonic() >= writer.due_s:
            writer.flush()
        return True

    def _handle(self, what: str, given: tuple[Any, ...]) -> None:
        self._begin()
        if what == "call":
            waits, future = given
            work = next(iter(waits), None)  # cancelled meanwhile, it is empty
            if work is not None and future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001  it is the caller's
                    future.set_exception(error)
            return
        try:
            self._try(partial(self._named, what, given), getattr(self, f"_on_{what}"), *given)
        except StoreUnavailable as error:  # a row could not be looked up; nothing behind this may overtake it
            self._writer.failed(error)
            self._again = what, given

    def _try(self, named: Callable[[], str], work: Callable[..., None], *given: Any) -> None:
        """Do it, at the `TRIES`th try at last, or park it: in place, for what comes behind is newer."""
        for k in range(TRIES):
            try:
                work(*given)
            except (Fenced, StoreUnavailable):
                raise
            except Exception as error:
                if k + 1 < TRIES:
                    self.counts.retried += 1
                    continue
                self.counts.parked += 1
                self.parked.append((named(), f"{type(error).__name__}: {error}"))
                log.exception("%s is left out after %d tries", named(), TRIES)
            else:
                return

    def _named(self, what: str, given: tuple[Any, ...]) -> str:
        if what == "event" and given[0] == "pods":
            return f"{given[1]} of {pod_name(given[2].facts)}"
        return f"{what} of {given[0]}" if given else what


def pod_name(seen: Facts) -> str:
    """To tell people which pod it is."""
    request = seen.request
    return f"pod {request.namespace}/{request.name} ({request.uid})"
