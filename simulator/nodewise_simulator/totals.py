"""What a run cost the whole cluster, whoever caused it, and whether it could have gone on like that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nodewise.core import cost
from nodewise.core.pods import NodeSpec
from nodewise.core.types import CostRates, Floats, PodRequest
from nodewise_simulator.engine import Log, Outcome
from nodewise_simulator.world import World

_BATCHES = 10
_TREND = 29
_GROWTH = 0.02


def totals(
    world: World, outcomes: Sequence[Outcome], log: Log, rates: CostRates, begin_s: float, last_s: float,
    delay_cents: float,
) -> dict[str, float]:  # fmt: skip
    """Energy, price and losses between two times; `delay_cents` is what delay and lateness of the counted pods cost."""
    nodes = {n.name: n for n in world.nodes}
    joules = lost_core_s = 0.0
    requests = [p.request for p in world.pods]
    for o in outcomes:
        if not math.isnan(o.started_s):
            end_s = last_s if math.isnan(o.finished_s) else o.finished_s
            run_s = max(min(end_s, last_s) - max(o.started_s, begin_s), 0.0)
            joules += _dynamic_joules(requests[o.index], nodes[o.node], run_s)
    for a in log.lost:
        if not math.isnan(a.started_s):
            run_s = max(min(a.ended_s, last_s) - max(a.started_s, begin_s), 0.0)
            joules += _dynamic_joules(requests[a.index], nodes[a.node], run_s)
            lost_core_s += requests[a.index].cpu_milli / 1000.0 * run_s
    whole_s = last_s - begin_s
    idle_j = sum(n.idle_w for n in world.nodes) * whole_s
    usd_h = sum(n.price_usd_per_h for n in world.nodes) * whole_s
    if log.up:
        up_s = dict.fromkeys(nodes, 0.0)
        for name, since_s, until_s in log.up:
            up_s[name] += max(min(until_s, last_s) - max(since_s, begin_s), 0.0)
        idle_j = sum(nodes[name].idle_w * s for name, s in up_s.items())
        usd_h = sum(nodes[name].price_usd_per_h * s for name, s in up_s.items())
    node_cents = float(cost.node_cents(1.0, usd_h * rates.weights.cost, 1.0))
    counted = max(len(outcomes) - world.warm, 1)
    whole = delay_cents + float(cost.energy_cents(rates, joules + idle_j)) + node_cents
    return {
        "energy_idle": idle_j / 3600.0,
        "energy_dynamic": joules / 3600.0,
        "node_cost": node_cents,
        "cost_cluster": whole / counted,
        "work_lost": lost_core_s / 3600.0,
        "evictions": float(sum(a.evicted for a in log.lost)),
        "restarts": float(len(log.lost)),
        "cycles": log.cycles / max(len(outcomes), 1),
        "held": log.held / max(len(outcomes), 1),
    }


def _dynamic_joules(pod: PodRequest, node: NodeSpec, run_s: float) -> float:
    room = node.cpu_allocatable_milli
    return float(cost.dynamic_joules(pod.cpu_milli, room, node.idle_w, node.peak_w, run_s))


def thirds(cents: Sequence[float]) -> dict[str, float]:
    """Mean cost of the first, middle and last third of the counted pods, by creation: one that climbs is no figure."""
    parts = np.array_split(np.asarray(cents, float), 3)
    return {
        f"cost_{name}": float(p.mean()) for name, p in zip(("first", "second", "last"), parts, strict=True) if len(p)
    }


def unstable(world: World, outcomes: Sequence[Outcome]) -> bool:
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


def waiting_pods(world: World, outcomes: Sequence[Outcome]) -> Floats:
    """How many pods have been created and do not run, just before each counted one is created [counted]."""
    given = np.array([p.request.created_s for p in world.pods])
    late = np.array([o.created_s for o in outcomes])
    created_s = np.where(np.isnan(late), given, late)
    started_s = np.array([o.started_s for o in outcomes])
    started_s = np.sort(np.where(np.isnan(started_s), np.inf, started_s))
    at_s = np.sort(created_s[world.warm :])
    came, went = np.searchsorted(np.sort(created_s), at_s, "left"), np.searchsorted(started_s, at_s, "right")
    return np.asarray(np.maximum(came - went, 0), float)
