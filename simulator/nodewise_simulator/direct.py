"""The extender's decision without HTTP: the same cluster state, the same `decide()`, fed by the engine's events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from nodewise.core.decide import decide
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.core.types import Beliefs, Decision, PodRequest, Policy
from nodewise_simulator.world import SimPod, World


class Direct:
    """Observer and extender in one. Keeps the last decision and the time each took."""

    def __init__(self, world: World, policy: Policy, rule: Policy, *, oracle: bool = False) -> None:
        self._policy, self._rule = policy, rule
        estimator = RunTimeEstimator()
        lookup = None
        if oracle:
            for node_class in world.classes:
                estimator.column(node_class)
            lookup = truth(world)
        self.state = ClusterState(estimator, fifo=world.fifo, lookup=lookup)
        for node in world.nodes:
            self.state.put_node(node)
        self.took_s: list[float] = []
        self.decided: Counter[str] = Counter()
        """Decisions by why they were not the policy's own; empty if they were. Without those that had no opinion."""
        self.last: Decision | None = None

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        """What the extender would reply."""
        begin = time.perf_counter()
        view = self.state.view(pod.request, now_s)
        self.last = decide(pod.request, view, self.state.rows(names), self._policy, self._rule)
        if not self.last.neutral:
            self.decided[self.last.fallback.value] += 1
        self.state.sequence += 1
        self.took_s.append(time.perf_counter() - begin)
        return self.last.reply

    def created(self, pod: SimPod) -> None:
        """See `engine.Observer`."""
        self.state.queue(pod.request)

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """See `engine.Observer`."""
        del now_s
        self.state.place(pod.request, node, started_s)

    def started(self, pod: SimPod, started_s: float) -> None:
        """See `engine.Observer`."""
        self.state.started(pod.request.uid, started_s)

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """See `engine.Observer`."""
        self.state.finish(pod.request.uid, started_s, finished_s, succeeded=True)


def truth(world: World) -> tuple[Beliefs, Callable[[PodRequest], int]]:
    """Beliefs that hold each pod's true run time alone on each class, [pods, C], and the row of a pod in them."""
    scale = np.array([p.request.expected_run_s for p in world.pods])
    table = np.stack([p.true_run_s for p in world.pods]) / np.where(np.isnan(scale), 1.0, scale)[:, None]
    row = {p.request.uid: k for k, p in enumerate(world.pods)}

    def row_of(pod: PodRequest) -> int:
        return row[pod.uid]

    beliefs = Beliefs(run_mean=table, run_std=table * 1e-3, observations=np.full(table.shape, 1e6))
    return beliefs, row_of
