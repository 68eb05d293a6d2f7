"""How much pods are slowed by their neighbours, as far as the recording tells.

Each workload has its own sensitivity around one of the cluster. Whether neighbours matter at all is asked first: one
half of the prior is that they do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.advise.alone import GRID

_SPREAD = 0.15
"""Of a workload's own sensitivity around that of the cluster."""


@dataclass(frozen=True, slots=True)
class Contention:
    """Posterior of the sensitivities, on `GRID`."""

    common: Floats  # [S] of the cluster's sensitivity
    own: Floats  # [S, W, S] of each workload's, given the cluster's

    def draw(self, rng: np.random.Generator) -> tuple[int, list[int]]:
        """Indices into `GRID`: of the cluster's sensitivity and of each workload's [W]."""
        common = int(rng.choice(len(GRID), p=self.common))
        return common, [int(rng.choice(len(GRID), p=p)) for p in self.own[common]]

    @property
    def interval(self) -> tuple[float, float, float]:
        """Median and 95 % interval of the cluster's sensitivity."""
        reached = np.cumsum(self.common)
        low, middle, high = (float(GRID[np.searchsorted(reached, q - 1e-12)]) for q in (0.025, 0.5, 0.975))
        return middle, low, high


def contention(log_s: Floats, log_slope: Floats, row: Floats, cell: Floats, rows: int) -> Contention:
    """Posterior from n finished runs.

    `log_s` [n, S] is the log of each run's time alone (per expected second where that was told) at each sensitivity,
    `log_slope` [n, S] the log of how it grows with the log of the time that was measured, `row` and `cell` [n] number
    the workload and the workload on its node class, of which there are `rows` and any number.
    """
    likelihood = np.zeros((rows, len(GRID)))
    for w in range(rows):
        mine = row == w
        squares, freedom = np.zeros(len(GRID)), 0
        for c in np.unique(cell[mine]):
            here = log_s[mine & (cell == c)]
            squares += np.square(here - here.mean(axis=0)).sum(axis=0)
            freedom += len(here) - 1
        if freedom > 1:
            # Normal with a mean for each cell and one unknown variance, both integrated out.
            likelihood[w] = log_slope[mine].sum(axis=0) - 0.5 * freedom * np.log(np.maximum(squares, 1e-12))
    prior = np.where(GRID == 0.0, 0.5, 0.5 / (len(GRID) - 1))
    around = np.exp(-0.5 * np.square((GRID[None, :] - GRID[:, None]) / _SPREAD))
    around[0] = GRID == 0.0  # neighbours that do not matter matter to no workload
    around /= around.sum(axis=1, keepdims=True)
    scaled = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))  # [W, S]
    own = around[:, None, :] * scaled[None, :, :]  # [S, W, S]
    evidence = own.sum(axis=2)
    log_common = np.log(prior) + np.log(np.maximum(evidence, 1e-300)).sum(axis=1)
    common = np.exp(log_common - log_common.max())
    own = np.where(evidence[:, :, None] > 1e-300, own / np.maximum(evidence, 1e-300)[:, :, None], around[:, None, :])
    return Contention(common / common.sum(), own)
