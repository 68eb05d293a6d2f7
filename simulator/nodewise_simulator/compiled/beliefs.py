"""The estimator of `nodewise.core.estimator`, compiled: the same model on the same numbers, one cell at a time.

Sums are added in another order than numpy's, so results agree to rounding, not to the last bit; a test holds the two
together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.estimator import LONGEST_LOG, MOST_VAR, SHORTEST_LOG
from nodewise.core.types import Floats
from nodewise_simulator.compiled.fuse import inlined, jit

Bools = NDArray[np.bool_]

PRIOR, PRIOR_SPREAD, DESCRIBED_SPREAD, CLASS_SPREAD, AFFINITY_SPREAD, CELL_SPREAD, NOISE, NOISE_WEIGHT, DECAY = range(9)
"""Indices of the estimator's settings, as `flat.Flat.settings` begins with them; in logs but the last two."""

COUNT, SUM, SUM_SQ, MEAN, STD, MEAN_VAR, NOISE_VAR = range(7)
"""First index of `cells` [7, W, C]: decayed evidence, and the tables made of it; the variances are of logs."""


@inlined
def observe(
    settings: Floats, described: Bools, cells: Floats, row_factor: Floats, col_factor: Floats, row_var: Floats,
    col_var: Floats, row: int, column: int, run: float, slowdown: float,
) -> None:  # fmt: skip
    """Learn from one finished pod; as `RunTimeEstimator.observe`."""
    if not (0.0 < run < np.inf and 0.0 < slowdown < np.inf):
        return
    y = min(max(math.log(run / slowdown), SHORTEST_LOG), LONGEST_LOG)
    keep = settings[DECAY]
    n, total = cells[COUNT, row, column] * keep, cells[SUM, row, column] * keep
    before = y - total / n if n > 0.0 else 0.0
    cells[COUNT, row, column], cells[SUM, row, column] = n + 1.0, total + y
    after = y - (total + y) / (n + 1.0)
    cells[SUM_SQ, row, column] = cells[SUM_SQ, row, column] * keep + before * after
    unknown = settings[PRIOR]
    # Its row again: the row's own level and directions, from the columns it was seen on.
    prior = 0.0 if described[row] else unknown
    spread = settings[DESCRIBED_SPREAD] if described[row] else settings[PRIOR_SPREAD]
    a = (1.0 / (spread * spread), 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    for c in range(cells.shape[2]):
        count = cells[COUNT, row, c]
        if count > 0.0:
            target = cells[SUM, row, c] / count - prior - col_factor[c, 0]
            a = _with_evidence(a, _weight(settings, count), target, col_factor[c, 1], col_factor[c, 2])
    row_var[row] = _ridge(a, row_factor, row)
    # And its column, from the rows that were seen on it.
    of_class, of_affinity = settings[CLASS_SPREAD], settings[AFFINITY_SPREAD]
    along = 1.0 / (of_affinity * of_affinity)
    a = (1.0 / (of_class * of_class), 0.0, 0.0, along, 0.0, along, 0.0, 0.0, 0.0)
    for w in range(cells.shape[1]):
        count = cells[COUNT, w, column]
        if count > 0.0:
            prior = 0.0 if described[w] else unknown
            target = cells[SUM, w, column] / count - prior - row_factor[w, 0]
            a = _with_evidence(a, _weight(settings, count), target, row_factor[w, 1], row_factor[w, 2])
    col_var[column] = _ridge(a, col_factor, column)


@inlined
def _weight(settings: Floats, count: float) -> Any:
    return count / (settings[NOISE] * settings[NOISE] + count * (settings[CELL_SPREAD] * settings[CELL_SPREAD]))


@inlined
def _with_evidence(a: Any, weight: float, target: float, u: float, v: float) -> Any:
    """A row (1, u, v) with this weight and target more in a: the precision's upper triangle (6), the right side (3)."""
    return (
        a[0] + weight, a[1] + weight * u, a[2] + weight * v, a[3] + weight * u * u, a[4] + weight * u * v,
        a[5] + weight * v * v, a[6] + weight * target, a[7] + weight * u * target, a[8] + weight * v * target,
    )  # fmt: skip


@inlined
def _ridge(a: Any, solutions: Floats, at: int) -> Any:
    """Solve the symmetric 3x3 system into a row of `solutions`; returns the first diagonal element of the inverse."""
    c00 = a[3] * a[5] - a[4] * a[4]
    c01 = a[2] * a[4] - a[1] * a[5]
    c02 = a[1] * a[4] - a[2] * a[3]
    c11 = a[0] * a[5] - a[2] * a[2]
    c12 = a[1] * a[2] - a[0] * a[4]
    c22 = a[0] * a[3] - a[1] * a[1]
    det = a[0] * c00 + a[1] * c01 + a[2] * c02
    solutions[at, 0] = (c00 * a[6] + c01 * a[7] + c02 * a[8]) / det
    solutions[at, 1] = (c01 * a[6] + c11 * a[7] + c12 * a[8]) / det
    solutions[at, 2] = (c02 * a[6] + c12 * a[7] + c22 * a[8]) / det
    return c00 / det


@jit
def tables(
    settings: Floats, described: Bools, cells: Floats, row_factor: Floats, col_factor: Floats, row_var: Floats,
    col_var: Floats,
) -> None:  # fmt: skip
    """Write the tables MEAN and STD of `cells`; as `RunTimeEstimator.beliefs`."""
    every_row, every_column = np.ones(cells.shape[1], np.bool_), np.ones(cells.shape[2], np.bool_)
    renew(settings, described, cells, row_factor, col_factor, row_var, col_var, every_row, every_column)


@jit
def renew(
    settings: Floats, described: Bools, cells: Floats, row_factor: Floats, col_factor: Floats, row_var: Floats,
    col_var: Floats, in_row: Bools, in_column: Bools,
) -> None:  # fmt: skip
    """As `tables`, of the rows and columns in which something was observed since: no other cell depends on it."""
    rows, columns = cells.shape[1], cells.shape[2]
    of_column = np.zeros(columns)
    for w in range(rows):
        for c in range(columns):
            of_column[c] += cells[COUNT, w, c]
    any_column = False
    for c in range(columns):
        any_column |= in_column[c]
    for w in range(rows):
        if not (in_row[w] or any_column):
            continue
        prior, noise_var, of_row = _of_row(settings, described, cells, w)
        for c in range(columns):
            if in_row[w] or in_column[c]:
                _cell(
                    settings, cells, row_factor, col_factor, row_var, col_var, prior, noise_var, of_row, of_column[c],
                    w, c,
                )  # fmt: skip
    in_row[:] = False
    in_column[:] = False


@inlined
def renew_row(
    settings: Floats, described: Bools, cells: Floats, row_factor: Floats, col_factor: Floats, row_var: Floats,
    col_var: Floats, in_row: Bools, in_column: Bools, stale: Bools, w: int,
) -> None:  # fmt: skip
    """As `renew`, of one row; what else is out of date is noted in `stale` [W, C]."""
    rows, columns = stale.shape
    for k in range(rows):
        if in_row[k]:
            for c in range(columns):
                stale[k, c] = True
            in_row[k] = False
    for c in range(columns):
        if in_column[c]:
            for k in range(rows):
                stale[k, c] = True
            in_column[c] = False
    any_stale = False
    for c in range(columns):
        any_stale |= stale[w, c]
    if not any_stale:
        return
    prior, noise_var, of_row = _of_row(settings, described, cells, w)
    for c in range(columns):
        if stale[w, c]:
            of_column = 0.0
            for k in range(rows):
                of_column += cells[COUNT, k, c]
            _cell(
                settings, cells, row_factor, col_factor, row_var, col_var, prior, noise_var, of_row, of_column, w, c
            )  # fmt: skip
            stale[w, c] = False


@inlined
def _of_row(settings: Floats, described: Bools, cells: Floats, w: int) -> Any:
    """(log of the run time before anything was seen, variance of the noise, runs seen) of a workload."""
    of_row, squares, freedom = 0.0, 0.0, 0.0
    for c in range(cells.shape[2]):
        of_row += cells[COUNT, w, c]
        squares += cells[SUM_SQ, w, c]
        freedom += max(cells[COUNT, w, c] - 1.0, 0.0)
    noise_sq = settings[NOISE] * settings[NOISE]
    noise_var = (settings[NOISE_WEIGHT] * noise_sq + squares) / (settings[NOISE_WEIGHT] + freedom)
    return 0.0 if described[w] else settings[PRIOR], noise_var, of_row


@inlined
def _cell(
    settings: Floats, cells: Floats, row_factor: Floats, col_factor: Floats, row_var: Floats, col_var: Floats,
    prior: float, noise_var: float, of_row: float, of_column: float, w: int, c: int,
) -> None:  # fmt: skip
    """The believed mean and deviation of a workload on a class."""
    low_rank = prior + row_factor[w, 0] + col_factor[c, 0]
    if of_row > 0.0 and of_column > 0.0:
        low_rank += row_factor[w, 1] * col_factor[c, 1] + row_factor[w, 2] * col_factor[c, 2]
    prior_var = (
        row_var[w] + col_var[c] + settings[CELL_SPREAD] * settings[CELL_SPREAD]
        + settings[AFFINITY_SPREAD] * settings[AFFINITY_SPREAD] / (1.0 + of_row + of_column)
    )  # fmt: skip
    count = cells[COUNT, w, c]
    own = cells[SUM, w, c] / count if count > 0.0 else 0.0
    precision = count / noise_var
    mean_var = 1.0 / (1.0 / prior_var + precision)
    log_mean = mean_var * (low_rank / prior_var + own * precision)
    mean = math.exp(min(log_mean + 0.5 * noise_var, LONGEST_LOG))
    cells[MEAN, w, c] = mean
    cells[MEAN_VAR, w, c], cells[NOISE_VAR, w, c] = mean_var, noise_var
    cells[STD, w, c] = mean * math.sqrt(math.expm1(min(noise_var + mean_var, MOST_VAR)))


RATE, OPEN, VOLUME = range(3)
"""First index of `Flat.stakes` [3, W, C]: cents of a unit of believed run time, whether any node of the class is open
to the workload, how many of its pods a world has."""


@jit
def knowledge_gradient(cells: Floats, stakes: Floats, w: int, c: int) -> Any:
    """What one more observed run of workload w on node class c is expected to be worth to each later pod, in cents.

    Source: Frazier, Powell and Dayanik, "A knowledge-gradient policy for sequential information collection", 2008: the
    expected gain of the best believed class by the shift that an observation can bring, by the beliefs as they are.
    """
    others = np.inf
    for k in range(cells.shape[2]):
        if k != c and stakes[OPEN, w, k] > 0.0:
            others = min(others, cells[MEAN, w, k] * stakes[RATE, w, k])
    if others == np.inf:
        return 0.0
    own, var = cells[MEAN, w, c] * stakes[RATE, w, c], cells[MEAN_VAR, w, c]
    shift = own * math.sqrt(var * var / (var + cells[NOISE_VAR, w, c]))
    z = abs(own - others) / max(shift, 1e-12)
    return shift * (math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) - z * 0.5 * math.erfc(z / math.sqrt(2.0)))
