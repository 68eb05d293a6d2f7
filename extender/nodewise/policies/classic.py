"""Rules of the literature and of kube-scheduler's configuration, as baselines."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.columns import contended_run_s
from nodewise.core.raw import F, Node, Pair, Pod, raw
from nodewise.core.registry import select
from nodewise.core.reply import tie_break
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.policies.rule import Rule

TARGET = 0.4
"""Share of the CPU to which `target-load` fills nodes: the default of the plugin."""
_FRESH_S = 60.0
_FAR = -1e15


def _requested_to_capacity(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001  one signature for all
    """Source: `noderesources/requested_to_capacity_ratio.go` with the shape of its documentation, {0: 0, 100: 10}."""
    cpu = _ratio(node.cpu_nonzero_milli + pod.cpu_nonzero_milli, node.cpu_allocatable_milli)
    memory = _ratio(node.memory_nonzero_bytes + pod.memory_nonzero_bytes, node.memory_allocatable_bytes)
    counted = select(cpu > 0.0, 1.0, 0.0) + select(memory > 0.0, 1.0, 0.0)
    return np.floor((cpu + memory) / np.maximum(counted, 1.0) + 0.5)  # Go rounds halves away from zero


def _ratio(wanted: F, room: F) -> F:
    return select(room > 0.0, select(wanted <= room, wanted * 100.0 // np.maximum(room, 1.0), 100.0), 0.0)


def _target_load(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Source: kubernetes-sigs/scheduler-plugins, `pkg/trimaran/targetloadpacking`; without metrics, by requests."""
    used = select(node.metrics_age_s < _FRESH_S, node.cpu_used_milli, node.cpu_requested_milli)
    load = (used + pod.cpu_milli) / np.maximum(node.cpu_allocatable_milli, 1.0)
    below = (1.0 - TARGET) * load / TARGET + TARGET
    above = TARGET * (1.0 - load) / (1.0 - TARGET)
    return select(load <= TARGET, below, select(load <= 1.0, above, 0.0))


def _tetris(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Alignment of what the pod wants with what is free. Source: Grandl et al., SIGCOMM 2014, §3.2."""
    cpu = _aligned(pod.cpu_milli, node.cpu_requested_milli, node.cpu_allocatable_milli)
    memory = _aligned(pod.memory_bytes, node.memory_requested_bytes, node.memory_allocatable_bytes)
    return cpu + memory + _aligned(pod.gpus_milli, node.gpus_requested_milli, node.gpus_allocatable_milli)


def _aligned(wanted: F, taken: F, room: F) -> F:
    some = np.maximum(room, 1.0)
    return (wanted / some) * ((room - taken) / some)


def _max_weight(node: Node, pod: Pod, pair: Pair) -> F:
    """Least backlog × run time there: MaxWeight as a routing rule. Source: Stolyar, Queueing Systems 2005 (MinDrift).

    The pod's own run counts as backlog, so that empty nodes differ by how fast they are.
    """
    run_s = contended_run_s(node, pod, pair)
    return -(node.work_remaining_s + run_s) * run_s


def _power_of(d: int) -> Any:
    """Least work remaining of `d` candidates drawn by a hash of the pod's uid. Source: Mitzenmacher, TPDS 2001."""

    def rule(pod: PodRequest, view: ClusterView, rows: Rows) -> F:
        drawn = np.random.default_rng(tie_break(pod.uid)).permutation(len(view.nodes.name))[rows]
        among = np.argsort(drawn, kind="stable")[:d]
        made = np.full(len(rows), _FAR)
        made[among] = -raw(pod, view, rows).node.work_remaining_s[among]
        return made

    return rule


REQUESTED_TO_CAPACITY = Rule(
    "requested-to-capacity", "fullest node first, by kube-scheduler's RequestedToCapacityRatio", _requested_to_capacity,
    takes="pair",
)  # fmt: skip
TARGET_LOAD = Rule(
    "target-load", f"fills nodes to {TARGET:.0%} of measured CPU, then spreads (Trimaran)", _target_load, takes="pair"
)  # fmt: skip
TETRIS = Rule("tetris", "free room most alike in shape to what the pod wants", _tetris, takes="pair")
MAX_WEIGHT = Rule(
    "max-weight", "least backlog times run time there (MaxWeight routing)", _max_weight, uses_run_times=True,
    takes="pair",
)  # fmt: skip
POWER_OF_2, POWER_OF_5 = (
    Rule(f"power-of-{d}", f"least work remaining of {d} random candidates", _power_of(d), uses_run_times=True)
    for d in (2, 5)
)
