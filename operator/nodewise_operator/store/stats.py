"""What a store says at a glance, from the columns of `schema.PODS`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from nodewise_operator.store.rows import Fate

NEEDED = ("namespace", "workload", "node_class", "fate", "reason", "started_s", "finished_s", "late", "cents")
"""Columns of pods that are looked at."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Pods of one workload of one namespace on one node class."""

    namespace: str
    workload: str
    node_class: str
    pods: int
    succeeded: int
    failed: int
    running: int
    """Waiting or running."""
    censored: int
    median_run_s: float
    """Of those that succeeded, from start to end; nan if none did."""
    could_be_late: int
    """Of which it is known whether they met their deadline."""
    met: int
    cents: float
    """Sum over those with an outcome."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How many pods came to one end for one reason."""

    fate: str
    reason: str
    pods: int


@dataclass(slots=True)
class _Sums:
    fates: Counter[str] = field(default_factory=Counter)
    runs_s: list[float] = field(default_factory=list)
    could_be_late: int = 0
    met: int = 0
    cents: float = 0.0


def stats(pods: Iterable[Mapping[str, Any]]) -> tuple[list[Cell], list[Ending]]:
    """The cells, by name, and the endings, the most frequent first."""
    cells: dict[tuple[str, str, str], _Sums] = defaultdict(_Sums)
    endings: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        cell = cells[pod["namespace"], pod["workload"], pod["node_class"]]
        cell.fates[pod["fate"]] += 1
        endings[pod["fate"], pod["reason"]] += 1
        if pod["fate"] == Fate.SUCCEEDED and pod["started_s"] is not None and pod["finished_s"] is not None:
            cell.runs_s.append(pod["finished_s"] - pod["started_s"])
        if pod["late"] is not None:
            cell.could_be_late += 1
            cell.met += not pod["late"]
        cell.cents += pod["cents"] or 0.0
    made = [
        Cell(
            *names,
            pods=cell.fates.total(),
            succeeded=cell.fates[Fate.SUCCEEDED],
            failed=cell.fates[Fate.FAILED],
            running=cell.fates[Fate.WAITING] + cell.fates[Fate.RUNNING],
            censored=cell.fates[Fate.CENSORED],
            median_run_s=median(cell.runs_s) if cell.runs_s else math.nan,
            could_be_late=cell.could_be_late,
            met=cell.met,
            cents=cell.cents,
        )
        for names, cell in sorted(cells.items())
    ]
    return made, [Ending(fate, reason, pods) for (fate, reason), pods in endings.most_common()]
