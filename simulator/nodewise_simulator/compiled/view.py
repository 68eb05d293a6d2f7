"""What a policy is shown: as `nodewise.core.state`, `.table` and `.raw` give it, for one node at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.raw import Cluster, Node, Pair, Pod
from nodewise.core.table import OVERDUE
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit


@jit
def of_pod(pod_f: Floats, pod_i: Ints, settings: Floats, p: int, now_s: float) -> Any:
    """The pod that asks."""
    return Pod(
        pod_f[p, kn.CPU], pod_f[p, kn.CPU_NZ], pod_f[p, kn.MEM], pod_f[p, kn.MEM_NZ], pod_f[p, kn.GPU],
        1.0 if pod_i[p, kn.SLA] == 0 else 0.0, 1.0 if pod_i[p, kn.SLA] == 1 else 0.0,
        1.0 if pod_i[p, kn.SLA] == 2 else 0.0, 1.0 if pod_i[p, kn.ENDS] > 0 else 0.0,
        now_s - pod_f[p, kn.CREATED], pod_f[p, kn.DEADLINE] - now_s, pod_f[p, kn.EXPECTED], pod_f[p, kn.DELAY],
        pod_f[p, kn.LATE], settings[kn.CONTENTION], settings[kn.ENERGY], pod_f[p, kn.LOSS],
    )  # fmt: skip


@inlined
def of_node(
    pod_f: Floats, pod_i: Ints, node_f: Floats, node_class: Ints, settings: Floats, delay_rate: Floats, node: Floats,
    slot_i: Ints, count: Ints, pod: Floats, cells: Floats, p: int, row: int, now_s: float,
) -> Any:  # fmt: skip
    """A node, and how many pods of the asking one's owner are on it."""
    c, owner = node_class[row], pod_i[p, kn.OWNER]
    work, longest_s, exposed, of_owner = 0.0, 0.0, 0.0, 0.0
    for j in range(count[row]):
        r = slot_i[kn.RESIDENT, row, j]
        left_s = settings[kn.HORIZON]
        if pod_i[r, kn.ENDS] > 0:
            mean_s = cells[bl.MEAN, pod_i[r, kn.WORKLOAD], c] * pod_f[r, kn.SCALE]
            overdue_s = OVERDUE * cells[bl.STD, pod_i[r, kn.WORKLOAD], c] * pod_f[r, kn.SCALE]
            left_s = max(mean_s - (now_s - pod[r, kn.STARTED_S]), overdue_s)
            work += left_s * pod_f[r, kn.CPU]
        longest_s = max(longest_s, left_s)
        exposed += left_s * delay_rate[pod_i[r, kn.SLA]]
        of_owner += 1.0 if owner >= 0 and owner == pod_i[r, kn.OWNER] else 0.0
    there = Node(
        node_f[row, kn.CPU_ROOM], node[row, kn.SUMS], node[row, kn.SUMS + 1], np.nan,
        node_f[row, kn.MEM_ROOM], node[row, kn.SUMS + 2], node[row, kn.SUMS + 3], np.nan,
        node_f[row, kn.GPU_ROOM], node[row, kn.SUMS + 4],
        work / max(node_f[row, kn.CPU_ROOM], 1.0), longest_s, 0.0, node[row, kn.PRESSURE],
        node[row, kn.RATE], exposed / max(node[row, kn.RATE], 1e-12), np.inf,
        node_f[row, kn.PRICE], node_f[row, kn.IDLE], node_f[row, kn.PEAK],
        node[row, kn.BY_SLA], node[row, kn.BY_SLA + 1], node[row, kn.BY_SLA + 2],
    )  # fmt: skip
    return there, of_owner


@inlined
def of_pair(
    pod_f: Floats, pod_i: Ints, settings: Floats, cells: Floats, p: int, c: int, best_s: float, of_owner: float
) -> Any:
    """The pod on a node of class c."""
    if pod_i[p, kn.ENDS] == 0:
        return Pair(settings[kn.HORIZON], 0.0, best_s, cells[bl.COUNT, pod_i[p, kn.WORKLOAD], c], of_owner, 0.0)
    mean, std = cells[bl.MEAN, pod_i[p, kn.WORKLOAD], c], cells[bl.STD, pod_i[p, kn.WORKLOAD], c]
    scale = pod_f[p, kn.SCALE]
    return Pair(mean * scale, std * scale, best_s, cells[bl.COUNT, pod_i[p, kn.WORKLOAD], c], of_owner, 0.0)


@jit
def best_run_s(pod_f: Floats, pod_i: Ints, settings: Floats, cells: Floats, node_class: Ints, p: int) -> Any:
    """The pod's least believed run time over all nodes."""
    if pod_i[p, kn.ENDS] == 0:
        return settings[kn.HORIZON]
    least_s = np.inf
    for c in node_class:
        least_s = min(least_s, cells[bl.MEAN, pod_i[p, kn.WORKLOAD], c] * pod_f[p, kn.SCALE])
    return least_s


@jit
def of_cluster(node_f: Floats, node: Floats, queued: Floats) -> Any:
    """The whole cluster."""
    return Cluster(
        np.float64(len(node_f)), _total(node_f, kn.CPU_ROOM), _total(node, kn.SUMS), _total(node_f, kn.MEM_ROOM),
        _total(node, kn.SUMS + 2), _total(node_f, kn.GPU_ROOM), _total(node, kn.SUMS + 4),
        queued[0], queued[1], queued[2],
    )  # fmt: skip


@jit
def _total(table: Floats, column: int) -> Any:
    # Requests and room are whole numbers below 2^53, so that their sum is the same in any order.
    total = 0.0
    for row in range(len(table)):
        total += table[row, column]
    return total
