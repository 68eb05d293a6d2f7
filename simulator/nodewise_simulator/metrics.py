"""What a run was worth: metrics over every pod that was submitted after the warm-up, never only over the finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodewise.core import cost
from nodewise.core.types import CostRates, SlaClass
from nodewise_simulator.engine import Outcome
from nodewise_simulator.world import World

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
    "unfinished": "pods",
    "decision_p50": "ms",
    "decision_p99": "ms",
}
"""Unit of each metric; `energy` is what pods drew above idle."""


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
    ends = np.array([o.finished_s for o in outcomes])
    ends = np.where(np.isnan(ends), np.nanmax(ends) if not np.isnan(ends).all() else 0.0, ends)
    flow = ends - np.array([p.request.created_s for p in world.pods])
    return tuple(np.percentile(flow[world.warm :], np.arange(101)).tolist())


def measure(world: World, outcomes: Sequence[Outcome], rates: CostRates | None = None) -> dict[str, float]:
    """The metrics of the counted pods. A pod that never ended counts as late and as ending when the last one did."""
    rates = rates or CostRates()
    nodes = {n.name: n for n in world.nodes}
    last_s = max((o.finished_s for o in outcomes if not math.isnan(o.finished_s)), default=0.0)
    flow, wait, cents, joules = [], [], [], []
    met: dict[SlaClass, list[bool]] = {k: [] for k in SlaClass}
    unfinished = 0
    for outcome, pod in list(zip(outcomes, world.pods, strict=True))[world.warm :]:
        request = pod.request
        ended = not math.isnan(outcome.finished_s)
        unfinished += not ended
        end_s = outcome.finished_s if ended else last_s
        begin_s = outcome.started_s if not math.isnan(outcome.started_s) else end_s
        run_s, flow_s = end_s - begin_s, end_s - request.created_s
        late = not ended or end_s > request.deadline_s
        drawn_j, share, price = 0.0, 0.0, 0.0
        if outcome.node:
            node = nodes[outcome.node]
            room = node.cpu_allocatable_milli
            drawn_j = float(cost.dynamic_joules(request.cpu_milli, room, node.idle_w, node.peak_w, run_s))
            share, price = cost.dominant_share(request, node), node.price_usd_per_h
        flow.append(flow_s)
        wait.append(begin_s - request.created_s)
        joules.append(drawn_j)
        if request.deadline_s < math.inf:
            met[request.sla].append(not late)
        cents.append(
            cost.realised_cents(
                rates, request, flow_s=flow_s, late=late and request.deadline_s < math.inf, joules=drawn_j, share=share,
                price_usd_per_h=price, run_s=run_s,
            )
        )  # fmt: skip
    begin_s = world.pods[world.warm].request.created_s
    every = [ok for oks in met.values() for ok in oks]
    return {
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
    }
