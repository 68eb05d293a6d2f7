"""The columns of `NodeTable`, from what nodes are, what runs on them, and what is believed of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from nodewise.core.pods import NodeSpec
from nodewise.core.types import Beliefs, Floats, Rows, SlaClass

Columns = dict[str, Any]

OVERDUE = 0.25
"""A resident that has outlived its believed run time is given this many standard deviations more. A guess:
re-predicting exactly was measured to be worth less than half a per cent."""


class Resident(IntEnum):
    """Columns of `NodeTable.residents`."""

    NODE = 0
    BELIEF_ROW = 1
    SCALE = 2
    STARTED_S = 3
    CPU_MILLI = 4
    CPU_NONZERO_MILLI = 5
    MEMORY_BYTES = 6
    MEMORY_NONZERO_BYTES = 7
    GPUS_MILLI = 8
    SLA = 9
    ENDS = 10


_SUMMED = {
    "cpu_requested_milli": Resident.CPU_MILLI,
    "cpu_nonzero_milli": Resident.CPU_NONZERO_MILLI,
    "memory_requested_bytes": Resident.MEMORY_BYTES,
    "memory_nonzero_bytes": Resident.MEMORY_NONZERO_BYTES,
    "gpus_requested_milli": Resident.GPUS_MILLI,
}
"""Columns of `NodeTable` that are sums of a column of its residents."""


def statics(specs: Sequence[NodeSpec], column: Callable[[str], int]) -> Columns:
    """Columns that change only with the nodes themselves; `column` gives a node class's column of `Beliefs`."""
    archs = tuple(dict.fromkeys(s.arch for s in specs))
    n = len(specs)
    return {
        "name": tuple(s.name for s in specs),
        "row": {s.name: k for k, s in enumerate(specs)},
        "node_class": np.array([column(s.node_class) for s in specs], np.int64),
        "arch": np.array([archs.index(s.arch) for s in specs], np.int64),
        "archs": archs,
        "labels": tuple(s.labels for s in specs),
        "soft_taints": tuple(tuple(t for t in s.taints if t.get("effect") == "PreferNoSchedule") for s in specs),
        "cpu_allocatable_milli": np.array([s.cpu_allocatable_milli for s in specs]),
        "memory_allocatable_bytes": np.array([s.memory_allocatable_bytes for s in specs]),
        "gpus_allocatable_milli": np.array([s.gpus_allocatable_milli for s in specs]),
        "price_usd_per_h": np.array([s.price_usd_per_h for s in specs]),
        "idle_w": np.array([s.idle_w for s in specs]),
        "peak_w": np.array([s.peak_w for s in specs]),
        # No source of metrics is connected yet; the columns then fall back to requests.
        "cpu_used_milli": np.full(n, np.nan),
        "memory_used_bytes": np.full(n, np.nan),
        "metrics_age_s": np.full(n, np.inf),
    }


def sums(residents: Floats, static: Columns, delay_rate: Floats, *, fifo: bool) -> Columns:
    """Columns that change only with the set of residents; `delay_rate` in cents per second, by SLA class [3]."""
    nodes, sla = residents[:, Resident.NODE].astype(np.int64), residents[:, Resident.SLA]
    n = len(static["name"])
    made = {name: per_node(nodes, residents[:, column], n) for name, column in _SUMMED.items()}
    pressure = made["cpu_requested_milli"] / np.maximum(static["cpu_allocatable_milli"], 1.0)
    return made | {
        "pressure": np.zeros(n) if fifo else pressure,
        "resident_delay_cents_per_s": per_node(nodes, delay_rate[sla.astype(np.int64)], n),
        "pods_by_sla": np.stack([per_node(nodes, (sla == k).astype(float), n) for k in SlaClass], axis=1),
    }


def sum_row(made: Columns, row: int, residents: Floats, static: Columns, delay_rate: Floats, *, fifo: bool) -> None:
    """Write one row of `sums`, from the residents of that node, to the last bit: added up in the same order."""
    if len(residents) == 0:
        for column in made.values():
            column[row] = 0.0
        return
    totals, sla = np.cumsum(residents, axis=0)[-1].tolist(), residents[:, Resident.SLA].astype(np.int64)
    for name, index in _SUMMED.items():
        made[name][row] = totals[index]
    if not fifo:
        made["pressure"][row] = totals[Resident.CPU_MILLI] / max(static["cpu_allocatable_milli"][row], 1.0)
    made["resident_delay_cents_per_s"][row] = np.cumsum(delay_rate[sla])[-1]
    made["pods_by_sla"][row] = np.bincount(sla, minlength=len(SlaClass))


def left_s(residents: Floats, static: Columns, beliefs: Beliefs, now_s: float, horizon_s: float) -> Floats:
    """Believed time that each resident has left [R]; `horizon_s` for one without end."""
    nodes, scale = residents[:, Resident.NODE].astype(np.int64), residents[:, Resident.SCALE]
    workloads = residents[:, Resident.BELIEF_ROW].astype(np.int64)
    cell = workloads * beliefs.run_mean.shape[1] + static["node_class"][nodes]
    elapsed_s = now_s - residents[:, Resident.STARTED_S]
    elapsed_s[np.isnan(elapsed_s)] = 0.0
    expected_s = beliefs.run_mean.ravel()[cell] * scale - elapsed_s
    overdue_s = OVERDUE * beliefs.run_std.ravel()[cell] * scale
    return np.where(residents[:, Resident.ENDS] > 0, np.maximum(expected_s, overdue_s), horizon_s)


def times(
    residents: Floats, remaining_s: Floats, static: Columns, made: Columns, delay_rate: Floats, *, fifo: bool
) -> Columns:
    """Columns that change with the clock, from the time that each resident has left [R]."""
    nodes, sla = residents[:, Resident.NODE].astype(np.int64), residents[:, Resident.SLA].astype(np.int64)
    n = len(static["name"])
    core_s = remaining_s * residents[:, Resident.ENDS] * residents[:, Resident.CPU_MILLI]
    work_s = per_node(nodes, core_s, n) / np.maximum(static["cpu_allocatable_milli"], 1.0)
    longest_s = np.zeros(n)
    np.maximum.at(longest_s, nodes, remaining_s)
    rate = np.maximum(made["resident_delay_cents_per_s"], 1e-12)
    return {
        "work_remaining_s": work_s,
        "longest_remaining_s": longest_s,
        "resident_exposure_s": per_node(nodes, remaining_s * delay_rate[sla], n) / rate,
        "start_wait_s": work_s if fifo else np.zeros(n),
    }


def per_node(nodes: Rows, weights: Floats, n: int) -> Floats:
    """Sum of the weights of each node's residents [N]; `nodes` are the rows they are on [R]."""
    return np.bincount(nodes, weights, minlength=n).astype(float, copy=False)
