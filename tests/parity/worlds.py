"""Worlds of every kind, a scorer, and what the compiled engine makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nodewise.core.columns import COLUMNS, split
from nodewise.core.types import Floats
from nodewise_simulator import scenarios
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import Net, State
from nodewise_simulator.engine import Outcome
from nodewise_simulator.world import SimPod, World, node_manifest, pod_manifest, quantised, sim_pod, world

Json = dict[str, Any]

ALL = tuple(COLUMNS)
GIB = 2.0**30


def odd_world(seed: int, nodes: int = 9, pods: int = 400) -> World:
    """What `hetero` lacks: services, owners with replicas, priorities that overtake, arrivals at one instant, no
    deadline, pods that fit only one node, nodes that are full by number of pods, taints, several GPUs, no requests."""
    rng = np.random.default_rng([seed, 17])
    classes = ("old", "new", "gpu/T4")
    manifests = [
        node_manifest(
            f"n{k:03d}", cpu_milli=float(rng.integers(4, 17) * 1000), memory_bytes=float(rng.integers(8, 65)) * GIB,
            instance_type=classes[k % 3].split("/")[0], gpus=2 if k % 3 == 2 else 0, gpu_product="T4",
            price_usd_per_h=float(rng.uniform(0.0, 2.0)), idle_w=float(rng.uniform(10, 80)),
            peak_w=float(rng.uniform(60, 300)), pods=int(rng.integers(3, 12)),
            taints=({"key": "only", "value": "some", "effect": "NoSchedule"},) if k % 5 == 4 else (),
        )
        for k in range(nodes)
    ]  # fmt: skip
    speed = np.exp(rng.normal(0.0, 0.4, (6, len(classes))))
    created_s = np.sort(rng.integers(0, pods // 2, pods)) * 3.0 * 9.0 / nodes
    made = [odd_pod(k, quantised(float(at_s)), speed, rng, nodes) for k, at_s in enumerate(created_s)]
    return world("odd", seed, manifests, classes, made, warm=0)


def odd_pod(index: int, created_s: float, speed: Floats, rng: np.random.Generator, nodes: int) -> SimPod:
    kind = str(rng.choice(["Job", "ReplicaSet", ""], p=[0.6, 0.3, 0.1]))
    workload = int(rng.integers(len(speed)))
    sla = str(rng.choice(["production", "batch", "best-effort"]))
    base_s = float(rng.lognormal(3.3, 0.7)) * (4.0 if kind == "ReplicaSet" else 1.0)
    annotations = {"nodewise.dev/sla-class": sla, "nodewise.dev/workload": f"w{workload}"}
    if rng.random() < 0.5:
        annotations["nodewise.dev/deadline-seconds"] = f"{base_s * rng.uniform(1.2, 4.0):.3f}"
    if workload % 2:
        annotations["nodewise.dev/expected-seconds"] = f"{base_s * rng.uniform(0.7, 1.4):.3f}"
    requests: Json = {"cpu": f"{rng.integers(1, 9) * 250}m", "memory": f"{rng.integers(1, 17) * 256}Mi"}
    if rng.random() < 0.1:
        requests = {}
    elif rng.random() < 0.1:
        requests["nvidia.com/gpu"] = "1"
    spec: Json = {
        "priority": int(rng.choice([0, 0, 0, 5, 100])),
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "restartPolicy": "Always" if kind == "ReplicaSet" else "Never",
    }
    if rng.random() < 0.15:
        spec["nodeSelector"]["kubernetes.io/hostname"] = f"n{rng.integers(nodes):03d}"
    if rng.random() < 0.5:
        spec["tolerations"] = [{"key": "only", "operator": "Exists"}]
    # Names that do not sort in order of arrival: residents are summed up in order of uid.
    manifest = pod_manifest(f"p{index * 7919 % 1009:04d}-{index}", created_s, annotations, requests, **spec)
    if kind:
        name = f"o{rng.integers(5)}"
        manifest["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": True}
        ]
    return sim_pod(manifest, base_s * speed[workload] * rng.lognormal(0.0, 0.3), float(rng.uniform(0.0, 0.8)))


WORLDS: dict[str, Callable[[], World]] = {
    "half": lambda: scenarios.make("hetero@load=0.5,pods=250,warm=150,mix=mixed", 11),
    "busy": lambda: scenarios.make("hetero@load=0.85,pods=450,warm=150,mix=production", 12),
    "over": lambda: scenarios.make("hetero@load=1.3,pods=600,warm=500,mix=batch", 13),
    "odd": lambda: odd_world(1),
    "odder": lambda: odd_world(2),
    "oddest": lambda: odd_world(4),
    "large": lambda: odd_world(3, nodes=150, pods=700),
}


def random_net(seed: int = 5, hidden: int = 16) -> Net:
    """Weights that matter, of all columns."""
    rng = np.random.default_rng(seed)
    kn_, kr, kp = map(len, split(ALL))
    inputs, units = -(-(kn_ + kr) // 4) * 4, hidden
    size = 3 * kp + kp * units + units + 4 * inputs + inputs * units + units * units * 3 + 2 * units
    weights = rng.normal(0.0, 0.15, size).astype(np.float32)
    return Net.unbounded(ALL, weights, np.array([kn_, kr, kp, hidden], np.int64))


def placed(made: World, play: Callable[..., None], *given: Any) -> tuple[State, list[Outcome]]:
    flat = flatten(made)
    state = State.start(flat)
    play(flat, state, *given)
    return state, state.outcomes([n.name for n in made.nodes])
