"""What a policy is shown: as `nodewise.core.state`, `.table` and `.raw` give it, for one node at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.raw import Node, Pair, Pod
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit


@inlined
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
def of_node(node: Floats, row: int) -> Any:
    """A node, by the first rows of `State.node`."""
    return Node(
        node[0, row], node[1, row], node[2, row], node[3, row], node[4, row], node[5, row], node[6, row], node[7, row],
        node[8, row], node[9, row], node[10, row], node[11, row], node[12, row], node[13, row], node[14, row],
        node[15, row], node[16, row], node[17, row], node[18, row], node[19, row], node[20, row], node[21, row],
        node[22, row],
    )  # fmt: skip


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


@inlined
def best_run_s(pod_f: Floats, pod_i: Ints, settings: Floats, cells: Floats, present: Any, p: int) -> Any:
    """The pod's least believed run time over all nodes, whose classes are `present`."""
    if pod_i[p, kn.ENDS] == 0:
        return settings[kn.HORIZON]
    least_s = np.inf
    for c in range(len(present)):
        if present[c]:
            least_s = min(least_s, cells[bl.MEAN, pod_i[p, kn.WORKLOAD], c] * pod_f[p, kn.SCALE])
    return least_s


@jit
def of_classes(
    pod_f: Floats, pod_i: Ints, settings: Floats, cells: Floats, present: Any, p: int, out: Floats
) -> Any:  # fmt: skip
    """As `of_pair`, of all classes: mean, standard deviation and observations into `out` [3, C]; the least mean."""
    w, scale, least_s = pod_i[p, kn.WORKLOAD], pod_f[p, kn.SCALE], np.inf
    for c in range(len(present)):
        out[2, c] = cells[bl.COUNT, w, c]
        if pod_i[p, kn.ENDS] == 0:
            out[0, c], out[1, c] = settings[kn.HORIZON], 0.0
        else:
            out[0, c], out[1, c] = cells[bl.MEAN, w, c] * scale, cells[bl.STD, w, c] * scale
        if present[c]:
            least_s = min(least_s, out[0, c])
    return least_s
