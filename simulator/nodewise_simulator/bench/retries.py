"""When kube-scheduler tries pods again that an extender's filter held: the real one beside the simulator's queues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodewise.policies import DEFAULT
from nodewise_simulator.bench.fidelity import Progress
from nodewise_simulator.compare import Row
from nodewise_simulator.controlplane import ControlPlane, ToyExtender, node, pod, scheduler_config
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.physics import Queueing
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import Json, SimPod, World, node_manifest, pod_manifest, quantised, sim_pod, world

TOLERANCE_S = 0.05
_GIB = 2**30
_HELD = "held-"
_NODES = 4

# What happens, in seconds: pods that are created and bound, and when they are deleted. Some follow within the back-off
# of the held pods (1 s and more), some long after it, some at once after each other.
_OTHERS = ((2.0, 5.0), (2.6, 9.0), (2.9, 3.3), (6.0, 6.4), (6.05, 12.0), (9.4, 13.5), (13.0, 13.2))
_HOLDS = ((0.5, 4.0), (0.5, 8.5), (1.2, 60.0))
"""Creation of the held pods, and until when the extender holds them."""
_END_S = 15.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Instants in seconds since the first event at which each held pod was tried, in the real scheduler and in ours."""

    real: dict[str, list[float]]
    simulated: dict[str, list[float]]

    def unmatched(self, tolerance_s: float = TOLERANCE_S) -> list[tuple[str, str, float]]:
        """Tries of either side that the other has none near: (side, pod, instant)."""
        made = []
        for side, here, there in (("real", self.real, self.simulated), ("simulated", self.simulated, self.real)):
            for name, instants in here.items():
                others = np.array(there.get(name, [np.inf]))
                made += [(side, name, at) for at in instants if np.abs(others - at).min() > tolerance_s]
        return made

    def rows(self) -> list[Row]:
        """As numbers of `nodewise bench`."""
        off = np.array(self.off_s())
        tries = len(off) + sum(map(len, self.simulated.values()))
        values = {
            ("tries", "of both"): float(tries),
            ("near", f"share within {TOLERANCE_S * 1e3:g} ms"): 1.0 - len(self.unmatched()) / tries,
            ("off_p50", "ms"): float(np.median(off)) * 1e3,
            ("off_max", "ms"): float(off.max()) * 1e3,
        }
        return [Row("retries of held pods", "stock queue", m, u, v, v, v, 1) for (m, u), v in values.items()]

    def off_s(self) -> list[float]:
        """How far each real try is from the nearest of ours."""
        return [
            float(np.abs(np.array(self.simulated.get(name, [np.inf])) - at).min())
            for name, instants in self.real.items() for at in instants
        ]  # fmt: skip


def retries(backoff_s: tuple[int, int] = (1, 10), progress: Progress = lambda *_: None) -> Retries:
    """Play the same events through both, in some 20 s. Raises UserError if the control-plane programs are missing."""
    real, happened = _real(backoff_s, progress)
    return Retries(real, _simulated(happened, backoff_s))


@dataclass(slots=True)
class _Happened:
    """When it really did, in seconds since the first event: API calls take a few milliseconds."""

    created_s: dict[str, float]
    deleted_s: dict[str, float]


def _real(backoff_s: tuple[int, int], progress: Progress) -> tuple[dict[str, list[float]], _Happened]:
    until = {f"{_HELD}{k}": end for k, (_, end) in enumerate(_HOLDS)}
    begin: list[float] = []

    def holds(asked: Json) -> bool:
        name = asked["metadata"]["name"]
        return name in until and time.time() - begin[0] < until[name]

    happened = _Happened({}, {})
    with ControlPlane() as plane, ToyExtender(holds=holds) as extender:
        plane.create_nodes(
            node(f"node-{k}", cpu_milli=32000, memory_bytes=64 * _GIB, instance_type="t") for k in range(_NODES)
        )
        plane.start_scheduler(scheduler_config(plane.kubeconfig, extender.url, filters=True, backoff_s=backoff_s))
        time.sleep(1.0)  # its informers
        begin.append(time.time())
        for at_s, action, name in _plan():
            progress("retries of the real scheduler", int(at_s * 10), int(_END_S * 10))
            time.sleep(max(begin[0] + at_s - time.time(), 0.0))
            if action == "create":
                plane.create_pods([pod(name, cpu_milli=100, memory_bytes=_GIB // 8)])
                happened.created_s[name] = time.time() - begin[0]
            else:
                gone = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
                plane.call("DELETE", f"/api/v1/namespaces/default/pods/{name}", gone)
                happened.deleted_s[name] = time.time() - begin[0]
        time.sleep(max(begin[0] + _END_S - time.time(), 0.0))
        tried: dict[str, list[float]] = {}
        for name, at in extender.filtered:
            if name in until:
                tried.setdefault(name, []).append(at - begin[0])
    return tried, happened


def _plan() -> list[tuple[float, str, str]]:
    made = [(at_s, "create", f"{_HELD}{k}") for k, (at_s, _) in enumerate(_HOLDS)]
    for k, (created_s, deleted_s) in enumerate(_OTHERS):
        made += [(created_s, "create", f"other-{k}"), (deleted_s, "delete", f"other-{k}")]
    return sorted(made)


class _Holding(Direct):
    """The extender of the real run."""

    def __init__(self, made: World, until: dict[str, float]) -> None:
        super().__init__(made, DEFAULT, DEFAULT)
        self._until = until
        self.tried: dict[str, list[float]] = {}

    def filter(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[str]:
        name = pod.request.name
        if name not in self._until:
            return names
        self.tried.setdefault(name, []).append(now_s)
        return () if now_s < self._until[name] else names

    def patched_s(self, pod: SimPod) -> float:
        del pod
        return float("inf")


def _simulated(happened: _Happened, backoff_s: tuple[int, int]) -> dict[str, list[float]]:
    until = {f"{_HELD}{k}": end for k, (_, end) in enumerate(_HOLDS)}
    pods = []
    for name, created_s in sorted(happened.created_s.items(), key=lambda item: item[1]):
        run_s = happened.deleted_s.get(name, 100.0 * _END_S) - created_s
        manifest = pod_manifest(name, quantised(created_s), {}, {"cpu": "100m"}, nodeSelector={})
        pods.append(sim_pod(manifest, np.array([run_s])))
    nodes = [
        node_manifest(f"node-{k}", cpu_milli=32000, memory_bytes=64 * _GIB, instance_type="t") for k in range(_NODES)
    ]
    queueing = Queueing(initial_backoff_s=backoff_s[0], max_backoff_s=backoff_s[1])
    made = world("retries", 1, nodes, ("t",), pods, warm=0, queueing=queueing)
    extender = _Holding(made, until)
    scheduler = KubeScheduler(made.nodes, extender, extender.state.view, np.random.default_rng(1))
    Engine(made, scheduler, extender).run()
    return {name: [at for at in instants if at < _END_S] for name, instants in extender.tried.items()}
