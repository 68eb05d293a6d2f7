"""The one cost function, in US cents; shared word for word by simulator, evaluation, policies and ledger.

cost of a pod = value × 0.1 × flow ÷ reference + value if late + energy × price + node-hours × price, where flow is the
time from creation to the end (to the start, for a service), energy is what the pod draws above an idle node, and
node-hours are the share of the node that its requests take for as long as it runs. Each term counts as often as
`CostRates.weights` says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nodewise.core.pods import NodeSpec
from nodewise.core.types import ClusterView, CostRates, Floats, PodRequest, Weights

_J_PER_KWH = 3.6e6
_DELAY_SHARE = 0.1
"""Part of a pod's value that one reference time of delay costs."""


def delay_cents_per_s(rates: CostRates, sla: int) -> float:
    """What a second of delay of a pod of this SLA class costs."""
    return rates.value_cents[sla] * _DELAY_SHARE / rates.reference_s * rates.weights.latency


def late_cents(rates: CostRates, sla: int) -> float:
    """What missing its deadline costs a pod of this SLA class."""
    return rates.value_cents[sla] * rates.weights.sla


def loss_cents(rates: CostRates, sla: int) -> float:
    """Price of a node's loss for each replica of one owner that stands on it."""
    return late_cents(rates, sla) * rates.node_loss_probability


def energy_cents(rates: CostRates, joules: float | Floats) -> float | Floats:
    """Price of energy drawn by machines, facility overhead included."""
    return joules * (rates.energy_cents_per_kwh * rates.overhead / _J_PER_KWH * rates.weights.energy)


def dynamic_joules(
    cpu_milli: float | Floats,
    allocatable_milli: float | Floats,
    idle_w: float | Floats,
    peak_w: float | Floats,
    run_s: float | Floats,
) -> float | Floats:
    """Energy above idle that a pod draws on a node: linear in the CPU it requests (SPECpower is close to linear)."""
    return cpu_milli / np.maximum(allocatable_milli, 1.0) * np.maximum(peak_w - idle_w, 0.0) * run_s


def node_cents(share: float | Floats, price_usd_per_h: float | Floats, run_s: float | Floats) -> float | Floats:
    """Price of a share of a node for `run_s` seconds."""
    return share * price_usd_per_h * run_s * (100.0 / 3600.0)


def realised_cents(
    rates: CostRates,
    pod: PodRequest,
    *,
    flow_s: float,
    late: bool,
    joules: float,
    share: float,
    price_usd_per_h: float,
    run_s: float,
) -> float:
    """What a finished pod did cost.

    `flow_s` creation to end, `late` whether it missed its deadline, `joules` drawn above idle, `share` the largest part
    of the node's CPU, memory or devices that it requested, `run_s` the time it held them.
    """
    return float(
        delay_cents_per_s(rates, pod.sla) * flow_s
        + late_cents(rates, pod.sla) * late
        + energy_cents(rates, joules)
        + node_cents(share, price_usd_per_h * rates.weights.cost, run_s)
    )


def weighted(view: ClusterView, weights: Weights) -> ClusterView:
    """The same cluster as one sees it to whom the objectives count for `weights`; `view` must have none of its own."""
    if weights == view.rates.weights:
        return view
    if view.rates.weights != Weights():
        raise ValueError("a view can be weighted once only")
    nodes = replace(
        view.nodes,
        price_usd_per_h=view.nodes.price_usd_per_h * weights.cost,
        resident_delay_cents_per_s=view.nodes.resident_delay_cents_per_s * weights.latency,
    )
    return replace(view, nodes=nodes, rates=replace(view.rates, weights=weights))


def dominant_share(pod: PodRequest, node: NodeSpec) -> float:
    """The largest share of a node's CPU, memory or devices that a pod requests."""
    return max(
        pod.cpu_milli / max(node.cpu_allocatable_milli, 1.0),
        pod.memory_bytes / max(node.memory_allocatable_bytes, 1.0),
        pod.gpus_milli / node.gpus_allocatable_milli if node.gpus_allocatable_milli > 0 else 0.0,
    )
