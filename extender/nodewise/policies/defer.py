"""Deferral: whether a pod is worth more when it waits for a node that is about to free up than on any node now.

For each node where the pod does not fit, the time until it will is predicted from the believed remaining times of the
node's residents; the pod should wait if `margin` × its believed cost there, that wait included, is below its cost on
the best node now. Pure; `nodewise.policies.waiting` keeps the books of who waits. Only pods of a kind that may wait
(Jobs), that have a run time to price, and for no longer than `limit_s`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nodewise.core import cost
from nodewise.core import table as tb
from nodewise.core.columns import COLUMNS, arguments
from nodewise.core.kinds import TREATMENTS
from nodewise.core.raw import Raw, raw
from nodewise.core.table import OVERDUE, Resident
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows, SlaClass
from nodewise.policies.economic import TERMS

DEFER, ORDER = "-defer", "-cmu"
"""What a policy's name ends in if it defers, and if pods go by `index` while they wait: `economic-defer-cmu`."""


@dataclass(frozen=True, slots=True)
class DeferSettings:
    """When a pod is deferred, and for how long; measured in `scenarios/README.md` of the simulator."""

    margin: float = 1.15
    """Waiting must be cheaper by this factor: predictions of it are worse than those of running now."""
    base_s: float = 20.0
    per_run: float = 8.0
    """A pod is deferred for at most `base_s` + `per_run` × its expected run…"""
    most_s: tuple[float, float, float] = (600.0, 3600.0, 3600.0)
    """…and for at most this, by SLA class."""
    budget: int = 300
    """Most pods that are deferred at a time: every one costs the scheduler a cycle per event in the cluster."""


class Choice(NamedTuple):
    """What waiting would be worth."""

    waits: bool
    now_cents: float
    """Least believed cost on a node where the pod fits now."""
    then_cents: float
    """Least believed cost on a node that is to free up, wait included; inf if none is foreseen."""
    row: int
    """That node; -1 if none is foreseen."""
    wait_s: float
    """Predicted wait for it."""
    now_row: int
    """The node of `now_cents`; -1 if there is none."""


class Foreseen(NamedTuple):
    """The nodes as they will be when the pod first fits [M]; the wait is inf where no end of a resident helps."""

    wait_s: Floats
    cpu_requested_milli: Floats
    resident_delay_cents_per_s: Floats
    resident_exposure_s: Floats


def split(name: str) -> tuple[str, bool, bool]:
    """(policy that chooses the node, whether it defers, whether pods go by `index`) of a policy's name."""
    ordered = name.endswith(ORDER)
    name = name.removesuffix(ORDER)
    return name.removesuffix(DEFER), name.endswith(DEFER), ordered


def may_wait(pod: PodRequest) -> bool:
    """Whether the pod is of a kind that may be told to wait, and has a run time to price."""
    treatment = TREATMENTS[pod.kind]
    return treatment.deferrable and treatment.scored and treatment.ends and not pod.pinned


def expected_run_s(pod: PodRequest, view: ClusterView) -> float:
    """Least believed run time over the nodes of the cluster; nan for what is never seen and not described."""
    told = not math.isnan(pod.expected_run_s)
    if not told and not view.beliefs.observations[view.belief_row].any():
        return math.nan
    least = float(view.beliefs.run_mean[view.belief_row][view.nodes.node_class].min(initial=np.inf))
    return least * (pod.expected_run_s if told else 1.0)


def limit_s(pod: PodRequest, run_s: float, settings: DeferSettings) -> float:
    """Longest time that the pod may be deferred, given its expected run; never more than its deadline leaves."""
    if not may_wait(pod) or not run_s < math.inf:
        return 0.0
    slack_s = pod.deadline_s - pod.created_s - run_s
    return max(min(settings.base_s + settings.per_run * run_s, settings.most_s[pod.sla], slack_s), 0.0)


def index(pod: PodRequest, view: ClusterView, run_s: float) -> tuple[int, float]:
    """Who goes first among waiting pods: by priority, then by delay cost ÷ expected run (the cμ rule); higher first."""
    rate = cost.delay_cents_per_s(view.rates, pod.sla)
    return pod.priority, rate / run_s if 0.0 < run_s < math.inf else 0.0


def choose(
    pod: PodRequest, view: ClusterView, now: Rows, later: Rows, ahead_s: Floats, settings: DeferSettings
) -> Choice:
    """Compare the nodes where the pod fits `now` with those where it could fit `later` [M].

    `ahead_s` [M]: how much longer the pod must wait for each of `later` than its room takes to free up, because of
    those that go before it.
    """
    cents = _cents(raw(pod, view, now))
    now_cents = float(cents.min(initial=np.inf))
    now_row = int(now[np.argmin(cents)]) if math.isfinite(now_cents) else -1
    seen = foresee(pod, view, later)
    wait_s = seen.wait_s + ahead_s
    soon = np.flatnonzero(np.isfinite(wait_s))
    if len(soon) == 0 or not math.isfinite(now_cents):
        return Choice(False, now_cents, math.inf, -1, math.inf, now_row)
    values = raw(pod, view, later[soon])
    room = np.maximum(values.node.cpu_allocatable_milli, 1.0)
    node = values.node._replace(
        start_wait_s=wait_s[soon],
        pressure=seen.cpu_requested_milli[soon] / room,
        resident_delay_cents_per_s=seen.resident_delay_cents_per_s[soon],
        resident_exposure_s=seen.resident_exposure_s[soon],
    )
    then_cents = _cents(values._replace(node=node))
    best = int(np.argmin(then_cents))
    least = float(then_cents[best])
    waits = settings.margin * least < now_cents
    return Choice(waits, now_cents, least, int(later[soon[best]]), float(wait_s[soon[best]]), now_row)


def foresee(pod: PodRequest, view: ClusterView, rows: Rows) -> Foreseen:
    """When the pod fits on each of `rows` [M], if residents end as believed and nobody else comes; and what is left."""
    t = view.nodes
    order, ends_s, node = _by_end(view)
    if len(order) == 0:
        return Foreseen(np.full(len(rows), np.inf), *(np.zeros(len(rows)),) * 3)
    residents = t.residents[order]
    begin, end = t.resident_offsets[:-1], t.resident_offsets[1:]
    enough = np.ones(len(order), bool)
    for want, free, column in (
        (pod.cpu_milli, t.cpu_allocatable_milli - t.cpu_requested_milli, Resident.CPU_MILLI),
        (pod.memory_bytes, t.memory_allocatable_bytes - t.memory_requested_bytes, Resident.MEMORY_BYTES),
        (pod.gpus_milli, t.gpus_allocatable_milli - t.gpus_requested_milli, Resident.GPUS_MILLI),
    ):
        if want > 0.0:
            enough &= free[node] + _running(residents[:, column], begin, node) >= want
    # Room only grows as residents end, so the first end that helps is behind all that do not.
    first = begin + np.bincount(node[~enough], minlength=len(begin))
    wait_s = np.where(first < end, ends_s[np.minimum(first, len(order) - 1)], np.inf)
    # What is left is added up node by node, in order of the ends: compiled code can do the same to the last bit.
    stays = np.arange(len(order)) > first[node]
    rate = np.array([cost.delay_cents_per_s(view.rates, k) for k in SlaClass])[residents[:, Resident.SLA].astype(int)]
    stays_s = np.where(np.isfinite(ends_s), ends_s, view.rates.service_horizon_s)
    stays_s = stays_s - np.where(np.isfinite(wait_s), wait_s, 0.0)[node]
    left_cpu = tb.per_node(node, stays * residents[:, Resident.CPU_MILLI], len(begin))
    left_rate = tb.per_node(node, stays * rate, len(begin))
    exposure_s = tb.per_node(node, stays * rate * stays_s, len(begin)) / np.maximum(left_rate, 1e-12)
    return Foreseen(wait_s[rows], left_cpu[rows], left_rate[rows], np.maximum(exposure_s, 0.0)[rows])


def ahead_s(view: ClusterView, rows: Rows, cpu_milli: Floats) -> Floats:
    """How long those who go first keep each of `rows` [M] taken; `cpu_milli` [C]: what they request of each node class.

    A class serves them as fast as the CPU of its residents turns over. (The wait times 1 + pods ahead ÷ nodes of the
    class did as well in cost and deferred more often: a node whose next end is near is not free twice as soon.)
    """
    queue_s = np.where(cpu_milli > 0.0, cpu_milli / np.maximum(turnover_milli_per_s(view), 1e-9), 0.0)
    return np.asarray(queue_s[view.nodes.node_class[rows]])


def turnover_milli_per_s(view: ClusterView) -> Floats:
    """CPU that the residents of each node class give back per second in the long run [C]; services give none."""
    t, residents = view.nodes, view.nodes.residents
    nodes = residents[:, Resident.NODE].astype(np.int64)
    classes = t.node_class[nodes]
    run_s = view.beliefs.run_mean[residents[:, Resident.BELIEF_ROW].astype(np.int64), classes]
    run_s = run_s * residents[:, Resident.SCALE] * (1.0 + view.rates.contention * t.pressure[nodes])
    given = residents[:, Resident.ENDS] * residents[:, Resident.CPU_MILLI] / np.maximum(run_s, 1e-3)
    by_node = tb.per_node(nodes, given, len(t.node_class))  # of which a compiled loop keeps those that did not change
    return tb.per_node(t.node_class, by_node, view.beliefs.run_mean.shape[1])


def _cents(values: Raw) -> Floats:
    """Believed cost of each candidate, as policy `economic` adds it up [M]."""
    return np.asarray(sum(COLUMNS[name].fn(*arguments(COLUMNS[name], values)) for name in TERMS))


def left_s(view: ClusterView) -> Floats:
    """Believed time that each resident has left [R], its run stretched by its neighbours; inf for one without end.

    As `nodewise.core.table.left_s`, which leaves contention out: a wait that is taken for too short costs more.
    """
    t, residents, beliefs = view.nodes, view.nodes.residents, view.beliefs
    nodes, scale = residents[:, Resident.NODE].astype(np.int64), residents[:, Resident.SCALE]
    workloads, classes = residents[:, Resident.BELIEF_ROW].astype(np.int64), t.node_class[nodes]
    elapsed_s = np.nan_to_num(view.now_s - residents[:, Resident.STARTED_S], nan=0.0)
    run_s = beliefs.run_mean[workloads, classes] * scale * (1.0 + view.rates.contention * t.pressure[nodes])
    overdue_s = OVERDUE * beliefs.run_std[workloads, classes] * scale
    return np.where(residents[:, Resident.ENDS] > 0.0, np.maximum(run_s - elapsed_s, overdue_s), np.inf)


def _by_end(view: ClusterView) -> tuple[Rows, Floats, Rows]:
    """Order of the residents by node, then by believed time left; that time and the node of each, in that order [R]."""
    ends_s = left_s(view)
    nodes = view.nodes.residents[:, Resident.NODE].astype(np.int64)
    order = np.lexsort((ends_s, nodes))
    return order, ends_s[order], nodes[order]


def _running(values: Floats, begin: Rows, node: Rows) -> Floats:
    """Running sums that start anew at each node [R]; `begin` [N] is where the residents of each node start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(total[1:] - total[begin][node])
