"""Who places a task in the tick world: the source's rules as coded, its score with and without its nets, and ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.tick_world import Rule, State, Tasks

Fits = np.ndarray[tuple[int], np.dtype[np.int64]]

_INPUTS, _HIDDEN = 50, 128
_SPREAD = 0.12
"""Standard deviation of the nets' initial weights; chosen so that they weigh as measured: 0.0025, at most 0.0042."""


def random_rule(rng: np.random.Generator) -> Rule:
    """Any node that fits."""
    return lambda _state, _tasks, _task, fits: int(fits[rng.integers(len(fits))])


def round_robin(state: State, tasks: Tasks, task: int, fits: Fits) -> int:
    """The nodes that fit by turns; called weighted, without weights."""
    del tasks, task
    return int(fits[state.placed % len(fits)])


def min_min(state: State, tasks: Tasks, task: int, fits: Fits) -> int:
    """Least run time × (1 + utilisation): as run times are alike everywhere, the least utilised; priority is unread."""
    return int(fits[(tasks.run_s[task] * (1.0 + state.used_cores / state.nodes.cores))[fits].argmin()])


def least_watts(state: State, tasks: Tasks, task: int, fits: Fits) -> int:
    """Least dynamic power per core."""
    del tasks, task
    return int(fits[(state.nodes.dynamic_w / state.nodes.cores)[fits].argmin()])


def best_fit(state: State, tasks: Tasks, task: int, fits: Fits) -> int:
    """The least sum of free shares of CPU and memory after placing."""
    cpu = (state.used_cores[fits] + tasks.cores[task]) / state.nodes.cores[fits]
    memory = (state.used_gb[fits] + tasks.memory_gb[task]) / state.nodes.memory_gb[fits]
    return int(fits[(cpu + memory).argmax()])


def balance_fit(state: State, tasks: Tasks, task: int, fits: Fits) -> int:
    """After placing, the free shares of CPU and memory close to each other, and both small."""
    cpu = 1.0 - (state.used_cores[fits] + tasks.cores[task]) / state.nodes.cores[fits]
    memory = 1.0 - (state.used_gb[fits] + tasks.memory_gb[task]) / state.nodes.memory_gb[fits]
    return int(fits[(np.abs(cpu - memory) + 0.3 * (cpu + memory)).argmin()])


def hand_score(state: State, tasks: Tasks, task: int, fits: Fits) -> Floats:
    """[fits] the source's score without its nets."""
    free_cpu = 1.0 - state.used_cores[fits] / state.nodes.cores[fits]
    free_memory = 1.0 - state.used_gb[fits] / state.nodes.memory_gb[fits]
    middle = 1.0 - np.abs(tasks.cores[task] / state.nodes.cores[fits] - 0.5)
    urgent = (3.0 - tasks.priority[task]) / 3.0
    return np.asarray(0.30 * free_cpu + 0.20 * free_memory + 0.15 * middle + 0.10 * urgent)


def without_nets(state: State, tasks: Tasks, task: int, fits: Fits) -> int:
    """The largest hand-written score."""
    return int(fits[hand_score(state, tasks, task, fits).argmax()])


class Nets:
    """The source's hundred actors, 50-128-100, never trained: each gives its own node's probability."""

    def __init__(self, nodes: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._first = (rng.normal(0.0, _SPREAD, (nodes, _INPUTS, _HIDDEN))).astype(np.float32)
        self._second = (rng.normal(0.0, _SPREAD, (nodes, _HIDDEN, nodes))).astype(np.float32)
        self._neighbours = np.stack([rng.choice(nodes, 10, replace=False) for _ in range(nodes)])

    def probabilities(self, state: State, tasks: Tasks, task: int, fits: Fits) -> Floats:
        """[fits] each actor's probability of its own node. What the 23 inputs are in detail is ours."""
        used = state.used_cores / state.nodes.cores
        used_gb = state.used_gb / state.nodes.memory_gb
        inputs = np.zeros((len(fits), _INPUTS), np.float32)
        inputs[:, 0], inputs[:, 1] = used[fits], used_gb[fits]
        inputs[:, 3], inputs[:, 4] = state.nodes.cores[fits] / 32.0, state.nodes.memory_gb[fits] / 128.0
        inputs[:, 5:15] = used[self._neighbours[fits]]
        inputs[:, 15:20] = (
            1.0 / 100.0, tasks.run_s[task] / 100.0, tasks.cores[task] / 8.0, tasks.memory_gb[task] / 32.0,
            tasks.priority[task] / 2.0,
        )  # fmt: skip
        inputs[:, 20:23] = used.mean(), used_gb.mean(), used.std()
        hidden = np.maximum(inputs[:, None, :] @ self._first[fits], 0.0)
        logits = (hidden @ self._second[fits])[:, 0, :]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds[np.arange(len(fits)), fits] / odds.sum(axis=1))

    def rule(self, state: State, tasks: Tasks, task: int, fits: Fits) -> int:
        """The largest score with a quarter of the actor's probability in it."""
        score = 0.25 * self.probabilities(state, tasks, task, fits) + hand_score(state, tasks, task, fits)
        return int(fits[score.argmax()])


RULES: dict[str, Callable[[np.random.Generator], Rule]] = {
    "random": random_rule,
    "round-robin": lambda _: round_robin,
    "priority-minmin": lambda _: min_min,
    "marl": lambda rng: Nets(100, rng).rule,
    "marl-without-net": lambda _: without_nets,
    "least-watts": lambda _: least_watts,
    "best-fit": lambda _: best_fit,
    "balance-fit": lambda _: balance_fit,
}
"""What makes each rule, from the randomness that it has for itself."""
