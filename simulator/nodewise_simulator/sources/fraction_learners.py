"""The deep Q-networks of the hybrid CPU/GPU scheduler, of its HEAD and of its first commit.

A fault of each is kept, for what is called "as coded". HEAD keeps demonstrations that are worth +1 each in one memory
with real rewards, which are negative. The first commit stores the reward of a task with the state and action of the
task before it, and discounts where no decision changes what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.fraction_forests import best_shares
from nodewise_simulator.sources.hybrid import GPUS, Tasks

if TYPE_CHECKING:
    from nodewise_simulator.sources.dueling import Agent, Choices

SHARES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
"""Actions of HEAD."""
_BATCH = 64
_EPSILON, _LEAST_EPSILON, _DECAY = 0.5, 0.05, 0.9995
_TUNING_EPSILON = 0.1
"""Once it has seen demonstrations."""
_LIVE_POWER_W = (50.0, 30.0)


@dataclass(frozen=True, slots=True)
class Reward:
    """−((1 − w) × time ÷ 10 + w × energy ÷ 500), w the weight of energy."""

    energy_weight: float
    power_w: tuple[float, float] = _LIVE_POWER_W

    def __call__(self, time_s: float, share: float) -> float:
        joules = time_s * (share * self.power_w[0] + (1.0 - share) * self.power_w[1])
        return -((1.0 - self.energy_weight) * time_s / 10.0 + self.energy_weight * joules / 500.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """Demonstrations: tasks, and the shares [N] that are praised."""

    tasks: Tasks
    shares: Floats
    epochs: int
    """Of updates on them, as many as there are whole batches each."""


def heuristic_shares(tasks: Tasks) -> Floats:
    """[N] what HEAD teaches where it has no forest: small tasks to the CPU, others by their intensity."""
    large = np.where(tasks.intensity > 0.8, 1.0, np.where(tasks.intensity > 0.5, 0.6, 0.0))
    return np.where(tasks.size < 500, 0.0, large)


def live_shares(shown: Shown | None, tasks: Tasks, seed: int) -> Floats:
    """Shares [N] of HEAD's agent in the live engine, measured while it explores and learns."""
    agent = _agent(3, len(SHARES), seed, _BATCH, 0.0)
    if shown:
        _praise(agent, shown)
    return _online(agent, tasks, Reward(0.2), _EPSILON)


def pipeline_shares(shown: Shown | None, online: Tasks, asked: Tasks, seed: int) -> Floats:
    """Shares [N] of HEAD's agent in the batch pipeline: demonstrations, online tasks, then greedy on `asked`."""
    agent = _agent(3, len(SHARES), seed, _BATCH, 0.0)
    if shown:
        _praise(agent, shown)
    _online(agent, online, Reward(0.0), _TUNING_EPSILON)
    return np.asarray(SHARES[agent.greedy(states(asked))])


def _praise(agent: Agent, shown: Shown) -> None:
    x = states(shown.tasks)
    actions = np.abs(shown.shares[:, None] - SHARES).argmin(axis=1)
    for k, action in enumerate(actions.tolist()):
        agent.remember(x[k : k + 1], action, 1.0, x[k : k + 1])
    for _ in range(shown.epochs * (len(x) // _BATCH)):
        agent.learn()


def _online(agent: Agent, tasks: Tasks, reward: Reward, epsilon: float) -> Floats:
    """Shares [N] that an exploring agent of HEAD takes while it learns, one update a task."""
    x, taken = states(tasks), np.empty(len(tasks.size))
    gpu_s, cpu_s = tasks.gpu_s, tasks.cpu_s
    for k in range(len(taken)):
        action = agent.act(x[k : k + 1], epsilon)
        share = taken[k] = SHARES[action]
        worth = reward(share * gpu_s[k] + (1.0 - share) * cpu_s[k], share)
        agent.remember(x[k : k + 1], action, worth, x[k : k + 1])
        agent.learn()
        epsilon = max(epsilon * _DECAY, _LEAST_EPSILON)
    return taken


class Shifted:
    """The first commit's agent, actions CPU and GPU 1 to 4: trained by imitation, then online.

    `own` is the repair: each reward with its own action, and no discount.
    """

    def __init__(self, training: Tasks, seed: int, own: bool, epochs: int) -> None:
        self._agent = _agent(3, 1 + GPUS, seed, 128, 0.0 if own else 0.99, target_every=100, clips=False)
        self._agent.imitate(states(training), best_shares(training).astype(np.int64), epochs)
        self._own = own

    def online(self, tasks: Tasks) -> Floats:
        """Shares [N] that it takes while it explores and learns."""
        x, taken, before = states(tasks), np.empty(len(tasks.size)), -1
        gpu_s, cpu_s = tasks.gpu_s, tasks.cpu_s
        for k in range(len(taken)):
            action = self._agent.act(x[k : k + 1], _TUNING_EPSILON)
            taken[k] = float(action > 0)
            worth = -float(gpu_s[k] if action else cpu_s[k])
            if self._own:
                self._agent.remember(x[k : k + 1], action, worth, x[k : k + 1])
            elif before >= 0:
                self._agent.remember(x[k - 1 : k], before, worth, x[k : k + 1])
            before = action
            self._agent.learn()
        return taken

    def shares(self, tasks: Tasks, exploring: bool) -> Floats:
        """Shares [N] that it takes without learning: greedy, or still exploring."""
        if not exploring:
            return self._taken(self._agent.greedy(states(tasks)))
        x = states(tasks)
        return self._taken(np.array([self._agent.act(x[k : k + 1], _TUNING_EPSILON) for k in range(len(x))]))

    @staticmethod
    def _taken(actions: Choices) -> Floats:
        return np.asarray((actions > 0).astype(float))


def states(tasks: Tasks) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[N, 3], scaled as the source scales them."""
    return np.column_stack([tasks.size / 1e4, tasks.intensity, tasks.memory_mb / 5e3]).astype(np.float32)


def _agent(
    inputs: int, actions: int, seed: int, batch: int, gamma: float, target_every: int = 50, clips: bool = True
) -> Agent:
    try:
        from nodewise_simulator.sources.dueling import Agent
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        raise UserError("the source's deep Q-network needs torch: pip install 'nodewise[training]'") from None
    return Agent(inputs, actions, seed, batch, gamma, target_every, clips)
