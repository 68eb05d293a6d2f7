"""Worlds of every kind, a scorer, and what the compiled engine makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nodewise.core.columns import COLUMNS, split
from nodewise.core.types import Floats
from nodewise_simulator import scenarios
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import Net, State
from nodewise_simulator.engine import Outcome
from nodewise_simulator.physics import Autoscaler, Change, Drift, Lifecycle, Network, NodeChange, Queueing
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


def eventful_world(seed: int, nodes: int, pods: int) -> World:
    """`odd_world` with whatever else a world may have, each now and then: see `nodewise_simulator.physics`."""
    rng = np.random.default_rng([seed, 18])
    some = dict(zip(EVENTFUL, (rng.random(len(EVENTFUL)) < 0.5).tolist(), strict=True))
    made = odd_world(seed, nodes, pods)
    last_s = made.pods[-1].request.created_s + 1.0
    if some["dispatch"]:
        tick_s = 4.0 if some["ticks"] else 0.0
        return replace(made, fifo=True, tick_s=tick_s, by_priority=some["image"])
    zoned = tuple(replace(n, zone=f"zone-{k % 2}") for k, n in enumerate(made.nodes))
    shared = some["device"] and any(n.gpus_allocatable_milli for n in made.nodes)
    hidden = tuple(eventful_pod(k, pod, some, rng, shared=shared) for k, pod in enumerate(made.pods))
    names = [n.name for n in made.nodes]
    pool = tuple(names[1::3]) if some["autoscaler"] else ()
    changes = [
        NodeChange(quantised(float(rng.uniform(0.0, 2.0 * last_s))), str_change(rng), str(rng.choice(names)))
        for _ in range(3 * nodes if some["changes"] else 0)
    ]
    return replace(
        made,
        nodes=zoned,
        pods=hidden,
        tick_s=4.0 if some["ticks"] and not some["changes"] else 0.0,
        changes=tuple(changes),
        lifecycle=Lifecycle(detect_s=5.0, evict_s=20.0, grace_s=float(rng.integers(0, 9)), backoff_s=2.0),
        budgets={"some": 1},
        autoscaler=Autoscaler(pool, scan_s=3.0, boot_s=9.0, unneeded_s=20.0, after_add_s=15.0) if pool else None,
        drifts=(
            Drift(last_s / 3.0, 2.0),
            Drift(last_s / 2.0, 0.3, workload="w1", node_class=made.classes[0]),
        ) if some["drift"] else (),
        network=Network(0.1, 1.0, 1e8, 1e7),
        queueing=Queueing(
            retry="back-off" if some["back-off"] else "at-once",
            age="tried" if some["tried"] else "created",
        ),
    )  # fmt: skip


EVENTFUL = (
    "dispatch", "ticks", "image", "start", "parents", "device", "changes", "autoscaler", "drift", "back-off", "tried",
)  # fmt: skip


def str_change(rng: np.random.Generator) -> Change:
    return Change(str(rng.choice([c.value for c in Change])))


def eventful_pod(index: int, pod: SimPod, some: dict[str, bool], rng: np.random.Generator, *, shared: bool) -> SimPod:
    drawn = rng.random(6)
    whole = pod.request.gpus_milli > 0.0
    milli = float(rng.integers(1, 4) * 250) if shared and not whole and drawn[0] < 0.4 else 0.0
    return replace(
        pod,
        image=f"i{rng.integers(3)}" if some["image"] and drawn[1] < 0.7 else "",
        pull_s=float(rng.uniform(1.0, 20.0)),
        start_s=quantised(float(rng.uniform(0.0, 3.0))) if some["start"] else 0.0,
        parents=tuple(sorted({int(k) for k in rng.integers(0, index, 2)}))
        if some["parents"] and index > 4 and drawn[2] < 0.4 else (),
        output_bytes=float(rng.uniform(0.0, 1e8)),
        device_milli=milli,
        device_sensitivity=float(rng.uniform(0.0, 0.5)),
        request=replace(pod.request, gpus_milli=milli) if milli else pod.request,
        budget="some" if drawn[3] < 0.4 else "",
    )  # fmt: skip


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
