"""`S0q`: four servers of unlike speed with a queue each; a task is sent to one of them when it arrives.

The constants are those of a published DQN load balancer (repository Sreevishnu07/Advanced-ML-Based-Load-Balancing, its
"realistic_sla" data as reconstructed from its printed rows), made into a real queue: there, waiting times were columns
of a table and no decision changed the next state.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.world import SimPod, World, node_manifest, pod_manifest, quantised, sim_pod, world

_SPEEDS = (1.8, 2.4, 3.1, 3.3)
_SIZE = (2.3, 17.1)
_DEADLINE_S = (1.75, 7.25)


def s0q(seed: int, rho: float = 0.8, pods: int = 18000, warm: int = 2000) -> World:
    """Poisson arrivals at `rho` of the summed speed; first come, first served at each server; sizes are known."""
    if not 0.0 < rho < 1.0 or pods < 1 or warm < 0:
        raise UserError("scenario S0q needs 0 < rho < 1, pods >= 1 and warm >= 0")
    rng = np.random.default_rng([seed, 0])
    names = [f"cpu-{k}" for k in range(len(_SPEEDS))]
    nodes = [node_manifest(n, cpu_milli=1000, memory_bytes=2**30, instance_type=n, pods=10**6) for n in names]
    total = warm + pods
    arrivals = np.cumsum(rng.exponential(np.mean(_SIZE) / (rho * sum(_SPEEDS)), total))
    sizes, deadlines = rng.uniform(*_SIZE, total), rng.uniform(*_DEADLINE_S, total)
    made = [_task(k, quantised(float(arrivals[k])), float(sizes[k]), float(deadlines[k])) for k in range(total)]
    return world("S0q", seed, nodes, tuple(names), made, warm=warm, fifo=True, by_priority=False)


def _task(index: int, now_s: float, size: float, deadline_s: float) -> SimPod:
    name = f"task-{index:05d}"
    annotations = {
        "nodewise.dev/sla-class": "production",
        "nodewise.dev/workload": "task",
        "nodewise.dev/deadline-seconds": repr(deadline_s),
        "nodewise.dev/expected-seconds": repr(size),
    }
    manifest = pod_manifest(name, now_s, annotations, {"cpu": "1"}, nodeSelector={"kubernetes.io/arch": "amd64"})
    return sim_pod(manifest, size / np.array(_SPEEDS))
