"""What idle nodes of the pull cluster take: the source's rules as coded and repaired, its net, and longest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.sources.nets import Net
from nodewise_simulator.sources.pull_queues import KINDS, NODES, Queue, least_seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """What a rule sees when nodes are idle."""

    idle: list[int]
    """By node number."""
    waiting: list[int]
    """Tasks, in the order in which they are listed."""
    left_s: Floats  # [9] until each node is idle
    running: list[int | None]
    """Task of each node."""


Rule = Callable[[Moment], list[tuple[int, int]]]
"""Which of the idle nodes takes which task: at most one each."""


def pulled(queue: Queue, rule: Rule) -> float:
    """Makespan, if idle nodes take what the rule says until all is done."""
    free_s, running = np.zeros(NODES), [None] * NODES
    waiting = list(range(len(queue.kind)))
    taken: list[int | None] = list(running)
    while waiting:
        now_s = float(free_s.min())
        idle = [node for node in range(NODES) if free_s[node] <= now_s]
        for node in idle:
            taken[node] = None
        for node, task in rule(Moment(idle, list(waiting), free_s - now_s, list(taken))):
            waiting.remove(task)
            free_s[node], taken[node] = now_s + queue.time_s[task, node], task
    return float(free_s.max())


def each_takes(best: Callable[[int, list[int]], int]) -> Rule:
    """Idle nodes by number, each the task that `best(node, waiting)` names."""

    def rule(moment: Moment) -> list[tuple[int, int]]:
        waiting, taken = moment.waiting, []
        for node in moment.idle[: len(waiting)]:
            task = best(node, waiting)
            waiting.remove(task)
            taken.append((node, task))
        return taken

    return rule


def believed_s(queue: Queue) -> Floats:
    """[N, 9] run times as the source's rules compute them: normalised twice, each task looks like its type's least."""
    least = np.array([least_seconds(k) for k in range(len(KINDS))])
    return np.asarray(least[queue.kind][:, None] * (1.0 + 0.1 * np.arange(NODES)))


def greedy(times_s: Floats) -> Rule:
    """Each idle node the task that is shortest on it."""
    return each_takes(lambda node, waiting: min(waiting, key=lambda task: times_s[task, node]))


def shortest_first(times_s: Floats) -> Rule:
    """The shortest task of all to the idle nodes by number."""
    length_s = times_s.mean(axis=1)
    return each_takes(lambda _, waiting: min(waiting, key=lambda task: length_s[task]))


def matching(times_s: Floats) -> Rule:
    """Of all pairs of idle node and task the shortest, again and again."""

    def rule(moment: Moment) -> list[tuple[int, int]]:
        idle, waiting, taken = list(moment.idle), moment.waiting, []
        while idle and waiting:
            node, task = min(((n, t) for n in idle for t in waiting), key=lambda pair: times_s[pair[1], pair[0]])
            idle.remove(node)
            waiting.remove(task)
            taken.append((node, task))
        return taken

    return rule


def longest_first(queue: Queue) -> Rule:
    """The longest task of all to the fastest idle node."""
    length_s, speed = queue.typical_s, queue.told_s.mean(axis=0)

    def rule(moment: Moment) -> list[tuple[int, int]]:
        tasks = sorted(moment.waiting, key=lambda task: -length_s[task])
        return list(zip(sorted(moment.idle, key=lambda node: speed[node]), tasks, strict=False))

    return rule


def scored(queue: Queue, net: Net) -> Rule:
    """Each idle node the task of the largest score; all of them look at the same state, as in the source."""
    tasks = np.zeros((len(queue.kind), 5), np.float32)
    tasks[np.arange(len(tasks)), queue.kind] = 1.0
    tasks[:, 4] = queue.size

    def rule(moment: Moment) -> list[tuple[int, int]]:
        state = np.zeros((NODES, 5), np.float32)
        for node, task in enumerate(moment.running):
            if task is not None:
                state[node, queue.kind[task]] = 1.0
                state[node, 4] = moment.left_s[node]

        def best(node: int, waiting: list[int]) -> int:
            shared = np.concatenate([np.eye(NODES, dtype=np.float32)[node], state.ravel()])
            inputs = np.column_stack([np.tile(shared, (len(waiting), 1)), tasks[waiting]])
            return waiting[int(net(inputs)[:, 0].argmax())]

        return each_takes(best)(moment)

    return rule
