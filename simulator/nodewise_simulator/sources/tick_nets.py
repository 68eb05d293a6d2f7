"""The hundred actor nets of the "MARL" scheduler as shipped: drawn anew for each episode, and never trained.

Each has 50 inputs, 128 hidden units with ReLU and a softmax over all nodes, of which its own node's chance is read.
Weights and neighbours are drawn where the source draws them, so that its episodes come out the same. What it calls
pending are tasks that have not arrived yet.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.tick_rules import Fits, hand_score
from nodewise_simulator.sources.tick_world import State, Tasks

_NODES, _INPUTS, _HIDDEN, _NEIGHBOURS = 100, 50, 128, 10
_NODE_DRAWS = 400
"""What the source draws for the nodes, from the same generator, before the nets."""
_LOOKS_AHEAD = 10


class Nets:
    """The nets of one episode."""

    def __init__(self, episode: int, draws: np.random.RandomState) -> None:
        """`draws` is the generator after the tasks; neighbours come from it, new ones for each look."""
        made = np.random.RandomState(episode)
        made.uniform(size=_NODE_DRAWS)
        self._first, self._second = np.empty((_NODES, _INPUTS, _HIDDEN)), np.empty((_NODES, _HIDDEN, _NODES))
        for first, second in zip(self._first, self._second, strict=True):
            first[:] = made.randn(_INPUTS, _HIDDEN) * np.sqrt(2.0 / _INPUTS)
            second[:] = made.randn(_HIDDEN, _NODES) * np.sqrt(2.0 / _HIDDEN)
            made.randn(_HIDDEN, 1)  # the critic, which nothing asks
        self._draws = draws

    def rule(self, state: State, tasks: Tasks, task: int, fits: Fits) -> int:
        """The largest score with a quarter of the actor's probability in it."""
        score = 0.25 * self.probabilities(state, tasks, fits) + hand_score(state, tasks, task, fits)
        return int(fits[score.argmax()])

    def probabilities(self, state: State, tasks: Tasks, fits: Fits) -> Floats:
        """[fits] each actor's probability of its own node."""
        inputs = np.zeros((_NODES, 1, _INPUTS))
        inputs[fits, 0] = self._inputs(state, tasks, fits)
        logits = (np.maximum(inputs @ self._first, 0.0) @ self._second)[fits, 0]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds[np.arange(len(fits)), fits] / odds.sum(axis=1))

    def _inputs(self, state: State, tasks: Tasks, fits: Fits) -> Floats:
        """[fits, 50]; the last 27 are zeros."""
        used = state.used_cores / state.nodes.cores
        inputs = np.zeros((len(fits), _INPUTS))
        inputs[:, 0], inputs[:, 1] = used[fits], (state.used_gb / state.nodes.memory_gb)[fits]
        inputs[:, 2] = state.running[fits] / 100.0
        inputs[:, 3], inputs[:, 4] = state.nodes.cores[fits] / 32.0, state.nodes.memory_gb[fits] / 128.0
        for row in inputs:
            row[5:15] = used[self._draws.choice(_NODES, _NEIGHBOURS, replace=False)]
        ahead = slice(state.arrived, state.arrived + _LOOKS_AHEAD)
        if state.arrived < len(tasks.cores):
            inputs[:, 15:20] = (
                tasks.cores[ahead].mean() / 32.0, tasks.memory_gb[ahead].mean() / 128.0,
                tasks.priority[ahead].mean() / 2.0, (len(tasks.cores) - state.arrived) / 1000.0,
                min(1.0, state.now_s / 1000.0),
            )  # fmt: skip
        inputs[:, 20:23] = used.mean(), used.max(), used.min()
        return inputs
