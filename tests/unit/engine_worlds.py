"""Small worlds for the engine's tests: pods of one core and known run times, and who watches them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nodewise.core.units import stamp
from nodewise.policies import DEFAULT
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, World, node_manifest, sim_pod, world

Json = dict[str, Any]


def pod(name: str, at_s: float, run_s: float | Sequence[float], cpu: str = "1", **hidden: Any) -> SimPod:
    """A Job's pod on amd64; `run_s` on each class."""
    spec = hidden.pop("spec", {})
    annotations = hidden.pop("annotations", {})
    manifest = {
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "creationTimestamp": stamp(at_s),
            "annotations": {"nodewise.dev/workload": "w", **annotations},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": name, "controller": True}
            ],
        },
        "spec": {
            "nodeSelector": {"kubernetes.io/arch": "amd64"}, "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
            **spec,
        },
    }  # fmt: skip
    return sim_pod(manifest, np.atleast_1d(np.asarray(run_s, float)), **hidden)


def on(node: str) -> Json:
    """The spec of a pod that runs there and nowhere else."""
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


def one_class(count: int, cpu_milli: float = 4000.0, **more: Any) -> list[Json]:
    """Nodes n0, n1, … of one class."""
    return [
        node_manifest(f"n{k}", cpu_milli=cpu_milli, memory_bytes=2.0**33, instance_type="class-0", **more)
        for k in range(count)
    ]


def made(pods: list[SimPod], nodes: list[Json] | None = None, **more: Any) -> World:
    """A world whose pods are all counted."""
    return world("t", 0, nodes or one_class(1), ("class-0",), pods, warm=0, **more)


class Hold:
    """Until when pods are held, by name, and when it was asked about those."""

    def __init__(self, **until_s: float) -> None:
        self.until_s = until_s
        self.asked: list[float] = []


class Holding(Direct):
    """An extender whose filter says "no node yet" of some pods, and that patches them in time."""

    def __init__(self, world: World, hold: Hold) -> None:
        super().__init__(world, DEFAULT, DEFAULT)
        self.hold = hold

    def filter(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[str]:
        """See `scheduler.Filter`."""
        if pod.request.name in self.hold.until_s:
            self.hold.asked.append(now_s)
        return names if self.hold.until_s.get(pod.request.name, -math.inf) <= now_s else ()

    def patched_s(self, pod: SimPod) -> float:
        """See `scheduler.Filter`."""
        return self.hold.until_s[pod.request.name]


def run(world: World, hold: Hold | None = None, seed: int = 0) -> Engine:
    """Played to its end with policy `economic`."""
    direct = Holding(world, hold or Hold())
    rng = np.random.default_rng(seed)
    engine = Engine(world, KubeScheduler(world.nodes, direct, direct.cache.view, rng), direct)
    engine.run()
    return engine


def times(engine: Engine) -> list[tuple[float, float]]:
    """When each pod started and ended."""
    return [(o.started_s, o.finished_s) for o in engine.outcomes]
