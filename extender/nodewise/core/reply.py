"""What a decision says to kube-scheduler: integers from 0 to 10, each node at most once.

kube-scheduler adds score × weight × 10 to the in-tree scores (`pkg/scheduler/schedule_one.go`, prioritizeNodes); nodes
that are absent get 0. With weight 150 one point outvotes every in-tree plugin of our profile but for the four that
carry what a user wrote into the pod (node affinity, inter-pod affinity, taints, spread); those outvote all ten points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nodewise.core.labels import matches_term, tolerates
from nodewise.core.state import tie_break
from nodewise.core.types import ClusterView, NodeTable, PodRequest, Rows, Scores

TOP = 10
"""MaxExtenderPriority of `k8s.io/kube-scheduler/extender/v1`."""

Reply = tuple[tuple[str, int], ...]


def best(pod: PodRequest, scores: Scores) -> int:
    """Index of the winner; among equals, one that depends on the pod only.

    One winner, not all of them: the ledger of assumed pods must know which node the next pod finds occupied before any
    watch tells, and in-tree tie-breaking would pick one without telling us.
    """
    top = np.flatnonzero(scores == scores.max())
    return int(top[tie_break(pod.uid) % len(top)])


def winner_only(name: str) -> Reply:
    """The smallest reply: the best node alone."""
    return ((name, TOP),)


def prefers(pod: PodRequest, nodes: NodeTable, rows: Rows) -> bool:
    """Whether some candidates are preferred for this pod by anything that its author, or the node's, wrote."""
    if pod.preferred_node_terms or pod.prefers_by_pods:
        return True
    if not any(nodes.soft_taints):
        return False
    return any(_untolerated(pod, nodes.soft_taints[row]) for row in rows)


def ranked(pod: PodRequest, view: ClusterView, rows: Rows, scores: Scores) -> Reply:
    """A ranking within each group of equally preferred candidates: the best of a group 10, the others below by rank.

    Which group wins is the scheduler's business; whichever it is, our best of it is on top. Nodes that a preference
    cannot tell apart share a group: the same terms match, the same soft taints repel, the same zone, and as many pods
    of the same owner.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    same_owner = _owner_pods(view)
    for index, row in enumerate(rows):
        labels, name = view.nodes.labels[row], view.nodes.name[row]
        key: tuple[Any, ...] = (
            tuple(matches_term(labels, name, term) for term in pod.preferred_node_terms),
            _untolerated(pod, view.nodes.soft_taints[row]),
        )
        if pod.prefers_by_pods:
            key += (int(view.nodes.zone[row]), same_owner.get(int(row), 0))
        groups.setdefault(key, []).append(index)
    points: dict[int, int] = {}
    for members in groups.values():
        own = scores[members]
        first = best(pod, own)
        order = [first, *(k for k in np.argsort(-own, kind="stable") if k != first)]
        for rank, k in enumerate(order):
            points[members[k]] = TOP if rank == 0 else (TOP - 1) * (len(order) - rank) // len(order)
    return tuple((view.nodes.name[rows[i]], points[i]) for i in sorted(points) if points[i] > 0)


def _owner_pods(view: ClusterView) -> Mapping[int, int]:
    if view.owner_id < 0:
        return {}
    rows = view.nodes.residents[view.nodes.resident_owner == view.owner_id, 0]
    found, counts = np.unique(rows, return_counts=True)
    return {int(row): int(count) for row, count in zip(found, counts, strict=True)}


def _untolerated(pod: PodRequest, taints: tuple[Mapping[str, Any], ...]) -> int:
    return sum(not tolerates(pod.tolerations, taint) for taint in taints)
