"""The measured use of nodes, as a metrics server reads it: now and then, so that what is shown has an age."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nodewise.core.types import ClusterView
from nodewise_simulator.world import SimPod


class Usage:
    """What pods use on each node, read at multiples of `period_s`. A pod uses nothing until it has started."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._pods: dict[str, tuple[str, float, float]] = {}  # node, CPU in milli, memory in bytes
        self._waiting: dict[str, str] = {}
        self._now: dict[str, tuple[float, float]] = {}
        self._read: dict[str, tuple[float, float]] = {}
        self._read_s = -math.inf

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """A pod has a node, and runs there if `started_s` is not nan."""
        self._waiting[pod.request.uid] = node
        if not math.isnan(started_s):
            self.started(pod, now_s)

    def started(self, pod: SimPod, now_s: float) -> None:
        """It begins to use what it uses."""
        self._look(now_s)
        node, r = self._waiting.pop(pod.request.uid), pod.request
        used = (r.cpu_milli if math.isnan(pod.cpu_used_milli) else pod.cpu_used_milli, r.memory_bytes)
        self._pods[r.uid] = (node, *used)
        self._add(node, *used)

    def ended(self, pod: SimPod, now_s: float) -> None:
        """It uses nothing any more."""
        self._look(now_s)
        self._waiting.pop(pod.request.uid, None)
        node, cpu, memory = self._pods.pop(pod.request.uid, ("", 0.0, 0.0))
        if node:
            self._add(node, -cpu, -memory)

    def shown(self, view: ClusterView, now_s: float) -> ClusterView:
        """The view with what was read last."""
        self._look(now_s)
        if math.isinf(self._read_s):
            return view
        used = np.array([self._read.get(name, (0.0, 0.0)) for name in view.nodes.name])
        age_s = np.full(len(used), now_s - self._read_s)
        nodes = replace(view.nodes, cpu_used_milli=used[:, 0], memory_used_bytes=used[:, 1], metrics_age_s=age_s)
        return replace(view, nodes=nodes)

    def _add(self, node: str, cpu: float, memory: float) -> None:
        old = self._now.get(node, (0.0, 0.0))
        self._now[node] = (old[0] + cpu, old[1] + memory)

    def _look(self, now_s: float) -> None:
        """Read, before anything changes at `now_s`, what the last reading until then saw."""
        last_s = math.floor(now_s / self._period_s) * self._period_s
        if last_s > self._read_s:
            self._read, self._read_s = dict(self._now), last_s
