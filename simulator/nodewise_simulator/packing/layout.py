"""Names of the indices and choices that the kernels know, and what they write notes into; without numba."""

from __future__ import annotations

from typing import Any

import numpy as np

# Problem.nodes: what is left, then what never changes, then milli left of each GPU
CPU, MEMORY, KINDS, CPU_ROOM, MEMORY_ROOM, GPUS, MODEL, SOCKETS, GPU = range(9)
NODE_WIDTH = GPU + 8
# Problem.shapes
S_CPU, S_MILLI, S_GPUS, S_ALLOWED = range(4)
SHAPE_WIDTH = 4

RANDOM, DOT_PROD, CLUSTERING, PACKING, BEST_FIT, LEAST, FGD = range(7)
"""How nodes are scored."""
BY_NAME, AT_RANDOM, BY_BEST_FIT = range(3)
"""Who of those with the best score is taken."""
TIGHTEST, ANY, OWN = range(3)
"""Which GPU of the node a shared one is: the fullest that has room, any, the one that the score was best for."""

MOST_CPU_MILLI, MOST_GPU_MILLI = 128000, 8000
"""What BestFit, DotProd and Clustering divide by, whatever the node."""
INFEASIBLE, MOST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
SOCKET_IDLE_W, SOCKET_FULL_W, SOCKET_CORES = 15.0, 120.0, 16.0
"""Xeon E5-2682 v4, which PWR assumes in all nodes; 2 virtual CPUs a core."""


def room_to_work(nodes: int, shapes: int, arrivals: int) -> tuple[Any, ...]:
    """What `pack` writes notes into; made here, for arrays that kernels make are slow to compile."""
    return (
        np.full((shapes, nodes), INFEASIBLE),  # score of a shape on a node
        np.zeros((shapes, nodes), np.int64),  # its GPU there
        np.zeros((shapes, nodes), np.int64),  # watts saved there
        np.full(shapes, -1),  # placements that a shape has looked at, -1: none, not even the empty nodes
        np.empty(arrivals, np.int64),  # node of each placement
        np.full(nodes, -1),  # arrival at which a node was looked at last
        np.empty(NODE_WIDTH, np.int64),  # a node as it would be
        np.empty(nodes),  # fragmentation
        np.empty(nodes),  # watts
    )
