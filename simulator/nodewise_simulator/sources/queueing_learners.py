"""Dispatchers of `S0q-array` that are no weighted sum: the source's DQN, and one step of policy improvement.

The DQN is module 1's of `replay_learners`, in a queue where its decisions have consequences: the same net, memory and
exploration; what it calls load is the wait ÷ 33, as in its table, and its penalty for a missed deadline is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.nets import Array, Net
from nodewise_simulator.sources.replay_data import SLA_SPEEDS
from nodewise_simulator.sources.replay_learners import BATCH, GAMMA, LEAST_EPSILON, DqnSettings

_SPEEDS = np.array(SLA_SPEEDS)
_WAIT_PER_LOAD = 33.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Tasks in order of arrival; every array is [N]."""

    arrival_s: Floats
    size: Floats
    deadline_s: Floats
    """After arrival."""
    priority: Floats


class _Queues:
    """Four servers, first come, first served."""

    def __init__(self) -> None:
        self._free_s = np.zeros(len(_SPEEDS))
        self._ends_s: list[list[float]] = [[] for _ in _SPEEDS]

    def state(self, tasks: Arrivals, k: int, with_load: bool) -> Array:
        """[1, 16 or 20] what module 1's net is shown of task k."""
        now_s = tasks.arrival_s[k]
        wait_s = np.maximum(self._free_s - now_s, 0.0)
        for ends_s in self._ends_s:
            while ends_s and ends_s[0] <= now_s:
                ends_s.pop(0)
        load = wait_s / _WAIT_PER_LOAD
        length = np.array([len(ends_s) for ends_s in self._ends_s], float)
        own = np.stack([length, *([load] if with_load else []), wait_s, _SPEEDS], axis=1)
        shared = (tasks.size[k], tasks.priority[k], load.mean(), load.var())
        return np.concatenate([shared, own.ravel()]).astype(np.float32)[None]

    def send(self, tasks: Arrivals, k: int, server: int) -> float:
        """Response time of task k."""
        now_s = float(tasks.arrival_s[k])
        end_s = max(float(self._free_s[server]), now_s) + float(tasks.size[k] / _SPEEDS[server])
        self._free_s[server] = end_s
        self._ends_s[server].append(end_s)
        return end_s - now_s


def trained(episode: Callable[[int], Arrivals], settings: DqnSettings, rng: np.random.Generator, episodes: int) -> Net:
    """Module 1's net after `episodes` (0: the source's number), each from empty queues."""
    inputs = 20 if settings.with_load else 16
    net, target = (Net((inputs, settings.hidden, settings.hidden, 4), rng) for _ in range(2))
    target.copy_from(net)
    seen, following = (np.empty((settings.replay, inputs), np.float32) for _ in range(2))
    acts, rewards = np.empty(settings.replay, np.int64), np.empty(settings.replay, np.float32)
    last = np.zeros(settings.replay, bool)
    stored, epsilon = 0, 1.0
    for number in range(episodes or settings.episodes):
        tasks, queues = episode(number), _Queues()
        state = queues.state(tasks, 0, settings.with_load)
        for k in range(settings.episode_rows):
            act = int(rng.integers(4)) if rng.random() < epsilon else int(net(state).argmax())
            variance = float(state[0, 3])
            taken_s = queues.send(tasks, k, act)
            after = queues.state(tasks, k + 1, settings.with_load)
            slot = stored % settings.replay
            seen[slot], following[slot], acts[slot] = state[0], after[0], act
            late = float(taken_s > tasks.deadline_s[k])
            rewards[slot] = -taken_s - settings.variance_weight * variance - settings.violation_weight * late
            last[slot] = k == settings.episode_rows - 1
            state, stored = after, stored + 1
            if stored < BATCH:
                continue
            pick = rng.integers(0, min(stored, settings.replay), BATCH)
            goal = rewards[pick] + GAMMA * target(following[pick]).max(axis=1) * ~last[pick]
            net.learn(seen[pick], goal.astype(np.float32), acts[pick])
            if stored % settings.target_every == 0:
                target.copy_from(net)
        epsilon = max(epsilon * settings.epsilon_decay, LEAST_EPSILON)
    return net


def served_by(net: Net, tasks: Arrivals, with_load: bool) -> Floats:
    """Response times [N], if a task goes where a net's value is largest."""
    queues, response_s = _Queues(), np.empty(len(tasks.size))
    for k in range(len(response_s)):
        response_s[k] = queues.send(tasks, k, int(net(queues.state(tasks, k, with_load)).argmax()))
    return response_s


def improved(arrival_s: Floats, service_s: Floats, rate: Floats, rho: float) -> Floats:
    """Response times [N] of one step of policy improvement over splitting arrivals at random, `rate` [S] a second.

    To server i with u seconds of work comes a task of s seconds, for
    u + s + rate × s × (2u + s) ÷ (2 × (1 − rho)): its own response, and what it adds to those that come after it there
    (the relative value of an M/G/1 queue; Krishnan, Joining the right queue, IEEE Trans. Automatic Control 35, 1990).
    """
    free_s, response_s = [0.0] * len(rate), np.empty(len(arrival_s))
    later = (rate / (2.0 * (1.0 - rho))).tolist()
    for k, (now_s, row) in enumerate(zip(arrival_s.tolist(), service_s.tolist(), strict=True)):
        best, chosen, ends_s = np.inf, 0, 0.0
        for i, s in enumerate(row):
            wait_s = max(free_s[i] - now_s, 0.0)
            cost = wait_s + s + later[i] * s * (2.0 * wait_s + s)
            if cost < best:
                best, chosen, ends_s = cost, i, now_s + wait_s + s
        free_s[chosen] = ends_s
        response_s[k] = ends_s - now_s
    return response_s
