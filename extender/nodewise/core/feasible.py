"""Which nodes a pod may go to at all, as kube-scheduler's filters see it.

Source: plugins NodeUnschedulable, NodeAffinity, TaintToleration and NodeResourcesFit at 1.36. Inter-pod affinity and
topology spread, which other pods decide, volumes and ports are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.labels import matches_term, tolerates
from nodewise.core.pods import NodeSpec
from nodewise.core.types import NodeTable, PodRequest, Rows


def static_key(spec: Mapping[str, Any]) -> str:
    """Pods of one key pass and fail the same nodes in `static_filter`."""
    return repr((_required_terms(spec), spec.get("nodeSelector") or {}, spec.get("tolerations") or ()))


def static_filter(nodes: Sequence[NodeSpec], spec: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which nodes pass every filter but that for room: unschedulable, selector, required node affinity, taints [N]."""
    open_ = np.array([not n.unschedulable for n in nodes], bool)
    return np.asarray(open_ & chosen_by(nodes, spec) & tolerated_by(nodes, spec))


def chosen_by(nodes: Sequence[NodeSpec], spec: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which nodes the pod's node selector and required node affinity allow [N]."""
    terms, selector = _required_terms(spec), spec.get("nodeSelector") or {}
    return np.array(
        [
            all(n.labels.get(k) == v for k, v in selector.items())
            and (not terms or any(matches_term(n.labels, n.name, term) for term in terms))
            for n in nodes
        ],
        bool,
    )


def tolerated_by(nodes: Sequence[NodeSpec], spec: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Of which nodes the pod tolerates every taint that keeps pods away [N]."""
    tolerations = spec.get("tolerations") or ()
    return np.array(
        [all(tolerates(tolerations, t) for t in n.taints if t.get("effect") != "PreferNoSchedule") for n in nodes], bool
    )


def has_room(pod: PodRequest, nodes: NodeTable, rows: Rows) -> NDArray[np.bool_]:
    """On which of `rows` [M] the pod's requests fit beside all that is charged there, promised room included [M]."""
    return np.asarray(
        (nodes.cpu_requested_milli[rows] + pod.cpu_milli <= nodes.cpu_allocatable_milli[rows])
        & (nodes.memory_requested_bytes[rows] + pod.memory_bytes <= nodes.memory_allocatable_bytes[rows])
        & (nodes.gpus_requested_milli[rows] + pod.gpus_milli <= nodes.gpus_allocatable_milli[rows])
    )


def _required_terms(spec: Mapping[str, Any]) -> Sequence[Any]:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return required.get("nodeSelectorTerms") or ()
