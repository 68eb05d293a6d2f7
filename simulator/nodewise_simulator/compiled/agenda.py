"""What is to happen and when: a binary heap of events over flat arrays, as the reference engine's `heapq` of tuples."""

from __future__ import annotations

from typing import Any

from nodewise.core.types import Floats
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import jit

# At one instant, room is given back before anybody asks for it. Ends and arrivals that are foreseen are not in here.
CHANGE, BEGIN, ARRIVAL, AGAIN, TIMER, SCAN, TICK = range(1, 8)
# What a change is that the engine itself has planned, or tries again.
UNREACHABLE, DELETED, DRAIN_AGAIN, LEAVE, JOINED = range(5)
# Columns of an event: its kind and number, and who or what it is about.
KIND, NUMBER, WHO, WHICH, WHAT = range(5)
# Of `size`: events in the heap, events ever, and changes, starts and arrivals in the heap.
IN_HEAP, EVER, WORK = range(3)


@jit
def _sooner(at_s: Floats, event: Ints, a: int, b: int) -> Any:
    if at_s[a] != at_s[b]:
        return at_s[a] < at_s[b]
    if event[a, KIND] != event[b, KIND]:
        return event[a, KIND] < event[b, KIND]
    return event[a, NUMBER] < event[b, NUMBER]


@jit
def _swap(at_s: Floats, event: Ints, a: int, b: int) -> None:
    at_s[a], at_s[b] = at_s[b], at_s[a]
    for k in range(5):
        event[a, k], event[b, k] = event[b, k], event[a, k]


@jit
def push(at_s: Floats, event: Ints, size: Ints, when_s: float, kind: int, who: int, which: int, what: int) -> None:
    """Add an event. Whoever plays sees to it that there is room: see `wide.FULL`."""
    size[EVER] += 1
    size[WORK] += kind < AGAIN
    k = size[IN_HEAP]
    size[IN_HEAP] += 1
    at_s[k] = when_s
    event[k, KIND], event[k, NUMBER] = kind, size[EVER]
    event[k, WHO], event[k, WHICH], event[k, WHAT] = who, which, what
    while k > 0 and _sooner(at_s, event, k, (k - 1) // 2):
        _swap(at_s, event, k, (k - 1) // 2)
        k = (k - 1) // 2


@jit
def pop(at_s: Floats, event: Ints, size: Ints) -> Any:
    """Take the first event out: (kind, who, which, what)."""
    kind, who, which, what = event[0, KIND], event[0, WHO], event[0, WHICH], event[0, WHAT]
    size[IN_HEAP] -= 1
    size[WORK] -= kind < AGAIN
    last, k = size[IN_HEAP], 0
    _swap(at_s, event, 0, last)
    while True:
        least = k
        for child in (2 * k + 1, 2 * k + 2):
            if child < last and _sooner(at_s, event, child, least):
                least = child
        if least == k:
            return kind, who, which, what
        _swap(at_s, event, k, least)
        k = least
