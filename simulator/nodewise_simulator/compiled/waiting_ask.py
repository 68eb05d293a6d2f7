"""Whether a pod may have a node now, compiled: `nodewise.policies.waiting.Waiting.ask`; and its part in the loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise.policies.waiting import AGAIN_S, STAND_BACK_S
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
    """What is not `known`: (whether the pod may go to the nodes that are `ok`, else when to ask again).

    Beliefs must be of now.
    """
    entry_f, entry_i, line, _, freed_at, number, limits, does, _, _, joined, ahead, rows, later, sight = books
    if entry_i[p, wt.FOR_ROW] >= 0:
        number[wt.DEFERRED] -= 1
        entry_i[p, wt.FOR_ROW] = -1
    if does[wt.ORDERS]:
        m, newest = 0, -1
        for row in range(len(ok)):
            if ok[row]:
                rows[m], m = row, m + 1
                newest = max(newest, freed_at[row])
        if _comes_after(pod_f, pod_i, masks, node, entry_i, line, freed_at, joined, rows, m, newest, p):
            if newest != entry_i[p, wt.BACK_FOR]:
                entry_i[p, wt.BACK_FOR], entry_f[p, wt.BACK_S] = newest, now_s
            if now_s < entry_f[p, wt.BACK_S] + STAND_BACK_S:
                return False, now_s + AGAIN_S
    entry_i[p, wt.SEEN] = number[wt.CHANGES]
    if not does[wt.DEFERS] or number[wt.DEFERRED] >= limits[df.BUDGET]:
        return True, now_s
    since_s = entry_f[p, wt.SINCE_S]
    end_s = (now_s if math.isnan(since_s) else since_s) + entry_f[p, wt.LIMIT_S]
    if now_s >= end_s:
        return True, now_s
    number[wt.PRICED] += 1
    mask, at = masks[pod_i[p, kn.MASK]], 0
    while line[at] != p:
        for_row = entry_i[line[at], wt.FOR_ROW]
        if for_row >= 0:
            ahead[node_i[kn.CLASS, for_row]] += pod_f[line[at], kn.CPU]
        at += 1
    df.ahead_s(settings, node, node_i, resident, cells, sight, ahead, now_s)
    for row in range(len(ok)):
        known_to_it = mask[row] and entry_i[p, wt.TURN] >= joined[row]
        later[row] = known_to_it and not ok[row] and not df.has_room(pod_f, node, row, p)
    waits, _, _, for_row, _ = df.choose(
        pod_f, pod_i, settings, node, node_i, resident, cells, present, sight, ok, later, limits[df.MARGIN], p,
        now_s,
    )  # fmt: skip
    if not waits:
        return True, now_s
    entry_f[p, wt.SINCE_S] = end_s - entry_f[p, wt.LIMIT_S]
    entry_f[p, wt.UNTIL_S], entry_i[p, wt.FOR_ROW] = end_s, for_row
    number[wt.DEFERRED] += 1
    return False, end_s


@jit
def _comes_after(
    pod_f: Floats, pod_i: Ints, masks: Bools, node: Floats, entry_i: Ints, line: Ints, freed_at: Ints, joined: Ints,
    rows: Ints, m: int, newest: int, p: int,
) -> Any:  # fmt: skip
    """Whether a higher pod fits on one of the first m rows and was not asked since that was freed."""
    cpu, mem, gpu = -np.inf, -np.inf, -np.inf  # the most that is free on any of them
    for k in range(m):
        row = rows[k]
        cpu, mem = max(cpu, node[kn.FREE, row]), max(mem, node[kn.FREE + 1, row])
        gpu = max(gpu, node[kn.FREE + 2, row])
    at = 0
    while line[at] != p:
        other, at = line[at], at + 1
        seen, turn = entry_i[other, wt.SEEN], entry_i[other, wt.TURN]
        too_large = pod_f[other, kn.CPU] > cpu or pod_f[other, kn.MEM] > mem or pod_f[other, kn.GPU] > gpu
        if seen >= newest or too_large:
            continue
        mask = masks[pod_i[other, kn.MASK]]
        for k in range(m):
            row = rows[k]
            if mask[row] and turn >= joined[row] and freed_at[row] > seen and df.has_room(pod_f, node, row, other):
                return True
    return False


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
    return m if goes else 0, again_s


@inlined
def _gone(flat: Any, state: Any, desk: Any, held: Any, p: int) -> None:  # noqa: ARG001
    if held.does[wt.DEFERS] or held.does[wt.ORDERS]:
        wt.gone(held, p)


DEFERRAL = (_queued, _asked, _gone)
"""What `full.played` takes."""
