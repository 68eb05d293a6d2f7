"""What a decision says to kube-scheduler: integers from 0 to 10, each node at most once.

kube-scheduler adds score × weight × 10 to the in-tree scores (`pkg/scheduler/schedule_one.go`, prioritizeNodes); nodes
that are absent get 0. With weight 150 one point outvotes every in-tree plugin of our profile but for the four that
carry what a user wrote into the pod (node affinity, inter-pod affinity, taints, spread): one point of theirs, at
weight 16,000, outvotes all ten of ours, 15,000.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from nodewise.core.labels import matches_term, tolerates
from nodewise.core.types import ClusterView, NodeTable, PodRequest, Rows, Scores

TOP = 10
"""MaxExtenderPriority of `k8s.io/kube-scheduler/extender/v1`."""

Reply = tuple[tuple[str, int], ...]


def best(pod: PodRequest, nodes: NodeTable, rows: Rows, scores: Scores) -> int:
    """Index of the winner among `rows`; among equals, one that depends on the names of pod and nodes only.

    One winner, not all of them: the ledger of assumed pods must know which node the next pod finds occupied before any
    watch tells, and in-tree tie-breaking would pick one without telling us.
    """
    top = np.flatnonzero(scores == scores.max())
    if len(top) == 1:
        return int(top[0])
    return int(min(top, key=lambda k: (tie_break(pod.uid + nodes.name[rows[k]]), nodes.name[rows[k]])))


def winner_only(name: str) -> Reply:
    """The smallest reply: the best node alone."""
    return ((name, TOP),)


def prefers(pod: PodRequest, nodes: NodeTable, rows: Rows) -> bool:
    """Whether some candidates are preferred for this pod by anything that its author, or the node's, wrote."""
    if pod.preferred_node_terms or pod.preferred_topologies:
        return True
    if not any(nodes.soft_taints):
        return False
    return any(_untolerated(pod, nodes.soft_taints[row]) for row in rows)


def ranked(pod: PodRequest, view: ClusterView, rows: Rows, scores: Scores) -> Reply:
    """A ranking within each group of equally preferred candidates: the best of a group 10, the others below by rank.

    Which group wins is the scheduler's business; whichever it is, our best of it is on top. Nodes that a preference
    cannot tell apart share a group: the same terms match, the same soft taints repel, and as many pods of the same
    owner stand in each topology domain that is asked about (the usual selector is the owner's own; where it is not,
    the ranks still carry our opinion).
    """
    domains = [_owner_pods_by_domain(view, key) for key in pod.preferred_topologies]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        labels, name = view.nodes.labels[row], view.nodes.name[row]
        group = (
            *(matches_term(labels, name, term) for term in pod.preferred_node_terms),
            _untolerated(pod, view.nodes.soft_taints[row]),
            *(counts[labels.get(key)] for key, counts in zip(pod.preferred_topologies, domains, strict=True)),
        )
        groups.setdefault(group, []).append(index)
    points: dict[int, int] = {}
    for members in groups.values():
        own = scores[members]
        first = best(pod, view.nodes, rows[members], own)
        order = [first, *(k for k in np.argsort(-own, kind="stable") if k != first)]
        for rank, k in enumerate(order):
            points[members[k]] = TOP if rank == 0 else (TOP - 1) * (len(order) - rank) // len(order)
    return tuple((view.nodes.name[rows[i]], points[i]) for i in sorted(points) if points[i] > 0)


def _owner_pods_by_domain(view: ClusterView, key: str) -> Counter[str | None]:
    """Pods of the pod's owner by value of the node label `key`."""
    here = view.nodes.residents[view.nodes.resident_owner == view.owner_id, 0] if view.owner_id >= 0 else ()
    return Counter(view.nodes.labels[int(row)].get(key) for row in here)


def _untolerated(pod: PodRequest, taints: tuple[Mapping[str, Any], ...]) -> int:
    return sum(not tolerates(pod.tolerations, taint) for taint in taints)


def tie_break(uid: str) -> int:
    """A number that differs from pod to pod and is the same everywhere for one pod."""
    # A checksum is linear: those of two names differ by the same bits for every uid, so their order would be lopsided.
    return zlib.crc32(uid.encode()) * 0x9E3779B1 & 0xFFFFFFFF
