"""What a run was worth: metrics over every pod that was submitted after the warm-up, never only over the finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core.types import CostRates, SlaClass
from nodewise_simulator.engine import Log, Outcome
from nodewise_simulator.fates import Fates, fates, machines
from nodewise_simulator.podtable import Asked
from nodewise_simulator.totals import thirds, totals, unstable
from nodewise_simulator.world import World

Bools = NDArray[np.bool_]

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
    "preemptions": "pods",
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
    simulator: str = ""
    """The engine that played it: compiled or reference; empty for what plays itself."""


def completions(world: World, outcomes: Sequence[Outcome] | Fates) -> tuple[float, ...]:
    """Quantiles of creation to end, as `Result.completion_s`; a pod that never ended ends when the last one did."""
    of = fates(world, outcomes)
    flow_s = (of.end_s - of.asked.created_s)[world.warm :]
    return tuple(np.percentile(flow_s, np.arange(101)).tolist())


def measure(
    world: World, outcomes: Sequence[Outcome] | Fates, rates: CostRates | None = None, log: Log | None = None
) -> dict[str, float]:
    """The metrics of the counted pods. A pod that never ended counts as late and as ending when the last one did.

    The whole cluster's are left out if there is no `log`. What a pod cost is `cost.realised_cents`, for all at once.
    """
    rates = rates or CostRates()
    every = fates(world, outcomes)
    of, last_s, counted = _counted(every, world.warm), every.last_s, len(every.node) - world.warm
    ask = of.asked
    ended, timed = ~np.isnan(of.finished_s), ask.deadline_s < math.inf
    end_s = np.where(ended, of.finished_s, last_s)
    begin_s = np.where(np.isnan(of.started_s), end_s, of.started_s)
    run_s, flow_s = end_s - begin_s, end_s - ask.created_s
    late = (~ended | (end_s > ask.deadline_s)) & timed
    there = machines(world)
    joules = there.joules(of.node, ask.cpu_milli, run_s)
    price = there.price_usd_per_h[of.node] * rates.weights.cost
    by_sla = np.array([(cost.delay_cents_per_s(rates, k), cost.late_cents(rates, k)) for k in SlaClass])[ask.sla]
    delay = by_sla[:, 0] * flow_s + by_sla[:, 1] * late
    held = cost.node_cents(there.share(of.node, ask), price, run_s)
    cents = delay + cost.energy_cents(rates, joules) + held
    since_s = float(every.asked.created_s[world.warm])
    made = {
        "completion_mean": float(np.mean(flow_s)),
        "completion_p95": float(np.percentile(flow_s, 95)),
        "wait_mean": float(np.mean(begin_s - ask.created_s)),
        "sla": _met(late, timed),
        "sla_production": _met(late, timed & (ask.sla == SlaClass.PRODUCTION)),
        "sla_batch": _met(late, timed & (ask.sla == SlaClass.BATCH)),
        "energy": float(joules.sum()) / 3600.0,
        "energy_idle": sum(n.idle_w for n in world.nodes) * (last_s - since_s) / 3600.0,
        "cost": float(np.mean(cents)),
        "unfinished": float(counted - ended.sum()),
        "unstable": float(unstable(world, every)),
        **thirds(cents),
    }
    return made if log is None else made | totals(world, every, log, rates, since_s, last_s, float(delay.sum()))


def _counted(every: Fates, warm: int) -> Fates:
    asked = Asked(*(getattr(every.asked, f.name)[warm:] for f in fields(Asked)))
    return Fates(asked, every.node[warm:], every.started_s[warm:], every.finished_s[warm:])


def _met(late: Bools, of: Bools) -> float:
    """Share of those that were not late; 1 of none."""
    return float(np.mean(~late[of])) if of.any() else 1.0
