"""The same run with the decisions taken by a real extender process: its watch, its wire, its clock are the only seam.

The engine's events go to a small API server that the extender watches; each scheduling cycle is a POST as
kube-scheduler sends it. Simulated time and the resourceVersion that the cycle presupposes travel in two headers, which
an extender started with `--replay` honours, so that the run is the same, decision for decision, as one without HTTP.
"""

from __future__ import annotations

import http.client
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nodewise.policies import DEFAULT
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.kubejson import bound_pod, finished_pod
from nodewise_simulator.metrics import Result, measure
from nodewise_simulator.processes import ExtenderProcess
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, World

_DECIDED = re.compile(r'^nodewise_extender_decisions_total\{policy="(.*)"\} (\S+)$', re.MULTILINE)


class Served:
    """Observer and extender as the engine wants them, through an API server and HTTP."""

    def __init__(self, world: World, api: FakeApi, port: int) -> None:
        self._api = api
        self.mirror = Direct(world, DEFAULT, DEFAULT)
        """The scheduler's own picture of the cluster, for its in-tree scores; it takes no decision."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
        self._version = 0
        self._node: dict[str, str] = {}
        self.took_s: list[float] = []

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        """One POST, as kube-scheduler sends it with `nodeCacheCapable: true`."""
        body = msgspec.json.encode({"Pod": pod.manifest, "Nodes": None, "NodeNames": names})
        headers = {
            "Content-Type": "application/json",
            "X-Nodewise-Now": repr(now_s),
            "X-Nodewise-Resource-Version": str(self._version),
        }
        begin = time.perf_counter()
        self._connection.request("POST", "/prioritize", body, headers)
        reply = self._connection.getresponse()
        entries = json.loads(reply.read())
        self.took_s.append(time.perf_counter() - begin)
        return [(entry["Host"], entry["Score"]) for entry in entries]

    def created(self, pod: SimPod) -> None:
        """See `engine.Observer`."""
        self.mirror.created(pod)
        self._version = self._api.put("pods", pod.manifest)

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """See `engine.Observer`."""
        self.mirror.bound(pod, node, now_s, started_s)
        self._node[pod.request.uid] = node
        self._version = self._api.put("pods", bound_pod(pod, node, started_s))

    def started(self, pod: SimPod, started_s: float) -> None:
        """See `engine.Observer`."""
        self.mirror.started(pod, started_s)
        self._version = self._api.put("pods", bound_pod(pod, self._node[pod.request.uid], started_s))

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """See `engine.Observer`."""
        self.mirror.finished(pod, started_s, finished_s)
        node = self._node.pop(pod.request.uid)
        self._api.put("pods", finished_pod(pod, node, started_s, finished_s))
        self._version = self._api.delete("pods", pod.request.uid)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class ServedRun:
    """A run that an extender process decided."""

    result: Result
    """Its decision times are those of whole HTTP exchanges as the scheduler sees them."""
    explained: Any
    """`/explain` of the pod that was named; None if none was, or the extender does not know it."""
    asked: int
    """Pods that the extender was asked about."""
    decided: Mapping[str, int]
    """How many decisions each policy took, by name: the rule stands in for a learned one."""


def play_served(
    world: World, policy: str, *flags: str, progress: Callable[[int], None] | None = None, explain: str = ""
) -> ServedRun:
    """Run a world with an extender process of its own, started with `flags`, else to decide by `policy`.

    `explain` names a pod whose explanation is asked for in the end.
    """
    with tempfile.TemporaryDirectory(prefix="nodewise-demo-") as folder, FakeApi() as api:
        for node in world.node_manifests:
            api.put("nodes", node)
        kubeconfig = api.kubeconfig(Path(folder) / "kubeconfig")
        asked = flags or ("--policy", policy)
        with ExtenderProcess(kubeconfig, Path(folder), "--replay", *asked) as extender:
            served = Served(world, api, extender.port)
            scheduler = KubeScheduler(
                world.nodes,
                served,
                served.mirror.state.view,
                np.random.default_rng([world.seed, 99]),
                fits_always=world.fifo,
            )
            outcomes = Engine(world, scheduler, served, progress).run()
            served.close()
            told = extender.get(f"/explain/default/{explain}") if explain else None
            decided = dict(_DECIDED.findall(extender.get("/metrics") or ""))
    metrics = measure(world, outcomes)
    p50, p99 = np.percentile(served.took_s, [50, 99]) * 1e3
    metrics |= {"decision_p50": float(p50), "decision_p99": float(p99)}
    result = Result(world.scenario, policy, world.seed, metrics, tuple(o.node for o in outcomes))
    return ServedRun(result, told, scheduler.asked, {name: int(float(count)) for name, count in decided.items()})
