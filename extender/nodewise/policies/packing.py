"""Policies that look at requests and nodes only, not at run times."""

from __future__ import annotations

import numpy as np

from nodewise.core.columns import cpu_free_after, dynamic_w_per_core, memory_free_after, price_per_core
from nodewise.core.raw import F, Node, Pair, Pod
from nodewise.policies.rule import Rule


def _best_fit(node: Node, pod: Pod, pair: Pair) -> F:
    return -(cpu_free_after(node, pod, pair) + memory_free_after(node, pod, pair))


def _balance_fit(node: Node, pod: Pod, pair: Pair) -> F:
    cpu, memory = cpu_free_after(node, pod, pair), memory_free_after(node, pod, pair)
    return -(np.abs(cpu - memory) + 0.3 * (cpu + memory))


def _least_watts(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001  one signature for all
    return -dynamic_w_per_core(node)


def _cheapest(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    return -price_per_core(node)


BEST_FIT = Rule("best-fit", "least free CPU and memory share left", _best_fit, takes="pair")
BALANCE_FIT = Rule("balance-fit", "free CPU and memory left alike, then little of both", _balance_fit, takes="pair")
LEAST_WATTS = Rule(
    "least-watts-per-core", "the node whose busy cores draw least power", _least_watts, takes="pair"
)  # fmt: skip
CHEAPEST = Rule("cheapest", "the node whose cores cost least", _cheapest, takes="pair")
