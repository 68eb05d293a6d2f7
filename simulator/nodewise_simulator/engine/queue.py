"""kube-scheduler's queues of pending pods: active, in back-off, unschedulable.

Source: `pkg/scheduler/backend/queue/{scheduling_queue,backoff_queue,active_queue}.go` at 1.36. Pods that a filter
plugin refused are woken when room appears where they fit, pods that the extender refused by every event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from nodewise_simulator.physics import AT_ONCE, CREATED, Queueing

_FLUSH_LOOK_S = 30.0

Key = tuple[float, float, int]


@dataclass(slots=True)
class _Waiting:
    index: int
    priority: int
    created_s: float
    tried_s: float
    turn: int
    """Counts who came or was tried last."""
    tries: int = 0
    """Cycles that ended without a node."""
    held: bool = False
    """The extender refused it, or it and others."""
    patched_s: float = math.inf
    """When its own annotation changes."""


class SchedulingQueue:
    """Pods without a node. `timer` is called with a time at which `timed` must be."""

    def __init__(self, settings: Queueing, timer: Callable[[float], None]) -> None:
        self._settings, self._timer = settings, timer
        self._at_once = settings.retry == AT_ONCE
        self._by_creation = settings.age == CREATED
        self._turns = 0
        self._waiting: dict[int, _Waiting] = {}
        self._refused: dict[int, _Waiting] = {}
        self._held: dict[int, _Waiting] = {}  # those of the refused
        self._active: list[Key] = []
        self._backing_off: list[tuple[float, Key]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[int]:
        """Every pod without a node."""
        return iter(self._waiting)

    def unfit(self) -> list[int]:
        """Pods that fitted nowhere when they were tried last."""
        return [k for k, w in self._waiting.items() if w.tries and not w.held]

    def add(self, index: int, priority: int, now_s: float) -> None:
        """A new pod."""
        found = self._waiting[index] = _Waiting(index, priority, now_s, now_s, self._turn())
        self._activate(found)

    def pop(self, now_s: float) -> int | None:
        """The pod whose cycle comes next. It is still in the queue until `placed`."""
        if self._active:
            return heapq.heappop(self._active)[2]
        if self._backing_off and (self._at_once or self._backing_off[0][0] <= now_s):
            return heapq.heappop(self._backing_off)[1][2]
        return None

    def placed(self, index: int) -> None:
        """The popped pod has a node."""
        del self._waiting[index]

    def refused(self, index: int, now_s: float, *, held: bool, patched_s: float = math.inf) -> None:
        """The popped pod has no node: none has room, or the extender holds it until `patched_s` at most."""
        found = self._waiting[index]
        found.tries, found.tried_s, found.turn = found.tries + 1, now_s, self._turn()
        found.held, found.patched_s = held, patched_s
        self._refused[index] = found
        if held:
            self._held[index] = found
            # What fits nowhere is woken by what makes room; only the extender may change its mind unprompted.
            self._timer(_FLUSH_LOOK_S * (math.floor((now_s + self._settings.flush_s) / _FLUSH_LOOK_S) + 1))
            if now_s < patched_s < math.inf:
                self._timer(patched_s)

    def room(self, now_s: float, fits: Callable[[int], bool]) -> None:
        """Nodes changed or pods left before this instant's cycles; `fits` says who could go there."""
        # kube-scheduler tries all of them, but a cycle of a pod that fits nowhere changes only its back-off and turn.
        hinted = self._at_once and self._by_creation
        for found in [w for w in self._refused.values() if w.held or not hinted or fits(w.index)]:
            self._wake(found, now_s, idle=True)

    def event(self, now_s: float, *, idle: bool) -> None:
        """Anything else happened; it wakes pods that the extender refused. `idle`: nobody else waits for a cycle."""
        for found in list(self._held.values()):
            self._wake(found, now_s, idle=idle)

    def joined(self, now_s: float, awaiting: Iterable[int]) -> None:
        """A pod got a node, which these wait for: they want to be near it, or evenly spread."""
        for found in [self._refused[k] for k in awaiting if k in self._refused]:
            self._wake(found, now_s, idle=False)

    def timed(self, now_s: float) -> None:
        """A time came for which the timer was set."""
        for found in [w for w in self._held.values() if w.patched_s <= now_s or self._flushed(w, now_s)]:
            found.patched_s = math.inf
            self._wake(found, now_s, idle=True)

    def _flushed(self, found: _Waiting, now_s: float) -> bool:
        return now_s - found.tried_s > self._settings.flush_s

    def _wake(self, found: _Waiting, now_s: float, *, idle: bool) -> None:
        del self._refused[found.index]
        self._held.pop(found.index, None)
        doublings = min(found.tries - 1, 60)
        back_off_s = min(self._settings.initial_backoff_s * 2.0**doublings, self._settings.max_backoff_s)
        ready_s = found.tried_s + back_off_s
        if ready_s <= now_s or (self._at_once and idle):
            self._activate(found)
            return
        ready_s = float(math.ceil(ready_s))  # kube-scheduler looks once a second
        heapq.heappush(self._backing_off, (ready_s, self._key(found)))
        if not self._at_once:
            self._timer(ready_s)

    def _activate(self, found: _Waiting) -> None:
        heapq.heappush(self._active, self._key(found))

    def _key(self, found: _Waiting) -> Key:
        return -found.priority, found.created_s if self._by_creation else float(found.turn), found.index

    def _turn(self) -> int:
        self._turns += 1
        return self._turns
