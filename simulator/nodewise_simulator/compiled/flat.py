"""A world as flat arrays: what the compiled engine reads and never writes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core.errors import UserError
from nodewise.core.estimator import EstimatorSettings, RunTimeEstimator
from nodewise.core.feasible import static_filter, static_key
from nodewise.core.kinds import TREATMENTS
from nodewise.core.types import CostRates, Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.physics import Queueing
from nodewise_simulator.world import SimPod, World

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flat:
    """One world. N nodes, P pods in order of arrival, C classes, W workloads; second indices are named in `kernels`."""

    pod_f: Floats  # [P, 15]
    pod_i: Ints  # [P, 9]
    true_s: Floats  # [P, C] hidden: run time alone
    node_f: Floats  # [N, 7]
    node_class: Ints  # [N]
    node_name: NDArray[np.uint8]  # [N, L] zero-terminated
    masks: NDArray[np.bool_]  # [G, N] nodes that pass every filter but that for room
    settings: Floats  # [12] of the estimator, then of the rates
    described: NDArray[np.bool_]  # [W]
    row_factor: Floats  # [W, 1 + rank] the estimator before it saw anything
    col_factor: Floats  # [C, 1 + rank]
    stakes: Floats  # [3, W, C] for `beliefs.knowledge_gradient`

    @property
    def names(self) -> list[str]:
        """The nodes' names, in row order."""
        return [bytes(row).rstrip(b"\0").decode() for row in self.node_name]

    def arrays(self) -> tuple[Any, ...]:
        """In the kernels' order: what the loop reads."""
        return (
            self.pod_f, self.pod_i, self.true_s, self.node_f, self.node_name, self.masks, self.settings, self.described,
            self.stakes,
        )  # fmt: skip


def flatten(world: World, rates: CostRates | None = None) -> Flat:
    """The arrays of a world.

    Raises UserError for what the compiled engine does not model: queues at nodes, ticks, preferences, and pods that do
    not say which of several architectures they run on.
    """
    _check(world)
    rates, settings = rates or CostRates(), EstimatorSettings()
    estimator = RunTimeEstimator(settings)
    for name in world.classes:
        estimator.column(name)
    requests = [p.request for p in world.pods]
    belief_row = [estimator.row(r) for r in requests]
    state = estimator.state()
    specs = {static_key(p.manifest["spec"]): p.manifest["spec"] for p in world.pods}
    row_of_key = {key: k for k, key in enumerate(specs)}
    mask = [row_of_key[static_key(p.manifest["spec"])] for p in world.pods]
    owners: dict[str, int] = {}
    rank = np.empty(len(requests), np.int64)
    rank[np.argsort([r.uid for r in requests], kind="stable")] = np.arange(len(requests))
    pod_f = np.array([_pod_f(p, rates) for p in world.pods])
    pod_i = np.array(
        [
            (
                int(r.sla), r.priority if world.by_priority else 0, belief_row[k], TREATMENTS[r.kind].ends,
                TREATMENTS[r.kind].teaches_speed, owners.setdefault(f"{r.namespace}/{r.owner}", k) if r.owner else -1,
                rank[k], zlib.crc32(r.uid.encode()), mask[k],
            )
            for k, r in enumerate(requests)
        ],
        np.int64,
    )  # fmt: skip
    names = [n.name.encode() for n in world.nodes]
    width = max(map(len, names)) + 1
    made = (
        settings.prior_run_s, settings.prior_spread, settings.described_spread, settings.class_spread,
        settings.affinity_spread, settings.cell_spread, settings.noise, settings.noise_weight, settings.decay,
        rates.contention, rates.service_horizon_s, float(cost.energy_cents(rates, 1.0)),
    )  # fmt: skip
    true_s = np.stack([p.true_run_s for p in world.pods])
    node_f = np.array(
        [
            (n.cpu_allocatable_milli, n.memory_allocatable_bytes, n.gpus_allocatable_milli, n.pods_allocatable,
             n.price_usd_per_h * rates.weights.cost, n.idle_w, n.peak_w)
            for n in world.nodes
        ]
    )  # fmt: skip
    node_class = np.array([world.class_of[n.node_class] for n in world.nodes], np.int64)
    allowed = np.stack([static_filter(world.nodes, spec) for spec in specs.values()])
    return Flat(
        pod_f=pod_f,
        pod_i=pod_i,
        true_s=true_s,
        node_f=node_f,
        node_class=node_class,
        node_name=np.array([list(n.ljust(width, b"\0")) for n in names], np.uint8),
        masks=allowed,
        settings=np.array(made),
        described=np.array([d for _, d in estimator.workloads], bool),
        row_factor=np.array(state["row_factor"], float),
        col_factor=np.array(state["col_factor"], float),
        stakes=_stakes(pod_f, pod_i, true_s, node_f, node_class, allowed),
    )  # fmt: skip


def _stakes(pod_f: Floats, pod_i: Ints, true_s: Floats, node_f: Floats, node_class: Ints, masks: Any) -> Floats:
    """See `beliefs.knowledge_gradient`: means over all pods of a workload, zeros where a class has no node for it."""
    rows, columns = int(pod_i[:, kn.WORKLOAD].max()) + 1, true_s.shape[1]
    made = np.zeros((3, rows, columns))
    for w in range(rows):
        mine = pod_i[:, kn.WORKLOAD] == w
        f = pod_f[mine]
        allowed = masks[np.unique(pod_i[mine, kn.MASK])].any(axis=0)  # [N]
        made[2, w] = mine.sum()
        for c in range(columns):
            nodes = np.flatnonzero((node_class == c) & allowed)
            if not len(nodes):
                continue
            node = node_f[nodes[0]]
            room = np.maximum(node[: kn.GPU_ROOM + 1], 1.0)
            share = np.minimum((f[:, [kn.CPU, kn.MEM, kn.GPU]] / room).max(axis=1), 1.0)
            rate = f[:, kn.DELAY] + share * node[kn.PRICE] * (100.0 / 3600.0)
            made[0, w, c] = (f[:, kn.SCALE] * rate).mean() if len(f) else 0.0
            made[1, w, c] = 1.0
    return made


def _check(world: World) -> None:
    def refuse(what: str) -> UserError:
        return UserError(f"the compiled engine does not model {what} (scenario {world.scenario})")

    if world.fifo or world.tick_s > 0.0:
        raise refuse("queues at nodes and placement at ticks")
    if any(t.get("effect") == "PreferNoSchedule" for n in world.nodes for t in n.taints):
        raise refuse("soft taints")
    if world.queueing != Queueing() or world.watch_lag_s or world.metrics_period_s:
        raise refuse("back-off, late watches and measured use")
    if world.changes or world.autoscaler or world.drifts:
        raise refuse("nodes that come and go, and drift")
    if any(p.image or p.start_s or p.parents or p.device_milli for p in world.pods):
        raise refuse("start latency, dependent pods and shared devices")
    arrivals = [p.request.created_s for p in world.pods]
    if arrivals != sorted(arrivals):
        raise refuse("pods that are not in order of arrival")
    archs = {n.arch for n in world.nodes}
    for pod in world.pods:
        r = pod.request
        if r.preferred_node_terms or r.preferred_topologies:
            raise refuse(f"preferences, as pod {r.name} has")
        if r.pinned or not TREATMENTS[r.kind].scored or (len(archs) > 1 and not r.archs):
            raise refuse(f"pods without an opinion of ours, as {r.name}")


def _pod_f(pod: SimPod, rates: CostRates) -> tuple[float, ...]:
    r = pod.request
    told = r.expected_run_s == r.expected_run_s
    return (
        r.created_s, r.deadline_s, r.cpu_milli, r.cpu_nonzero_milli, r.memory_bytes, r.memory_nonzero_bytes,
        r.gpus_milli, r.expected_run_s if told else 0.0, r.expected_run_s if told else 1.0, pod.sensitivity,
        cost.delay_cents_per_s(rates, r.sla), cost.late_cents(rates, r.sla),
        cost.loss_cents(rates, r.sla), pod.noise, pod.noise_factor,
    )  # fmt: skip
