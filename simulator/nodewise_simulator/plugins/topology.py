"""Nodes in domains: those that have one value of a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nodewise.core.pods import NodeSpec

Ints = NDArray[np.int64]


class Topology:
    """The domains of every topology key that is asked for."""

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self._nodes = nodes
        self._codes: dict[str, Ints] = {}

    def codes(self, key: str) -> Ints:
        """Number of each node's domain [N]; -1 for nodes without the label."""
        found = self._codes.get(key)
        if found is None:
            values = [n.labels.get(key) for n in self._nodes]
            number = {value: k for k, value in enumerate(dict.fromkeys(v for v in values if v is not None))}
            found = self._codes[key] = np.array([-1 if v is None else number[v] for v in values], np.int64)
        return found


def in_domain(codes: Ints, counts: Ints) -> Ints:
    """Sum of `counts` [N] over each node's domain [N]; 0 where the node is in none."""
    there = codes >= 0
    sums = np.bincount(codes[there], counts[there], minlength=1)
    return np.where(there, sums[codes], 0).astype(np.int64)
