"""A world as flat arrays: what the compiled engine reads and never writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core.errors import UserError
from nodewise.core.estimator import EstimatorSettings, RunTimeEstimator
from nodewise.core.feasible import static_filter, static_key
from nodewise.core.kinds import TREATMENTS
from nodewise.core.types import CostRates, Floats, SlaClass
from nodewise.policies.defer import may_wait
from nodewise_simulator.columns import PodColumns
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.physics import Queueing
from nodewise_simulator.plugins import asks
from nodewise_simulator.podtable import asked, expected_s, forms, hidden, identities, nonzero
from nodewise_simulator.world import World, check_queues

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flat:
    """One world. N nodes, P pods in order of arrival, C classes, W workloads; second indices are named in `kernels`."""

    pod_f: Floats  # [P, 15]
    pod_i: Ints  # [P, 10]
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


def flatten(world: World, rates: CostRates | None = None, *, everything: bool = False) -> Flat:
    """The arrays of a world. Raises UserError as `modelled`."""
    modelled(world, everything=everything)
    rates, settings = rates or CostRates(), EstimatorSettings()
    estimator = RunTimeEstimator(settings)
    for name in world.classes:
        estimator.column(name)
    of = forms(world.pods)
    belief_row = np.array([estimator.row(r) for r in of.requests], np.int64)
    state = estimator.state()
    keys = [static_key(spec) for spec in of.specs]
    specs = dict(zip(keys, of.specs, strict=True))
    row_of_key = {key: k for k, key in enumerate(specs)}
    mask = np.array([row_of_key[key] for key in keys], np.int64)
    treated = [TREATMENTS[r.kind] for r in of.requests]
    pod_f = _pod_f(world, rates)
    alike = (
        [int(r.sla) for r in of.requests], [r.priority if world.by_priority else 0 for r in of.requests], belief_row,
        [t.ends for t in treated], [t.teaches_speed for t in treated],
    )  # fmt: skip
    rank, crc, owner = identities(world.pods)
    may = np.array([may_wait(r) for r in of.requests])
    pod_i = np.stack(
        [*(np.asarray(c, np.int64)[of.form] for c in alike), owner, rank, crc, mask[of.form], may[of.form]], axis=1
    ).astype(np.int64, copy=False)
    names = [n.name.encode() for n in world.nodes]
    width = max(map(len, names)) + 1
    made = (
        math.log(settings.prior_run_s), settings.prior_spread, settings.described_spread, settings.class_spread,
        settings.affinity_spread, settings.cell_spread, settings.noise, settings.noise_weight, settings.decay,
        rates.contention, rates.service_horizon_s, float(cost.energy_cents(rates, 1.0)),
    )  # fmt: skip
    true_s = hidden(world.pods).true_run_s
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


def modelled(world: World, *, everything: bool = False) -> None:
    """Refuse what the compiled engine does not model: preferences, late watches, preemption, pods without our opinion.

    Without `everything` also what only `full` models, and not `loop`. Raises UserError.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"the compiled engine does not model {what} (scenario {world.scenario})")

    if any(t.get("effect") == "PreferNoSchedule" for n in world.nodes for t in n.taints):
        raise refuse("soft taints")
    if world.watch_lag_s or world.metrics_period_s:
        raise refuse("late watches and measured use")
    if world.preempts:
        raise refuse("preemption")
    check_queues(world)
    if what := _outside(world) if everything else _beyond(world):
        raise refuse(what)
    archs = {n.arch for n in world.nodes}
    of = forms(world.pods)
    for r, spec in zip(of.requests, of.specs, strict=True):
        if r.preferred_node_terms or r.preferred_topologies:
            raise refuse(f"preferences, as pod {r.name} has")
        if asks(spec):
            raise refuse(f"constraints on where other pods are, as pod {r.name} has")
        if r.pinned or not TREATMENTS[r.kind].scored or (len(archs) > 1 and not r.archs):
            raise refuse(f"pods without an opinion of ours, as {r.name}")


def immediate(world: World) -> bool:
    """Whether every pod that is bound works at once and ends there, and the nodes stay as they are."""
    return not _beyond(world)


def _beyond(world: World) -> str:
    """What of a world only `full` models; empty if nothing."""
    if world.fifo or world.tick_s > 0.0:
        return "queues at nodes and placement at ticks"
    if world.queueing != Queueing():
        return "back-off"
    if world.changes or world.autoscaler or world.drifts:
        return "nodes that come and go, and drift"
    if not isinstance(world.pods, PodColumns) and any(
        p.image or p.start_s or p.parents or p.device_milli for p in world.pods
    ):
        return "start latency, dependent pods and shared devices"
    return "pods that are not in order of arrival" if (np.diff(asked(world.pods).created_s) < 0.0).any() else ""


def _outside(world: World) -> str:
    """What of a world `full` does not model either; empty if nothing."""
    if any(n.gpus_allocatable_milli > _MOST_DEVICES * 1000.0 for n in world.nodes):
        return f"nodes of more than {_MOST_DEVICES} devices"
    if not (world.changes or world.autoscaler):
        return ""
    # A pod that is made again is called UID-LIFE: no other may come between two of these by name.
    uids = sorted(p.request.uid for p in world.pods)
    for one, other in pairwise(uids):
        if other.startswith(f"{one}-"):
            return f"pods that are called {one!r} and {other!r} where pods are lost"
    return ""


_MOST_DEVICES = 62
"""Those of a pod are bits of one number."""


def _pod_f(world: World, rates: CostRates) -> Floats:
    """[P, 15] in the order of `kernels`."""
    r, (cpu_nonzero, memory_nonzero), of = asked(world.pods), nonzero(world.pods), hidden(world.pods)
    told_s = expected_s(world.pods)
    said = ~np.isnan(told_s)
    by_sla = np.array(
        [(cost.delay_cents_per_s(rates, k), cost.late_cents(rates, k), cost.loss_cents(rates, k)) for k in SlaClass]
    )
    return np.stack(
        [
            r.created_s, r.deadline_s, r.cpu_milli, cpu_nonzero, r.memory_bytes, memory_nonzero, r.gpus_milli,
            np.where(said, told_s, 0.0), np.where(said, told_s, 1.0), of.sensitivity, *by_sla[r.sla].T,
            of.noise, of.noise_factor,
        ],
        axis=1,
    )  # fmt: skip
