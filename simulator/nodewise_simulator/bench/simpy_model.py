"""The same cluster as a SimPy model: what one would write without an engine of one's own, and a peer of ours.

One process brings the pods, ends are timeouts that a newer one outdates, and what waits is placed when all that happens
at an instant has happened. Feasibility and scores are plain Python over one object per node, which is several times as
fast as numpy on single numbers. It models what the worlds of `bench simulator` have, and a test, and every round of the
bench, holds it to the same node for every pod.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import simpy
from simpy.events import EventPriority

from nodewise.core.feasible import static_filter
from nodewise.core.pods import NodeSpec
from nodewise.core.reply import tie_break
from nodewise.core.types import PodRequest
from nodewise_simulator.world import QUANTUM_S, World

_ENDS, _PLACES = EventPriority(0), EventPriority(2)  # before and after arrivals (1) at the same instant


class _Node:
    __slots__ = ("cpu", "free_cpu", "free_mem", "free_pods", "left", "mem", "name", "nz_cpu", "nz_mem", "speed",
                 "updated_s", "used_cpu", "used_mem", "version")  # fmt: skip

    def __init__(self, spec: NodeSpec) -> None:
        self.name = spec.name
        self.cpu, self.mem = self.free_cpu, self.free_mem = spec.cpu_allocatable_milli, spec.memory_allocatable_bytes
        self.free_pods = spec.pods_allocatable
        self.nz_cpu = self.nz_mem = self.used_cpu = self.used_mem = self.updated_s = 0.0
        self.left: dict[int, float] = {}
        self.speed: dict[int, float] = {}
        self.version = 0


def _even(cpu: float, cpu_room: float, mem: float, mem_room: float) -> int:
    return math.floor((1.0 - abs(min(cpu / cpu_room, 1.0) - min(mem / mem_room, 1.0)) / 2.0) * 100.0)


def _kube_default(node: _Node, pod: PodRequest) -> float:
    cpu, mem = node.nz_cpu + pod.cpu_nonzero_milli, node.nz_mem + pod.memory_nonzero_bytes
    least_cpu = math.floor((node.cpu - cpu) * 100.0 / node.cpu) if cpu <= node.cpu else 0
    least_mem = math.floor((node.mem - mem) * 100.0 / node.mem) if mem <= node.mem else 0
    with_cpu, with_mem = node.used_cpu + pod.cpu_milli, node.used_mem + pod.memory_bytes
    more = _even(with_cpu, node.cpu, with_mem, node.mem) - _even(node.used_cpu, node.cpu, node.used_mem, node.mem)
    return math.floor((least_cpu + least_mem) / 2.0) + 50 + (50 + more) // 2


def _best_fit(node: _Node, pod: PodRequest) -> float:
    cpu: float = node.cpu - node.used_cpu - pod.cpu_milli
    mem: float = node.mem - node.used_mem - pod.memory_bytes
    return -(cpu / node.cpu + mem / node.mem)


RULES = {"kube-default": _kube_default, "best-fit": _best_fit}
"""What the model can place by; ties go as `nodewise.core.reply.best` says."""


class Model:
    """One run of a world of at most 100 nodes without classes, priorities, selectors or GPUs."""

    def __init__(self, world: World, rule: str) -> None:
        self._env, self._score, self._pods = simpy.Environment(), RULES[rule], world.pods
        self._nodes = [_Node(n) for n in world.nodes]
        assert all(static_filter(world.nodes, p.manifest["spec"]).all() for p in world.pods[:1])
        self._pending: list[int] = []
        self._fresh: set[int] = set()
        self._freed: list[_Node] = []
        self._due = False
        self.asked = 0
        self.nodes = [""] * len(world.pods)
        """Name of each pod's node."""

    def run(self) -> list[str]:
        """Play to the end."""
        self._env.process(self._arrivals())
        self._env.run()
        return self.nodes

    def _arrivals(self) -> Generator[simpy.Event, None, None]:
        for index, pod in enumerate(self._pods):
            if pod.request.created_s > self._env.now:
                yield self._env.timeout(pod.request.created_s - self._env.now)
            self._pending.append(index)
            self._fresh.add(index)
            self._place_soon()

    def _place_soon(self) -> None:
        if not self._due:
            self._due = True
            self._call(self._place, 0.0, _PLACES)

    def _call(self, fn: Any, delay_s: float, priority: EventPriority) -> None:
        event = simpy.Event(self._env)
        event._ok, event._value = True, None
        event.callbacks.append(fn)
        self._env.schedule(event, priority, delay_s)

    def _place(self, _: Any) -> None:
        self._due = False
        freed, fresh, self._freed, self._fresh = self._freed, self._fresh, [], set()
        waiting = []
        for index in self._pending:
            pod = self._pods[index].request
            cpu, mem = pod.cpu_milli, pod.memory_bytes
            node = None
            if index in fresh or any(n.free_cpu >= cpu and n.free_mem >= mem and n.free_pods >= 1 for n in freed):
                node = self._choose(pod)
            if node is None:
                waiting.append(index)
            else:
                self._start(index, node)
        self._pending = waiting

    def _choose(self, pod: PodRequest) -> _Node | None:
        cpu, mem, score = pod.cpu_milli, pod.memory_bytes, self._score
        fits = [n for n in self._nodes if n.free_cpu >= cpu and n.free_mem >= mem and n.free_pods >= 1]
        if len(fits) < 2:
            return fits[0] if fits else None
        self.asked += 1
        scores = [score(n, pod) for n in fits]
        most = max(scores)
        top = [n for n, s in zip(fits, scores, strict=True) if s == most]
        return top[0] if len(top) == 1 else min(top, key=lambda n: (tie_break(pod.uid + n.name), n.name))

    def _start(self, index: int, node: _Node) -> None:
        pod = self._pods[index]
        self.nodes[index] = node.name
        self._advance(node)
        node.left[index] = float(pod.true_run_s[0])
        self._count(node, pod.request, 1.0)
        self._reschedule(node)

    def _count(self, node: _Node, pod: PodRequest, sign: float) -> None:
        node.free_cpu -= sign * pod.cpu_milli
        node.free_mem -= sign * pod.memory_bytes
        node.free_pods -= sign
        node.used_cpu += sign * pod.cpu_milli
        node.used_mem += sign * pod.memory_bytes
        node.nz_cpu += sign * pod.cpu_nonzero_milli
        node.nz_mem += sign * pod.memory_nonzero_bytes

    def _advance(self, node: _Node) -> None:
        passed_s = self._env.now - node.updated_s
        left, speed = node.left, node.speed
        for index in left:
            left[index] -= passed_s * speed[index]
        node.updated_s = self._env.now

    def _reschedule(self, node: _Node) -> None:
        node.version += 1
        if not node.left:
            return
        next_s, requested, pods = math.inf, node.used_cpu, self._pods
        for index, left_s in node.left.items():
            pod = pods[index]
            speed = 1.0 / (1.0 + pod.sensitivity * ((requested - pod.request.cpu_milli) / node.cpu))
            node.speed[index] = speed
            next_s = min(next_s, left_s / speed)
        ticks = max(math.ceil(next_s / QUANTUM_S - 1e-9), 1)
        version = node.version
        self._call(lambda _: self._end(node, version), ticks * QUANTUM_S, _ENDS)

    def _end(self, node: _Node, version: int) -> None:
        if version != node.version:
            return
        self._advance(node)
        limit = 1e-9 * max(1.0, self._env.now)
        for index in [k for k, left_s in node.left.items() if left_s <= limit]:
            del node.left[index], node.speed[index]
            self._count(node, self._pods[index].request, -1.0)
        self._freed.append(node)
        self._reschedule(node)
        self._place_soon()
