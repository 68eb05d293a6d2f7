"""A random forest for regression in numpy, of the defaults that the hybrid scheduler uses: all features, bootstrap."""

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


def forest_predictions(
    x: Floats, y: Floats, asked: Floats, trees: int, rng: np.random.Generator, least_split: int = 5
) -> Floats:
    """Mean prediction, [M], for `asked` [M, F] of trees grown on x [N, F] and y [N]; fewer rows are not split."""
    total = np.zeros(len(asked))
    for _ in range(trees):
        drawn = rng.integers(0, len(x), len(x))
        total += _grown(x[drawn], y[drawn], least_split)(asked)
    return total / trees


def _grown(x: Floats, y: Floats, least_split: int) -> _Tree:
    nodes: list[list[float]] = []  # feature, threshold, left, right, value
    open_nodes: list[tuple[int, Rows, int]] = []

    def leaf(rows: Rows, depth: int) -> int:
        number = len(nodes)
        nodes.append([0, np.inf, number, number, float(y[rows].mean())])
        if depth < _DEPTH and len(rows) >= least_split and y[rows].min() < y[rows].max():
            open_nodes.append((number, rows, depth))
        return number

    leaf(np.arange(len(y)), 0)
    while open_nodes:
        number, rows, depth = open_nodes.pop()
        feature, threshold = _best_split(x[rows], y[rows])
        if feature < 0:
            continue
        below = x[rows, feature] <= threshold
        nodes[number][:2] = feature, threshold
        nodes[number][2], nodes[number][3] = leaf(rows[below], depth + 1), leaf(rows[~below], depth + 1)
    columns = np.array(nodes).T
    whole = [columns[k].astype(np.int64) for k in (0, 2, 3)]
    return _Tree(whole[0], columns[1], whole[1], whole[2], columns[4])


def _best_split(x: Floats, y: Floats) -> tuple[int, float]:
    """Feature and threshold that reduce the squared error most; feature -1 if all rows are alike."""
    count = len(y)
    order = x.argsort(axis=0)
    ordered = np.take_along_axis(x, order, axis=0)
    sums = np.cumsum(y[order], axis=0)[:-1]
    number = np.arange(1, count)[:, None]
    gain = sums**2 / number + (y.sum() - sums) ** 2 / (count - number)
    gain[ordered[1:] <= ordered[:-1]] = -np.inf
    at, feature = np.unravel_index(int(gain.argmax()), gain.shape)
    if gain[at, feature] == -np.inf:
        return -1, 0.0
    return int(feature), float((ordered[at, feature] + ordered[at + 1, feature]) / 2.0)
