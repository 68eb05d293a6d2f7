"""What the hybrid CPU/GPU scheduler's random forests predict: each task's share, learnt from the best shares of others.

As in the source, four fifths of the tasks are learnt from: those that scikit-learn's `train_test_split` keeps.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.forest import Rows, forest_predictions
from nodewise_simulator.sources.hybrid import Tasks

_SEED = 42
"""`random_state` of split and forest."""
_RETRAIN_EVERY, _LABELS, _LIVE_TREES, _LIVE_LEAST_SPLIT = 50, 1000, 10, 2
_UNTRAINED_SHARE = 0.5
"""What the live engine's forest says until it is first grown: it starts from ten tasks labelled so."""


def forest_shares(training: Tasks, asked: Tasks, trees: int) -> Floats:
    """Shares [N] that a forest predicts, trained on the best share of each training task."""
    kept = _kept(len(training.size))
    return forest_predictions(_features(training)[kept], best_shares(training)[kept], _features(asked), trees, _SEED)


def live_forest_shares(tasks: Tasks) -> Floats:
    """The live engine's forest of 10 trees: grown anew every 50 tasks from the last 1,000 and their best shares."""
    features, best, taken = _features(tasks), best_shares(tasks), np.full(len(tasks.size), _UNTRAINED_SHARE)
    for k in range(_RETRAIN_EVERY, len(taken), _RETRAIN_EVERY):
        seen, asked = max(k - _LABELS, 0) + _kept(min(k, _LABELS)), slice(k, k + _RETRAIN_EVERY)
        taken[asked] = forest_predictions(
            features[seen], best[seen], features[asked], _LIVE_TREES, _SEED, _LIVE_LEAST_SPLIT
        )
    return taken


def best_shares(tasks: Tasks) -> Floats:
    """[N] 1 where a GPU is faster, else 0."""
    return np.where(tasks.gpu_s < tasks.cpu_s, 1.0, 0.0)


def _kept(count: int) -> Rows:
    """Rows that are learnt from, of `count`."""
    tested = -(-count // 5)
    return np.random.RandomState(_SEED).permutation(count)[tested:]


def _features(tasks: Tasks) -> Floats:
    """[N, 5], the source's."""
    size, intensity, memory_mb = tasks.size, tasks.intensity, tasks.memory_mb
    return np.column_stack([size, intensity, memory_mb, memory_mb / (size + 1.0), intensity / (memory_mb + 1.0)])
