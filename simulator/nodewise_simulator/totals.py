"""What a run cost the whole cluster, whoever caused it, and whether it could have gone on like that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nodewise.core import cost
from nodewise.core.types import CostRates, Floats
from nodewise_simulator.engine import Log, Outcome
from nodewise_simulator.fates import Fates, fates, machines
from nodewise_simulator.world import World

_BATCHES = 10
_TREND = 29
_GROWTH = 0.02


def totals(
    world: World, outcomes: Sequence[Outcome] | Fates, log: Log, rates: CostRates, begin_s: float, last_s: float,
    delay_cents: float,
) -> dict[str, float]:  # fmt: skip
    """Energy, price and losses between two times; `delay_cents` is what delay and lateness of the counted pods cost."""
    of, there = fates(world, outcomes), machines(world)
    row = {n.name: k for k, n in enumerate(world.nodes)}
    ran = np.flatnonzero(~np.isnan(of.started_s))
    run_s = _between(of.started_s[ran], of.end_s[ran], begin_s, last_s)
    joules = float(there.joules(of.node[ran], of.asked.cpu_milli[ran], run_s).sum())
    lost = [a for a in log.lost if not math.isnan(a.started_s)]
    began_s, ended_s = np.array([(a.started_s, a.ended_s) for a in lost]).reshape(-1, 2).T
    gone_s = _between(began_s, ended_s, begin_s, last_s)
    lost_milli = of.asked.cpu_milli[[a.index for a in lost]]
    joules += float(there.joules(np.array([row[a.node] for a in lost], np.int64), lost_milli, gone_s).sum())
    lost_core_s = float((lost_milli / 1000.0 * gone_s).sum())
    whole_s = last_s - begin_s
    idle_j = sum(n.idle_w for n in world.nodes) * whole_s
    usd_h = sum(n.price_usd_per_h for n in world.nodes) * whole_s
    if log.up:
        up_s = np.zeros(len(world.nodes))
        for name, since_s, until_s in log.up:
            up_s[row[name]] += max(min(until_s, last_s) - max(since_s, begin_s), 0.0)
        idle_j, usd_h = float(there.idle_w[:-1] @ up_s), float(there.price_usd_per_h[:-1] @ up_s)
    node_cents = float(cost.node_cents(1.0, usd_h * rates.weights.cost, 1.0))
    pods = len(of.node)
    counted = max(pods - world.warm, 1)
    whole = delay_cents + float(cost.energy_cents(rates, joules + idle_j)) + node_cents
    return {
        "energy_idle": idle_j / 3600.0,
        "energy_dynamic": joules / 3600.0,
        "node_cost": node_cents,
        "cost_cluster": whole / counted,
        "work_lost": lost_core_s / 3600.0,
        "evictions": float(sum(a.evicted for a in log.lost)),
        "preemptions": float(sum(len(p.victims) for p in log.preemptions)),
        "restarts": float(len(log.lost)),
        "cycles": log.cycles / max(pods, 1),
        "held": log.held / max(pods, 1),
    }


def _between(from_s: Floats, to_s: Floats, begin_s: float, last_s: float) -> Floats:
    """What of each time lies between two others."""
    return np.asarray(np.maximum(np.minimum(to_s, last_s) - np.maximum(from_s, begin_s), 0.0))


def thirds(cents: Sequence[float] | Floats) -> dict[str, float]:
    """Mean cost of the first, middle and last third of the counted pods, by creation: one that climbs is no figure."""
    parts = np.array_split(np.asarray(cents, float), 3)
    return {
        f"cost_{name}": float(p.mean()) for name, p in zip(("first", "second", "last"), parts, strict=True) if len(p)
    }


def unstable(world: World, outcomes: Sequence[Outcome] | Fates) -> bool:
    """Whether more and more pods wait: the cluster does not keep up with what arrives, and no mean of it is a figure.

    Of the pods that wait at the counted arrivals, in ten batches, the means must rise from batch to batch (one-sided
    Mann-Kendall test at 0.5 %, so that a burst that passes does not count) and by at least 2 % of the arrivals, over
    all of them and over the last third, so that a backlog that has found its level does not count either.
    """
    waiting = waiting_pods(world, outcomes)
    if len(waiting) < 5 * _BATCHES:
        return False
    means = np.array([part.mean() for part in np.array_split(waiting, _BATCHES)])
    later = means[None, :] - means[:, None]
    trend = float(np.sign(later[np.triu_indices(_BATCHES, 1)]).sum())
    per_batch = [(means[-1] - means[-1 - back]) / back for back in (_BATCHES - 1, _BATCHES // 3)]
    return bool(trend >= _TREND and min(per_batch) >= _GROWTH * len(waiting) / _BATCHES)


def waiting_pods(world: World, outcomes: Sequence[Outcome] | Fates) -> Floats:
    """How many pods have been created and do not run, just before each counted one is created [counted]."""
    of = fates(world, outcomes)
    created_s = of.asked.created_s
    started_s = np.sort(np.where(np.isnan(of.started_s), np.inf, of.started_s))
    at_s = np.sort(created_s[world.warm :])
    came, went = np.searchsorted(np.sort(created_s), at_s, "left"), np.searchsorted(started_s, at_s, "right")
    return np.asarray(np.maximum(came - went, 0), float)
