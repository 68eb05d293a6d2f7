"""How long workload w runs on node class c, learned online from finished pods.

Model, in log space: log t = a_w + b_c + <u_w, v_c> + noise, a low-rank table with shrinkage, and on top of it each
cell's own mean (precision weighted), so that a cell with data trusts its data and an empty one borrows from its row and
column. Fitted by alternating ridge regression: every finished pod solves its own row and its own column again. Old
evidence decays, so that a node class that changed its speed is followed.

Sources: probabilistic matrix factorisation (Salakhutdinov and Mnih, NIPS 2007); Quasar (Delimitrou and Kozyrakis,
ASPLOS 2014) for collaborative filtering of workloads over platforms.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from nodewise.core.kinds import TREATMENTS
from nodewise.core.types import Beliefs, Floats, PodRequest

_RANK = 2
SHORTEST_LOG, LONGEST_LOG = math.log(1e-3), math.log(30 * 86400.0)
"""Limits of a run time in seconds, as logs."""
MOST_VAR = 4.0
"""Limit of the believed variance of a log run time."""


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """Priors of the estimator, in natural-log units unless said otherwise."""

    prior_run_s: float = 60.0
    """Run time of a workload that nobody has seen and nobody described."""
    prior_spread: float = 1.5
    """Standard deviation of a workload's own level around the prior."""
    described_spread: float = 0.5
    """The same for pods that tell `expected-seconds`, around what they tell."""
    class_spread: float = 0.7
    """Of a node class's general speed."""
    affinity_spread: float = 0.5
    """Of the part that is neither workload nor node class alone."""
    cell_spread: float = 0.25
    """Of what is left of a cell when the low-rank part is known."""
    noise: float = 0.4
    """Of one run around its cell's mean, until enough runs are seen."""
    noise_weight: float = 8.0
    """How many runs the prior noise counts for."""
    most_workloads: int = 5000
    """Workloads told apart; those that come later share one row."""
    decay: float = 0.995
    """How much of a cell's old evidence is kept at each new observation of that cell."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished pod that teaches how long its workload runs on its node class."""

    uid: str
    workload: str
    """Empty for kinds of pods that share the row of the unknown."""
    described: bool
    """Whether its author told `expected-seconds`; then `run` is per expected second."""
    node_class: str
    run: float
    slowdown: float
    """Factor by which contention is believed to have stretched it."""

    @property
    def teaches(self) -> bool:
        """Whether anything can be learned from it: a run that is not above zero and finite says nothing."""
        return _teaches(self.run, self.slowdown)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What the estimator knows of log run times, for those who draw from it; rows and columns as in `Beliefs`."""

    log_mean: Floats  # [W, C] of a cell's median run, in log seconds, or log of seconds per expected second
    mean_sd: Floats  # [W, C] how uncertain that is
    noise_sd: Floats  # [W] of one run around its cell's median
    observations: Floats  # [W, C]


class RunTimeEstimator:
    """Mutable; `beliefs()` gives frozen tables. Not thread-safe: one owner feeds it."""

    def __init__(self, settings: EstimatorSettings | None = None) -> None:
        self.settings = settings or EstimatorSettings()
        self._workloads: dict[tuple[str, bool], int] = {}
        self._classes: dict[str, int] = {}
        self._described = np.zeros(0, bool)  # [W]
        self._count = np.zeros((0, 0))  # [W, C] decayed number of runs
        self._sum = np.zeros((0, 0))  # [W, C] decayed sum of log run times
        self._sum_sq = np.zeros((0, 0))  # [W, C] decayed sum of squared deviations from the cell's running mean
        self._row_factor = np.zeros((0, 1 + _RANK))  # [W, 1 + rank]: a_w (deviation from its prior), u_w
        self._col_factor = np.zeros((0, 1 + _RANK))  # [C, 1 + rank]: b_c, v_c
        self._row_var = np.zeros(0)  # [W] posterior variance of a_w
        self._col_var = np.zeros(0)  # [C] posterior variance of b_c
        self._row_order = self._col_order = np.zeros(0, np.intp)  # by name, see `_grow`
        self._beliefs: Beliefs | None = None

    def row(self, pod: PodRequest) -> int:
        """The table row of a pod's workload, made if it is new; workloads with and without a described time differ."""
        return self._row_of(*row_key(pod))

    def learn(self, seen: Observation) -> None:
        """`observe` by names, so that observations can be kept, sent and learned again elsewhere."""
        self.observe(self._row_of(seen.workload, seen.described), self.column(seen.node_class), seen.run, seen.slowdown)

    def as_learned(self, seen: Observation) -> Observation:
        """The observation under the workload whose row learns from it: no row is left for those that come late."""
        key = (seen.workload, seen.described)
        full = key not in self._workloads and len(self._workloads) >= self.settings.most_workloads
        return replace(seen, workload="") if full else seen

    def adopt(self, source: RunTimeEstimator) -> None:
        """Believe what `source` does, in place: rows and columns that were given out keep their indices.

        The beliefs of every workload of `source` on every class of it are then its own, bit for bit, and stay so while
        both learn the same; of names that only this one knows nothing was seen. `source` is not changed.
        """
        made = RunTimeEstimator(self.settings)
        made._workloads = {key: k for k, key in enumerate(dict.fromkeys([*self._workloads, *source._workloads]))}
        made._classes = {name: k for k, name in enumerate(dict.fromkeys([*self._classes, *source._classes]))}
        made._grow(len(made._workloads), len(made._classes))
        rows = np.array([made._workloads[key] for key in source._workloads], np.intp)
        columns = np.array([made._classes[name] for name in source._classes], np.intp)
        cells = np.ix_(rows, columns)
        made._count[cells], made._sum[cells], made._sum_sq[cells] = source._count, source._sum, source._sum_sq
        made._row_factor[rows], made._row_var[rows] = source._row_factor, source._row_var
        made._col_factor[columns], made._col_var[columns] = source._col_factor, source._col_var
        vars(self).update(vars(made))

    def _row_of(self, workload: str, described: bool) -> int:
        key = (workload, described)
        found = self._workloads.get(key)
        if found is None and len(self._workloads) >= self.settings.most_workloads:
            key = ("", key[1])
            found = self._workloads.get(key)
        if found is None:
            found = self._workloads[key] = len(self._workloads)
            self._grow(len(self._workloads), len(self._classes))
        return found

    def column(self, node_class: str) -> int:
        """The table column of a node class, made if it is new."""
        found = self._classes.get(node_class)
        if found is None:
            found = self._classes[node_class] = len(self._classes)
            self._grow(len(self._workloads), len(self._classes))
        return found

    @property
    def workloads(self) -> tuple[tuple[str, bool], ...]:
        """(workload, whether its pods describe their run time) of each row."""
        return tuple(self._workloads)

    @property
    def node_classes(self) -> tuple[str, ...]:
        """Name of each column."""
        return tuple(self._classes)

    def observe(self, row: int, column: int, run: float, slowdown: float = 1.0) -> None:
        """Learn from one finished pod.

        `run` in seconds, or in seconds per expected second for a described row; `slowdown` is the factor by which
        contention is believed to have stretched it. Runs that are not above zero and finite are ignored.
        """
        if not _teaches(run, slowdown):
            return
        y = min(max(math.log(run) - math.log(slowdown), SHORTEST_LOG), LONGEST_LOG)
        keep = self.settings.decay
        n, total = self._count[row, column] * keep, self._sum[row, column] * keep
        before = y - total / n if n > 0 else 0.0
        self._count[row, column], self._sum[row, column] = n + 1.0, total + y
        after = y - (total + y) / (n + 1.0)
        self._sum_sq[row, column] = self._sum_sq[row, column] * keep + before * after
        self._solve_row(row)
        self._solve_column(column)
        self._beliefs = None

    def beliefs(self) -> Beliefs:
        """The tables as they stand; the same object until something new is learned."""
        if self._beliefs is None:
            self._beliefs = self._tables()
        return self._beliefs

    def _grow(self, rows: int, columns: int) -> None:
        def wider(old: Floats, shape: tuple[int, ...], fill: float = 0.0) -> Floats:
            new = np.full(shape, fill, dtype=old.dtype)
            new[tuple(slice(0, k) for k in old.shape)] = old
            return new

        old_rows, old_columns = len(self._row_factor), len(self._col_factor)
        self._described = wider(self._described, (rows,))
        self._count = wider(self._count, (rows, columns))
        self._sum = wider(self._sum, (rows, columns))
        self._sum_sq = wider(self._sum_sq, (rows, columns))
        self._row_factor = wider(self._row_factor, (rows, 1 + _RANK))
        self._col_factor = wider(self._col_factor, (columns, 1 + _RANK))
        self._row_var = wider(self._row_var, (rows,))
        self._col_var = wider(self._col_var, (columns,), self.settings.class_spread**2)
        # Small directions break the symmetry u = v = 0, at which neither half-step could leave zero. They come from the
        # names, so that the order in which things were first seen changes no belief.
        for k, (workload, described) in islice(enumerate(self._workloads), old_rows, None):
            self._row_factor[k, 1:] = _direction(f"{workload} {described}")
            self._described[k] = described
            self._row_var[k] = self._row_spread(k) ** 2
        for k, node_class in islice(enumerate(self._classes), old_columns, None):
            self._col_factor[k, 1:] = _direction(node_class)
        # Sums run in the order of the names, for the same reason: they then round alike, however rows are numbered.
        if rows > old_rows:
            self._row_order = np.array(sorted(range(rows), key=list(self._workloads).__getitem__), np.intp)
        if columns > old_columns:
            self._col_order = np.array(sorted(range(columns), key=list(self._classes).__getitem__), np.intp)
        self._beliefs = None

    def _row_spread(self, row: int) -> float:
        return self.settings.described_spread if self._described[row] else self.settings.prior_spread

    def _prior_log(self) -> Floats:
        return np.where(self._described, 0.0, math.log(self.settings.prior_run_s))  # [W]

    def _weights(self, count: Floats) -> Floats:
        """Precision of a cell's mean as evidence on the low-rank part: its noise and its own deviation."""
        s = self.settings
        return count / (s.noise**2 + count * s.cell_spread**2)

    def _solve_row(self, row: int) -> None:
        prior = self._prior_log()[row]
        seen = self._col_order[self._count[row, self._col_order] > 0]
        basis = np.concatenate([np.ones((len(seen), 1)), self._col_factor[seen, 1:]], axis=1)
        target = self._sum[row, seen] / self._count[row, seen] - prior - self._col_factor[seen, 0]
        spread = (self._row_spread(row), *(1.0,) * _RANK)
        self._row_factor[row], self._row_var[row] = _ridge(basis, target, self._weights(self._count[row, seen]), spread)

    def _solve_column(self, column: int) -> None:
        prior = self._prior_log()
        seen = self._row_order[self._count[self._row_order, column] > 0]
        basis = np.concatenate([np.ones((len(seen), 1)), self._row_factor[seen, 1:]], axis=1)
        target = self._sum[seen, column] / self._count[seen, column] - prior[seen] - self._row_factor[seen, 0]
        spread = (self.settings.class_spread, *(self.settings.affinity_spread,) * _RANK)
        weights = self._weights(self._count[seen, column])
        self._col_factor[column], self._col_var[column] = _ridge(basis, target, weights, spread)

    def posterior(self) -> Posterior:
        """What is known of the cells' means apart from the scatter of single runs, which `beliefs` puts together."""
        log_mean, mean_var, noise_var = self._moments()
        return Posterior(log_mean, np.sqrt(mean_var), np.sqrt(noise_var[:, 0]), self._count.copy())

    def _moments(self) -> tuple[Floats, Floats, Floats]:
        """Of log run times: posterior mean and variance of each cell's mean [W, C], variance of one run [W, 1]."""
        s = self.settings
        by_name = self._col_order
        in_row = _total(self._count[:, by_name].T)[:, None]  # [W, 1]
        in_column = _total(self._count[self._row_order])  # [C]
        # What nothing was seen of has a direction but no affinity yet.
        rows, columns = self._row_factor[:, 1:] * (in_row > 0), self._col_factor[:, 1:] * (in_column[:, None] > 0)
        affinity = sum(np.multiply.outer(rows[:, k], columns[:, k]) for k in range(_RANK))
        low_rank = self._prior_log()[:, None] + self._row_factor[:, :1] + self._col_factor[:, 0] + affinity  # [W, C]
        # Ignorance of the affinity part vanishes as a cell's row and column fill up.
        evidence = in_row + in_column
        prior_var = (
            self._row_var[:, None] + self._col_var[None, :] + s.cell_spread**2 + s.affinity_spread**2 / (1.0 + evidence)
        )
        scatter, beyond_one = self._sum_sq[:, by_name], np.maximum(self._count[:, by_name] - 1.0, 0.0)
        noise_var = (s.noise_weight * s.noise**2 + _total(scatter.T)[:, None]) / (
            s.noise_weight + _total(beyond_one.T)[:, None]
        )  # [W, 1] of a single run
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(self._count > 0, self._sum / self._count, 0.0)
        data_precision = self._count / noise_var
        mean_var = 1.0 / (1.0 / prior_var + data_precision)
        log_mean = mean_var * (low_rank / prior_var + own * data_precision)
        return log_mean, mean_var, noise_var

    def _tables(self) -> Beliefs:
        log_mean, mean_var, noise_var = self._moments()
        var = np.minimum(noise_var + mean_var, MOST_VAR)
        # Mean of the log-normal with the scatter of single runs only: adding our ignorance of the mean would make an
        # unknown class look slow (and never tried) merely because it is unknown.
        mean = np.exp(np.minimum(log_mean + 0.5 * noise_var, LONGEST_LOG))
        return Beliefs(run_mean=mean, run_std=mean * np.sqrt(np.expm1(var)), observations=self._count.copy())

    def state(self) -> dict[str, Any]:
        """Everything learned, as plain lists, for `restore`."""
        return {
            "workloads": [list(key) for key in self._workloads],
            "classes": list(self._classes),
            "count": self._count.tolist(),
            "sum": self._sum.tolist(),
            "sum_sq": self._sum_sq.tolist(),
            "row_factor": self._row_factor.tolist(),
            "col_factor": self._col_factor.tolist(),
            "row_var": self._row_var.tolist(),
            "col_var": self._col_var.tolist(),
        }

    @classmethod
    def restore(cls, state: dict[str, Any], settings: EstimatorSettings | None = None) -> RunTimeEstimator:
        """The estimator that gave `state()`. Raises KeyError or ValueError if the state is not one."""
        made = cls(settings)
        made._workloads = {(str(w), bool(d)): k for k, (w, d) in enumerate(state["workloads"])}
        made._classes = {str(c): k for k, c in enumerate(state["classes"])}
        made._grow(len(made._workloads), len(made._classes))
        shape = (len(made._workloads), len(made._classes))
        for name in ("count", "sum", "sum_sq"):
            setattr(made, f"_{name}", np.array(state[name], float).reshape(shape))
        made._row_factor = np.array(state["row_factor"], float).reshape(shape[0], 1 + _RANK)
        made._col_factor = np.array(state["col_factor"], float).reshape(shape[1], 1 + _RANK)
        made._row_var = np.array(state["row_var"], float).reshape(shape[0])
        made._col_var = np.array(state["col_var"], float).reshape(shape[1])
        factors = (made._row_factor, made._col_factor, made._row_var, made._col_var)
        if not all(np.isfinite(table).all() for table in (made._count, made._sum, made._sum_sq, *factors)):
            raise ValueError("the state of an estimator has numbers that are not finite")
        return made


def row_key(pod: PodRequest) -> tuple[str, bool]:
    """(workload, whether its run time is described) of a pod's row."""
    if not TREATMENTS[pod.kind].ends:
        return "", False  # no run time exists: all share the row of the unknown
    return pod.workload, not math.isnan(pod.expected_run_s)


def _teaches(run: float, slowdown: float) -> bool:
    return 0.0 < run < math.inf and 0.0 < slowdown < math.inf


def _total(cells: Floats) -> Floats:
    """Sum over the first axis, one after the other: empty rows, anywhere, change no bit of it."""
    return np.cumsum(cells, axis=0)[-1] if len(cells) else np.zeros(cells.shape[1:])


def _direction(name: str) -> Floats:
    return np.asarray(0.1 * np.cos(np.arange(1, 1 + _RANK) * (zlib.crc32(name.encode()) % 1009 + 1.0)))


def _ridge(basis: Floats, target: Floats, weight: Floats, spread: tuple[float, ...]) -> tuple[Floats, float]:
    """Weighted ridge regression with prior N(0, spread²); the solution and the variance of its first part."""
    precision = (basis * weight[:, None]).T @ basis + np.diag(1.0 / np.square(spread))
    covariance = np.linalg.inv(precision)
    return covariance @ (basis.T @ (weight * target)), float(covariance[0, 0])
