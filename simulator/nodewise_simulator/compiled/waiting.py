"""Who waits for what and until when, compiled: the books of `nodewise.policies.waiting`, over flat arrays.

`waiting_ask` asks them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise.policies.defer import DeferSettings
from nodewise_simulator.compiled import deferral as df
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.deferral import Sight
from nodewise_simulator.compiled.flat import Flat, Ints
from nodewise_simulator.compiled.fuse import inlined, jit
from nodewise_simulator.compiled.wide import Wide

Bools = NDArray[np.bool_]

INDEX, LIMIT_S, SINCE_S, UNTIL_S, KEPT_SINCE_S = range(5)
TURN, SEEN, FOR_ROW, KEPT = range(4)
"""Second indices of `Books.entry_f` and `Books.entry_i`."""
WAITING, DEFERRED, TURNS, CHANGES, PRICED = range(5)
"""Indices of `Books.number`: pods without a node, deferred ones, and how often each thing happened."""
DEFERS, ORDERS, MOVES = range(3)
"""Indices of `Books.does`: pods are deferred, lower ones leave higher ones their nodes, nodes come and go."""


class Books(NamedTuple):
    """P pods, N nodes, C classes; entries are as those of `nodewise.policies.waiting`."""

    entry_f: Floats  # [P, 5]
    entry_i: Ints  # [P, 4]
    line: Ints  # [P] pods without a node, the higher first
    looked: Floats  # [3, N] CPU, memory and GPU free when room was looked at last
    freed_at: Ints  # [N] number of the change that gave room back last
    number: Ints  # [5]
    limits: Floats  # [7] see `deferral.limits`
    does: Bools  # [3]
    machine_i: Ints  # [N, 8] of `wide.Books`: which nodes are there
    here: Ints  # [N] which were there when we looked last
    joined: Ints  # [N] number of the first pod that came after the node
    ahead: Floats  # [C] scratch: CPU of those who go first
    free: Floats  # [3, N] scratch: room that higher pods leave
    theirs: Bools  # [N] scratch: where one of them fits
    later: Bools  # [N] scratch: where a pod may fit in time
    sight: Sight


def books(
    flat: Flat, wide: Wide, machine_i: Ints, residents: int, settings: DeferSettings | None, *, ordered: bool
) -> Books:
    """Empty books; None: nobody is deferred.

    `machine_i` [N, 8] of `wide.Books` is looked at, not copied. `residents`: how many a node may have at most.
    """
    n, p, c = len(flat.node_f), len(flat.pod_f), len(flat.col_factor)
    return Books(
        np.full((p, 5), np.nan), np.full((p, 4), -1, np.int64), np.zeros(p, np.int64), np.full((3, n), -np.inf),
        np.zeros(n, np.int64), np.zeros(5, np.int64), df.limits(settings or DeferSettings()),
        np.array([settings is not None, ordered, wide.flags[wd.CHANGES]]), machine_i, machine_i[:, wd.PRESENT].copy(),
        np.zeros(n, np.int64), np.zeros(c), np.zeros((3, n)), np.zeros(n, bool), np.zeros(n, bool),
        df.sight(n, residents, c),
    )  # fmt: skip


@inlined
def look(node: Floats, books: Books) -> None:
    """As `Waiting._look`: note which nodes have more room than when we looked last."""
    looked, moved, n = books.looked, False, node.shape[1]
    for k in range(3):
        free, before = node[kn.FREE + k], looked[k]
        for row in range(n):
            moved |= free[row] != before[row]
    if books.does[MOVES]:
        for row in range(n):
            if books.machine_i[row, wd.PRESENT] != books.here[row]:
                _renumber(books)
                moved = True
    if moved:
        _note(node, looked, books.freed_at, books.number)


@jit
def _note(node: Floats, looked: Floats, freed_at: Ints, number: Ints) -> None:
    this, more = number[CHANGES] + 1, False
    for row in range(len(freed_at)):
        freed = False
        for k in range(3):
            freed |= node[kn.FREE + k, row] > looked[k, row]
            looked[k, row] = node[kn.FREE + k, row]
        if freed:
            freed_at[row], more = this, True
    if more:
        number[CHANGES] = this


@jit
def _renumber(books: Books) -> None:
    """As `Waiting._renumber`: nodes came or went, so everybody is priced anew; a new node is nobody's yet."""
    entry_i, line, number, here, machine_i = books.entry_i, books.line, books.number, books.here, books.machine_i
    for row in range(len(here)):
        if machine_i[row, wd.PRESENT] > here[row]:
            books.joined[row] = number[TURNS]
        here[row] = machine_i[row, wd.PRESENT]
    for k in range(number[WAITING]):
        entry_i[line[k], FOR_ROW] = entry_i[line[k], SEEN] = entry_i[line[k], KEPT] = -1
    number[DEFERRED] = 0
    books.freed_at[:] = 0
    books.looked[:] = -np.inf


@inlined
def _higher(pod_i: Ints, entry_f: Floats, entry_i: Ints, a: int, b: int) -> Any:
    """Whether pod a goes before pod b."""
    if pod_i[a, kn.PRIORITY] != pod_i[b, kn.PRIORITY]:
        return pod_i[a, kn.PRIORITY] > pod_i[b, kn.PRIORITY]
    if entry_f[a, INDEX] != entry_f[b, INDEX]:
        return entry_f[a, INDEX] > entry_f[b, INDEX]
    return entry_i[a, TURN] < entry_i[b, TURN]


@jit
def queued(pod_f: Floats, pod_i: Ints, node: Floats, cells: Floats, present: Bools, books: Books, p: int) -> None:
    """As `Waiting.queued`, of a pod that is not in the books; beliefs must be of now."""
    look(node, books)
    entry_f, entry_i, line, number = books.entry_f, books.entry_i, books.line, books.number
    run_s = df.expected_run_s(pod_f, pod_i, cells, present, p)
    entry_f[p, INDEX] = df.index(pod_f, p, run_s) if books.does[ORDERS] else 0.0
    entry_f[p, LIMIT_S] = df.limit_s(pod_f, pod_i, books.limits, p, run_s)
    entry_f[p, SINCE_S] = np.nan
    entry_f[p, UNTIL_S] = -np.inf
    entry_i[p, TURN] = number[TURNS]
    entry_i[p, SEEN] = entry_i[p, FOR_ROW] = entry_i[p, KEPT] = -1
    number[TURNS] += 1
    at = number[WAITING]
    while at > 0 and _higher(pod_i, entry_f, entry_i, p, line[at - 1]):
        line[at] = line[at - 1]
        at -= 1
    line[at] = p
    number[WAITING] += 1


@jit
def gone(books: Books, p: int) -> None:
    """As `Waiting.gone`, of a pod that is in the books."""
    entry_i, line, number = books.entry_i, books.line, books.number
    if entry_i[p, FOR_ROW] >= 0:
        number[DEFERRED] -= 1
        entry_i[p, FOR_ROW] = -1
    at = 0
    while line[at] != p:
        at += 1
    number[WAITING] -= 1
    for k in range(at, number[WAITING]):
        line[k] = line[k + 1]
