"""A random forest for regression in numpy, as scikit-learn grows one for the hybrid scheduler: all features, bootstrap.

Rows are drawn for each tree as scikit-learn 1.x draws them. Of splits that are equally good one is taken at random, as
there, which matters where a forest is asked about tasks unlike any that it has seen; these draws are not reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats

_DEPTH = 15
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _Tree:
    """Every array is [nodes]; a leaf is its own child."""

    feature: Rows
    threshold: Floats
    left: Rows
    right: Rows
    value: Floats

    def __call__(self, x: Floats) -> Floats:
        at = np.zeros(len(x), np.int64)
        row = np.arange(len(x))
        for _ in range(_DEPTH):
            below = x[row, self.feature[at]] <= self.threshold[at]
            at = np.where(below, self.left[at], self.right[at])
        return np.asarray(self.value[at])


def forest_predictions(x: Floats, y: Floats, asked: Floats, trees: int, seed: int, least_split: int = 5) -> Floats:
    """Mean prediction, [M], for `asked` [M, F] of trees grown on x [N, F] and y [N]; fewer rows are not split."""
    draws, total = np.random.RandomState(seed), np.zeros(len(asked))
    for _ in range(trees):
        own = np.random.RandomState(draws.randint(np.iinfo(np.int32).max))
        rows, times = np.unique(own.randint(0, len(x), len(x), dtype=np.int32), return_counts=True)
        total += _grown(x[rows], y[rows], times.astype(float), least_split, own)(asked)
    return total / trees


def _grown(x: Floats, y: Floats, times: Floats, least_split: int, draws: np.random.RandomState) -> _Tree:
    """`times` [N] is how often each row counts."""
    nodes: list[list[float]] = []  # feature, threshold, left, right, value
    open_nodes: list[tuple[int, Rows, int]] = []

    def leaf(rows: Rows, depth: int) -> int:
        number = len(nodes)
        nodes.append([0, np.inf, number, number, float(np.average(y[rows], weights=times[rows]))])
        if depth < _DEPTH and len(rows) >= least_split and y[rows].min() < y[rows].max():
            open_nodes.append((number, rows, depth))
        return number

    leaf(np.arange(len(y)), 0)
    while open_nodes:
        number, rows, depth = open_nodes.pop()
        tried = draws.permutation(x.shape[1])
        feature, threshold = _best_split(x[np.ix_(rows, tried)], y[rows], times[rows])
        if feature < 0:
            continue
        below = x[rows, tried[feature]] <= threshold
        nodes[number][:2] = tried[feature], threshold
        nodes[number][2], nodes[number][3] = leaf(rows[below], depth + 1), leaf(rows[~below], depth + 1)
    columns = np.array(nodes).T
    whole = [columns[k].astype(np.int64) for k in (0, 2, 3)]
    return _Tree(whole[0], columns[1], whole[1], whole[2], columns[4])


def _best_split(x: Floats, y: Floats, times: Floats) -> tuple[int, float]:
    """The first feature and threshold that reduce the squared error most; feature -1 if all rows are alike."""
    order = x.argsort(axis=0)
    ordered = np.take_along_axis(x, order, axis=0)
    sums = np.cumsum((y * times)[order], axis=0)[:-1]
    number = np.cumsum(times[order], axis=0)[:-1]
    gain = sums**2 / number + (float(y @ times) - sums) ** 2 / (times.sum() - number)
    gain[ordered[1:] <= ordered[:-1]] = -np.inf
    feature, at = np.unravel_index(int(gain.T.argmax()), gain.T.shape)
    if gain[at, feature] == -np.inf:
        return -1, 0.0
    lower, upper = float(ordered[at, feature]), float(ordered[at + 1, feature])
    middle = (lower + upper) / 2.0
    return int(feature), middle if middle < upper else lower  # numbers may have none between them
