"""What a policy costs on worlds that it is not trained on, quickly: the compiled engine and the expected cost.

For watching training only. What is published comes from `nodewise compare`: the reference engine and realised costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat
from nodewise_simulator.compiled.run import Net, State, play_net, play_rule
from nodewise_training.returns import expected_cents

COUNTED = 0.4
"""Part of a world's pods, the last ones, that is counted."""


@dataclass(frozen=True, slots=True)
class Score:
    """Expected cost of a policy on some worlds, beside `economic` on the same."""

    ratio: float
    departed: float
    """Share of decisions that were not `economic`'s on the same state."""
    refused: float
    """Share of decisions that the policy left to `economic`, because a column was outside its range."""


class Validation:
    """Worlds with the cost of `economic` on them."""

    def __init__(self, flats: Sequence[Flat], threads: int) -> None:
        self._flats, self._pool = tuple(flats), ThreadPoolExecutor(threads)
        self._bar = np.array(list(self._pool.map(lambda flat: _cost(flat, None)[0], self._flats)))

    def score(self, net: Net) -> Score:
        """Play all worlds with a policy."""
        got = list(self._pool.map(lambda flat: _cost(flat, net), self._flats))
        asked = sum(number[kn.ASKED] for _, number in got)
        return Score(
            ratio=float(np.sum([cost for cost, _ in got]) / self._bar.sum()),
            departed=float(sum(number[kn.DEPARTED] for _, number in got) / asked),
            refused=float(sum(number[kn.REFUSED] for _, number in got) / asked),
        )


def _cost(flat: Flat, net: Net | None) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    state, pods = State.start(flat), len(flat.pod_f)
    if net is None:
        play_rule(flat, state)
    else:
        play_net(flat, state, net)
    counted = np.arange(int(pods * (1.0 - COUNTED)), pods)
    counted = counted[state.pod_node[counted] >= 0]
    return float(expected_cents(flat, state, counted).mean()), state.number
