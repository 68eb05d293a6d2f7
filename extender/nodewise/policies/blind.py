"""Policies that look at nothing: the floor of every comparison."""

from __future__ import annotations

import numpy as np

from nodewise.core.raw import F
from nodewise.core.reply import tie_break
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.policies.rule import Rule


def _random(pod: PodRequest, _: ClusterView, rows: Rows) -> F:
    # The pod's uid is the only randomness a pure policy has; a fixed hash of (uid, row) is uniform enough.
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(tie_break(pod.uid))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(40)).astype(np.float64) / 2.0**24


def _round_robin(_: PodRequest, view: ClusterView, rows: Rows) -> F:
    n = len(view.nodes.name)
    return -((rows - view.sequence) % n)


RANDOM = Rule("random", "any candidate, by a hash of the pod's uid", _random)
ROUND_ROBIN = Rule("round-robin", "each node in turn", _round_robin)
