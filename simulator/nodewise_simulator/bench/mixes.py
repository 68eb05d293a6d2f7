"""Mixes of nodes, and pods for them, on which the simulator's scheduler is compared with the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nodewise_simulator import scenarios
from nodewise_simulator.bench.neighbours import neighbours, objects
from nodewise_simulator.cluster_demo import fresh
from nodewise_simulator.controlplane import pod, taint
from nodewise_simulator.world import Json, node_manifest

_GIB = 2**30
Made = tuple[list[Json], list[Json]]


@dataclass(frozen=True, slots=True)
class Mix:
    """`make(pods, rng)` gives manifests of nodes and of that many pods."""

    name: str
    says: str
    classes: tuple[str, ...]
    make: Callable[[int, np.random.Generator], Made]
    objects: Callable[[], list[tuple[str, Json]]] = list
    """What else must be there, with the path that it is POSTed to."""


def _sizes(pods: int, rng: np.random.Generator) -> Made:
    # No two nodes alike, so that few scores are.
    nodes = [
        node_manifest(
            f"node-{k:02d}", instance_type=f"c{k % 3}", cpu_milli=float(rng.integers(6000, 33000)),
            memory_bytes=float(rng.integers(12, 130)) * _GIB,
        )
        for k in range(60)
    ]  # fmt: skip
    room = sum(float(n["status"]["allocatable"]["cpu"].removesuffix("m")) for n in nodes)
    share = min(1.0, 0.7 * room / (pods * 1000.0))
    wanted = np.maximum(rng.lognormal(-0.2, 0.8, pods).clip(0.1, 6.0) * 1000.0 * share, 10.0)
    memory = np.maximum(rng.lognormal(0.3, 0.9, pods).clip(0.1, 12.0) * _GIB * share, 1 << 24)
    return nodes, [pod(f"p-{k:04d}", cpu_milli=int(wanted[k]), memory_bytes=int(memory[k])) for k in range(pods)]


def _hetero(pods: int, rng: np.random.Generator) -> Made:
    made = scenarios.make(f"hetero@pods={2 * pods},warm=0", int(rng.integers(1, 1000)))
    # Nothing ends here, there are eight GPUs, and 300 pods are two thirds of the room.
    kept = [p for p in made.pods if not p.request.gpus_milli][:pods]
    scale = min(1.0, 300.0 / pods)
    small = [fresh(p) for p in kept]
    for manifest, own in zip(small, kept, strict=True):
        requests = {"cpu": f"{own.request.cpu_milli * scale:.0f}m", "memory": f"{own.request.memory_bytes * scale:.0f}"}
        manifest["spec"]["containers"][0]["resources"] = {"requests": requests}
    return list(made.node_manifests), small


def _preferences(pods: int, rng: np.random.Generator) -> Made:
    """Soft and hard taints, preferred and required zones and types, some of which no node has."""
    nodes = []
    for k in range(45):
        taints = []
        if k % 5 == 0:
            taints.append(taint("team", "a"))
        if k % 3 == 0:
            taints.append(taint("old", effect="PreferNoSchedule"))
        if k % 7 == 0:
            taints.append(taint("slow", effect="PreferNoSchedule"))
        nodes.append(
            node_manifest(
                f"node-{k:02d}", cpu_milli=14000 + 100 * k, memory_bytes=(50 + k) * _GIB, instance_type=f"t{k % 4}",
                zone=f"zone-{k % 3}", taints=tuple(taints),
            )
        )  # fmt: skip
    made: list[Json] = []
    for k in range(pods):
        tolerations: list[Json] = []
        if rng.random() < 0.3:
            tolerations.append({"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"})
        if rng.random() < 0.2:
            tolerations.append({"key": "old", "operator": "Exists"})
        affinity: Json = {}
        if rng.random() < 0.5:
            affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
                {
                    "weight": int(rng.integers(1, 101)),
                    "preference": _term("topology.kubernetes.io/zone", f"zone-{rng.integers(4)}"),
                }
                for _ in range(int(rng.integers(1, 3)))
            ]
        if rng.random() < 0.3:
            types = [f"t{j}" for j in rng.choice(4, 2, replace=False)]
            required = {"nodeSelectorTerms": [_term("node.kubernetes.io/instance-type", *types)]}
            affinity["requiredDuringSchedulingIgnoredDuringExecution"] = required
        made.append(
            pod(
                f"p-{k:04d}", cpu_milli=int(rng.integers(50, 1300)), memory_bytes=int(rng.integers(1 << 26, 4 << 30)),
                tolerations=tolerations, affinity={"nodeAffinity": affinity} if affinity else None,
            )
        )  # fmt: skip
    return nodes, made


def _term(key: str, *values: str) -> Json:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}


MIXES = {
    mix.name: mix
    for mix in (
        Mix("sizes", "60 nodes and pods, no two alike", ("c0", "c1", "c2"), _sizes),
        Mix(
            "hetero", "the nodes and pods of scenario hetero: architectures, SLA classes, deadlines",
            ("m4.4xlarge", "c7i.4xlarge", "c7g.4xlarge", "a1.4xlarge", "g4dn.4xlarge/Tesla-T4"), _hetero,
        ),
        Mix(
            "preferences", "taints, soft taints, preferred and required affinities", ("t0", "t1", "t2", "t3"),
            _preferences,
        ),
        Mix(
            "neighbours", "inter-pod (anti-)affinity and spread, hard and soft, and replicas", ("t0", "t1", "t2", "t3"),
            neighbours, objects,
        ),
    )
}  # fmt: skip
