"""Who places a task in the tick world: the source's rules as coded, its score with and without its nets, and ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.tick_world import Rule, State, Tasks

Fits = np.ndarray[tuple[int], np.dtype[np.int64]]
Draws = np.random.Generator | np.random.RandomState


def random_rule(draws: Draws) -> Rule:
    """Any node that fits."""
    return lambda _state, _tasks, _task, fits: int(draws.choice(fits))


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


RULES: dict[str, Callable[[Draws], Rule]] = {
    "random": random_rule,
    "round-robin": lambda _: round_robin,
    "priority-minmin": lambda _: min_min,
    "marl-without-net": lambda _: without_nets,
    "least-watts": lambda _: least_watts,
    "best-fit": lambda _: best_fit,
    "balance-fit": lambda _: balance_fit,
}
"""What makes each rule, from the randomness that it has for itself."""
