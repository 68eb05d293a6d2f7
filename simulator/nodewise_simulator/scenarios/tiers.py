"""`S2q`: 100 nodes of three tiers on a clock of 5 s, tasks that take the same time everywhere, and a retry queue.

The constants are those of a published "MARL" scheduler (repository DanielBenniah/marl-distributed-scheduling) at a load
at which decisions matter: as shipped it uses 1.4 % of its CPUs and every scheduler ties. Finished tasks are released
before placing; a task that fits nowhere waits and is tried again at each tick, and later tasks may overtake it.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.world import Json, SimPod, World, node_manifest, pod_manifest, quantised, sim_pod, world

_GIB = 2.0**30
# count, cores, GB, idle W, dynamic W
_TIERS = (
    ("high", 20, (24, 32), (96, 128), (150, 200), (200, 300)),
    ("medium", 50, (8, 16), (32, 64), (50, 80), (60, 120)),
    ("low", 30, (2, 8), (8, 32), (15, 30), (20, 50)),
)
_CLASSES = (("production", 0.25, 1.5), ("batch", 0.60, 3.0), ("best-effort", 0.15, 5.0))
"""SLA class, share and deadline as a multiple of the run time, of priorities 0, 1 and 2."""


def s2q(seed: int, rate: float = 26.0, pods: int = 12000, warm: int = 0) -> World:
    """`rate` tasks a second; memory saturates at 29.8/s. Order is first in, first out."""
    if not rate > 0.0 or pods < 1 or warm < 0:
        raise UserError("scenario S2q needs rate > 0, pods >= 1 and warm >= 0")
    rng = np.random.default_rng([seed, 2])
    nodes = [_node(tier, k, rng) for tier, count, *_ in _TIERS for k in range(count)]
    total = warm + pods
    arrivals = np.cumsum(rng.exponential(1.0 / rate, total))
    run_s = np.minimum(10.0 * rng.random(total) ** (-1.0 / 2.5), 500.0)
    cores = np.clip(rng.lognormal(0.5, 0.8, total), 0.5, 8.0)
    memory = np.clip(rng.lognormal(2.0, 1.0, total), 1.0, 32.0)
    kinds = rng.choice(len(_CLASSES), total, p=[c[1] for c in _CLASSES])
    made = [
        _task(k, quantised(float(arrivals[k])), float(run_s[k]), float(cores[k]), float(memory[k]), int(kinds[k]))
        for k in range(total)
    ]
    classes = tuple(t[0] for t in _TIERS)
    return world("S2q", seed, nodes, classes, made, warm=warm, tick_s=5.0, by_priority=False)


def _node(tier: str, index: int, rng: np.random.Generator) -> Json:
    _, _, cores, memory, idle, dynamic = next(t for t in _TIERS if t[0] == tier)
    idle_w = float(rng.uniform(*idle))
    return node_manifest(
        f"{tier}-{index:02d}", cpu_milli=round(rng.uniform(*cores) * 1000), memory_bytes=rng.uniform(*memory) * _GIB,
        instance_type=tier, pods=10**6, idle_w=idle_w, peak_w=idle_w + float(rng.uniform(*dynamic)),
    )  # fmt: skip


def _task(index: int, now_s: float, run_s: float, cores: float, memory_gb: float, kind: int) -> SimPod:
    sla, _, slack = _CLASSES[kind]
    name = f"task-{index:05d}"
    requests = {"cpu": f"{cores * 1000:.0f}m", "memory": f"{memory_gb * _GIB:.0f}"}
    annotations = {
        "nodewise.dev/sla-class": sla,
        "nodewise.dev/workload": "task",
        "nodewise.dev/deadline-seconds": repr(run_s * slack),
        "nodewise.dev/expected-seconds": repr(run_s),
    }
    manifest = pod_manifest(name, now_s, annotations, requests, nodeSelector={"kubernetes.io/arch": "amd64"})
    return sim_pod(manifest, np.full(len(_TIERS), run_s))
