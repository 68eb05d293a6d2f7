"""What a world may have besides nodes and pods: changes of nodes, drift, a network, an autoscaler. All off by default.

Where a number comes from stands in `README.md` of `engine/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

AT_ONCE, BACK_OFF = "at-once", "back-off"
"""How a woken pod is tried again; see `Queueing.retry`."""
CREATED, TRIED = "created", "tried"


@dataclass(frozen=True, slots=True)
class Queueing:
    """kube-scheduler's queues of pending pods."""

    retry: str = AT_ONCE
    """`at-once`: a woken pod is tried as soon as no other waits to be tried (1.33 and later, which take pods out of
    back-off while idle). `back-off`: never before its back-off is over (before 1.33, or a queue that is never idle)."""
    initial_backoff_s: float = 1.0
    max_backoff_s: float = 10.0
    """Back-off doubles with each failed attempt, from the first to the second."""
    flush_s: float = 300.0
    """A pod that nothing woke for this long is tried again; kube-scheduler looks every 30 s."""
    age: str = CREATED
    """What pods of one priority go by: when they were `created`, or, as kube-scheduler does, last `tried`."""


class Change(StrEnum):
    """What happens to a node."""

    ADD = "add"
    """A machine joins, empty and without images."""
    REMOVE = "remove"
    """The machine and its Node object are gone; so are the pods."""
    FAIL = "fail"
    """The machine stops; the control plane finds out later (`Lifecycle`)."""
    RESTORE = "restore"
    """A machine that failed is back; what ran there is lost."""
    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"
    """Cordon, then evict every pod as budgets allow."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """One event. A node whose first change is ADD is not there before it."""

    at_s: float
    change: Change
    node: str


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What the control plane does about lost nodes and lost pods."""

    detect_s: float = 50.0
    """From a machine's failure until its node is tainted unreachable and gets no more pods."""
    evict_s: float = 300.0
    """From the taint until the pods there are deleted."""
    grace_s: float = 30.0
    """An evicted pod holds its room for this long; its work ends at once."""
    backoff_s: float = 10.0
    max_backoff_s: float = 360.0
    """The owner makes a new pod after a back-off that doubles with each of the pods that it lost."""
    drain_retry_s: float = 5.0
    """A drain that a budget refused asks again after this."""


@dataclass(frozen=True, slots=True)
class Drift:
    """From `at_s` on, pods that start take `factor` times as long: those of a workload on a node class."""

    at_s: float
    factor: float
    workload: str = ""
    """Empty: all."""
    node_class: str = ""
    """Empty: all."""


@dataclass(frozen=True, slots=True)
class Network:
    """How long a dependent pod waits for the output of a parent that ran on another node."""

    latency_s: float = 0.0
    zone_latency_s: float = 0.0
    """Between zones, instead of `latency_s`."""
    bytes_per_s: float = float("inf")
    zone_bytes_per_s: float = float("inf")
    """Between zones, instead of `bytes_per_s`."""


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """Cluster Autoscaler over one pool: the nodes of the world named here, absent until it launches them."""

    pool: tuple[str, ...]
    """In the order in which they are launched."""
    scan_s: float = 10.0
    boot_s: float = 90.0
    """From the launch, when a machine begins to cost, until it joins."""
    unneeded_s: float = 600.0
    """A node of the pool that ran nothing for this long is removed."""
    after_add_s: float = 600.0
    """Nothing is removed for this long after a node joined."""
