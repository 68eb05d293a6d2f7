"""The in-tree node resource scores of kube-scheduler as policies."""

from __future__ import annotations

import numpy as np

from nodewise.core.raw import F, Node, Pair, Pod, raw
from nodewise.core.registry import select
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows
from nodewise.policies.rule import Rule

_MAX_NODE_SCORE = 100.0


def least_allocated(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001  one signature for all
    """Free share of CPU and memory after placing, 0..100.

    Source: `pkg/scheduler/framework/plugins/noderesources/least_allocated.go` at 1.36. Its integer division is
    kept: of whole numbers below 90e12, the rounded quotient has the same whole part.
    """
    cpu = _free(node.cpu_nonzero_milli + pod.cpu_nonzero_milli, node.cpu_allocatable_milli)
    memory = _free(node.memory_nonzero_bytes + pod.memory_nonzero_bytes, node.memory_allocatable_bytes)
    return np.floor((cpu + memory) / 2.0)


def _free(wanted: F, room: F) -> F:
    score = np.floor((room - wanted) * _MAX_NODE_SCORE / np.maximum(room, 1.0))
    return select((wanted <= room) & (room > 0.0), score, 0.0)


def most_allocated(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Used share of CPU and memory after placing, 0..100.

    Source: `noderesources/most_allocated.go`: a request above the room counts as a full node.
    """
    cpu = _used(node.cpu_nonzero_milli + pod.cpu_nonzero_milli, node.cpu_allocatable_milli)
    memory = _used(node.memory_nonzero_bytes + pod.memory_nonzero_bytes, node.memory_allocatable_bytes)
    return np.floor((cpu + memory) / 2.0)


def _used(wanted: F, room: F) -> F:
    return select(room > 0.0, np.floor(np.minimum(wanted, room) * _MAX_NODE_SCORE / np.maximum(room, 1.0)), 0.0)


def balanced_allocation(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """How much placing the pod evens out the use of CPU and memory, 50..100.

    Source: `noderesources/balanced_allocation.go` at 1.36: 50 + (50 + evenness with the pod - evenness without) / 2,
    where evenness is 100 × (1 - standard deviation of the shares), all in whole numbers. A pod without any request is
    not scored (0).
    """
    cpu, memory = node.cpu_requested_milli + pod.cpu_milli, node.memory_requested_bytes + pod.memory_bytes
    with_pod = _evenness(cpu, node.cpu_allocatable_milli, memory, node.memory_allocatable_bytes)
    without = _evenness(
        cpu - pod.cpu_milli, node.cpu_allocatable_milli, memory - pod.memory_bytes, node.memory_allocatable_bytes
    )
    half = _MAX_NODE_SCORE / 2.0
    asks = (pod.cpu_milli != 0.0) | (pod.memory_bytes != 0.0)
    return select(asks, half + np.floor((half + with_pod - without) / 2.0), 0.0)


def _evenness(cpu: F, cpu_room: F, memory: F, memory_room: F) -> F:
    deviation = np.abs(_share(cpu, cpu_room) - _share(memory, memory_room)) / 2.0  # of two values
    return np.floor((1.0 - deviation) * _MAX_NODE_SCORE)


def _share(wanted: F, room: F) -> F:
    return select(room > 0.0, np.minimum(wanted / np.maximum(room, 1.0), 1.0), 0.0)


def default_scores(node: Node, pod: Pod, pair: Pair) -> F:
    """Sum of the two resource scores of the default profile (weight 1 each), 0..200."""
    return least_allocated(node, pod, pair) + balanced_allocation(node, pod, pair)


def in_tree(pod: PodRequest, view: ClusterView, rows: Rows) -> Floats:
    """`default_scores` of each candidate row [M]."""
    values = raw(pod, view, rows)
    return np.asarray(default_scores(values.node, values.pod, values.pair))


KUBE_DEFAULT = Rule(
    "kube-default", "least-allocated plus balanced-allocation, as the stock kube-scheduler scores", default_scores,
    takes="pair",
)  # fmt: skip
MOST_ALLOCATED = Rule(
    "most-allocated", "fills the fullest node first (kube-scheduler's MostAllocated strategy)", most_allocated,
    takes="pair",
)  # fmt: skip
