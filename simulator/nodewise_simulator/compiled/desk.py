"""What the loop keeps at hand while it plays: made from the state when play begins, kept up with it, then thrown away.

Nothing here is not in `run.State` too, or follows from it: what a decision asks for lies here side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodewise.core.raw import Cluster
from nodewise.core.table import OVERDUE
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import ends
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit

Bools = NDArray[np.bool_]


class Desk(NamedTuple):
    """Arrays of one play; `kernels` names the indices."""

    resident: Floats  # [N, CAP, 8] of each resident, in order of uid
    tree: Ints  # see `ends`
    totals: Floats  # [6] CPU, memory and GPUs of the cluster: allocatable, then requested
    in_row: Bools  # [W] observed since the tables of beliefs were made
    in_column: Bools  # [C]
    present: Bools  # [C] whether a node is of this class
    ended: Ints  # [CAP] pods that just ended
    freed: Ints  # [N] nodes where a pod just ended
    # What `nodes` keeps for itself. Of residents, in order of uid: its rank, and cents that a second of delay costs
    rank: Ints  # [N, CAP]
    rate: Floats  # [N, CAP]
    needs_s: Floats  # [CAP] scratch
    soonest: Ints  # [N] which pod of a node ends next
    changed: Ints  # [N + 2] nodes that changed since somebody looked; last, how many


@jit
def laid(
    pod_f: Floats, pod_i: Ints, node: Floats, node_i: Ints, slot_i: Ints, pod: Floats, workloads: int, classes: int,
    looked_at: bool = True,
) -> Any:  # fmt: skip
    """The desk that belongs to a state; without `looked_at` nobody will look at residents."""
    n, cap = node.shape[1], slot_i.shape[2]
    resident, rank, rate = np.empty((n, cap, 8)), np.empty((n, cap), np.int64), np.empty((n, cap))
    present = np.zeros(classes, np.bool_)
    for row in range(n):
        present[node_i[kn.CLASS, row]] = True
        for j in range(node_i[kn.COUNT, row]):
            p = slot_i[kn.RESIDENT, row, j]
            rank[row, j], rate[row, j] = pod_i[p, kn.RANK], pod_f[p, kn.DELAY]
            if looked_at:
                put(pod_f, pod_i, pod, resident, p, row, j)
    changed = np.arange(n + 2)
    changed[-1] = n
    node_i[kn.CHANGED] = 1
    totals = np.zeros(6)
    for k, (has, asked) in enumerate(
        ((kn.CPU_HAS, kn.CPU_ASKED), (kn.MEM_HAS, kn.MEM_ASKED), (kn.GPU_HAS, kn.GPU_ASKED))
    ):
        for row in range(n):
            totals[k] += node[has, row]
            totals[3 + k] += node[asked, row]
    return Desk(
        resident, ends.tournament(node, node_i), totals, np.zeros(workloads, np.bool_), np.zeros(classes, np.bool_),
        present, np.empty(cap, np.int64), np.empty(n, np.int64), rank, rate, np.empty(cap), np.zeros(n, np.int64),
        changed,
    )  # fmt: skip


@inlined
def put(pod_f: Floats, pod_i: Ints, pod: Floats, resident: Floats, p: int, row: int, at: int) -> None:
    """A pod becomes the resident at this place of a node."""
    resident[row, at, kn.CELL_ROW] = pod_i[p, kn.WORKLOAD]
    resident[row, at, kn.OF_SCALE] = pod_f[p, kn.SCALE]
    resident[row, at, kn.SINCE_S] = pod[p, kn.STARTED_S]
    resident[row, at, kn.OF_CPU] = pod_f[p, kn.CPU]
    resident[row, at, kn.OF_RATE] = pod_f[p, kn.DELAY]
    resident[row, at, kn.OF_END] = pod_i[p, kn.ENDS]
    resident[row, at, kn.OF_OWNER] = pod_i[p, kn.OWNER]
    resident[row, at, kn.POD] = p


@inlined
def of_cluster(n: int, totals: Floats, queued: Floats) -> Any:
    """The whole cluster, as a column is shown it."""
    return Cluster(
        np.float64(n), totals[0], totals[3], totals[1], totals[4], totals[2], totals[5], queued[0], queued[1], queued[2]
    )


@inlined
def tell_time(
    settings: Floats, node: Floats, resident: Floats, cells: Floats, residents: int, c: int, row: int, now_s: float
) -> None:
    """Write what of a node changes with the clock and with beliefs: the time its residents are believed to need."""
    work, longest_s, exposed = 0.0, 0.0, 0.0
    for j in range(residents):
        left_s = settings[kn.HORIZON]
        if resident[row, j, kn.OF_END] > 0.0:
            w, scale = np.int64(resident[row, j, kn.CELL_ROW]), resident[row, j, kn.OF_SCALE]
            mean_s = cells[bl.MEAN, w, c] * scale
            overdue_s = OVERDUE * cells[bl.STD, w, c] * scale
            left_s = max(mean_s - (now_s - resident[row, j, kn.SINCE_S]), overdue_s)
            work += left_s * resident[row, j, kn.OF_CPU]
        longest_s = max(longest_s, left_s)
        exposed += left_s * resident[row, j, kn.OF_RATE]
    node[kn.WORK, row] = work / max(node[kn.CPU_HAS, row], 1.0)
    node[kn.LONGEST, row] = longest_s
    node[kn.EXPOSURE, row] = exposed / max(node[kn.RATE, row], 1e-12)


@inlined
def of_owner(resident: Floats, residents: int, owner: int, row: int) -> Any:
    """How many pods of this owner (-1: of none) are on a node."""
    found = 0.0
    if owner >= 0:
        for j in range(residents):
            found += 1.0 if resident[row, j, kn.OF_OWNER] == owner else 0.0
    return found
