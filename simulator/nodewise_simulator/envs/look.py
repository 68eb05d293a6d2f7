"""What somebody outside is shown of a world that is paused for a decision, and what has fallen due: one small kernel.

The columns are those of `nodewise.core.columns`, the cents those of `nodewise.core.cost`, both compiled as they are.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core.columns import COLUMNS
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import instant, machine, view
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import OVERLOADS, Kernel, compiled, fuse, jit, of_scope, spliced
from nodewise_simulator.compiled.kept import kept
from nodewise_simulator.compiled.whole import gathered

F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

_ALL = tuple(COLUMNS)
NODE_COLUMNS, PAIR_COLUMNS = of_scope(_ALL, "node"), of_scope(_ALL, "pair")
REQUEST_COLUMNS = (*of_scope(_ALL, "pod"), *of_scope(_ALL, "cluster"))
"""Names of the columns of an observation, in order; units and ranges are in `nodewise.core.columns.COLUMNS`."""


class Seen(NamedTuple):
    """Where a decision's observation is written; N nodes."""

    node: F32  # [N, Kn] rows of nodes that are not feasible are zeros
    pair: F32  # [N, Kr]
    request: F32  # [Kq]
    mask: Bools  # [N] feasible

    @classmethod
    def room(cls, *shape: int) -> Seen:
        """Zeros; the last number of `shape` is N, those before it are of a batch."""
        return cls(
            np.zeros((*shape, len(NODE_COLUMNS)), np.float32), np.zeros((*shape, len(PAIR_COLUMNS)), np.float32),
            np.zeros((*shape[:-1], len(REQUEST_COLUMNS)), np.float32), np.zeros(shape, np.bool_),
        )  # fmt: skip

    def of(self, b: int) -> Seen:
        """One of a batch."""
        return Seen(*(part[b] for part in self))

    def first(self, nodes: int) -> Seen:
        """Of a world of fewer nodes."""
        return Seen(self.node[:nodes], self.pair[:nodes], self.request, self.mask[:nodes])

    def clear(self) -> None:
        """Zeros again."""
        for part in self:
            part[...] = 0


class Ledger(NamedTuple):
    """What is due of P pods, so that those that ended are not added up at each decision.

    Right because no pod is created before its manifest says, and none that ended is ever played again.
    """

    manifest_s: Floats  # [2, P] when they are created and due by their manifests
    order: Ints  # those that count, by creation
    known: Ints  # [P] those of them that may have been created, and have not ended
    number: Ints  # [2] how many of `order` were looked at, and how many are in `known`
    closed: Floats  # [1] cents of those that ended

    @classmethod
    def opened(cls, manifest_s: Floats, warm: int) -> Ledger:
        """Before the first decision; pods before `warm` do not count."""
        order = warm + np.argsort(manifest_s[0, warm:], kind="stable")
        return cls(manifest_s, order, np.zeros_like(order), np.zeros(2, np.int64), np.zeros(1))


class _Asks(NamedTuple):
    """As `cost.dominant_share` wants a pod."""

    cpu_milli: Any
    memory_bytes: Any
    gpus_milli: Any


class _Has(NamedTuple):
    """As `cost.dominant_share` wants a node."""

    cpu_allocatable_milli: Any
    memory_allocatable_bytes: Any
    gpus_allocatable_milli: Any


_KERNEL = """# Written by nodewise_simulator.envs.look; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.envs.look import linked

look = linked()


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(flat, state, wide, books, ledger, seen):
    return look(flat, state, wide, books, ledger, seen)
"""


@cache
def looker() -> Kernel:
    """`kernel(flat, state, wide, books, ledger, seen)` of a paused world: writes `seen` (`Seen`).

    Returns the cents that the pods of the ledger (`Ledger`) have cost so far, by `nodewise.core.cost`. Compiled on its
    first call, or taken from disk.
    """
    kernel: Kernel = kept(_KERNEL, linked(), OVERLOADS).kernel
    return kernel


@cache
def linked() -> Kernel:
    """The kernel of `looker`, not kept."""
    write_node, write_pair, write_pod, write_cluster = (
        fuse(of_scope(_ALL, scope)) for scope in ("node", "pair", "pod", "cluster")
    )
    due = _due()

    @spliced
    def look(flat: Any, state: Any, w: Any, b: Any, ledger: Any, seen: Any) -> Any:
        pod_f, pod_i, _, _, _, _, settings, described, _ = flat
        node, node_i, slot_i, _, pod, _, _, queued, number = state[:9]
        cells, row_factor, col_factor, row_var, col_var = state[9:]
        see_n, see_r, see_q, ok = seen
        desk = dk.laid(pod_f, pod_i, node, node_i, slot_i, pod, cells.shape[1], cells.shape[2])
        resident, _, totals, in_row, in_column, present, _, _ = desk[:8]
        h = gathered(flat, state, desk, ok, w, b)
        p, now_s, fifo = h.no[wd.CURRENT], h.clock[wd.NOW], h.flags[wd.FIFO]
        # As the loop found them when it asked; it will find them once more when it goes on.
        start, number[kn.START] = number[kn.START], h.no[wd.START_WAS]
        instant.sample(h, p)
        number[kn.START] = start
        if number[kn.STALE]:
            in_row[:] = True
            bl.renew(settings, described, cells, row_factor, col_factor, row_var, col_var, in_row, in_column)
            number[kn.STALE] = 0
        asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
        best_s = view.best_run_s(pod_f, pod_i, settings, cells, present, p)
        nodes = 0
        for row in range(len(ok)):
            nodes += h.machine_i[row, wd.PRESENT]
            if not ok[row]:
                see_n[row] = 0.0
                see_r[row] = 0.0
                continue
            c, count = node_i[kn.CLASS, row], node_i[kn.COUNT, row]
            machine.tell_time(settings, node, resident, cells, count, c, row, now_s, fifo)
            of_owner = dk.of_owner(resident, count, pod_i[p, kn.OWNER], row)
            there = view.of_node(node, row)
            write_node(see_n[row], 0, there)
            both = view.of_pair(pod_f, pod_i, settings, cells, p, c, best_s, of_owner)
            write_pair(see_r[row], 0, there, asking, both)
        told = write_pod(see_q, 0, asking)
        write_cluster(see_q, told, dk.of_cluster(nodes, totals, queued))
        return due(h, ledger, now_s)

    return look


def _due() -> Kernel:
    """`due(h, ledger, now_s)`: the cents that fell due until now; see `looker`."""
    joules, node_cents, share = (compiled(f) for f in (cost.dynamic_joules, cost.node_cents, cost.dominant_share))

    @jit
    def of_pod(h: Any, manifest_s: Any, p: int, now_s: float) -> Any:
        delayed = h.own_s[p, 0] == h.own_s[p, 0]  # created later than its manifest says
        created_s = h.own_s[p, 0] if delayed else manifest_s[0, p]
        deadline_s = h.own_s[p, 1] if delayed else manifest_s[1, p]
        if created_s > now_s or h.fate[p, wd.PARENTS_LEFT] > 0:
            return 0.0
        end_s, begin_s, row = h.pod[p, kn.FINISHED_S], h.pod[p, kn.STARTED_S], h.pod_node[p]
        until_s = end_s if end_s == end_s else now_s
        cents = h.pod_f[p, kn.DELAY] * (until_s - created_s)
        if until_s > deadline_s:
            cents += h.pod_f[p, kn.LATE]
        if row >= 0 and begin_s == begin_s:
            run_s, has = until_s - begin_s, h.node_f[row]
            cpu_milli = h.pod_f[p, kn.CPU]
            part = share(
                _Asks(cpu_milli, h.pod_f[p, kn.MEM], h.pod_f[p, kn.GPU]),
                _Has(has[kn.CPU_ROOM], has[kn.MEM_ROOM], has[kn.GPU_ROOM]),
            )
            drawn = joules(cpu_milli, has[kn.CPU_ROOM], has[kn.IDLE], has[kn.PEAK], run_s)
            cents += drawn * h.settings[kn.ENERGY] + node_cents(part, has[kn.PRICE], run_s)
        return cents

    @jit
    def due(h: Any, ledger: Any, now_s: float) -> Any:
        manifest_s, order, known, number, closed = ledger
        while number[0] < len(order) and manifest_s[0, order[number[0]]] <= now_s:
            known[number[1]] = order[number[0]]
            number[0] += 1
            number[1] += 1
        cents, still = 0.0, 0
        for k in range(number[1]):
            p = known[k]
            own = of_pod(h, manifest_s, p, now_s)
            if h.pod[p, kn.FINISHED_S] == h.pod[p, kn.FINISHED_S]:
                closed[0] += own
            else:
                cents += own
                known[still] = p
                still += 1
        number[1] = still
        return closed[0] + cents

    return due
