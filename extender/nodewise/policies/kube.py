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
    """How even CPU and memory are used after placing, 50..100 in steps of what placing the pod changes [M].

    Source: `noderesources/balanced_allocation.go` at 1.36: with two resources the standard deviation of the shares is
    half their distance; the score is 50 + 50 × (change of 1 − that deviation)... before 1.34 it was 100 × (1 − it).
    """
    after = _balance(_cpu_and_memory(pod, view, rows, nonzero=False))
    return np.floor((1.0 - after) * _MAX_NODE_SCORE)


def _balance(pairs: list[tuple[Floats, Floats]]) -> Floats:
    shares = [np.where(room > 0, np.minimum(wanted / np.maximum(room, 1.0), 1.0), 0.0) for wanted, room in pairs]
    return np.abs(shares[0] - shares[1]) / 2.0


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


def _default(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    return in_tree(pod, view, rows)


def _most(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    return most_allocated(pod, view, rows)


KUBE_DEFAULT = Rule(
    "kube-default", "least-allocated plus balanced-allocation, as the stock kube-scheduler scores", _default
)
MOST_ALLOCATED = Rule("most-allocated", "fills the fullest node first (kube-scheduler's MostAllocated strategy)", _most)
