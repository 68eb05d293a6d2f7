"""Policies that look at requests and nodes only, not at run times."""

from __future__ import annotations

import numpy as np

from nodewise.core.columns import cpu_free_after, dynamic_w_per_core, memory_free_after, price_per_core
from nodewise.core.raw import F, raw
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.policies.rule import Rule


def _free(pod: PodRequest, view: ClusterView, rows: Rows) -> tuple[F, F]:
    node, own, pair, _ = raw(pod, view, rows)
    return cpu_free_after(node, own, pair), memory_free_after(node, own, pair)


def _best_fit(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    cpu, memory = _free(pod, view, rows)
    return -(cpu + memory)


def _balance_fit(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    cpu, memory = _free(pod, view, rows)
    return -(np.abs(cpu - memory) + 0.3 * (cpu + memory))


def _least_watts(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    return -dynamic_w_per_core(raw(pod, view, rows).node)


def _cheapest(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
    return -price_per_core(raw(pod, view, rows).node)


BEST_FIT = Rule("best-fit", "least free CPU and memory share left", _best_fit)
BALANCE_FIT = Rule("balance-fit", "free CPU and memory left alike, then little of both", _balance_fit)
LEAST_WATTS = Rule("least-watts-per-core", "the node whose busy cores draw least power", _least_watts)
CHEAPEST = Rule("cheapest", "the node whose cores cost least", _cheapest)
