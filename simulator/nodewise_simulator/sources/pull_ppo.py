"""The pull cluster's net, trained: clipped PPO with group-relative advantages. Ours; its source trains nothing.

A decision is a softmax over the scores of the waiting tasks. Several episodes of the same queue are a group, and what
one gains over its group is the advantage of each of its decisions: (group's mean makespan − makespan) ÷ the group's
standard deviation. There is no value net. It sees random queues alone, never the shipped one, nor one that is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.nets import Array, Net
from nodewise_simulator.sources.pull_queues import KINDS, NODES, Queue, random_queue

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]

SIZES = (NODES + (len(KINDS) + 1) * (NODES + 1), 128, 128, 1)
UPDATES = 160
_QUEUES, _GROUP = 16, 8
"""Queues of an update, and episodes of each."""
_BATCHES = 16
"""Steps of an update; small ones, that stay in a processor's cache."""
_CLIP, _STEP = 0.2, 1e-3
SECONDS = NODES + len(KINDS) + (len(KINDS) + 1) * np.arange(NODES)
"""Inputs that are seconds; the source does not scale them."""
UNIT_S = 20.0
"""What they are counted in while it learns; undone in the weights afterwards, so that the net is the source's."""
_FIRST_SEED = 920_000_000
"""Of the random queues that nets are trained on."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """The same decision in E episodes, W tasks to choose of in each."""

    inputs: Array  # [E, W, 59]
    chosen: Numbers  # [E]
    chance: Array  # [E] of what was chosen, when it was


@lru_cache(maxsize=8)
def trained(agent: int, updates: int = 0) -> Net:
    """The net after so many updates (0: all of them); `agent` seeds its weights, choices and queues.

    Raises UserError for more updates than there are queues for.
    """
    if updates > UPDATES:
        raise UserError(f"updates is {updates}; take {UPDATES} at most, behind which another agent's queues begin")
    rng, count = np.random.default_rng([agent, 23]), updates or UPDATES
    net = Net(SIZES, rng)
    for update in range(count):
        net.step = _STEP * (1.0 - update / count)
        first = _FIRST_SEED + (agent * UPDATES + update) * _QUEUES
        decisions, makespan_s = played(net, [random_queue(first + k) for k in range(_QUEUES)], rng)
        gain = advantages(makespan_s)
        for some in np.split(rng.permutation(len(gain)), _BATCHES):
            improve(net, decisions, some, gain[some])
    net.weights[0][SECONDS] /= UNIT_S
    return net


def advantages(makespan_s: Floats) -> Array:
    """[queues × group], float32."""
    grouped_s = makespan_s.reshape(-1, _GROUP)
    spread_s = np.maximum(grouped_s.std(axis=1, keepdims=True), 1e-9)
    return np.asarray((grouped_s.mean(axis=1, keepdims=True) - grouped_s) / spread_s, np.float32).ravel()


def played(net: Net, queues: list[Queue], rng: np.random.Generator) -> tuple[list[Decisions], Floats]:
    """A group of episodes of each queue, in lockstep: all decisions, and makespans [queues × group].

    An idle node of the least number pulls. At the start all nodes are idle at once and see each other idle, as in
    `pull_rules.scored`; later no two become idle at once, for lengths are continuous.
    """
    kind = np.repeat([q.kind for q in queues], _GROUP, axis=0)
    time_s = np.repeat([q.time_s for q in queues], _GROUP, axis=0)
    episodes, tasks = kind.shape
    row = np.arange(episodes)
    task_inputs = np.zeros((episodes, tasks, len(KINDS) + 1), np.float32)
    task_inputs[row[:, None], np.arange(tasks), kind] = 1.0
    task_inputs[:, :, -1] = np.repeat([q.size for q in queues], _GROUP, axis=0)
    free_s, of_node = np.zeros((episodes, NODES)), np.zeros((episodes, NODES, len(KINDS)), np.float32)
    waiting = np.tile(np.arange(tasks), (episodes, 1))
    decisions = []
    for width in range(tasks, 0, -1):
        node = free_s.argmin(axis=1)
        now_s = free_s[row, node]
        left_s = (free_s - now_s[:, None]) * (now_s > 0.0)[:, None]
        inputs = np.zeros((episodes, width, SIZES[0]), np.float32)
        inputs[row, :, node] = 1.0
        state = np.concatenate([of_node * (left_s > 0.0)[:, :, None], left_s[:, :, None] / UNIT_S], axis=2)
        inputs[:, :, NODES : -len(KINDS) - 1] = state.reshape(episodes, 1, -1)
        inputs[:, :, -len(KINDS) - 1 :] = task_inputs[row[:, None], waiting]
        chances = _softmax(net(inputs.reshape(-1, SIZES[0])).reshape(episodes, width))
        drawn = (np.cumsum(chances, axis=1) < rng.random((episodes, 1))).sum(axis=1)
        chosen = np.where(drawn < width, drawn, chances.argmax(axis=1))  # chances add up to a little less than 1
        task = waiting[row, chosen]
        decisions.append(Decisions(inputs, chosen, chances[row, chosen]))
        free_s[row, node] = now_s + time_s[row, task, node]
        of_node[row, node] = task_inputs[row, task, :-1]
        waiting = waiting[np.arange(width) != chosen[:, None]].reshape(episodes, width - 1)
    return decisions, np.asarray(free_s.max(axis=1))


def improve(net: Net, decisions: list[Decisions], some: Numbers, gain: Array) -> None:
    """One step up the clipped objective of some episodes [B], whose advantages are `gain` [B]."""
    open_ones = [d for d in decisions if d.inputs.shape[1] > 1]
    layers = net.layers(np.concatenate([d.inputs[some].reshape(-1, SIZES[0]) for d in open_ones]))
    slopes, begin, row = [], 0, np.arange(len(some))
    for d in open_ones:
        width = d.inputs.shape[1]
        chances = _softmax(layers[-1][begin : begin + len(some) * width].reshape(-1, width))
        begin += len(some) * width
        chosen = d.chosen[some]
        ratio = chances[row, chosen] / d.chance[some]
        counts = np.where(gain > 0.0, ratio < 1.0 + _CLIP, ratio > 1.0 - _CLIP)
        slope = chances.copy()
        slope[row, chosen] -= 1.0
        slopes.append((slope * (gain * ratio * counts)[:, None]).ravel() / (len(some) * len(open_ones)))
    net.descend(layers, np.concatenate(slopes).astype(np.float32)[:, None])


def _softmax(scores: Array) -> Array:
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
