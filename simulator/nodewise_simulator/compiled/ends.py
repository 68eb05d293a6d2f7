"""Which node's next end comes first: a tournament of all nodes, of which one path is played again when a node changes.

Source: Knuth, The Art of Computer Programming 3, 5.4.1. Among ends at one instant the one that was foreseen first wins,
as in the reference engine's heap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit

FIRST = 1
"""Where the winner's row stands in the tournament."""


@inlined
def _sooner(node: Floats, node_i: Ints, a: int, b: int) -> Any:
    own_s, other_s = node[kn.NEXT_END, a], node[kn.NEXT_END, b]
    return b if other_s < own_s or (other_s == own_s and node_i[kn.FORESEEN, b] < node_i[kn.FORESEEN, a]) else a


@jit
def tournament(node: Floats, node_i: Ints) -> Any:
    """A tournament of all nodes; rows that lack to a power of two are the last one again."""
    n, size = node.shape[1], 1
    while size < n:
        size *= 2
    made = np.empty(2 * size, np.int64)
    for k in range(size):
        made[size + k] = min(k, n - 1)
    for k in range(size - 1, 0, -1):
        made[k] = _sooner(node, node_i, made[2 * k], made[2 * k + 1])
    if size == 1:
        made[FIRST] = 0
    return made


@inlined
def moved(tree: Ints, node: Floats, node_i: Ints, row: int) -> None:
    """The next end of a node is another."""
    k, best, best_s, foreseen = len(tree) // 2 + row, row, node[kn.NEXT_END, row], node_i[kn.FORESEEN, row]
    while k > 1:
        other = tree[k ^ 1]
        other_s, other_foreseen = node[kn.NEXT_END, other], node_i[kn.FORESEEN, other]
        sooner = (other_s < best_s) | ((other_s == best_s) & (other_foreseen < foreseen))
        best, best_s = (other if sooner else best), (other_s if sooner else best_s)
        foreseen = other_foreseen if sooner else foreseen
        k //= 2
        if tree[k] == best and best != row:
            return  # nothing above depends on what is new
        tree[k] = best
