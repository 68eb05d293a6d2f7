"""The extender's decision without HTTP: the same cluster state, the same `decide()`, fed by the engine's events."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nodewise.core.decide import decide
from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.feasible import static_filter, static_key
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import Beliefs, ClusterView, Decision, PodRequest, Policy, Rows
from nodewise_simulator.usage import Usage
from nodewise_simulator.world import SimPod, World

ASSUMED_TTL_S = 30.0
"""How long the extender charges a node for a pod whose binding it does not see: its default setting."""


class Deferral(Protocol):
    """The books of a rule that holds pods; see `nodewise.policies.waiting`."""

    def queued(self, pod: PodRequest, view: ClusterView, allowed: NDArray[np.bool_]) -> None:
        """A pod waits for a node; `allowed` [N] are the rows of `view` that pass every filter but that for room."""
        ...

    def ask(self, pod: PodRequest, view: ClusterView, rows: Rows) -> tuple[Rows, float]:
        """Which of `rows` [M] the pod may take now, and, if none, when it has to ask again though nothing happened."""
        ...

    def gone(self, uid: str) -> None:
        """A pod waits no longer."""
        ...


@runtime_checkable
class Defers(Protocol):
    """What a policy also has whose pods may be held."""

    def deferral(self) -> Deferral:
        """The rule for one run, with books of its own."""
        ...


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
        """The cluster as the extender sees it: `World.watch_lag_s` late, but for the pods that it assumes placed."""
        self._lag_s = world.watch_lag_s
        self._prompt = ClusterState(RunTimeEstimator(), fifo=world.fifo) if self._lag_s > 0.0 else None
        self._late: deque[tuple[float, Callable[[ClusterState], None]]] = deque()
        for node in world.nodes:
            self.node_added(node, -self._lag_s)
        self._usage = Usage(world.metrics_period_s) if world.metrics_period_s > 0.0 else None
        self.took_s: list[float] = []
        self.decided: Counter[str] = Counter()
        """Decisions by why they were not the policy's own; empty if they were. Without those that had no opinion."""
        self.last: Decision | None = None

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        """What the extender would reply."""
        begin = time.perf_counter()
        view = self.seen(pod, now_s)
        self.last = decide(pod.request, view, self.state.rows(names), self._policy, self._rule)
        if not self.last.neutral:
            self.decided[self.last.fallback.value] += 1
        self.state.sequence += 1
        if self._lag_s > 0.0 and self.last.winner >= 0:
            self.state.place(pod.request, view.nodes.name[self.last.winner], expires_s=now_s + ASSUMED_TTL_S)
        self.took_s.append(time.perf_counter() - begin)
        return self.last.reply

    def seen(self, pod: SimPod, now_s: float) -> ClusterView:
        """What the extender knows at this time, for a decision on this pod."""
        if self._lag_s > 0.0:
            while self._late and self._late[0][0] <= now_s:
                self._late.popleft()[1](self.state)
            self.state.expire(now_s)
            if self.state.node_of(pod.request.uid):  # asked again: it did not get what was assumed
                self.state.remove(pod.request.uid)
                self.state.queue(pod.request)
        view = self.state.view(pod.request, now_s)
        return self._usage.shown(view, now_s) if self._usage else view

    def created(self, pod: SimPod) -> None:
        """See `engine.Observer`."""
        self._note(pod.request.created_s, lambda state: state.queue(pod.request))

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """See `engine.Observer`."""
        self._note(now_s, lambda state: state.place(pod.request, node, started_s))
        if self._usage:
            self._usage.bound(pod, node, now_s, started_s)

    def started(self, pod: SimPod, started_s: float) -> None:
        """See `engine.Observer`."""
        self._note(started_s, lambda state: state.started(pod.request.uid, started_s))
        if self._usage:
            self._usage.started(pod, started_s)

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """See `engine.Observer`."""
        uid = pod.request.uid
        self._note(finished_s, lambda state: state.finish(uid, started_s, finished_s, succeeded=True))
        if self._usage:
            self._usage.ended(pod, finished_s)

    def lost(self, pod: SimPod, node: str, now_s: float) -> None:
        """See `engine.NodeObserver`."""
        del node
        self._note(now_s, lambda state: state.finish(pod.request.uid, now_s, now_s, succeeded=False))
        if self._usage:
            self._usage.ended(pod, now_s)

    def node_added(self, node: NodeSpec, now_s: float) -> None:
        """See `engine.NodeObserver`."""
        self._note(now_s, lambda state: state.put_node(node))

    def node_removed(self, name: str, now_s: float) -> None:
        """See `engine.NodeObserver`."""
        self._note(now_s, lambda state: state.remove_node(name))

    @property
    def cache(self) -> ClusterState:
        """The scheduler's own picture, which is never late."""
        return self._prompt or self.state

    def _note(self, now_s: float, change: Callable[[ClusterState], None]) -> None:
        change(self.cache)
        if self._lag_s > 0.0:
            self._late.append((now_s + self._lag_s, change))


class Deferring(Direct):
    """An extender whose filter verb may answer "no node yet", as a rule says, and that patches the pod in time."""

    def __init__(self, world: World, policy: Policy, rule: Policy, deferral: Deferral, *, oracle: bool = False) -> None:
        super().__init__(world, policy, rule, oracle=oracle)
        self.deferral = deferral
        self._again_s: dict[str, float] = {}
        self._allowed: dict[str, tuple[tuple[NodeSpec, ...], NDArray[np.bool_]]] = {}

    def filter(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[str]:
        """See `scheduler.Filter`."""
        view = self.seen(pod, now_s)
        rows = self.state.rows(names)
        if len(rows) == 0:
            return names  # nodes that it has not heard of yet
        left, self._again_s[pod.request.uid] = self.deferral.ask(pod.request, view, rows)
        return names if len(left) == len(rows) else [view.nodes.name[k] for k in left]

    def patched_s(self, pod: SimPod) -> float:
        """See `scheduler.Filter`."""
        return self._again_s[pod.request.uid]

    def created(self, pod: SimPod) -> None:
        """See `engine.Observer`."""
        super().created(pod)
        self.deferral.queued(pod.request, self.seen(pod, pod.request.created_s), self._passes(pod))

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """See `engine.Observer`."""
        super().bound(pod, node, now_s, started_s)
        self.deferral.gone(pod.request.uid)
        self._again_s.pop(pod.request.uid, None)

    def _passes(self, pod: SimPod) -> NDArray[np.bool_]:
        """Rows of the nodes that we know which pass every filter but that for room."""
        nodes, spec = self.state.nodes(), pod.manifest["spec"]
        known, found = self._allowed.get(static_key(spec), ((), np.zeros(0, bool)))
        if known != nodes:
            found = static_filter(nodes, spec)
            self._allowed[static_key(spec)] = nodes, found
        return found


def truth(world: World) -> tuple[Beliefs, Callable[[PodRequest], int]]:
    """Beliefs that hold each pod's true run time alone on each class, [pods, C], and the row of a pod in them.

    Raises UserError for a world whose truth changes.
    """
    if world.drifts:
        raise UserError(
            f"scenario {world.scenario} changes its run times midway, so nobody can be told the truth of it"
        )
    scale = np.array([p.request.expected_run_s for p in world.pods])
    table = np.stack([p.true_run_s for p in world.pods]) / np.where(np.isnan(scale), 1.0, scale)[:, None]
    row = {p.request.uid: k for k, p in enumerate(world.pods)}

    def row_of(pod: PodRequest) -> int:
        found = row.get(pod.uid)
        return row[pod.uid.rpartition("-")[0]] if found is None else found  # a pod made for one that was lost

    beliefs = Beliefs(run_mean=table, run_std=table * 1e-3, observations=np.full(table.shape, 1e6))
    return beliefs, row_of
