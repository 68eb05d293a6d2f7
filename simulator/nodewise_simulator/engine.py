"""The reference engine: pods arrive, wait, are bound by the scheduler's cycle, contend, and end.

Plain Python, one event at a time; it stays as the oracle of the compiled engine. What runs on a node is slowed by its
neighbours: a pod of hidden sensitivity s beside others that request the share p of the CPU runs at 1 ÷ (1 + s × p).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import QUANTUM_S, SimPod, World

_ARRIVAL, _END, _TICK = 1, 0, 2  # at one instant room is given back before anybody asks for it


@dataclass(slots=True)
class Outcome:
    """The fate of one pod; times in seconds, nan where it never came to that."""

    index: int
    """Position in `World.pods`."""
    node: str
    bound_s: float
    started_s: float
    finished_s: float


class Observer(Protocol):
    """Who is told what a watch would tell."""

    def created(self, pod: SimPod) -> None:
        """A pod exists and has no node yet."""

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """A pod has a node; its containers run from `started_s` on (nan if they still wait)."""

    def started(self, pod: SimPod, started_s: float) -> None:
        """A pod that waited on its node runs."""

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """A pod ended successfully and left its node."""


@dataclass(slots=True)
class _Running:
    index: int
    left_s: float
    """Run time left if it were alone."""
    started_s: float
    rate: float = 1.0


class _Node:
    """What runs on one node, and when the next of it ends."""

    def __init__(self, cpu_milli: float) -> None:
        self.cpu_milli = max(cpu_milli, 1.0)
        self.running: list[_Running] = []
        self.waiting: list[int] = []
        self.updated_s = 0.0
        self.version = 0


class Engine:
    """One run of a world. `progress` is called with the number of pods that have ended."""

    def __init__(
        self, world: World, scheduler: KubeScheduler, observer: Observer, progress: Callable[[int], None] | None = None
    ) -> None:
        self._world, self._scheduler, self._observer = world, scheduler, observer
        self._progress = progress or (lambda _: None)
        self._nodes = {n.name: _Node(n.cpu_allocatable_milli) for n in world.nodes}
        self._row = {n.name: k for k, n in enumerate(world.nodes)}
        self._class = {n.name: world.class_of[n.node_class] for n in world.nodes}
        self._events: list[tuple[float, int, int, str, int]] = []
        self._counter = 0
        self._pending: list[tuple[int, float, int]] = []  # (-priority, created, index), sorted
        self._ended = 0
        self._next_tick_s = 0.0
        self.outcomes = [Outcome(k, "", math.nan, math.nan, math.nan) for k in range(len(world.pods))]
        self.backlog: list[int] = []
        """Pods that waited for a node, at each arrival."""

    def run(self) -> list[Outcome]:
        """Play until every pod has ended or nothing more can happen; the outcomes in order of arrival."""
        for index, pod in enumerate(self._world.pods):
            self._push(pod.request.created_s, _ARRIVAL, "", index)
        freed: list[int] = []
        while self._events:
            now_s = self._events[0][0]
            arrived: list[int] = []
            tick = False
            while self._events and self._events[0][0] == now_s:
                _, kind, _, node, number = heapq.heappop(self._events)
                if kind == _ARRIVAL:
                    arrived.append(number)
                elif kind == _TICK:
                    tick = True
                elif self._nodes[node].version == number:
                    self._end_of(node, now_s)
                    freed.append(self._row[node])
            for index in arrived:
                self._arrive(index)
            if self._world.tick_s > 0.0:
                if arrived or self._pending:
                    tick = self._tick(now_s, tick)
                if not tick:
                    continue
                freed.extend(range(len(self._world.nodes)))
            self._place_waiting(now_s, freed, arrived)
            freed = []
        return self.outcomes

    def _push(self, at_s: float, kind: int, node: str, number: int) -> None:
        self._counter += 1
        heapq.heappush(self._events, (at_s, kind, self._counter, node, number))

    def _arrive(self, index: int) -> None:
        pod = self._world.pods[index]
        priority = pod.request.priority if self._world.by_priority else 0
        self._pending.append((-priority, pod.request.created_s, index))
        self._pending.sort()
        self.backlog.append(len(self._pending) - 1)
        self._observer.created(pod)

    def _tick(self, now_s: float, due: bool) -> bool:
        """Whether pods are placed now; sees to it that the next multiple of the tick comes."""
        step = self._world.tick_s
        at_tick = now_s % step == 0.0
        following = (math.floor(now_s / step) + 1) * step
        if following > self._next_tick_s:
            self._next_tick_s = following
            self._push(following, _TICK, "", 0)
        return due or at_tick

    def _place_waiting(self, now_s: float, freed: list[int], arrived: list[int]) -> None:
        fresh = set(arrived)
        for entry in list(self._pending):
            index = entry[2]
            pod = self._world.pods[index]
            if index not in fresh and not (freed and self._scheduler.could_fit(pod, freed)):
                continue
            node = self._scheduler.schedule(pod, now_s)
            if node is not None:
                self._pending.remove(entry)
                self._bind(index, node, now_s)

    def _bind(self, index: int, name: str, now_s: float) -> None:
        node, pod, outcome = self._nodes[name], self._world.pods[index], self.outcomes[index]
        outcome.node, outcome.bound_s = name, now_s
        if self._world.fifo and node.running:
            node.waiting.append(index)
            self._observer.bound(pod, name, now_s, math.nan)
            return
        self._observer.bound(pod, name, now_s, now_s)
        self._start(index, name, now_s)

    def _start(self, index: int, name: str, now_s: float) -> None:
        node, pod = self._nodes[name], self._world.pods[index]
        self._advance(node, now_s)
        self.outcomes[index].started_s = now_s
        node.running.append(_Running(index, float(pod.true_run_s[self._class[name]]), now_s))
        self._reschedule(name, now_s)

    def _advance(self, node: _Node, now_s: float) -> None:
        passed_s = now_s - node.updated_s
        for running in node.running:
            running.left_s -= passed_s * running.rate
        node.updated_s = now_s

    def _reschedule(self, name: str, now_s: float) -> None:
        """New speeds after the set of pods on a node changed, and the event of the next end."""
        node = self._nodes[name]
        node.version += 1
        if not node.running:
            return
        pods = self._world.pods
        requested = sum(pods[r.index].request.cpu_milli for r in node.running)
        next_s = math.inf
        for running in node.running:
            pod = pods[running.index]
            pressure = (requested - pod.request.cpu_milli) / node.cpu_milli
            running.rate = 1.0 / (1.0 + pod.sensitivity * pressure)
            next_s = min(next_s, running.left_s / running.rate)
        ticks = max(math.ceil(next_s / QUANTUM_S - 1e-9), 1)
        self._push(now_s + ticks * QUANTUM_S, _END, name, node.version)

    def _end_of(self, name: str, now_s: float) -> None:
        node = self._nodes[name]
        self._advance(node, now_s)
        over = [r for r in node.running if r.left_s <= 1e-9 * max(1.0, now_s)]
        node.running = [r for r in node.running if r not in over]
        for running in over:
            pod = self._world.pods[running.index]
            self.outcomes[running.index].finished_s = now_s
            self._scheduler.forget(pod.request, name)
            self._observer.finished(pod, running.started_s, now_s)
            self._ended += 1
            self._progress(self._ended)
        if self._world.fifo and node.waiting and not node.running:
            index = node.waiting.pop(0)
            self._observer.started(self._world.pods[index], now_s)
            self._start(index, name, now_s)
            return
        self._reschedule(name, now_s)
