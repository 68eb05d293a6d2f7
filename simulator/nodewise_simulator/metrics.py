"""What a run was worth: metrics over every pod that was submitted after the warm-up, never only over the finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodewise.core import cost
from nodewise.core.types import CostRates, SlaClass
from nodewise_simulator.engine import Log, Outcome
from nodewise_simulator.totals import thirds, totals, unstable
from nodewise_simulator.world import SimPod, World

UNITS = {
    "completion_mean": "s",
    "completion_p95": "s",
    "wait_mean": "s",
    "sla": "share",
    "sla_production": "share",
    "sla_batch": "share",
    "energy": "Wh",
    "energy_idle": "Wh",
    "cost": "cents per pod",
    "cost_first": "cents per pod",
    "cost_second": "cents per pod",
    "cost_last": "cents per pod",
    "cost_cluster": "cents per pod",
    "energy_dynamic": "Wh",
    "node_cost": "cents",
    "job_completion_mean": "s",
    "job_completion_p95": "s",
    "job_slowdown_mean": "to the critical path",
    "jobs_unfinished": "jobs",
    "unstable": "0 or 1",
    "work_lost": "core-hours",
    "evictions": "pods",
    "restarts": "pods",
    "cycles": "per pod",
    "held": "per pod",
    "unfinished": "pods",
    "decision_p50": "ms",
    "decision_p99": "ms",
}
"""Unit of each metric. `energy` is what the counted pods drew above idle; `energy_idle`, `energy_dynamic`, `node_cost`
and `work_lost` are the whole cluster's from the first counted arrival to the last end, and `cost_cluster` is delay and
lateness of the counted pods and all of that. `cost_first` to `cost_last` are the thirds of the counted pods."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one policy on one world."""

    scenario: str
    policy: str
    seed: int
    metrics: dict[str, float]
    placements: tuple[str, ...]
    """Node of each pod by arrival; empty for one that never got any."""
    completion_s: tuple[float, ...] = ()
    """Quantiles 0, 1, … 100 % of creation to end of the counted pods."""


def completions(world: World, outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """Quantiles of creation to end, as `Result.completion_s`; a pod that never ended ends when the last one did."""
    last_s = _last_s(outcomes)
    flow = [_end_s(o, last_s) - _created_s(o, p) for o, p in list(zip(outcomes, world.pods, strict=True))[world.warm :]]
    return tuple(np.percentile(flow, np.arange(101)).tolist())


def _last_s(outcomes: Sequence[Outcome]) -> float:
    return max((o.finished_s for o in outcomes if not math.isnan(o.finished_s)), default=0.0)


def _end_s(outcome: Outcome, last_s: float) -> float:
    return last_s if math.isnan(outcome.finished_s) else outcome.finished_s


def _created_s(outcome: Outcome, pod: SimPod) -> float:
    """A pod that waited for its parents was created later than its manifest says."""
    return pod.request.created_s if math.isnan(outcome.created_s) else outcome.created_s


def measure(
    world: World, outcomes: Sequence[Outcome], rates: CostRates | None = None, log: Log | None = None
) -> dict[str, float]:
    """The metrics of the counted pods. A pod that never ended counts as late and as ending when the last one did.

    The whole cluster's are left out if there is no `log`.
    """
    rates = rates or CostRates()
    nodes = {n.name: n for n in world.nodes}
    last_s = _last_s(outcomes)
    flow, wait, cents, joules = [], [], [], []
    met: dict[SlaClass, list[bool]] = {k: [] for k in SlaClass}
    unfinished, delay_cents = 0, 0.0
    for outcome, pod in list(zip(outcomes, world.pods, strict=True))[world.warm :]:
        request = pod.request
        ended = not math.isnan(outcome.finished_s)
        unfinished += not ended
        end_s, created_s = _end_s(outcome, last_s), _created_s(outcome, pod)
        begin_s = outcome.started_s if not math.isnan(outcome.started_s) else end_s
        deadline_s = request.deadline_s if math.isnan(outcome.deadline_s) else outcome.deadline_s
        run_s, flow_s = end_s - begin_s, end_s - created_s
        late = not ended or end_s > deadline_s
        drawn_j, share, price = 0.0, 0.0, 0.0
        if outcome.node:
            node = nodes[outcome.node]
            room = node.cpu_allocatable_milli
            drawn_j = float(cost.dynamic_joules(request.cpu_milli, room, node.idle_w, node.peak_w, run_s))
            share, price = cost.dominant_share(request, node), node.price_usd_per_h
        flow.append(flow_s)
        wait.append(begin_s - created_s)
        joules.append(drawn_j)
        late = late and deadline_s < math.inf
        delay_cents += cost.delay_cents_per_s(rates, request.sla) * flow_s + cost.late_cents(rates, request.sla) * late
        if deadline_s < math.inf:
            met[request.sla].append(not late)
        cents.append(
            cost.realised_cents(
                rates, request, flow_s=flow_s, late=late, joules=drawn_j, share=share,
                price_usd_per_h=price, run_s=run_s,
            )
        )  # fmt: skip
    begin_s = world.pods[world.warm].request.created_s
    every = [ok for oks in met.values() for ok in oks]
    made = {
        "completion_mean": float(np.mean(flow)),
        "completion_p95": float(np.percentile(flow, 95)),
        "wait_mean": float(np.mean(wait)),
        "sla": float(np.mean(every)) if every else 1.0,
        "sla_production": float(np.mean(met[SlaClass.PRODUCTION])) if met[SlaClass.PRODUCTION] else 1.0,
        "sla_batch": float(np.mean(met[SlaClass.BATCH])) if met[SlaClass.BATCH] else 1.0,
        "energy": sum(joules) / 3600.0,
        "energy_idle": sum(n.idle_w for n in world.nodes) * (last_s - begin_s) / 3600.0,
        "cost": float(np.mean(cents)),
        "unfinished": float(unfinished),
        "unstable": float(unstable(world, outcomes)),
        **thirds(cents),
    }
    return made if log is None else made | totals(world, outcomes, log, rates, begin_s, last_s, delay_cents)
