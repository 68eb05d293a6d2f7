"""The last decisions, kept for `explain`, the agreement count and the journal."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from nodewise.core.types import Beliefs, ClusterView, Decision, PodRequest
from nodewise.kube.placement import Mode

_VIEW_BYTES_PER_NODE = 200  # some 25 columns of float64; those that only nodes change are shared


@dataclass(slots=True)
class Record:
    """One decision and what became of it."""

    decision: Decision
    view: ClusterView | None
    """What the decision was made on; None if it was made on nothing, or is too old to be kept."""
    names: tuple[str, ...]
    """Name of each row of the node table at that time."""
    time_s: float
    sequence: int = -1
    latency_us: float = 0.0
    bound: str = ""
    """The node that the pod was bound to; empty if that was not seen yet."""
    mode: Mode = Mode.ACTIVE
    """What became of the reply: only in `active` was it given."""
    placement_policy: str = ""
    """The PlacementPolicy that applied; empty if none did."""
    columns: tuple[str, ...] = ()
    """What the policy that was asked looks at, by name."""
    passed_over: tuple[str, ...] = ()
    """Candidates that were not considered, since their room is held for another pod, by name."""


class Records:
    """The last `most` records; the views of the newest only, up to `view_bytes` in all."""

    def __init__(self, most: int = 2000, view_bytes: int = 64 << 20) -> None:
        self._most, self._view_bytes = most, view_bytes
        self._ring: deque[Record] = deque()
        self._views: deque[tuple[Record, int]] = deque()  # with the bytes that each holds alone
        self._beliefs: Beliefs | None = None
        self._held_bytes = 0
        self._by_uid: dict[str, Record] = {}
        self._by_name: dict[tuple[str, str], Record] = {}

    def add(self, record: Record) -> None:
        """Keep a record; it is then the one of its pod."""
        pod = record.decision.pod
        self._ring.append(record)
        self._by_uid[pod.uid] = record
        self._by_name[pod.namespace, pod.name] = record
        if record.view is not None:
            size = self._size(record.view)
            self._views.append((record, size))
            self._held_bytes += size
        while self._held_bytes > self._view_bytes:
            self._drop_oldest_view()
        if len(self._ring) > self._most:
            self._forget(self._ring.popleft())

    def bound(self, pod: PodRequest, node: str) -> Record | None:
        """Note where a pod was bound; its record, if we were asked about it."""
        record = self._by_uid.get(pod.uid)
        if record is not None:
            record.bound = node
        return record

    def find(self, namespace: str, name: str) -> Record | None:
        """The newest record of a pod."""
        return self._by_name.get((namespace, name))

    def __len__(self) -> int:
        return len(self._ring)

    def _forget(self, record: Record) -> None:
        pod = record.decision.pod
        if self._by_uid.get(pod.uid) is record:
            del self._by_uid[pod.uid]
        if self._by_name.get((pod.namespace, pod.name)) is record:
            del self._by_name[pod.namespace, pod.name]
        if self._views and self._views[0][0] is record:
            self._drop_oldest_view()

    def _drop_oldest_view(self) -> None:
        record, size = self._views.popleft()
        self._held_bytes -= size
        record.view = None

    def _size(self, view: ClusterView) -> int:
        """Bytes that this view does not share with the one before it: new beliefs come with every finished pod."""
        nodes, beliefs = view.nodes, view.beliefs
        shared = beliefs is self._beliefs
        self._beliefs = beliefs
        learned = 0 if shared else beliefs.run_mean.nbytes + beliefs.run_std.nbytes + beliefs.observations.nbytes
        return learned + nodes.residents.nbytes + nodes.resident_owner.nbytes + _VIEW_BYTES_PER_NODE * len(nodes.name)
