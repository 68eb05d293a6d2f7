"""kube-scheduler's queues of pending pods over flat arrays: as `nodewise_simulator.engine.queue`, pod by pod.

Pods are numbers; what is known of one that waits lies in its row of `q_f` and `q_i`. `lists` holds the two heaps
(active, in back-off) and the two sets (refused by a filter plugin, held by the extender).
"""

from __future__ import annotations

import math
from typing import Any

from nodewise.core.types import Floats
from nodewise_simulator.compiled import agenda
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import jit

# Columns of `q_f`: when its back-off is over, its place within its priority, when it was tried last, when the extender
# changes it, and for which change a timer was set last.
READY, AGE, TRIED, PATCHED, TIMED = range(5)
# Columns of `q_i`: cycles without a node, whether the extender held it, its place in the set it is in, when it came,
# and whether it waits.
TRIES, HELD, AT, CAME, WAITS = range(5)
# Rows of `lists`, and of `sizes` first: how many are in each; then pods that wait, and turns.
ACTIVE, BACKING, UNFIT, HOLD, WAITING, TURNS = range(6)
# Columns of `retry`: settings of `physics.Queueing`, when the flush looks next, and the timer that was set last.
INITIAL, LONGEST, FLUSH, AT_ONCE, BY_CREATION, NEXT_FLUSH, LATEST = range(7)

_FLUSH_LOOK_S = 30.0


@jit
def _before(pod_i: Ints, q_f: Floats, heap: int, a: int, b: int) -> Any:
    if heap == BACKING and q_f[a, READY] != q_f[b, READY]:
        return q_f[a, READY] < q_f[b, READY]
    if pod_i[a, kn.PRIORITY] != pod_i[b, kn.PRIORITY]:
        return pod_i[a, kn.PRIORITY] > pod_i[b, kn.PRIORITY]
    if q_f[a, AGE] != q_f[b, AGE]:
        return q_f[a, AGE] < q_f[b, AGE]
    return a < b


# The arrays are taken out of `h` once a call: each look into it is counted, for whoever frees it.


@jit
def _push(pod_i: Ints, q_f: Floats, lists: Ints, sizes: Ints, heap: int, p: int) -> None:
    k = sizes[heap]
    sizes[heap] += 1
    lists[heap, k] = p
    while k > 0:
        up = (k - 1) // 2
        if not _before(pod_i, q_f, heap, lists[heap, k], lists[heap, up]):
            return
        lists[heap, k], lists[heap, up] = lists[heap, up], lists[heap, k]
        k = up


@jit
def _pop(pod_i: Ints, q_f: Floats, lists: Ints, sizes: Ints, heap: int) -> Any:
    p = lists[heap, 0]
    sizes[heap] -= 1
    last, k = sizes[heap], 0
    lists[heap, 0] = lists[heap, last]
    while True:
        least = k
        for child in (2 * k + 1, 2 * k + 2):
            if child < last and _before(pod_i, q_f, heap, lists[heap, child], lists[heap, least]):
                least = child
        if least == k:
            return p
        lists[heap, k], lists[heap, least] = lists[heap, least], lists[heap, k]
        k = least


@jit
def add(h: Any, p: int, now_s: float) -> None:
    """A new pod."""
    h.sizes[WAITING] += 1
    h.sizes[TURNS] += 1
    h.q_i[p, TRIES], h.q_i[p, HELD], h.q_i[p, CAME], h.q_i[p, WAITS] = 0, 0, h.sizes[TURNS], 1
    h.q_f[p, AGE] = now_s if h.retry[BY_CREATION] > 0.0 else float(h.sizes[TURNS])
    h.q_f[p, TRIED], h.q_f[p, PATCHED], h.q_f[p, TIMED] = now_s, math.inf, math.nan
    _push(h.pod_i, h.q_f, h.lists, h.sizes, ACTIVE, p)


@jit
def pop(h: Any, now_s: float) -> Any:
    """The pod whose cycle comes next, or -1. It still waits until `placed`."""
    q_f, lists, sizes, retry = h.q_f, h.lists, h.sizes, h.retry
    if sizes[ACTIVE] > 0:
        return _pop(h.pod_i, q_f, lists, sizes, ACTIVE)
    if sizes[BACKING] > 0 and (retry[AT_ONCE] > 0.0 or q_f[lists[BACKING, 0], READY] <= now_s):
        return _pop(h.pod_i, q_f, lists, sizes, BACKING)
    return -1


@jit
def placed(h: Any, p: int) -> None:
    """The popped pod has a node."""
    h.q_i[p, WAITS] = 0
    h.sizes[WAITING] -= 1


@jit
def refused(h: Any, p: int, now_s: float, held: bool, patched_s: float) -> None:
    """The popped pod has no node: none has room, or the extender holds it until `patched_s` at most."""
    q_f, q_i, lists, sizes, retry = h.q_f, h.q_i, h.lists, h.sizes, h.retry
    sizes[TURNS] += 1
    q_i[p, TRIES] += 1
    q_i[p, HELD] = held
    q_f[p, TRIED], q_f[p, PATCHED] = now_s, patched_s
    if retry[BY_CREATION] == 0.0:
        q_f[p, AGE] = float(sizes[TURNS])
    which = HOLD if held else UNFIT
    q_i[p, AT] = sizes[which]
    lists[which, sizes[which]] = p
    sizes[which] += 1
    if held:
        look_s = _FLUSH_LOOK_S * (math.floor((now_s + retry[FLUSH]) / _FLUSH_LOOK_S) + 1.0)
        if look_s > retry[NEXT_FLUSH]:  # times of looking never go back
            retry[NEXT_FLUSH] = look_s
            agenda.push(h.at_s, h.event, h.size, look_s, agenda.TIMER, 0, 0, 0)
        # Pods that are asked at one instant are often to be asked again at one instant.
        if now_s < patched_s < math.inf and q_f[p, TIMED] != patched_s and retry[LATEST] != patched_s:
            retry[LATEST] = patched_s
            agenda.push(h.at_s, h.event, h.size, patched_s, agenda.TIMER, 0, 0, 0)
        q_f[p, TIMED] = patched_s


@jit
def wake(h: Any, p: int, now_s: float, idle: bool) -> None:
    """Take a pod out of its set; it is tried at once, or after its back-off. `idle`: nobody else waits for a cycle."""
    _wake(h.pod_i, h.q_f, h.q_i, h.lists, h.sizes, h.retry, h.at_s, h.event, h.size, p, now_s, idle)


@jit
def _wake(
    pod_i: Ints, q_f: Floats, q_i: Ints, lists: Ints, sizes: Ints, retry: Floats, at_s: Floats, event: Ints, size: Ints,
    p: int, now_s: float, idle: bool,
) -> None:  # fmt: skip
    which = HOLD if q_i[p, HELD] else UNFIT
    sizes[which] -= 1
    last = lists[which, sizes[which]]
    lists[which, q_i[p, AT]] = last
    q_i[last, AT] = q_i[p, AT]
    doublings = min(q_i[p, TRIES] - 1, 60)
    ready_s = q_f[p, TRIED] + min(retry[INITIAL] * 2.0**doublings, retry[LONGEST])
    if ready_s <= now_s or (retry[AT_ONCE] > 0.0 and idle):
        _push(pod_i, q_f, lists, sizes, ACTIVE, p)
        return
    q_f[p, READY] = math.ceil(ready_s)  # kube-scheduler looks once a second
    _push(pod_i, q_f, lists, sizes, BACKING, p)
    if retry[AT_ONCE] == 0.0:
        agenda.push(at_s, event, size, q_f[p, READY], agenda.TIMER, 0, 0, 0)


@jit
def wake_held(h: Any, now_s: float, idle: bool) -> None:
    """Something happened, which wakes every pod that the extender refused."""
    pod_i, q_f, q_i, lists, sizes, retry, at_s = h.pod_i, h.q_f, h.q_i, h.lists, h.sizes, h.retry, h.at_s
    event, size = h.event, h.size
    for k in range(sizes[HOLD] - 1, -1, -1):
        _wake(pod_i, q_f, q_i, lists, sizes, retry, at_s, event, size, lists[HOLD, k], now_s, idle)


@jit
def timed(h: Any, now_s: float) -> None:
    """A time came for which a timer was set."""
    pod_i, q_f, q_i, lists, sizes, retry, at_s = h.pod_i, h.q_f, h.q_i, h.lists, h.sizes, h.retry, h.at_s
    event, size = h.event, h.size
    for k in range(sizes[HOLD] - 1, -1, -1):
        p = lists[HOLD, k]
        if q_f[p, PATCHED] <= now_s or now_s - q_f[p, TRIED] > retry[FLUSH]:
            q_f[p, PATCHED] = math.inf
            _wake(pod_i, q_f, q_i, lists, sizes, retry, at_s, event, size, p, now_s, True)
