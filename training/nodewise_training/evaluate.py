"""What a policy costs on worlds that it is not trained on, quickly: the compiled engine and the expected cost.

For watching training only. What is published comes from `nodewise compare`: the reference engine and realised costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.compare import ratio_interval
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat
from nodewise_simulator.compiled.run import Net, State, play_net, play_rule
from nodewise_simulator.workers import Workers
from nodewise_training.returns import expected_cents
from nodewise_training.worlds import world

Ints = NDArray[np.int64]
Progress = Callable[[str, int, int, str, str], None]
"""Told of (stage, done, total, how it goes, unit of both numbers)."""

PREPARING = "preparing the worlds of validation"

COUNTED = 0.4
"""Part of a world's pods, the last ones, that is counted."""


SEEDS = range(901, 913)
"""Worlds of validation, for each scenario; neither trained on nor published."""


class Validation:
    """Worlds of scenarios, and what `economic` costs on them. Raises UserError for an unknown scenario.

    `progress` is told of (stage, worlds done, worlds, note, unit).
    """

    def __init__(
        self, scenario_texts: Sequence[str], seeds: Sequence[int] = SEEDS, progress: Progress = lambda *_: None
    ) -> None:
        todo = [(text, seed) for text in dict.fromkeys(scenario_texts) for seed in seeds]
        self._worlds: dict[str, list[Flat]] = {text: [] for text, _ in todo}
        self._threads = ThreadPoolExecutor(os.cpu_count())
        progress(PREPARING, 0, len(todo), "", "worlds")
        with Workers(os.cpu_count() or 1) as workers:
            made = [workers.submit(world, text, seed) for text, seed in todo]
            for k, ((text, _), flat) in enumerate(zip(todo, made, strict=True)):
                self._worlds[text].append(flat.result())
                progress(PREPARING, k + 1, len(todo), "", "worlds")
        self._bar = {text: self._play(text, None)[0] for text in self._worlds}

    def rows(self, net: Net) -> list[Mapping[str, Any]]:
        """A row for each scenario: `ratio` of expected cost to `economic` with its paired 95 % interval over worlds.

        `departed` is the share of decisions that were not the one that `economic` took on the same state, `refused` of
        those left to it because a column lay outside its range.
        """
        made: list[Mapping[str, Any]] = []
        for text in self._worlds:
            cents, number = self._play(text, net)
            low, high = ratio_interval(cents, self._bar[text])
            asked = number[:, kn.ASKED].sum()
            made.append(
                {
                    "scenario": text, "worlds": len(cents), "ratio": float(cents.sum() / self._bar[text].sum()),
                    "low": low, "high": high, "departed": float(number[:, kn.DEPARTED].sum() / asked),
                    "refused": float(number[:, kn.REFUSED].sum() / asked),
                }
            )  # fmt: skip
        return made

    def _play(self, text: str, net: Net | None) -> tuple[Floats, Ints]:
        played = list(self._threads.map(lambda flat: _played(flat, net), self._worlds[text]))
        return np.array([cents for cents, _ in played]), np.stack([number for _, number in played])


def _played(flat: Flat, net: Net | None) -> tuple[float, Ints]:
    """Mean expected cost of the counted pods, and the state's numbers."""
    state, pods = State.start(flat), len(flat.pod_f)
    if net is None:
        play_rule(flat, state)
    else:
        play_net(flat, state, net)
    counted = np.arange(int(pods * (1.0 - COUNTED)), pods)
    counted = counted[state.pod_node[counted] >= 0]
    return float(expected_cents(flat, state, counted).mean()), state.number
