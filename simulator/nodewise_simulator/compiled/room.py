"""Room on a node: taken, given back, enough of it, and the share of the node that a pod takes."""

from __future__ import annotations

from typing import Any

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.fuse import jit


@jit
def take_room(pod_f: Floats, node: Floats, row: int, p: int, sign: float) -> None:
    """Take (-1) or give back (1) the pod's room."""
    node[kn.FREE, row] += sign * pod_f[p, kn.CPU]
    node[kn.FREE + 1, row] += sign * pod_f[p, kn.MEM]
    node[kn.FREE + 2, row] += sign * pod_f[p, kn.GPU]
    node[kn.FREE + 3, row] += sign


@jit
def fits(pod_f: Floats, node: Floats, row: int, p: int) -> Any:
    """Whether the pod's requests fit; what is not asked for is not looked at."""
    cpu, mem, gpu = pod_f[p, kn.CPU], pod_f[p, kn.MEM], pod_f[p, kn.GPU]
    return (
        (node[kn.FREE, row] >= cpu or cpu == 0.0)
        and (node[kn.FREE + 1, row] >= mem or mem == 0.0)
        and (node[kn.FREE + 2, row] >= gpu or gpu == 0.0)
        and node[kn.FREE + 3, row] >= 1.0
    )


@jit
def share_of(pod_f: Floats, node_f: Floats, p: int, row: int) -> Any:
    """The largest share of the node's CPU, memory or GPUs that the pod takes."""
    share = max(
        pod_f[p, kn.CPU] / max(node_f[row, kn.CPU_ROOM], 1.0), pod_f[p, kn.MEM] / max(node_f[row, kn.MEM_ROOM], 1.0)
    )
    return min(max(share, pod_f[p, kn.GPU] / max(node_f[row, kn.GPU_ROOM], 1.0)), 1.0)
