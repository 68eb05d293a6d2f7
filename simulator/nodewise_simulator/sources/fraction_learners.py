"""What the hybrid CPU/GPU scheduler learns with: its deep Q-networks of HEAD and of the first commit, its live forest.

Two of its faults are kept, for what is called "as coded": the reward of a task is stored with the state and action of
the task before it, and a teacher's actions are kept in the same memory as real, negative rewards, with a reward of +1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.forest import forest_predictions
from nodewise_simulator.sources.hybrid import GPUS, Tasks

if TYPE_CHECKING:
    from nodewise_simulator.sources.dueling import Agent

SHARES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
"""Actions of HEAD."""
_EPSILON, _LEAST_EPSILON, _DECAY = 0.5, 0.05, 0.9995
_LIVE_POWER_W = (50.0, 30.0)
_RETRAIN_EVERY, _LABELS, _LIVE_TREES = 50, 1000, 10


@dataclass(frozen=True, slots=True)
class Reward:
    """−((1 − w) × time ÷ 10 + w × energy ÷ 500), w the weight of energy."""

    energy_weight: float
    power_w: tuple[float, float] = _LIVE_POWER_W

    def __call__(self, time_s: float, share: float) -> float:
        joules = time_s * (share * self.power_w[0] + (1.0 - share) * self.power_w[1])
        return -((1.0 - self.energy_weight) * time_s / 10.0 + self.energy_weight * joules / 500.0)


def _agent(inputs: int, actions: int, seed: int, batch: int, gamma: float) -> Agent:
    try:
        from nodewise_simulator.sources.dueling import Agent
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        raise UserError("the source's deep Q-network needs torch: pip install 'nodewise[training]'") from None
    return Agent(inputs, actions, seed, batch, gamma)


def states(tasks: Tasks) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[N, 3], scaled as the source scales them."""
    return np.column_stack([tasks.size / 1e4, tasks.intensity, tasks.memory_mb / 5e3]).astype(np.float32)


def _taught(agent: Agent, tasks: Tasks, reward: Callable[[float, float], float], own: bool) -> Floats:
    """Shares [N] that an exploring agent of HEAD takes while it learns; `own`: each reward with its own action."""
    x, taken, epsilon = states(tasks), np.empty(len(tasks.size)), _EPSILON
    gpu_s, cpu_s = tasks.gpu_s, tasks.cpu_s
    before = -1
    for k in range(len(taken)):
        action = agent.act(x[k : k + 1], epsilon)
        share = taken[k] = SHARES[action]
        worth = reward(share * gpu_s[k] + (1.0 - share) * cpu_s[k], share)
        if own:
            agent.remember(x[k : k + 1], action, worth, x[k : k + 1])
        elif before >= 0:
            agent.remember(x[k - 1 : k], before, worth, x[k : k + 1])
        before = action
        if agent.learn():
            epsilon = max(epsilon * _DECAY, _LEAST_EPSILON)
    return taken


def live_shares(tasks: Tasks, seed: int, own: bool) -> Floats:
    """HEAD's agent in the live engine: it starts from nothing and is measured while it explores."""
    return _taught(_agent(3, len(SHARES), seed, 64, 0.0), tasks, Reward(0.2), own)


def pipeline_shares(teacher: Tasks, online: Tasks, asked: Tasks, seed: int, own: bool) -> Floats:
    """HEAD's agent in the batch pipeline: a teacher's actions at +1, then online tasks, then greedy on `asked`.

    `own` False keeps both faults; True leaves the teacher out and stores each reward with its own action.
    """
    agent = _agent(3, len(SHARES), seed, 64, 0.0)
    if not own:
        x, best = states(teacher), np.where(teacher.gpu_s < teacher.cpu_s, len(SHARES) - 1, 0)
        for k, action in enumerate(best.tolist()):
            agent.remember(x[k : k + 1], action, 1.0, x[k : k + 1])
            agent.learn()
    _taught(agent, online, Reward(0.0), own)
    return np.asarray(SHARES[agent.greedy(states(asked))])


def shifted_shares(training: Tasks, asked: Tasks, seed: int, own: bool, epochs: int, exploring: bool) -> Floats:
    """The first commit's agent, actions CPU and GPU 1 to 4: trained by imitation, then online on the shifted tasks.

    Its shares are those while it explores (`exploring`), or afterwards, greedy. `own` is the repair: each reward with
    its own action, and no discount, for no decision changes what comes next.
    """
    agent = _agent(3, 1 + GPUS, seed, 128, 0.0 if own else 0.99)
    agent.imitate(states(training), np.where(training.gpu_s < training.cpu_s, 1, 0), epochs)
    x, taken, before = states(asked), np.empty(len(asked.size)), -1
    gpu_s, cpu_s = asked.gpu_s, asked.cpu_s
    for k in range(len(taken)):
        action = agent.act(x[k : k + 1], 0.1)
        taken[k] = float(action > 0)
        worth = -float(gpu_s[k] if action else cpu_s[k])
        if own:
            agent.remember(x[k : k + 1], action, worth, x[min(k + 1, len(x) - 1)][None])
        elif before >= 0:
            agent.remember(x[k - 1 : k], before, worth, x[k : k + 1])
        before = action
        agent.learn()
    return taken if exploring else np.asarray((agent.greedy(x) > 0).astype(float))


def forest_shares(training: Tasks, asked: Tasks, trees: int, seed: int) -> Floats:
    """Shares [N] that a forest predicts, trained on the best share of each training task."""
    rng = np.random.default_rng([seed, 40])
    return forest_predictions(_features(training), _best(training), _features(asked), trees, rng)


def live_forest_shares(tasks: Tasks, seed: int) -> Floats:
    """The live engine's forest of 10 trees: grown anew every 50 tasks from the last 1,000 and their best shares.

    Until it is first grown a task's share is its intensity, as `greedy`; that is ours.
    """
    rng = np.random.default_rng([seed, 40])
    features, best, taken = _features(tasks), _best(tasks), tasks.intensity.copy()
    for k in range(_RETRAIN_EVERY, len(taken), _RETRAIN_EVERY):
        seen, asked = slice(max(k - _LABELS, 0), k), slice(k, k + _RETRAIN_EVERY)
        taken[asked] = forest_predictions(features[seen], best[seen], features[asked], _LIVE_TREES, rng)
    return taken


def _best(tasks: Tasks) -> Floats:
    """[N] 1 where a GPU is faster, else 0."""
    return np.where(tasks.gpu_s < tasks.cpu_s, 1.0, 0.0)


def _features(tasks: Tasks) -> Floats:
    """[N, 5], the source's."""
    size, intensity, memory_mb = tasks.size, tasks.intensity, tasks.memory_mb
    return np.column_stack([size, intensity, memory_mb, memory_mb / (size + 1.0), intensity / (memory_mb + 1.0)])
