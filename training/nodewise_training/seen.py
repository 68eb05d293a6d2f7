"""What a policy has seen in training: the range of every column, and a sample of decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodewise_simulator.compiled.run import Record
from nodewise_training.nets import Scorer, transformed

F32 = NDArray[np.float32]
Ints = NDArray[np.int64]

_CHUNK = 1024
_SAMPLE = 16
_FOR_SCALE = 2000


class Seen:
    """Ranges of the columns in card order, over everything that was learned from; a sample of the last batch."""

    def __init__(self, scorer: Scorer) -> None:
        self._places, k = scorer.places, len(scorer.columns)
        self._columns = scorer.columns
        self.low, self.high = np.full(k, np.inf, np.float32), np.full(k, -np.inf, np.float32)
        self.sample: list[F32] = []
        """Features of whole decisions, [M, K] each."""

    def add(self, record: Record, rows: Ints) -> None:
        """Take in the decisions of these rows."""
        for begin in range(0, len(rows), _CHUNK):
            for part, values in self._candidates(record, rows[begin : begin + _CHUNK]).items():
                at = self._places[part]
                self.low[at] = np.minimum(self.low[at], values.min(axis=0))
                self.high[at] = np.maximum(self.high[at], values.max(axis=0))
        self.sample = [self._features(record, rows[k : k + 1]) for k in _spread(len(rows), _SAMPLE)]

    def scale(self, record: Record, rows: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each column [K], transformed as the network sees them."""
        chosen = rows[_spread(len(rows), _FOR_SCALE)]
        values = transformed(self._columns, self._features(record, chosen))
        return values.mean(axis=0), values.std(axis=0)

    def _features(self, record: Record, rows: Ints) -> F32:
        """Features [sum of M, K] of the candidates of decisions, in card order."""
        parts = self._candidates(record, rows)
        made = np.empty((len(parts["node"]), len(self._columns)), np.float32)
        for part, values in parts.items():
            made[:, self._places[part]] = values
        return made

    def _candidates(self, record: Record, rows: Ints) -> dict[str, F32]:
        """Columns of all candidates of decisions, by the input that they belong to."""
        counts = record.choice[rows, 1]
        mask = np.arange(record.node.shape[1]) < counts[:, None]
        return {
            "node": record.node[rows][mask],
            "pair": record.pair[rows][mask],
            "request": np.repeat(record.request[rows], counts, axis=0),
        }

    def state(self) -> dict[str, Any]:
        """For `restore`: tensors, which a checkpoint holds without code in it."""
        arrays = {"low": self.low, "high": self.high}
        made: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return made | {"sample": [torch.from_numpy(seen) for seen in self.sample]}

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when it gave `state`."""
        self.low, self.high = state["low"].numpy(), state["high"].numpy()
        self.sample = [seen.numpy() for seen in state["sample"]]


def _spread(length: int, count: int) -> Ints:
    """At most `count` indices, evenly over `length`."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(np.int64))
