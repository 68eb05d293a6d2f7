"""The cluster as policies are shown it: nodes, what runs on them, what was just promised to them.

Fed by the extender from its watch and by the simulator from its events, so that both show a policy the same thing.
Mutable and owned by one thread; every `ClusterView` it gives out is frozen (arrays are replaced, not written).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core import table as tb
from nodewise.core.estimator import Observation, RunTimeEstimator, row_key
from nodewise.core.kinds import TREATMENTS
from nodewise.core.pods import NodeSpec
from nodewise.core.table import Resident
from nodewise.core.types import (
    UNKNOWN_S,
    Beliefs,
    ClusterView,
    CostRates,
    NodeTable,
    PodRequest,
    Rows,
    SlaClass,
)

_OWNERS_KEPT = 1000
"""Owners without a resident are forgotten when more than about this many have gathered."""
_ARCHS_KEPT = 20_000


@dataclass(slots=True)
class _Placed:
    request: PodRequest
    node: str
    slowdown: float
    """Factor by which the co-residents at its arrival are believed to stretch its run."""
    expires_s: float
    """For an assumed pod: when we stop believing in it; inf once its binding was seen."""
    ran: bool = False
    """Whether it was seen to work."""


class ClusterState:
    """Nodes, residents, assumed pods and waiting pods.

    `fifo`: pods bound to a busy node wait there for their turn (a dispatcher's world); in Kubernetes a pod that fits
    starts at once. `lookup` replaces the estimator's beliefs by a table and the function that gives a pod's row in it:
    the reference rows that are told the truth come in here, never a product.
    """

    def __init__(
        self,
        estimator: RunTimeEstimator,
        rates: CostRates | None = None,
        *,
        fifo: bool = False,
        lookup: tuple[Beliefs, Callable[[PodRequest], int]] | None = None,
    ) -> None:
        self.estimator = estimator
        self.learn: Callable[[Observation], None] = estimator.learn
        """Told of each finished pod that teaches; whoever shares the estimator with others puts itself in between."""
        self.rates = rates or CostRates()
        self.sequence = 0
        self._fifo = fifo
        self._lookup = lookup
        self._specs: list[NodeSpec] = []
        self._row: dict[str, int] = {}
        self._placed: dict[str, _Placed] = {}
        self._assumed: set[str] = set()  # those of them that expire
        self._uids: list[list[str]] = []  # [N] uids of each node's residents, sorted
        self._residents = np.zeros((0, len(Resident)), order="F")  # by node, then uid; columns are read, rows written
        self._offsets = np.zeros(1, np.int64)  # [N + 1] where the residents of each node begin
        self._owners = np.zeros(0, np.int64)
        self._owner_ids: dict[str, int] = {}
        self._last_owner = -1
        self._queued: dict[str, int] = {}
        self._arch_starts: dict[tuple[str, str], int] = {}
        self._orphans: dict[str, dict[str, tuple[PodRequest, float, float]]] = {}
        """Pods on nodes that are not known (yet): node, uid, (request, started_s, expires_s)."""
        self._static: dict[str, Any] | None = None
        self._sums: dict[str, Any] | None = None
        self._stale: set[int] = set()  # rows whose sums are to be made anew
        self._delay_rate = np.array([cost.delay_cents_per_s(self.rates, k) for k in SlaClass])

    # --- nodes ---

    def put_node(self, spec: NodeSpec) -> None:
        """Add a node, or replace what is known of it; pods seen on it before it was known are placed now."""
        row = self._row.get(spec.name)
        if row is None:
            self._row[spec.name] = len(self._specs)
            self._specs.append(spec)
            self._uids.append([])
            self._offsets = np.append(self._offsets, self._offsets[-1])
        else:
            self._specs[row] = spec
        self.estimator.column(spec.node_class)
        self._static = self._sums = None  # some sums are per allocatable CPU
        for request, started_s, expires_s in self._orphans.pop(spec.name, {}).values():
            self.place(request, spec.name, started_s, expires_s=expires_s)

    def remove_node(self, name: str) -> None:
        """Forget a node; its pods are remembered in case it returns before they are deleted."""
        row = self._row.get(name)
        if row is None:
            return
        for uid in list(self._uids[row]):
            placed, started_s = self._placed[uid], self._started_s(uid)
            self.remove(uid)
            self._orphans.setdefault(name, {})[uid] = (placed.request, started_s, placed.expires_s)
        del self._specs[row], self._uids[row]
        self._offsets = np.delete(self._offsets, row)
        self._row = {spec.name: k for k, spec in enumerate(self._specs)}
        self._residents = self._residents.copy(order="F")  # a view may hold the old one
        self._residents[self._residents[:, Resident.NODE] > row, Resident.NODE] -= 1
        self._static = self._sums = None

    def nodes(self) -> tuple[NodeSpec, ...]:
        """All nodes, in row order."""
        return tuple(self._specs)

    # --- pods ---

    def place(
        self, request: PodRequest, node: str, started_s: float = UNKNOWN_S, *, expires_s: float = math.inf
    ) -> None:
        """A pod is on a node (or, with `expires_s`, is assumed to be until then); moves it if it was elsewhere."""
        old = self._placed.get(request.uid)
        if old is not None and old.node == node:
            self._set_expiry(request.uid, expires_s)
            self.started(request.uid, started_s)
            return
        self.remove(request.uid)
        row = self._row.get(node)
        if row is None:
            self._orphans.setdefault(node, {})[request.uid] = (request, started_s, expires_s)
            return
        slowdown = 1.0 if self._fifo else 1.0 + self.rates.contention * self._pressure(row)
        self._placed[request.uid] = _Placed(request, node, slowdown, expires_s)
        self._set_expiry(request.uid, expires_s)
        at = bisect.bisect(self._uids[row], request.uid)
        index = int(self._offsets[row]) + at
        self._uids[row].insert(at, request.uid)
        self._residents = _inserted(self._residents, index, self._values(request, row, started_s))
        self._owners = _inserted(self._owners, index, self._owner_id(request))
        self._resized(row, 1)

    def place_all(self, pods: Iterable[tuple[PodRequest, str, float]]) -> None:
        """`place` each (request, node, started_s), with one copy of the residents instead of one for every pod.

        No uid may come twice.
        """
        fresh: list[tuple[int, str, tuple[float, ...], int]] = []
        others: list[tuple[PodRequest, str, float]] = []
        nodes = self._residents[:, Resident.NODE].astype(np.int64)
        cpu = tb.per_node(nodes, self._residents[:, Resident.CPU_MILLI], len(self._specs))
        for request, node, started_s in pods:
            row = self._row.get(node)
            if row is None or request.uid in self._placed:
                others.append((request, node, started_s))
                continue
            self.remove(request.uid)  # from the queue, and from a node that is not known
            pressure = cpu[row] / max(self._specs[row].cpu_allocatable_milli, 1.0)
            cpu[row] += request.cpu_milli
            slowdown = 1.0 if self._fifo else 1.0 + self.rates.contention * float(pressure)
            fresh.append((row, request.uid, self._values(request, row, started_s), self._owner_id(request)))
            self._placed[request.uid] = _Placed(request, node, slowdown, math.inf)
        if fresh:
            old = [(row, uid) for row, uids in enumerate(self._uids) for uid in uids]
            keys = [*old, *((row, uid) for row, uid, _, _ in fresh)]
            order = sorted(range(len(keys)), key=keys.__getitem__)
            both = np.concatenate([self._residents, np.array([v for _, _, v, _ in fresh])])
            self._residents = np.asfortranarray(both[order])
            self._owners = np.concatenate([self._owners, np.array([o for *_, o in fresh], np.int64)])[order]
            for row, uid, _, _ in fresh:
                bisect.insort(self._uids[row], uid)
            self._offsets = np.concatenate([[0], np.cumsum([len(u) for u in self._uids])]).astype(np.int64)
            self._sums = None
        for request, node, started_s in others:
            self.place(request, node, started_s)

    def started(self, uid: str, started_s: float) -> None:
        """The containers of a resident run since `started_s`."""
        index = self._index(uid)
        if index is None or math.isnan(started_s) or self._residents[index, Resident.STARTED_S] == started_s:
            return
        self._residents = self._residents.copy(order="F")
        self._residents[index, Resident.STARTED_S] = started_s

    def ran(self, uid: str) -> None:
        """A resident was seen ready or succeeded: its image works on the architecture of its node.

        That it started says nothing: an image of another architecture starts, and fails.
        """
        placed = self._placed.get(uid)
        if placed is not None and not placed.ran:
            placed.ran = True
            key = (placed.request.workload, self._specs[self._row[placed.node]].arch)
            # The oldest go first where a cluster makes up ever new workloads.
            if key not in self._arch_starts and len(self._arch_starts) >= _ARCHS_KEPT:
                del self._arch_starts[next(iter(self._arch_starts))]
            self._arch_starts[key] = self._arch_starts.get(key, 0) + 1

    def remove(self, uid: str) -> bool:
        """A pod is gone, whatever became of it; False if it was not known."""
        self._queued.pop(uid, None)
        for node, orphans in list(self._orphans.items()):
            orphans.pop(uid, None)
            if not orphans:
                del self._orphans[node]
        index = self._index(uid)
        if index is None:
            return False
        row = self._row[self._placed.pop(uid).node]
        self._uids[row].remove(uid)
        self._assumed.discard(uid)
        self._residents = _without(self._residents, index)
        self._owners = _without(self._owners, index)
        self._forget_owners()
        self._resized(row, -1)
        return True

    def finish(self, uid: str, started_s: float, finished_s: float, *, succeeded: bool) -> None:
        """A pod ended: learn from its run time if it succeeded and its kind teaches, and free its room."""
        if succeeded:
            self.ran(uid)
        placed = self._placed.get(uid)
        if placed is not None and succeeded and TREATMENTS[placed.request.kind].teaches_speed:
            told = placed.request.expected_run_s
            run = (finished_s - started_s) / (1.0 if math.isnan(told) else told)
            node_class = self._specs[self._row[placed.node]].node_class
            self.learn(Observation(uid, *row_key(placed.request), node_class, run, placed.slowdown))
        self.remove(uid)

    def queue(self, request: PodRequest) -> None:
        """A pod waits for a node."""
        if request.uid not in self._placed:
            self._queued[request.uid] = int(request.sla)

    def expire(self, now_s: float) -> int:
        """Give up assumed pods whose binding was never seen; returns how many."""
        gone = [uid for uid in self._assumed if self._placed[uid].expires_s <= now_s]
        for uid in gone:
            self.remove(uid)
        for orphans in self._orphans.values():
            for uid in [uid for uid, (_, _, expires_s) in orphans.items() if expires_s <= now_s]:
                del orphans[uid]
        return len(gone)

    def node_of(self, uid: str) -> str:
        """Where a pod is, or is assumed to be; empty if it is nowhere."""
        placed = self._placed.get(uid)
        return placed.node if placed else ""

    def pods(self) -> Iterable[str]:
        """The uids of all residents."""
        return self._placed.keys()

    # --- what policies see ---

    def view(self, pod: PodRequest, now_s: float) -> ClusterView:
        """The frozen picture for a decision on `pod` at `now_s`."""
        belief_row = self._belief_row(pod)
        beliefs = self._lookup[0] if self._lookup else self.estimator.beliefs()
        table = self._table(now_s, beliefs)
        starts = [float(self._arch_starts.get((pod.workload, arch), 0)) for arch in table.archs]
        return ClusterView(
            now_s=now_s,
            nodes=table,
            beliefs=beliefs,
            rates=self.rates,
            belief_row=belief_row,
            owner_id=self._owner_ids.get(self._owner_key(pod), -1) if pod.owner else -1,
            arch_starts=np.array(starts),
            shadow_price_cents=np.zeros(len(table.name)),
            queued_by_sla=np.bincount([*self._queued.values()], minlength=3).astype(float)
            if self._queued
            else np.zeros(3),
            sequence=self.sequence,
        )

    def rows(self, names: Iterable[str]) -> Rows:
        """Rows of the named nodes, in that order, each once, unknown names left out."""
        found = np.fromiter(map(self._row.get, names, repeat(-1)), np.int64)
        if len(found) and found.min() < 0:
            found = found[found >= 0]
        if len(found) and np.bincount(found).max() > 1:
            found = found[np.sort(np.unique(found, return_index=True)[1])]
        return found

    def _values(self, request: PodRequest, row: int, started_s: float) -> tuple[float, ...]:
        told = not math.isnan(request.expected_run_s)
        return (
            row, self._belief_row(request), request.expected_run_s if told else 1.0, started_s,
            request.cpu_milli, request.cpu_nonzero_milli, request.memory_bytes, request.memory_nonzero_bytes,
            request.gpus_milli, int(request.sla), float(TREATMENTS[request.kind].ends),
        )  # fmt: skip

    def _set_expiry(self, uid: str, expires_s: float) -> None:
        self._placed[uid].expires_s = expires_s
        if math.isinf(expires_s):
            self._assumed.discard(uid)
        else:
            self._assumed.add(uid)

    def _belief_row(self, pod: PodRequest) -> int:
        return self._lookup[1](pod) if self._lookup else self.estimator.row(pod)

    def _owner_key(self, pod: PodRequest) -> str:
        return f"{pod.namespace}/{pod.owner}"

    def _owner_id(self, pod: PodRequest) -> int:
        if not pod.owner:
            return -1
        self._last_owner += self._owner_key(pod) not in self._owner_ids
        return self._owner_ids.setdefault(self._owner_key(pod), self._last_owner)

    def _forget_owners(self) -> None:
        if len(self._owner_ids) > _OWNERS_KEPT + 2 * len(self._owners):
            here = set(self._owners.tolist())
            self._owner_ids = {key: k for key, k in self._owner_ids.items() if k in here}

    def _index(self, uid: str) -> int | None:
        placed = self._placed.get(uid)
        if placed is None:
            return None
        row = self._row[placed.node]
        return int(self._offsets[row]) + bisect.bisect_left(self._uids[row], uid)

    def _resized(self, row: int, by: int) -> None:
        self._offsets = self._offsets.copy()
        self._offsets[row + 1 :] += by
        self._stale.add(row)

    def _started_s(self, uid: str) -> float:
        index = self._index(uid)
        return UNKNOWN_S if index is None else float(self._residents[index, Resident.STARTED_S])

    def _pressure(self, row: int) -> float:
        allocatable = self._specs[row].cpu_allocatable_milli
        on_node = slice(self._offsets[row], self._offsets[row + 1])
        return float(self._residents[on_node, Resident.CPU_MILLI].sum() / allocatable) if allocatable > 0 else 0.0

    def _table(self, now_s: float, beliefs: Beliefs) -> NodeTable:
        if self._static is None:
            self._static = tb.statics(self._specs, self.estimator.column)
            self._static["price_usd_per_h"] *= self.rates.weights.cost
        if self._sums is None:
            self._sums = tb.sums(self._residents, self._static, self._delay_rate, fifo=self._fifo)
        elif self._stale:
            self._sums = {name: column.copy() for name, column in self._sums.items()}  # a view may hold the old ones
            for row in self._stale:
                here = self._residents[self._offsets[row] : self._offsets[row + 1]]
                tb.sum_row(self._sums, row, here, self._static, self._delay_rate, fifo=self._fifo)
        self._stale.clear()
        left_s = tb.left_s(self._residents, self._static, beliefs, now_s, self.rates.service_horizon_s)
        columns: dict[str, Any] = {
            **self._static, **self._sums,
            **tb.times(self._residents, left_s, self._static, self._sums, self._delay_rate, fifo=self._fifo),
        }  # fmt: skip
        return NodeTable(
            **columns,
            residents=self._residents,
            resident_offsets=self._offsets,
            resident_owner=self._owners,
        )


def _inserted(table: NDArray[Any], index: int, values: Any) -> NDArray[Any]:
    """A new table with one row more; np.insert costs several times as much."""
    made = np.empty((len(table) + 1, *table.shape[1:]), table.dtype, order="F")
    made[:index], made[index], made[index + 1 :] = table[:index], values, table[index:]
    return made


def _without(table: NDArray[Any], index: int) -> NDArray[Any]:
    made = np.empty((len(table) - 1, *table.shape[1:]), table.dtype, order="F")
    made[:index], made[index:] = table[:index], table[index + 1 :]
    return made
