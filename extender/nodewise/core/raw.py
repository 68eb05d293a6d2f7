"""The raw values that columns are made of, as NamedTuples of float64, and how they are read from a view."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nodewise.core import cost
from nodewise.core.kinds import TREATMENTS
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows, SlaClass

F = Any
"""float64, scalar or array: what a column's arguments and result are made of."""


class Node(NamedTuple):
    """Raw values of nodes, float64 [M]; names and units as in `NodeTable`."""

    cpu_allocatable_milli: Any
    cpu_requested_milli: Any
    cpu_nonzero_milli: Any
    cpu_used_milli: Any
    memory_allocatable_bytes: Any
    memory_requested_bytes: Any
    memory_nonzero_bytes: Any
    memory_used_bytes: Any
    gpus_allocatable_milli: Any
    gpus_requested_milli: Any
    work_remaining_s: Any
    longest_remaining_s: Any
    start_wait_s: Any
    pressure: Any
    resident_delay_cents_per_s: Any
    resident_exposure_s: Any
    metrics_age_s: Any
    price_usd_per_h: Any
    idle_w: Any
    peak_w: Any
    production_pods: Any
    batch_pods: Any
    best_effort_pods: Any


class Pod(NamedTuple):
    """Raw values of the pod, float64 scalars."""

    cpu_milli: Any
    cpu_nonzero_milli: Any
    memory_bytes: Any
    memory_nonzero_bytes: Any
    gpus_milli: Any
    production: Any
    batch: Any
    best_effort: Any
    ends: Any
    """1 if it has a run time, 0 for a service."""
    waited_s: Any
    slack_s: Any
    """Time left until its deadline; inf if it has none, negative if it is late."""
    expected_run_s: Any
    delay_cents_per_s: Any
    late_cents: Any
    contention: Any
    energy_cents_per_j: Any
    loss_cents: Any
    """Price of a node's loss for each replica of the same owner that stands on it."""


class Pair(NamedTuple):
    """Raw values of this pod on each node, float64 [M]."""

    run_mean_s: Any
    run_std_s: Any
    best_run_mean_s: Any
    """The least `run_mean_s` over all nodes of the cluster."""
    observations: Any
    same_owner_pods: Any
    shadow_price_cents: Any


class Cluster(NamedTuple):
    """Raw values of the whole cluster, float64 scalars."""

    nodes: Any
    cpu_allocatable_milli: Any
    cpu_requested_milli: Any
    memory_allocatable_bytes: Any
    memory_requested_bytes: Any
    gpus_allocatable_milli: Any
    gpus_requested_milli: Any
    queued_production: Any
    queued_batch: Any
    queued_best_effort: Any


class Raw(NamedTuple):
    """The raw values of one request."""

    node: Node
    pod: Pod
    pair: Pair
    cluster: Cluster


_TABLE_FIELDS = tuple(f for f in Node._fields if not f.endswith("_pods"))


def raw(pod: PodRequest, view: ClusterView, rows: Rows) -> Raw:
    """The raw values of `pod` for candidate `rows` [M]."""
    t, rates = view.nodes, view.rates
    sla = t.pods_by_sla[rows]
    node = Node(*[getattr(t, f)[rows] for f in _TABLE_FIELDS], *sla.T)
    has_end = TREATMENTS[pod.kind].ends
    told = pod.expected_run_s == pod.expected_run_s
    scale = pod.expected_run_s if told else 1.0
    if has_end:
        mean_of_class = view.beliefs.run_mean[view.belief_row] * scale  # [C]
        std_of_class = view.beliefs.run_std[view.belief_row] * scale
    else:
        mean_of_class = np.full(view.beliefs.run_mean.shape[1], rates.service_horizon_s)
        std_of_class = np.zeros_like(mean_of_class)
    classes = t.node_class[rows]
    mean = mean_of_class[classes]
    pair = Pair(
        run_mean_s=mean,
        run_std_s=std_of_class[classes],
        best_run_mean_s=np.full(len(rows), mean_of_class[t.node_class].min(initial=np.inf)),
        observations=view.beliefs.observations[view.belief_row][classes],
        same_owner_pods=_same_owner(view, rows),
        shadow_price_cents=view.shadow_price_cents[rows],
    )
    return Raw(node, _pod(pod, view, has_end), pair, _cluster(view))


def _pod(pod: PodRequest, view: ClusterView, has_end: bool) -> Pod:
    rates = view.rates
    told = pod.expected_run_s == pod.expected_run_s
    return Pod(
        cpu_milli=pod.cpu_milli,
        cpu_nonzero_milli=pod.cpu_nonzero_milli,
        memory_bytes=pod.memory_bytes,
        memory_nonzero_bytes=pod.memory_nonzero_bytes,
        gpus_milli=pod.gpus_milli,
        production=float(pod.sla is SlaClass.PRODUCTION),
        batch=float(pod.sla is SlaClass.BATCH),
        best_effort=float(pod.sla is SlaClass.BEST_EFFORT),
        ends=float(has_end),
        waited_s=view.now_s - pod.created_s if pod.created_s == pod.created_s else 0.0,
        slack_s=pod.deadline_s - view.now_s,
        expected_run_s=pod.expected_run_s if told else 0.0,
        delay_cents_per_s=cost.delay_cents_per_s(rates, pod.sla),
        late_cents=cost.late_cents(rates, pod.sla),
        contention=rates.contention,
        energy_cents_per_j=cost.energy_cents(rates, 1.0),
        loss_cents=cost.loss_cents(rates, pod.sla),
    )


def _same_owner(view: ClusterView, rows: Rows) -> Floats:
    if view.owner_id < 0:
        return np.zeros(len(rows))
    of_owner = view.nodes.residents[np.flatnonzero(view.nodes.resident_owner == view.owner_id), 0].astype(np.int64)
    return np.bincount(of_owner, minlength=len(view.nodes.name)).astype(float)[rows]


def _cluster(view: ClusterView) -> Cluster:
    t = view.nodes
    return Cluster(
        nodes=float(len(t.name)),
        cpu_allocatable_milli=float(t.cpu_allocatable_milli.sum()),
        cpu_requested_milli=float(t.cpu_requested_milli.sum()),
        memory_allocatable_bytes=float(t.memory_allocatable_bytes.sum()),
        memory_requested_bytes=float(t.memory_requested_bytes.sum()),
        gpus_allocatable_milli=float(t.gpus_allocatable_milli.sum()),
        gpus_requested_milli=float(t.gpus_requested_milli.sum()),
        queued_production=float(view.queued_by_sla[0]),
        queued_batch=float(view.queued_by_sla[1]),
        queued_best_effort=float(view.queued_by_sla[2]),
    )
