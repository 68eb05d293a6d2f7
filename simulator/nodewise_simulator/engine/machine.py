"""One node's physics: what runs there, how fast, and when the next of it ends.

A pod of hidden sensitivity s beside others that request the share p of the CPU runs at 1 ÷ (1 + s × p); on an
accelerator that others take the share q of, slower again by 1 + d × q.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nodewise_simulator.world import QUANTUM_S, SimPod


@dataclass(slots=True)
class Running:
    """A pod at work."""

    index: int
    left_s: float
    """Run time left if it were alone."""
    started_s: float
    device: int = -1
    """The accelerator that it shares; -1 if none."""
    rate: float = 1.0


class Machine:
    """What is on one node."""

    def __init__(self, cpu_milli: float) -> None:
        self.cpu_milli = max(cpu_milli, 1.0)
        self.running: list[Running] = []
        self.waiting: list[int] = []
        """Pods that wait for their turn in a dispatcher's world."""
        self.residents: dict[int, None] = {}
        """Every pod that is bound to it, in that order."""
        self.images: dict[str, float] = {}
        """When each image is, or will be, there."""
        self.version = 0
        """Counts changes of what runs; an end that was foreseen before one does not come."""
        self.up = True
        self.changes = 0
        """Counts what happened to the node; plans made before are void."""
        self._updated_s = 0.0

    def start(self, running: Running, now_s: float) -> None:
        """Let a pod begin to work."""
        self._advance(now_s)
        self.running.append(running)

    def stop(self, index: int, now_s: float) -> Running | None:
        """End a pod's work before its time; None if it does not work."""
        self._advance(now_s)
        found = next((r for r in self.running if r.index == index), None)
        if found is not None:
            self.running.remove(found)
        return found

    def over(self, now_s: float) -> list[Running]:
        """Take out who has no work left."""
        self._advance(now_s)
        over = [r for r in self.running if r.left_s <= 1e-9 * max(1.0, now_s)]
        self.running = [r for r in self.running if r not in over]
        return over

    def next_end_s(self, now_s: float, pod_of: Callable[[int], SimPod]) -> float:
        """Give everybody his new speed after the set of pods changed; when the next ends, inf if nobody runs."""
        self.version += 1
        if not self.running:
            return math.inf
        requested = sum(pod_of(r.index).request.cpu_milli for r in self.running)
        shared = self._shared(pod_of)
        next_s = math.inf
        for running in self.running:
            pod = pod_of(running.index)
            pressure = (requested - pod.request.cpu_milli) / self.cpu_milli
            running.rate = 1.0 / (1.0 + pod.sensitivity * pressure)
            if running.device >= 0:
                others = (shared[running.device] - pod.device_milli) / 1000.0
                running.rate /= 1.0 + pod.device_sensitivity * others
            next_s = min(next_s, running.left_s / running.rate)
        return now_s + max(math.ceil(next_s / QUANTUM_S - 1e-9), 1) * QUANTUM_S

    def _shared(self, pod_of: Callable[[int], SimPod]) -> dict[int, float]:
        made: dict[int, float] = {}
        for running in self.running:
            if running.device >= 0:
                made[running.device] = made.get(running.device, 0.0) + pod_of(running.index).device_milli
        return made

    def _advance(self, now_s: float) -> None:
        passed_s = now_s - self._updated_s
        for running in self.running:
            running.left_s -= passed_s * running.rate
        self._updated_s = now_s
