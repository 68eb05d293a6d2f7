"""What no policy can go below in a world, be it clairvoyant: a lower bound of its mean cost and mean completion.

Weak duality. Whatever is decided, pod i starts at some τ ≥ its creation on some group g of like nodes that it may use,
holds its room at least for its run alone, and all pods together never hold more than the room of a group. So for any
prices λ ≥ 0 of a unit of room for a second, between the first counted arrival t₀ and the last one H,

    Σ cost ≥ Σ_i min over g, τ of [cost of i started at τ on g + λ_g · wants_i · seconds of its run before H]
             − (H − t₀) Σ_g λ_g · room_g.

Prices of zero give each pod alone on its best node. Those of the linear program of total resource-time (fractions of
pods × groups, cheapest such that all fit between t₀ and H) also charge for who cannot have it. The greater counts.
The program is solved for a sample: prices only have to be good, the bound holds for any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core.feasible import static_filter, static_key
from nodewise.core.pods import NodeSpec
from nodewise.core.types import CostRates, Floats
from nodewise_simulator.world import SimPod, World

_SAMPLE = 3000
"""Pods for which the program is solved."""


@dataclass(frozen=True, slots=True)
class Work:
    """The counted pods [P] on groups of like nodes [G], with R kinds of room; all are lower bounds."""

    created_s: Floats  # [P]
    slack_s: Floats  # [P] from creation to the deadline
    run_s: Floats  # [P, G] alone; inf where the pod may not go
    delay: Floats  # [P] cents per second from creation to end
    late: Floats  # [P] cents if it ends behind its deadline
    held: Floats  # [P, G] cents per second of run: energy and share of the node's price
    wants: Floats  # [P, R]
    room: Floats  # [G, R] of all nodes of the group


def bounds(world: World, rates: CostRates | None = None) -> dict[str, float]:
    """`cost_bound` and `completion_bound`: below the metrics `cost` and `completion_mean` of every run that ends."""
    cents = work_of(world, rates or CostRates())
    ones, none = np.ones_like(cents.delay), np.zeros_like(cents.held)
    seconds = replace(cents, delay=ones, late=0.0 * ones, held=none)
    return {"cost_bound": least_mean(cents), "completion_bound": least_mean(seconds)}


def least_mean(work: Work) -> float:
    """The bound of the mean, in the unit of `delay` × seconds."""
    alone = at_prices(work, np.zeros_like(work.room))
    return max(alone, at_prices(work, prices(work))) / len(work.delay)


def at_prices(work: Work, price: Floats) -> float:
    """The bound of the sum at these prices [G, R], in cents per unit of room and second."""
    span_s = float(work.created_s.max() - work.created_s.min())
    left_s = (work.created_s.max() - work.created_s)[:, None]  # until prices end
    toll = work.wants @ price.T  # [P, G] cents per second
    may = np.isfinite(work.run_s)
    run_s = np.where(may, work.run_s, 0.0)
    # Between these moments the cost is linear in the time of the start: one of them is the cheapest.
    waits = (np.zeros_like(run_s), left_s + 0.0 * run_s, left_s - run_s, work.slack_s[:, None] - run_s)
    best = np.full(len(run_s), np.inf)
    for wait_s in waits:
        ok = may & np.isfinite(wait_s) & (wait_s >= 0.0)
        wait_s = np.where(ok, wait_s, 0.0)
        paid_s = np.clip(left_s - wait_s, 0.0, run_s)
        made = own_cents(work, wait_s, run_s) + toll * paid_s
        best = np.minimum(best, np.where(ok, made, np.inf).min(axis=1))
    # A pod that may go nowhere never ends, and is not charged here.
    return float(best[np.isfinite(best)].sum() - span_s * (price * work.room).sum())


def own_cents(work: Work, wait_s: Floats, run_s: Floats) -> Floats:
    """What pods cost that wait and run for so long [P, G]."""
    # The engine ends a pod on a multiple of 1/64 s, with a tolerance far below this.
    late = work.late[:, None] * (wait_s + run_s > work.slack_s[:, None] + 1e-6)
    return work.delay[:, None] * (wait_s + run_s) + late + work.held * run_s


def prices(work: Work) -> Floats:
    """Prices of the linear program of total resource-time, from a sample of the pods [G, R]."""
    from scipy.optimize import linprog  # type: ignore[import-untyped]
    from scipy.sparse import csr_array, hstack, identity  # type: ignore[import-untyped]

    usable = np.flatnonzero(np.isfinite(work.run_s).any(axis=1))
    take = (
        usable[np.unique(np.linspace(0, len(usable) - 1, min(_SAMPLE, len(usable))).astype(int))]
        if len(usable)
        else usable
    )
    span_s = float(work.created_s.max() - work.created_s.min())
    if not len(take) or span_s <= 0.0:
        return np.zeros_like(work.room)
    some = replace(work, **{k: getattr(work, k)[take] for k in _PER_POD})
    pods, groups = some.run_s.shape
    may = np.isfinite(some.run_s)
    run_s = np.where(may, some.run_s, 0.0)
    cents = own_cents(some, np.zeros_like(run_s), run_s)
    # Or it waits until nobody is counted any more, and pays nothing.
    wait_s = (work.created_s.max() - some.created_s)[:, None] + 0.0 * run_s
    later = np.where(may, own_cents(some, wait_s, run_s), np.inf).min(axis=1)
    paid_s = np.minimum(run_s, wait_s)
    room = work.room.ravel() * span_s * (pods / len(usable))
    pairs = np.arange(pods * groups)
    rows, columns, values = [], [], []
    for r in range(work.wants.shape[1]):
        rows.append((pairs % groups) * work.wants.shape[1] + r)
        columns.append(pairs)
        values.append((paid_s * some.wants[:, r : r + 1]).ravel() / np.maximum(room[rows[-1]], 1e-9))
    used = csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (len(room), pairs.size + pods)
    )
    once = hstack([csr_array((np.ones(pairs.size), (pairs // groups, pairs))), identity(pods)])
    found = linprog(
        np.concatenate([np.where(may, cents, 0.0).ravel(), later]), used, np.ones(len(room)), once, np.ones(pods),
        [(0.0, None if ok else 0.0) for ok in may.ravel()] + [(0.0, None)] * pods, method="highs",
    )  # fmt: skip
    if found.status != 0:
        return np.zeros_like(work.room)
    made = np.maximum(-np.asarray(found.ineqlin.marginals, float), 0.0) / np.maximum(room, 1e-9)
    return np.asarray(made.reshape(work.room.shape))


_PER_POD = ("created_s", "slack_s", "run_s", "delay", "late", "held", "wants")


def work_of(world: World, rates: CostRates) -> Work:
    """The counted pods of a world and its room."""
    counted = world.pods[world.warm :]
    group_of: dict[tuple[object, ...], list[int]] = {}
    for k, n in enumerate(world.nodes):
        like = (n.node_class, *_room(n), n.idle_w, n.peak_w, n.price_usd_per_h)
        group_of.setdefault(like, []).append(k)
    groups = list(group_of.values())
    first = [world.nodes[g[0]] for g in groups]
    one = np.array([_room(n) for n in first])  # [G, 3]
    wants = np.array([(p.request.cpu_milli, p.request.memory_bytes, p.request.gpus_milli) for p in counted])
    may = np.ones((len(counted), len(groups)), bool)
    if not world.fifo:
        may = ((wants[:, None, :] <= one) | (wants[:, None, :] == 0.0)).all(axis=2)
    masks: dict[str, NDArray[np.bool_]] = {}
    for i, pod in enumerate(counted):
        key = static_key(pod.manifest["spec"])
        if key not in masks:
            passes = static_filter(world.nodes, pod.manifest["spec"])
            masks[key] = np.array([passes[g].any() for g in groups])
        may[i] &= masks[key]
    run_s = np.stack([p.true_run_s for p in counted])[:, [world.class_of[n.node_class] for n in first]]
    run_s = np.where(may & np.isfinite(run_s), run_s * _fastest(world, counted, first), np.inf)
    requests = [p.request for p in counted]
    created_s = np.array([r.created_s for r in requests])
    watts = np.array([max(n.peak_w - n.idle_w, 0.0) for n in first])
    share_w = wants[:, :1] / np.maximum(one[:, 0], 1.0) * watts
    price = np.array([n.price_usd_per_h for n in first]) * rates.weights.cost
    share = np.array([[cost.dominant_share(r, n) for n in first] for r in requests])
    # A dispatcher's node runs one pod at a time, whatever it asks for. A pod with parents is created when they end,
    # and until then its delay costs nothing: it takes no part in the competition for room.
    taken = np.ones((len(counted), 1)) if world.fifo else wants
    taken = taken * np.array([[0.0 if p.parents else 1.0] for p in counted])
    return Work(
        created_s=created_s,
        slack_s=np.array([r.deadline_s for r in requests]) - created_s,
        run_s=run_s,
        delay=np.array([cost.delay_cents_per_s(rates, r.sla) for r in requests]),
        late=np.array([cost.late_cents(rates, r.sla) for r in requests]),
        held=np.asarray(cost.energy_cents(rates, share_w) + cost.node_cents(share, 1.0, 1.0) * price),
        wants=taken,
        room=(np.ones((len(groups), 1)) if world.fifo else one) * np.array([[len(g)] for g in groups]),
    )


def _room(node: NodeSpec) -> tuple[float, float, float]:
    return node.cpu_allocatable_milli, node.memory_allocatable_bytes, node.gpus_allocatable_milli


def _fastest(world: World, pods: Sequence[SimPod], nodes: list[NodeSpec]) -> Floats:
    """The least factor that drifts ever put on run times [P, G]."""
    made = np.ones((len(pods), len(nodes)))
    for drift in world.drifts:
        whom = np.array([drift.workload in ("", p.request.workload) for p in pods])
        where = np.array([drift.node_class in ("", n.node_class) for n in nodes])
        made[np.ix_(whom, where)] *= min(drift.factor, 1.0)
    return made
