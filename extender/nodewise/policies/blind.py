"""Policies that look at nothing: the floor of every comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.raw import F
from nodewise.policies.rule import Rule

_STEPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_ONE, _SHIFTS, _KEPT = np.uint64(1), (np.uint64(30), np.uint64(27)), np.uint64(40)


def _random(row: Any, nodes: int, sequence: int, tie: int) -> F:  # noqa: ARG001  one signature for all
    # The pod's uid is the only randomness a pure policy has; a fixed hash of (uid, row) is uniform enough.
    mixed = (np.uint64(row) + _ONE) * _STEPS[0] ^ np.uint64(tie)
    mixed = (mixed ^ (mixed >> _SHIFTS[0])) * _STEPS[1]
    mixed = (mixed ^ (mixed >> _SHIFTS[1])) * _STEPS[2]
    return (mixed >> _KEPT) / 2.0**24


def _round_robin(row: Any, nodes: int, sequence: int, tie: int) -> F:  # noqa: ARG001
    return -((row - sequence) % nodes)


RANDOM = Rule("random", "any candidate, by a hash of the pod's uid", _random, takes="place")
ROUND_ROBIN = Rule("round-robin", "each node in turn", _round_robin, takes="place")
