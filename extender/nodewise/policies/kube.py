"""The in-tree node resource scores of kube-scheduler as policies."""

from __future__ import annotations

import numpy as np

from nodewise.core.types import ClusterView, Floats, PodRequest, Rows
from nodewise.policies.rule import Rule

_MAX_NODE_SCORE = 100.0


def least_allocated(pod: PodRequest, view: ClusterView, rows: Rows) -> Floats:
    """Free share of CPU and memory after placing, 0..100 [M].

    Source: `pkg/scheduler/framework/plugins/noderesources/least_allocated.go` at 1.36 (integer division kept).
    """
    parts = [
        np.where((wanted <= room) & (room > 0), (room - wanted) * _MAX_NODE_SCORE // np.maximum(room, 1.0), 0.0)
        for wanted, room in _cpu_and_memory(pod, view, rows, nonzero=True)
    ]
    return np.floor((parts[0] + parts[1]) / 2.0)


def most_allocated(pod: PodRequest, view: ClusterView, rows: Rows) -> Floats:
    """Used share of CPU and memory after placing, 0..100 [M].

    Source: `noderesources/most_allocated.go`: a request above the room counts as a full node.
    """
    parts = [
        np.where(room > 0, np.minimum(wanted, room) * _MAX_NODE_SCORE // np.maximum(room, 1.0), 0.0)
        for wanted, room in _cpu_and_memory(pod, view, rows, nonzero=True)
    ]
    return np.floor((parts[0] + parts[1]) / 2.0)


def balanced_allocation(pod: PodRequest, view: ClusterView, rows: Rows) -> Floats:
    """How much placing the pod evens out the use of CPU and memory, 50..100 [M].

    Source: `noderesources/balanced_allocation.go` at 1.36: 50 + (50 + evenness with the pod - evenness without) / 2,
    where evenness is 100 × (1 - standard deviation of the shares), all in whole numbers. A pod without any request is
    not scored (0).
    """
    if pod.cpu_milli == 0 and pod.memory_bytes == 0:
        return np.zeros(len(rows))
    with_pod = _cpu_and_memory(pod, view, rows, nonzero=False)
    without = [
        (wanted - own, room) for (wanted, room), own in zip(with_pod, (pod.cpu_milli, pod.memory_bytes), strict=True)
    ]
    half = _MAX_NODE_SCORE / 2.0
    return np.asarray(half + (half + _evenness(with_pod) - _evenness(without)) // 2.0)


def _evenness(pairs: list[tuple[Floats, Floats]]) -> Floats:
    shares = [np.where(room > 0, np.minimum(wanted / np.maximum(room, 1.0), 1.0), 0.0) for wanted, room in pairs]
    deviation = np.abs(shares[0] - shares[1]) / 2.0  # of two values
    return np.asarray(np.floor((1.0 - deviation) * _MAX_NODE_SCORE))


def _cpu_and_memory(pod: PodRequest, view: ClusterView, rows: Rows, *, nonzero: bool) -> list[tuple[Floats, Floats]]:
    """(requested with the pod, allocatable) of CPU and of memory."""
    t = view.nodes
    if nonzero:
        cpu = t.cpu_nonzero_milli[rows] + pod.cpu_nonzero_milli
        memory = t.memory_nonzero_bytes[rows] + pod.memory_nonzero_bytes
    else:
        cpu = t.cpu_requested_milli[rows] + pod.cpu_milli
        memory = t.memory_requested_bytes[rows] + pod.memory_bytes
    return [(cpu, t.cpu_allocatable_milli[rows]), (memory, t.memory_allocatable_bytes[rows])]


def in_tree(pod: PodRequest, view: ClusterView, rows: Rows) -> Floats:
    """Sum of the two resource scores of the default profile (weight 1 each), 0..200 [M]."""
    return least_allocated(pod, view, rows) + balanced_allocation(pod, view, rows)


KUBE_DEFAULT = Rule(
    "kube-default", "least-allocated plus balanced-allocation, as the stock kube-scheduler scores", in_tree
)
MOST_ALLOCATED = Rule(
    "most-allocated", "fills the fullest node first (kube-scheduler's MostAllocated strategy)", most_allocated
)
