"""What the load balancer's three modules learn, re-implemented in numpy with its sizes and settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.nets import Net
from nodewise_simulator.sources.replay_data import Table

Choices = np.ndarray[tuple[int], np.dtype[np.int64]]

_WINDOW = 5
_DRIFT = 0.30


def drift_choices(table: Table) -> Choices:
    """Module 2: least predicted load ÷ speed in rows where any CPU's load is off its prediction by 30 %, else as is.

    The regression's inputs hold the load that it "predicts", and it is fitted on the rows that it is judged on.
    """
    predicted = np.column_stack([_fitted(table.load[:, cpu], table.load_avg) for cpu in range(4)])
    drifts = np.asarray(np.abs(predicted - table.load) / table.load > _DRIFT).any(axis=1, keepdims=True)
    return np.asarray(np.where(drifts, predicted / table.speed, table.load / table.speed).argmin(axis=1))


def _fitted(load: Floats, load_avg: Floats) -> Floats:
    """Least-squares fit of a CPU's load on its moving average, its exponential one and the system's, [N]."""
    sums = np.concatenate([[0.0], np.cumsum(load)])
    row = np.arange(1, len(load) + 1)
    first = np.maximum(row - _WINDOW, 0)
    moving = (sums[row] - sums[first]) / (row - first)
    keep, weighted, total = 1.0 - 2.0 / (_WINDOW + 1), 0.0, 0.0
    exponential = np.empty(len(load))
    for k, value in enumerate(load.tolist()):  # pandas' ewm with its default of adjusted weights
        weighted, total = weighted * keep + value, total * keep + 1.0
        exponential[k] = weighted / total
    inputs = np.column_stack([moving, exponential, load_avg, np.ones(len(load))])
    return np.asarray(inputs @ np.linalg.lstsq(inputs, load, rcond=None)[0])


def regression_choices(table: Table, rng: np.random.Generator, epochs: int = 10, batch: int = 128) -> Choices:
    """Module 3, called a graph net: 14-64-32-1 regresses each CPU's completion; the least is chosen."""
    rows = len(table.size)

    def every(column: Floats) -> Floats:
        return np.broadcast_to(column[:, None], (rows, 4))

    own = np.stack(
        [table.queue_len, table.load, table.wait_s, np.broadcast_to(table.speed, (rows, 4)), every(table.size),
         every(table.priority), every(table.load_avg)],
        axis=2,
    )  # fmt: skip
    inputs = np.concatenate([own, np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape)], axis=2)
    inputs = inputs.astype(np.float32)
    net, target = Net((14, 64, 32, 1), rng), table.completion_s.astype(np.float32)
    for _ in range(epochs):
        order = rng.permutation(rows)
        for begin in range(0, rows, batch):
            pick = order[begin : begin + batch]
            net.learn(inputs[pick].reshape(-1, 14), target[pick].reshape(-1, 1))
    return np.asarray(net(inputs.reshape(-1, 14)).reshape(rows, 4).argmin(axis=1))


@dataclass(frozen=True, slots=True)
class DqnSettings:
    """One of module 1's two variants; 64 samples a batch, one update a step, gamma 0.99 as both have."""

    hidden: int
    with_load: bool
    variance_weight: float
    violation_weight: float
    replay: int
    target_every: int
    epsilon_decay: float
    episodes: int
    episode_rows: int


DQN_A = DqnSettings(128, True, 0.5, 2.0, 50_000, 200, 0.995, 50, 1000)
DQN_B = DqnSettings(96, False, 0.2, 12.0, 30_000, 100, 0.97, 60, 1200)
BATCH, GAMMA, LEAST_EPSILON = 64, 0.99, 0.05


@dataclass(frozen=True, slots=True)
class Learned:
    """What module 1's DQN does after its training, and what it did in the last episode of it."""

    greedy: Choices  # [N], of every row of the table
    episode_rows: Choices  # [M]
    episode_choices: Choices  # [M], exploration included: what the source prints


def dqn(table: Table, settings: DqnSettings, rng: np.random.Generator, episodes: int = 0) -> Learned:
    """Module 1: a DQN trained on the table. 50,000 to 72,000 updates: half a minute.

    `episodes` 0 is the source's number. The next state is the next row, whatever the action.
    """
    per_cpu = [table.queue_len, *([table.load] if settings.with_load else []), table.wait_s]
    speed = np.broadcast_to(table.speed, table.load.shape)
    states = np.column_stack(
        [table.size, table.priority, table.load_avg, table.load_variance,
         np.stack([*per_cpu, speed], axis=2).reshape(len(table.size), -1)]
    ).astype(np.float32)  # fmt: skip
    penalty = settings.variance_weight * table.load_variance + settings.violation_weight * table.violated
    rewards = -table.completion_s - penalty[:, None]
    sizes = (states.shape[1], settings.hidden, settings.hidden, 4)
    net, target = Net(sizes, rng), Net(sizes, rng)
    target.copy_from(net)
    rows, acts = np.empty(settings.replay, np.int64), np.empty(settings.replay, np.int64)
    last = np.zeros(settings.replay, bool)
    stored, epsilon = 0, 1.0
    for _ in range(episodes or settings.episodes):
        begin = int(rng.integers(0, len(states) - settings.episode_rows))
        for row in range(begin, begin + settings.episode_rows):
            explores = rng.random() < epsilon
            act = int(rng.integers(4)) if explores else int(net(states[row : row + 1]).argmax())
            slot = stored % settings.replay
            rows[slot], acts[slot], last[slot] = row, act, row == begin + settings.episode_rows - 1
            stored += 1
            if stored < BATCH:
                continue
            pick = rng.integers(0, min(stored, settings.replay), BATCH)
            row_of, act_of = rows[pick], acts[pick]
            following = target(states[row_of + 1]).max(axis=1)
            goal = rewards[row_of, act_of] + GAMMA * following * ~last[pick]
            net.learn(states[row_of], goal.astype(np.float32), act_of)
            if stored % settings.target_every == 0:
                target.copy_from(net)
        epsilon = max(epsilon * settings.epsilon_decay, LEAST_EPSILON)
    episode = np.arange(stored - settings.episode_rows, stored) % settings.replay
    return Learned(np.asarray(net(states).argmax(axis=1)), rows[episode], acts[episode])
