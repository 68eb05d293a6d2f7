"""Whom the real kube-scheduler evicts for more important pods, and from where, beside the simulator's engine.

A cluster that is kept full, and preemptors that come one after the other. Before each of them the simulator's world
has every pod where the real cluster has it, so that one difference does not make others. Where several nodes would be
harmed as little the real scheduler takes any: such pods are counted apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise.policies import DEFAULT
from nodewise_simulator.bench.fidelity import Agreement, Progress
from nodewise_simulator.compare import Row
from nodewise_simulator.controlplane import ControlPlane, pod, scheduler_config
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import Json, SimPod, created_again, node_manifest, sim_pod, world

PRIORITIES = (-10, 0, 1, 5, 10, 100)
BUDGETS = {"b0": 0, "b1": 1}
"""How many pods of each may be evicted now; that stays so, for nobody here counts them."""
_NODES, _MIB = 12, 2**20
_HOLE_MILLI = 600
_PATIENCE_S = 30.0
_STARTS = 100_000
"""Seconds in which pods have started."""
_FOREVER_S = 1e9
_MERGE = "application/merge-patch+json"


def preemptions(preemptors: int = 100, *, seed: int = 1, progress: Progress = lambda *_: None) -> list[Row]:
    """Rows of agreement, in some 40 s. Raises UserError if the control-plane programs are missing."""
    with ControlPlane() as plane:
        found, victims = agreement(
            plane, preemptors, seed, lambda k: progress("preemptors through both", k, preemptors)
        )
    values = {
        ("agreement", "share of determined"): found.share,
        ("determined", "pods"): float(found.agreed + len(found.differed)),
        ("evicting nobody", "of determined"): float(found.nowhere),
        ("tied", "pods"): float(found.tied),
        ("tied_inside", "share of tied"): found.tied_inside / found.tied if found.tied else float("nan"),
        ("victims", "pods"): float(victims),
    }
    return [Row("node and victims of preemptors", "stock queue", m, u, v, v, v, 1) for (m, u), v in values.items()]


def agreement(
    plane: ControlPlane, preemptors: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[Agreement, int]:
    """Node and victims of each preemptor, `node: pod, pod` or empty if it evicts nobody; how many went in all.

    `plane` has no nodes, pods and schedulers yet. Raises UserError if a pod is neither bound nor refused.
    """
    found, evicted = Agreement(), 0
    rng = np.random.default_rng([seed, 37])
    real = _Real(plane, rng)
    scheduler = plane.start_scheduler(scheduler_config(plane.kubeconfig, None, stock=True))
    try:
        real.fill()
        for k in range(preemptors):
            manifest = _preemptor(f"preemptor-{k:03d}", rng)
            own, alike = _simulated(real, manifest, seed)
            its, victims = real.preempt(manifest)
            evicted += victims
            if len(alike) > 1:
                found.tied += 1
                found.tied_inside += its.partition(":")[0] in alike
            elif its == own:
                found.agreed += 1
                found.nowhere += not its
            else:
                found.differed.append((manifest["metadata"]["name"], own, its))
            real.fill()
            progress(k + 1)
    finally:
        scheduler.stop()
    return found, evicted


@dataclass(frozen=True, slots=True)
class _Bound:
    manifest: Json
    node: str
    started_s: int
    """`status.startTime`, as both have it: no two alike."""


class _Real:
    """The real cluster. It has no kubelet, so that pods stay, and are gone as soon as they are told to go."""

    def __init__(self, plane: ControlPlane, rng: np.random.Generator) -> None:
        self._plane, self._rng, self._made = plane, rng, 0
        # Room for pods and memory is never short.
        self.nodes = [
            node_manifest(
                f"node-{k:02d}", cpu_milli=6000.0 + 500.0 * k, memory_bytes=512.0 * 1024 * _MIB, instance_type="t",
                zone=f"zone-{k % 3}",
            )
            for k in range(_NODES)
        ]  # fmt: skip
        self.pods: dict[str, _Bound] = {}
        self._starts = iter(rng.permutation(_STARTS).tolist())
        plane.create_nodes(self.nodes)
        for value in PRIORITIES:
            for policy in ("Never", "PreemptLowerPriority"):
                body = {"metadata": {"name": _class(value, policy)}, "value": value, "preemptionPolicy": policy}
                plane.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
        for name, allowed in BUDGETS.items():
            path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
            spec = {"minAvailable": 0, "selector": {"matchLabels": {"budget": name}}}
            plane.call("POST", path, {"metadata": {"name": name}, "spec": spec})
            status = {"disruptionsAllowed": allowed, "currentHealthy": 9, "desiredHealthy": 9, "expectedPods": 9}
            plane.call("PATCH", f"{path}/{name}/status", {"status": status}, _MERGE)

    def fill(self) -> None:
        """Leave no hole that a preemptor could take."""
        for each in self.nodes:
            name = each["metadata"]["name"]
            room = float(each["status"]["allocatable"]["cpu"].removesuffix("m"))
            free = room - sum(_cpu_milli(p.manifest) for p in self.pods.values() if p.node == name)
            while free >= _HOLE_MILLI:
                cpu_milli = min(int(self._rng.integers(_HOLE_MILLI, 3500)), int(free))
                self._made += 1
                budget = str(self._rng.choice(["", "", *BUDGETS]))
                filler = _pod(f"filler-{self._made:04d}", cpu_milli, int(self._rng.choice(PRIORITIES[:-1])), budget)
                self._keep(filler | {"spec": filler["spec"] | {"nodeSelector": {"kubernetes.io/hostname": name}}})
                free -= cpu_milli

    def preempt(self, manifest: Json) -> tuple[str, int]:
        """Create a preemptor and see what comes of it: node and victims, and how many those are."""
        before = set(self.pods)
        node = self._keep(manifest)
        gone = sorted(before - {p["metadata"]["name"] for p in self._plane.list_pods("default")})
        for name in gone:
            del self.pods[name]
        return f"{node}: {', '.join(gone)}" if gone else "", len(gone)

    def _keep(self, manifest: Json) -> str:
        """Create a pod and wait for its node; one that finds none is deleted again."""
        name = manifest["metadata"]["name"]
        (stored,) = self._plane.create_pods([manifest])
        path = f"/api/v1/namespaces/default/pods/{name}"
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            now: Any = self._plane.call("GET", path)
            refused = any(
                c["type"] == "PodScheduled" and c["status"] == "False" for c in now["status"].get("conditions", ())
            )
            if node := now["spec"].get("nodeName"):
                break
            if refused and not now["status"].get("nominatedNodeName"):
                self._plane.call("DELETE", path)
                return ""
            if time.monotonic() > give_up_s:
                raise UserError(f"pod {name} was neither bound nor refused within {_PATIENCE_S:g} s")
            time.sleep(0.005)
        started_s = next(self._starts)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1.7e9 + started_s))
        self._plane.call("PATCH", f"{path}/status", {"status": {"phase": "Running", "startTime": started}}, _MERGE)
        self.pods[name] = _Bound(stored, str(node), started_s)
        return str(node)


def _simulated(real: _Real, manifest: Json, seed: int) -> tuple[str, tuple[str, ...]]:
    """What the engine does in the same place: node and victims, and the nodes that it drew that one from."""
    there = sorted(real.pods.values(), key=lambda p: p.started_s)
    pods = [_sim_pod(p.manifest, float(p.started_s), p.node) for p in there]
    stored = manifest | {"metadata": manifest["metadata"] | {"uid": "preemptor"}}
    last = _sim_pod(stored, float(_STARTS), "")
    made = world("preemptions", seed, real.nodes, ("t",), [*pods, last], warm=0, preempts=True, budgets=BUDGETS)
    direct = Direct(made, DEFAULT, DEFAULT)
    scheduler = KubeScheduler(made.nodes, direct, direct.cache.view, np.random.default_rng(seed))
    engine = Engine(made, scheduler, direct)
    engine.run()
    first = next((p for p in engine.log.preemptions if p.index == len(pods)), None)
    if first is None or first.at_s > last.request.created_s:
        return "", ()
    victims = sorted(pods[k].request.name for k in first.victims)
    return f"{first.node}: {', '.join(victims)}", first.alike


def _sim_pod(manifest: Json, at_s: float, node: str) -> SimPod:
    spec = dict(manifest["spec"])
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    budget = manifest["metadata"].get("labels", {}).get("budget", "")
    metadata = {"creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}, **manifest["metadata"]}
    made = sim_pod({**manifest, "metadata": metadata, "spec": spec}, np.array([_FOREVER_S]), budget=budget)
    return created_again(made, at_s, 1)


def _preemptor(name: str, rng: np.random.Generator) -> Json:
    policy = "Never" if rng.random() < 0.1 else "PreemptLowerPriority"
    made = _pod(name, int(rng.integers(700, 6500)), int(rng.choice(PRIORITIES[2:])), policy=policy)
    if rng.random() < 0.4:
        made["spec"]["nodeSelector"] = {"topology.kubernetes.io/zone": f"zone-{rng.integers(3)}"}
    return made


def _pod(name: str, cpu_milli: int, priority: int, budget: str = "", policy: str = "PreemptLowerPriority") -> Json:
    made = pod(name, cpu_milli=cpu_milli, memory_bytes=64 * _MIB, labels={"budget": budget} if budget else None)
    named = {"priorityClassName": _class(priority, policy), "priority": priority, "preemptionPolicy": policy}
    made["spec"] |= named
    return made


def _class(priority: int, policy: str) -> str:
    return f"p{priority}-{policy}".replace("p-", "minus-").lower()


def _cpu_milli(manifest: Json) -> float:
    return pod_request(manifest)[0].cpu_milli
