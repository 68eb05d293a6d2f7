"""From outcomes of many replays to gains with intervals and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.advise.outcomes import METRICS

_BLOCKS = 20
_RESAMPLES = 500
NOTHING = 0.03
"""Gains whose whole interval is within this share of what is spent are called nothing."""
FEW = 5
"""Observations of a cell (rounded, since old ones fade) below which little is known of it."""
_THIN = 0.2
"""Share of a group's placements in such cells from which on the whole is called unknown."""


class Verdict(StrEnum):
    """What the interval of the gain in cost says."""

    GAINS = "gains"
    LOSES = "loses"
    NOTHING = "gains nothing"
    UNKNOWN = "too little is known"


@dataclass(frozen=True, slots=True)
class Gain:
    """What a group of pods would have saved of one metric; below zero is a loss."""

    metric: str
    before: float
    """With the baseline."""
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cell:
    """Workload on node class, of which little is known though the policy would use it."""

    workload: str
    node_class: str
    share: float
    """Of the group's placements."""
    observations: float


@dataclass(frozen=True, slots=True)
class Group:
    """Pods that are judged together: all of them, a namespace, or a workload of a namespace."""

    namespace: str
    """Empty for all of them."""
    workload: str
    """Empty for all of a namespace."""
    decisions: int
    gains: dict[str, Gain]
    verdict: Verdict
    thin: tuple[Cell, ...]


def intervals(before: Floats, after: Floats) -> dict[str, Gain]:
    """The gains of pods in order of arrival, from outcomes [K draws, n pods, metrics] of two schedulers.

    The interval is of the gain that one more such time would show: it contains what is not known of the run times (a
    draw each), the luck of ties and timing (that of each draw), and other pods arriving (bootstrap over blocks of
    arrivals; √2 times, since both these pods and the others are a sample). Few draws are made up for as Student's t
    does. Of the same pods played once more it is therefore wide.
    """
    draws, n, _ = before.shape
    saved = before - after
    centre = saved.mean(axis=1)  # [K, metrics]
    middle = centre.mean(axis=0)
    wider = math.sqrt(1.0 + 1.0 / draws) * (_student(draws - 1) / 1.96 if draws > 1 else 1.0)
    blocks = np.array_split(np.arange(n), min(_BLOCKS, n))
    sizes = np.array([len(b) for b in blocks])
    sums = np.stack([saved[:, b].sum(axis=1) for b in blocks], axis=1)  # [K, blocks, metrics]
    picks = np.random.default_rng(0).multinomial(len(blocks), np.full(len(blocks), 1.0 / len(blocks)), _RESAMPLES)
    means = np.einsum("rb,kbm->krm", picks, sums) / (picks @ sizes)[None, :, None]
    many = middle + wider * (centre - middle)[:, None, :] + math.sqrt(2.0) * (means - centre[:, None, :])
    low, high = np.percentile(many.reshape(-1, len(METRICS)), [2.5, 97.5], axis=0)
    made = {}
    for k, metric in enumerate(METRICS):
        times = 1.0 if metric == "completion" else float(n)
        spent = before[:, :, k].mean()
        values = (spent, middle[k], low[k], min(high[k], spent))  # nobody saves more than is spent
        made[metric] = Gain(metric, *(float(v) * times for v in values))
    return made


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t, by the expansion of Abramowitz and Stegun 26.7.5."""
    z = 1.959964
    if freedom < 3:
        return (12.7062, 4.3027)[max(freedom, 1) - 1]
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / freedom**3


def verdict(cost: Gain, thin: Sequence[Cell]) -> Verdict:
    """In words, by the gain in cost and the cells of which little is known."""
    if sum(cell.share for cell in thin) > _THIN:
        return Verdict.UNKNOWN
    small = NOTHING * abs(cost.before)
    if cost.low > 0.0:
        return Verdict.GAINS
    if cost.high < 0.0:
        return Verdict.LOSES
    return Verdict.NOTHING if cost.high <= small else Verdict.UNKNOWN


def thin_cells(
    rows: Sequence[int], columns: NDArray[np.int64], observations: Floats, workloads: Sequence[str],
    classes: Sequence[str],
) -> tuple[Cell, ...]:  # fmt: skip
    """Cells with few observations, by their share of placements: pods' rows [n], node classes where they went [K, n].

    A column of -1 is a pod that got no node. Cells with less than one in a hundred of the placements are not named.
    """
    found: list[Cell] = []
    row = np.broadcast_to(np.array(rows, np.int64), columns.shape)
    for w in np.unique(row):
        for c in np.unique(columns[row == w]):
            share = float(((row == w) & (columns == c)).mean())
            if c >= 0 and share >= 0.01 and round(observations[w, c]) < FEW:
                found.append(Cell(workloads[w], classes[c], share, float(observations[w, c])))
    return tuple(sorted(found, key=lambda cell: -cell.share))
