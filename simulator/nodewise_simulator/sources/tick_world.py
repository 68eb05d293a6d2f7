"""A hundred nodes on a clock of 5 s, without a queue: the model of a "MARL" scheduler exactly as it was shipped.

Source: repository DanielBenniah/marl-distributed-scheduling (712fbdd). At each tick every task that has arrived is
placed in order, and dropped if it fits nowhere; then finished tasks are released; then energy is added up. A task takes
the same time on every node. `scenarios.tiers` is the same at a load and with a queue at which decisions matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nodewise.core.types import Floats

TICK_S = 5.0
_AFTER_S = 1000.0
"""The clock goes on for this long after the last arrival."""

# count, cores, GB, idle W, dynamic W
_TIERS = (
    (20, (24, 32), (96, 128), (150, 200), (200, 300)),
    (50, (8, 16), (32, 64), (50, 80), (60, 120)),
    (30, (2, 8), (8, 32), (15, 30), (20, 50)),
)
SLACK = (1.5, 3.0, 5.0)
"""Deadline as a multiple of the run time, of priorities 0, 1 and 2."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Every array is [100]."""

    cores: Floats
    memory_gb: Floats
    idle_w: Floats
    dynamic_w: Floats


@dataclass(frozen=True, slots=True)
class Tasks:
    """In order of arrival; every array is [N]."""

    arrival_s: Floats
    run_s: Floats
    cores: Floats
    memory_gb: Floats
    priority: np.ndarray[tuple[int], np.dtype[np.int64]]
    after: Any
    """State of the source's generator after the last task; what its schedulers draw goes on from there."""

    def stream(self) -> np.random.RandomState:
        """The source's generator as it stands after the last task."""
        stream = np.random.RandomState()
        stream.set_state(self.after)
        return stream


@dataclass(slots=True)
class State:
    """What a rule sees when a task is placed."""

    nodes: Nodes
    used_cores: Floats  # [100]
    used_gb: Floats  # [100]
    running: Floats  # [100] tasks
    placed: int = 0
    """Tasks placed so far."""
    arrived: int = 0
    """Tasks that have arrived by this tick, placed or not."""
    now_s: float = 0.0

    @classmethod
    def of(cls, nodes: Nodes) -> State:
        """Nodes on which nothing runs."""
        return cls(nodes, *np.zeros((3, len(nodes.cores))))

    def change(self, tasks: Tasks, task: int, node: int, by: int) -> None:
        """Put a task on a node (`by` 1) or take it off (−1)."""
        self.used_cores[node] += by * tasks.cores[task]
        self.used_gb[node] += by * tasks.memory_gb[task]
        self.running[node] += by


Rule = Callable[[State, Tasks, int, np.ndarray[tuple[int], np.dtype[np.int64]]], int]
"""Which of the nodes that fit (numbers, rising) takes the task of this index."""


@lru_cache(maxsize=8)
def episode(seed: int, count: int, rate: float) -> tuple[Nodes, Tasks]:
    """The nodes and tasks of an episode: seeds are the episode's number for nodes, and 100 times it for tasks."""
    draw = np.random.RandomState(seed)
    rows = [[draw.uniform(*span) for span in spans] for number, *spans in _TIERS for _ in range(number)]
    nodes = Nodes(*np.array(rows).T)
    draw = np.random.RandomState(100 * seed)
    columns = np.empty((5, count))
    now_s = 0.0
    for k in range(count):
        now_s += draw.exponential(1.0 / rate)
        run_s = min(10.0 * draw.random_sample() ** (-1.0 / 2.5), 500.0)
        cores = min(max(draw.lognormal(0.5, 0.8), 0.5), 8.0)
        memory_gb = min(max(draw.lognormal(2.0, 1.0), 1.0), 32.0)
        columns[:, k] = now_s, run_s, cores, memory_gb, draw.choice(3, p=(0.25, 0.60, 0.15))
    made = Tasks(columns[0], columns[1], columns[2], columns[3], columns[4].astype(np.int64), draw.get_state())
    return nodes, made


def run(nodes: Nodes, tasks: Tasks, rule: Rule) -> dict[str, float]:
    """Play an episode to its end; the metrics, of which `sla` is of all that were submitted."""
    state = State.of(nodes)
    started_s, node_of = np.full(len(tasks.run_s), np.nan), np.zeros(len(tasks.run_s), np.int64)
    running: list[int] = []
    following, dynamic_j, ticks = 0, 0.0, 0
    end_s = tasks.arrival_s[-1] + _AFTER_S
    w_per_core = nodes.dynamic_w / nodes.cores
    while ticks * TICK_S < end_s:
        now_s = state.now_s = ticks * TICK_S
        state.arrived = int(np.searchsorted(tasks.arrival_s, now_s, side="right"))
        while following < state.arrived:
            task, following = following, following + 1
            fits = np.flatnonzero(
                (nodes.cores - state.used_cores >= tasks.cores[task])
                & (nodes.memory_gb - state.used_gb >= tasks.memory_gb[task])
            )
            if not len(fits):
                continue
            node = rule(state, tasks, task, fits)
            started_s[task], node_of[task] = now_s, node
            running.append(task)
            state.placed += 1
            state.change(tasks, task, node, 1)
        for task in [t for t in running if started_s[t] + tasks.run_s[t] <= now_s]:
            running.remove(task)
            state.change(tasks, task, node_of[task], -1)
        dynamic_j += float(w_per_core @ state.used_cores) * TICK_S
        ticks += 1
    return _measured(nodes, tasks, started_s, dynamic_j, ticks)


def _measured(nodes: Nodes, tasks: Tasks, started_s: Floats, dynamic_j: float, ticks: int) -> dict[str, float]:
    completion_s = started_s + tasks.run_s - tasks.arrival_s
    in_time = completion_s <= tasks.run_s * np.array(SLACK)[tasks.priority]
    done = ~np.isnan(started_s)
    idle_j = float(nodes.idle_w.sum()) * TICK_S * ticks
    return {
        "completion_mean": float(completion_s[done].mean()),
        "sla": float(in_time.mean()),
        "sla_completed": float(in_time[done].mean()),
        "completed": float(done.sum()),
        "energy_dynamic": dynamic_j / 3600.0,
        "energy_total": (dynamic_j + idle_j) / 3600.0,
    }


def least_dynamic_wh(nodes: Nodes, tasks: Tasks) -> float:
    """Dynamic energy below which no placement gets that drops nothing.

    The cores in use at each tick do not depend on the placement; as a fluid they fill the nodes in order of W per core.
    """
    first = np.ceil(tasks.arrival_s / TICK_S)
    last = np.maximum(np.ceil((first * TICK_S + tasks.run_s) / TICK_S), first + 1)  # first tick after its release
    steps = np.zeros(int(last.max()) + 1)
    np.add.at(steps, first.astype(int), tasks.cores)
    np.add.at(steps, last.astype(int), -tasks.cores)
    demand = np.cumsum(steps)
    order = np.argsort(nodes.dynamic_w / nodes.cores)
    filled = np.concatenate([[0.0], np.cumsum(nodes.cores[order])])
    drawn_w = np.concatenate([[0.0], np.cumsum(nodes.dynamic_w[order])])
    return float(np.interp(demand, filled, drawn_w).sum()) * TICK_S / 3600.0
