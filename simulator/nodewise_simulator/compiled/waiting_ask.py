"""Whether a pod may have a node now, compiled: `nodewise.policies.waiting.Waiting.ask`; and its part in the loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise.policies.waiting import KEPT_S
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import deferral as df
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import waiting as wt
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit
from nodewise_simulator.compiled.waiting import Books

Bools = NDArray[np.bool_]


@inlined
def known(node: Floats, books: Books, may_wait: int, ok: Bools, p: int, now_s: float) -> Any:
    """What the books say of a pod without pricing anything: (whether they do, whether it may go, else when to ask)."""
    wt.look(node, books)
    if may_wait == 0:
        return True, True, now_s
    entry_i, until_s = books.entry_i, books.entry_f[p, wt.UNTIL_S]
    if entry_i[p, wt.FOR_ROW] < 0 or now_s >= until_s:
        return False, False, now_s
    seen, news = entry_i[p, wt.SEEN], False
    if books.number[wt.CHANGES] > seen:
        freed_at = books.freed_at
        for row in range(len(ok)):
            news |= ok[row] & (freed_at[row] > seen)
    return not news, False, until_s


@jit
def decide(
    pod_f: Floats, pod_i: Ints, masks: Bools, settings: Floats, node: Floats, node_i: Ints, resident: Floats,
    cells: Floats, present: Bools, books: Books, ok: Bools, p: int, now_s: float,
) -> Any:  # fmt: skip
    """What is not `known`: (whether the pod may go to the nodes that are left `ok`, else when to ask again).

    Beliefs must be of now.
    """
    entry_f, entry_i, number, does = books.entry_f, books.entry_i, books.number, books.does
    _withdraw(books, p)
    kept, entry_i[p, wt.KEPT] = entry_i[p, wt.KEPT], -1
    if does[wt.ORDERS] and not _leave(
        pod_f, pod_i, masks, settings, node, node_i, resident, cells, present, books, ok, p, now_s
    ):
        return False, now_s + KEPT_S
    entry_i[p, wt.SEEN] = number[wt.CHANGES]
    if not _may_defer(pod_i, books, p, now_s):
        return True, now_s
    waits, for_row, _ = _choice(
        pod_f, pod_i, masks, settings, node, node_i, resident, cells, present, books, ok, p, now_s, True, True
    )
    if not waits:
        return True, now_s
    if kept >= 0:
        _give_back(books, p, kept)
    _defer(books, p, for_row, now_s)
    return False, entry_f[p, wt.UNTIL_S]


@jit
def _leave(
    pod_f: Floats, pod_i: Ints, masks: Bools, settings: Floats, node: Floats, node_i: Ints, resident: Floats,
    cells: Floats, present: Bools, books: Books, ok: Bools, p: int, now_s: float,
) -> Any:  # fmt: skip
    """As `Waiting._left_for`: takes marks off `ok`; whether any is left."""
    free, line, entry_i, number, at = books.free, books.line, books.entry_i, books.number, 0
    for row in range(len(ok)):
        for k in range(3):
            free[k, row] = node[kn.FREE + k, row]
    while line[at] != p:
        other, at = line[at], at + 1
        if entry_i[other, wt.KEPT] < 0 and entry_i[other, wt.SEEN] == number[wt.CHANGES]:
            continue  # as `_taken_by` would say: of thousands that wait nearly all
        taken = _taken_by(pod_f, pod_i, masks, settings, node, node_i, resident, cells, present, books, other, now_s)
        if taken < 0:
            continue
        free[0, taken] -= pod_f[other, kn.CPU]
        free[1, taken] -= pod_f[other, kn.MEM]
        free[2, taken] -= pod_f[other, kn.GPU]
        left = False
        for row in range(len(ok)):
            left |= ok[row] and _fits(pod_f, free, row, p)
        if not left:
            return False
    for row in range(len(ok)):
        ok[row] = ok[row] and _fits(pod_f, free, row, p)
    return True


@jit
def _taken_by(
    pod_f: Floats, pod_i: Ints, masks: Bools, settings: Floats, node: Floats, node_i: Ints, resident: Floats,
    cells: Floats, present: Bools, books: Books, p: int, now_s: float,
) -> Any:  # fmt: skip
    """As `Waiting._taken_by`, of what is left in `books.free`."""
    entry_f, entry_i, number, freed_at = books.entry_f, books.entry_i, books.number, books.freed_at
    free, theirs = books.free, books.theirs
    kept = entry_i[p, wt.KEPT]
    if kept >= 0 and now_s >= entry_f[p, wt.KEPT_SINCE_S] + KEPT_S:
        entry_i[p, wt.KEPT] = -1
        _give_back(books, p, kept)
        return -1
    if kept >= 0 and _fits(pod_f, free, kept, p):
        return kept
    entry_i[p, wt.KEPT] = -1
    seen = entry_i[p, wt.SEEN]
    if seen == number[wt.CHANGES]:
        return -1
    mask, turn, any_news, news = masks[pod_i[p, kn.MASK]], entry_i[p, wt.TURN], False, False
    for row in range(len(theirs)):
        known_to_it = mask[row] and books.here[row] and turn >= books.joined[row]
        fits = known_to_it and df.has_room(pod_f, node, row, p)
        theirs[row] = fits and _fits(pod_f, free, row, p)
        any_news |= fits and freed_at[row] > seen
        news |= theirs[row] and freed_at[row] > seen
    if not any_news:
        entry_i[p, wt.SEEN] = number[wt.CHANGES]
    if not news:
        return -1
    _withdraw(books, p)
    may_defer = _may_defer(pod_i, books, p, now_s)
    waits, for_row, now_row = _choice(
        pod_f, pod_i, masks, settings, node, node_i, resident, cells, present, books, theirs, p, now_s, may_defer,
        False,
    )  # fmt: skip
    if waits:
        _defer(books, p, for_row, now_s)
        return -1
    entry_i[p, wt.KEPT], entry_f[p, wt.KEPT_SINCE_S] = now_row, now_s
    return now_row


@jit
def _choice(
    pod_f: Floats, pod_i: Ints, masks: Bools, settings: Floats, node: Floats, node_i: Ints, resident: Floats,
    cells: Floats, present: Bools, books: Books, ok: Bools, p: int, now_s: float, may_defer: bool, owned: bool,
) -> Any:  # fmt: skip
    """As `Waiting._choice`: (whether it waits, for which row, the best row now)."""
    entry_i, line, later, ahead, sight = books.entry_i, books.line, books.later, books.ahead, books.sight
    books.number[wt.PRICED] += 1
    mask, at = masks[pod_i[p, kn.MASK]], 0
    while line[at] != p:
        for_row = entry_i[line[at], wt.FOR_ROW]
        if for_row >= 0:
            ahead[node_i[kn.CLASS, for_row]] += pod_f[line[at], kn.CPU]
        at += 1
    df.ahead_s(settings, node, node_i, resident, cells, sight, ahead, now_s)
    for row in range(len(ok)):
        known_to_it = may_defer and mask[row] and entry_i[p, wt.TURN] >= books.joined[row]
        later[row] = known_to_it and not ok[row] and not df.has_room(pod_f, node, row, p)
    waits, _, _, for_row, _, now_row = df.choose(
        pod_f, pod_i, settings, node, node_i, resident, cells, present, sight, ok, later, books.limits[df.MARGIN], p,
        now_s, owned,
    )  # fmt: skip
    return waits, for_row, now_row


@inlined
def _may_defer(pod_i: Ints, books: Books, p: int, now_s: float) -> Any:
    since_s = books.entry_f[p, wt.SINCE_S]
    end_s = (now_s if math.isnan(since_s) else since_s) + books.entry_f[p, wt.LIMIT_S]
    room = books.does[wt.DEFERS] and books.number[wt.DEFERRED] < books.limits[df.BUDGET]
    return room and pod_i[p, kn.MAY_WAIT] > 0 and now_s < end_s


@inlined
def _defer(books: Books, p: int, for_row: int, now_s: float) -> None:
    entry_f, entry_i = books.entry_f, books.entry_i
    if math.isnan(entry_f[p, wt.SINCE_S]):
        entry_f[p, wt.SINCE_S] = now_s
    entry_f[p, wt.UNTIL_S] = entry_f[p, wt.SINCE_S] + entry_f[p, wt.LIMIT_S]
    entry_i[p, wt.FOR_ROW], entry_i[p, wt.SEEN] = for_row, books.number[wt.CHANGES]
    books.number[wt.DEFERRED] += 1


@inlined
def _withdraw(books: Books, p: int) -> None:
    if books.entry_i[p, wt.FOR_ROW] >= 0:
        books.number[wt.DEFERRED] -= 1
        books.entry_i[p, wt.FOR_ROW] = -1


@inlined
def _give_back(books: Books, p: int, row: int) -> None:
    books.number[wt.CHANGES] += 1
    books.freed_at[row] = books.entry_i[p, wt.SEEN] = books.number[wt.CHANGES]


@inlined
def _fits(pod_f: Floats, free: Floats, row: int, p: int) -> Any:
    return free[0, row] >= pod_f[p, kn.CPU] and free[1, row] >= pod_f[p, kn.MEM] and free[2, row] >= pod_f[p, kn.GPU]


# --- in the loop of `full` -------------------------------------------------------------------------------------------


@inlined
def _renewed(flat: Any, state: Any, desk: Any) -> None:
    """Beliefs of now."""
    number = state[8]
    if number[kn.STALE]:
        bl.renew(flat[6], flat[7], *state[9:], desk.in_row, desk.in_column)
        number[kn.STALE] = 0


@inlined
def _queued(flat: Any, state: Any, desk: Any, held: Any, p: int, now_s: float) -> None:  # noqa: ARG001
    if held.does[wt.DEFERS] or held.does[wt.ORDERS]:
        _renewed(flat, state, desk)
        wt.queued(flat[0], flat[1], state[0], state[9], desk.present, held, p)


@inlined
def _asked(flat: Any, state: Any, desk: Any, held: Any, p: int, now_s: float, ok: Any, m: int) -> Any:
    if not (held.does[wt.DEFERS] or held.does[wt.ORDERS]):
        return m, np.inf
    told, goes, again_s = known(state[0], held, flat[1][p, kn.MAY_WAIT], ok, p, now_s)
    if not told:
        _renewed(flat, state, desk)
        goes, again_s = decide(
            flat[0], flat[1], flat[5], flat[6], state[0], state[1], desk.resident, state[9], desk.present, held, ok, p,
            now_s,
        )  # fmt: skip
        m = 0
        for row in range(len(ok)):
            m += ok[row]
    return m if goes else 0, again_s


@inlined
def _gone(flat: Any, state: Any, desk: Any, held: Any, p: int) -> None:  # noqa: ARG001
    if held.does[wt.DEFERS] or held.does[wt.ORDERS]:
        wt.gone(held, p)


DEFERRAL = (_queued, _asked, _gone)
"""What `full.played` takes."""
