"""The cluster as policies are shown it: nodes, what runs on them, what was just promised to them.

Fed by the extender from its watch and by the simulator from its events, so that both show a policy the same thing.
Mutable and owned by one thread; every `ClusterView` it gives out is frozen (arrays are replaced, not written).
"""

from __future__ import annotations

import bisect
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from nodewise.core import cost
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.kinds import TREATMENTS
from nodewise.core.pods import NodeSpec
from nodewise.core.types import UNKNOWN_S, Beliefs, ClusterView, CostRates, Floats, NodeTable, PodRequest, Rows

_OVERDUE = 0.25
"""A resident that has outlived its believed run time is given this many standard deviations more. A guess:
re-predicting exactly was measured to be worth less than half a per cent."""
_OWNERS_KEPT = 1000
"""Owners without a resident are forgotten when more than about this many have gathered."""


class Resident(IntEnum):
    """Columns of `NodeTable.residents`."""

    NODE = 0
    BELIEF_ROW = 1
    SCALE = 2
    STARTED_S = 3
    CPU_MILLI = 4
    CPU_NONZERO_MILLI = 5
    MEMORY_BYTES = 6
    MEMORY_NONZERO_BYTES = 7
    GPUS_MILLI = 8
    SLA = 9
    ENDS = 10


@dataclass(slots=True)
class _Placed:
    request: PodRequest
    node: str
    slowdown: float
    """Factor by which the co-residents at its arrival are believed to stretch its run."""
    expires_s: float
    """For an assumed pod: when we stop believing in it; inf once its binding was seen."""


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
        self.rates = rates or CostRates()
        self.sequence = 0
        self._fifo = fifo
        self._lookup = lookup
        self._specs: list[NodeSpec] = []
        self._row: dict[str, int] = {}
        self._placed: dict[str, _Placed] = {}
        self._uids: list[list[str]] = []  # [N] uids of each node's residents, sorted
        self._residents = np.zeros((0, len(Resident)))
        self._owners = np.zeros(0, np.int64)
        self._owner_ids: dict[str, int] = {}
        self._last_owner = -1
        self._queued: dict[str, int] = {}
        self._arch_starts: dict[tuple[str, str], int] = {}
        self._orphans: dict[str, dict[str, tuple[PodRequest, float]]] = {}
        self._static: dict[str, Any] | None = None
        self._sums: dict[str, Floats] | None = None

    # --- nodes ---

    def put_node(self, spec: NodeSpec) -> None:
        """Add a node, or replace what is known of it; pods seen on it before it was known are placed now."""
        row = self._row.get(spec.name)
        if row is None:
            self._row[spec.name] = len(self._specs)
            self._specs.append(spec)
            self._uids.append([])
            self._sums = None
        else:
            self._specs[row] = spec
        self.estimator.column(spec.node_class)
        self._static = None
        for request, started_s in self._orphans.pop(spec.name, {}).values():
            self.place(request, spec.name, started_s)

    def remove_node(self, name: str) -> None:
        """Forget a node; its pods are remembered in case it returns before they are deleted."""
        row = self._row.get(name)
        if row is None:
            return
        for uid in list(self._uids[row]):
            placed, started_s = self._placed[uid], self._started_s(uid)
            self.remove(uid)
            self._orphans.setdefault(name, {})[uid] = (placed.request, started_s)
        del self._specs[row], self._uids[row]
        self._row = {spec.name: k for k, spec in enumerate(self._specs)}
        nodes = self._residents[:, Resident.NODE]
        self._residents[:, Resident.NODE] = np.where(nodes > row, nodes - 1, nodes)
        self._static = self._sums = None

    def nodes(self) -> tuple[NodeSpec, ...]:
        """All nodes, in row order."""
        return tuple(self._specs)

    # --- pods ---

    def place(
        self, request: PodRequest, node: str, started_s: float = UNKNOWN_S, *, expires_s: float = math.inf
    ) -> None:
        """A pod is on a node (or, with `expires_s`, is assumed to be until then); moves it if it was elsewhere."""
        self._queued.pop(request.uid, None)
        row = self._row.get(node)
        if row is None:
            self._orphans.setdefault(node, {})[request.uid] = (request, started_s)
            return
        old = self._placed.get(request.uid)
        if old is not None:
            if old.node == node:
                old.expires_s = expires_s
                self.started(request.uid, started_s)
                return
            self.remove(request.uid)
        slowdown = 1.0 if self._fifo else 1.0 + self.rates.contention * self._pressure(row)
        self._placed[request.uid] = _Placed(request, node, slowdown, expires_s)
        at = bisect.bisect(self._uids[row], request.uid)
        index = sum(map(len, self._uids[:row])) + at
        self._uids[row].insert(at, request.uid)
        told = not math.isnan(request.expected_run_s)
        values = (
            row, self._belief_row(request), request.expected_run_s if told else 1.0, started_s,
            request.cpu_milli, request.cpu_nonzero_milli, request.memory_bytes, request.memory_nonzero_bytes,
            request.gpus_milli, int(request.sla), float(TREATMENTS[request.kind].ends),
        )  # fmt: skip
        self._residents = np.insert(self._residents, index, values, axis=0)
        self._owners = np.insert(self._owners, index, self._owner_id(request))
        self._sums = None
        if not math.isnan(started_s):
            self._count_arch(request, node)

    def started(self, uid: str, started_s: float) -> None:
        """The containers of a resident run since `started_s`."""
        index = self._index(uid)
        if index is None or math.isnan(started_s) or self._residents[index, Resident.STARTED_S] == started_s:
            return
        self._residents = self._residents.copy()
        self._residents[index, Resident.STARTED_S] = started_s
        self._count_arch(self._placed[uid].request, self._placed[uid].node)

    def remove(self, uid: str) -> bool:
        """A pod is gone, whatever became of it; False if it was not known."""
        self._queued.pop(uid, None)
        for orphans in self._orphans.values():
            orphans.pop(uid, None)
        index = self._index(uid)
        if index is None:
            return False
        self._uids[self._row[self._placed.pop(uid).node]].remove(uid)
        self._residents = np.delete(self._residents, index, axis=0)
        self._owners = np.delete(self._owners, index)
        self._sums = None
        return True

    def finish(self, uid: str, started_s: float, finished_s: float, *, succeeded: bool) -> None:
        """A pod ended: learn from its run time if it succeeded and its kind teaches, and free its room."""
        placed = self._placed.get(uid)
        if placed is not None and succeeded and TREATMENTS[placed.request.kind].teaches_speed:
            told = placed.request.expected_run_s
            run = (finished_s - started_s) / (1.0 if math.isnan(told) else told)
            spec = self._specs[self._row[placed.node]]
            self.estimator.observe(
                self.estimator.row(placed.request), self.estimator.column(spec.node_class), run, placed.slowdown
            )
        self.remove(uid)

    def queue(self, request: PodRequest) -> None:
        """A pod waits for a node."""
        if request.uid not in self._placed:
            self._queued[request.uid] = int(request.sla)

    def expire(self, now_s: float) -> int:
        """Give up assumed pods whose binding was never seen; returns how many."""
        gone = [uid for uid, placed in self._placed.items() if placed.expires_s <= now_s]
        for uid in gone:
            self.remove(uid)
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
        """Rows of the named nodes, in that order, unknown names left out."""
        found = [row for row in map(self._row.get, names) if row is not None]
        return np.array(found, np.int64)

    def _belief_row(self, pod: PodRequest) -> int:
        return self._lookup[1](pod) if self._lookup else self.estimator.row(pod)

    def _owner_key(self, pod: PodRequest) -> str:
        return f"{pod.namespace}/{pod.owner}"

    def _owner_id(self, pod: PodRequest) -> int:
        if not pod.owner:
            return -1
        if len(self._owner_ids) > _OWNERS_KEPT + 2 * len(self._owners):
            here = set(self._owners.tolist())
            self._owner_ids = {key: k for key, k in self._owner_ids.items() if k in here}
        self._last_owner += self._owner_key(pod) not in self._owner_ids
        return self._owner_ids.setdefault(self._owner_key(pod), self._last_owner)

    def _index(self, uid: str) -> int | None:
        placed = self._placed.get(uid)
        if placed is None:
            return None
        row = self._row[placed.node]
        return sum(map(len, self._uids[:row])) + bisect.bisect_left(self._uids[row], uid)

    def _started_s(self, uid: str) -> float:
        index = self._index(uid)
        return UNKNOWN_S if index is None else float(self._residents[index, Resident.STARTED_S])

    def _pressure(self, row: int) -> float:
        allocatable = self._specs[row].cpu_allocatable_milli
        on_node = self._residents[:, Resident.NODE] == row
        return float(self._residents[on_node, Resident.CPU_MILLI].sum() / allocatable) if allocatable > 0 else 0.0

    def _count_arch(self, request: PodRequest, node: str) -> None:
        key = (request.workload, self._specs[self._row[node]].arch)
        self._arch_starts[key] = self._arch_starts.get(key, 0) + 1

    def _statics(self) -> dict[str, Any]:
        """Columns that change only with the nodes themselves."""
        if self._static is None:
            specs = self._specs
            archs = tuple(dict.fromkeys(s.arch for s in specs))
            zones = {z: k for k, z in enumerate(dict.fromkeys(s.zone for s in specs))}
            n = len(specs)
            self._static = {
                "name": tuple(s.name for s in specs),
                "row": dict(self._row),
                "node_class": np.array([self.estimator.column(s.node_class) for s in specs], np.int64),
                "arch": np.array([archs.index(s.arch) for s in specs], np.int64),
                "archs": archs,
                "zone": np.array([zones[s.zone] for s in specs], np.int64),
                "labels": tuple(s.labels for s in specs),
                "soft_taints": tuple(
                    tuple(t for t in s.taints if t.get("effect") == "PreferNoSchedule") for s in specs
                ),
                "cpu_allocatable_milli": np.array([s.cpu_allocatable_milli for s in specs]),
                "memory_allocatable_bytes": np.array([s.memory_allocatable_bytes for s in specs]),
                "gpus_allocatable_milli": np.array([s.gpus_allocatable_milli for s in specs]),
                "price_usd_per_h": np.array([s.price_usd_per_h for s in specs]),
                "idle_w": np.array([s.idle_w for s in specs]),
                "peak_w": np.array([s.peak_w for s in specs]),
                # No source of metrics is connected yet; the columns then fall back to requests.
                "cpu_used_milli": np.full(n, np.nan),
                "memory_used_bytes": np.full(n, np.nan),
                "metrics_age_s": np.full(n, np.inf),
            }
        return self._static

    def _per_node(self, weights: Floats) -> Floats:
        nodes = self._residents[:, Resident.NODE].astype(np.int64)
        return np.bincount(nodes, weights, minlength=len(self._specs)).astype(float)

    def _sums_of_residents(self) -> dict[str, Floats]:
        """Columns that change only with the set of residents."""
        if self._sums is None:
            r, n = self._residents, len(self._specs)
            sla = r[:, Resident.SLA]
            rate = np.array([cost.delay_cents_per_s(self.rates, k) for k in range(3)])[sla.astype(np.int64)]
            cpu = self._per_node(r[:, Resident.CPU_MILLI])
            allocatable = np.array([s.cpu_allocatable_milli for s in self._specs])
            self._sums = {
                "cpu_requested_milli": cpu,
                "cpu_nonzero_milli": self._per_node(r[:, Resident.CPU_NONZERO_MILLI]),
                "memory_requested_bytes": self._per_node(r[:, Resident.MEMORY_BYTES]),
                "memory_nonzero_bytes": self._per_node(r[:, Resident.MEMORY_NONZERO_BYTES]),
                "gpus_requested_milli": self._per_node(r[:, Resident.GPUS_MILLI]),
                "pressure": np.zeros(n) if self._fifo else cpu / np.maximum(allocatable, 1.0),
                "resident_delay_cents_per_s": self._per_node(rate),
                "pods_by_sla": np.stack([self._per_node((sla == k).astype(float)) for k in range(3)], axis=1),
                "resident_offsets": np.concatenate([[0], np.cumsum([len(u) for u in self._uids])]).astype(np.int64),
            }
        return self._sums

    def _table(self, now_s: float, beliefs: Beliefs) -> NodeTable:
        statics, sums, r = self._statics(), self._sums_of_residents(), self._residents
        nodes = r[:, Resident.NODE].astype(np.int64)
        classes = statics["node_class"][nodes]
        workloads = r[:, Resident.BELIEF_ROW].astype(np.int64)
        scale, ends = r[:, Resident.SCALE], r[:, Resident.ENDS]
        elapsed_s = np.nan_to_num(now_s - r[:, Resident.STARTED_S], nan=0.0)
        left_s = np.maximum(
            beliefs.run_mean[workloads, classes] * scale - elapsed_s,
            _OVERDUE * beliefs.run_std[workloads, classes] * scale,
        )
        left_s = np.where(ends > 0, left_s, self.rates.service_horizon_s)
        allocatable = np.maximum(statics["cpu_allocatable_milli"], 1.0)
        work_s = self._per_node(left_s * ends * r[:, Resident.CPU_MILLI]) / allocatable
        longest_s = np.zeros(len(self._specs))
        np.maximum.at(longest_s, nodes, left_s)
        rate = np.array([cost.delay_cents_per_s(self.rates, k) for k in range(3)])[r[:, Resident.SLA].astype(np.int64)]
        exposure_s = self._per_node(left_s * rate) / np.maximum(sums["resident_delay_cents_per_s"], 1e-12)
        columns: dict[str, Any] = {**statics, **sums}
        return NodeTable(
            **columns,
            work_remaining_s=work_s,
            longest_remaining_s=longest_s,
            resident_exposure_s=exposure_s,
            start_wait_s=work_s if self._fifo else np.zeros(len(self._specs)),
            residents=r,
            resident_owner=self._owners,
        )


def tie_break(uid: str) -> int:
    """A number that differs from pod to pod and is the same everywhere for one pod."""
    return zlib.crc32(uid.encode())
