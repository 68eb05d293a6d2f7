"""What each pod's placement was worth, in the four units that people ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nodewise.core import cost
from nodewise.core.pods import NodeSpec
from nodewise.core.types import CostRates, Floats, PodRequest
from nodewise_simulator.advise.record import Recording
from nodewise_simulator.engine import Outcome
from nodewise_simulator.world import World

METRICS = ("completion", "sla_misses", "energy", "cost")
UNITS = {"completion": "s per pod", "sla_misses": "pods", "energy": "Wh", "cost": "cents"}
"""Completion, from creation to end, is a mean over pods; the others are sums over all of them. `energy` is what pods
draw above idle."""


def measured(world: World, outcomes: Sequence[Outcome], counted: Sequence[int], rates: CostRates) -> Floats:
    """Completion in s, missed deadline (0 or 1), energy in Wh and cost in cents of each counted pod [n, 4].

    As `nodewise_simulator.metrics`: a pod that never ended counts as late and as ending when the last one did.
    """
    nodes = {n.name: n for n in world.nodes}
    last_s = max((o.finished_s for o in outcomes if not math.isnan(o.finished_s)), default=0.0)
    made = np.zeros((len(counted), len(METRICS)))
    for at, k in enumerate(counted):
        outcome, request = outcomes[k], world.pods[k].request
        made[at] = _pod(request, nodes.get(outcome.node), outcome.started_s, outcome.finished_s, last_s, rates)
    return made


def realised(recording: Recording, rates: CostRates) -> dict[str, float]:
    """What the recorded pods that are judged really had of each metric, those left out that were not seen to end.

    With `Gain.before` and the difference of two recordings of the same arrivals, a prediction can be held to account.
    """
    rows = [
        _pod(p.request, recording.nodes[p.node], p.started_s, p.finished_s, p.finished_s, rates)
        for p in recording.pods
        if p.counted and p.ended and p.node >= 0
    ]
    values = np.array(rows).reshape(-1, len(METRICS))
    return {m: float(v.mean() if m == "completion" else v.sum()) for m, v in zip(METRICS, values.T, strict=True)}


def _pod(
    request: PodRequest, node: NodeSpec | None, started_s: float, finished_s: float, last_s: float, rates: CostRates
) -> tuple[float, float, float, float]:
    ended = not math.isnan(finished_s)
    end_s = finished_s if ended else max(last_s, request.created_s)
    run_s = end_s - started_s if not math.isnan(started_s) else 0.0
    late = request.deadline_s < math.inf and (not ended or end_s > request.deadline_s)
    joules, share, price = 0.0, 0.0, 0.0
    if node is not None:
        room = node.cpu_allocatable_milli
        joules = float(cost.dynamic_joules(request.cpu_milli, room, node.idle_w, node.peak_w, run_s))
        share, price = cost.dominant_share(request, node), node.price_usd_per_h
    flow_s = end_s - request.created_s
    cents = cost.realised_cents(
        rates, request, flow_s=flow_s, late=late, joules=joules, share=share, price_usd_per_h=price, run_s=run_s
    )
    return flow_s, float(late), joules / 3600.0, cents
