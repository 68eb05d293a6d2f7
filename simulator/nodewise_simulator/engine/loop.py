"""Pods arrive, wait, are bound by the scheduler's cycle, contend, and end."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from nodewise.core.errors import UserError
from nodewise.core.kinds import TREATMENTS
from nodewise_simulator.engine.autoscaler import Scaler
from nodewise_simulator.engine.changes import Changes
from nodewise_simulator.engine.machine import Machine, Running
from nodewise_simulator.engine.outcome import Attempt, Log, NodeObserver, Observer, Outcome
from nodewise_simulator.engine.preemption import Preemptor
from nodewise_simulator.engine.queue import SchedulingQueue
from nodewise_simulator.physics import NodeChange
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import QUANTUM_S, World, check_queues, created_again

# At one instant room is given back before anybody asks for it.
_END, _CHANGE, _BEGIN, _ARRIVAL, _AGAIN, _TIMER, _SCAN, _TICK = range(8)
FRUITLESS = 300
"""Timers in a row, with nothing else to come, after which pods that are held are held for good: a day of flushes."""


class Engine:
    """One run of a world. `progress` is called with the number of pods that have ended."""

    def __init__(
        self, world: World, scheduler: KubeScheduler, observer: Observer, progress: Callable[[int], None] | None = None
    ) -> None:
        self.world, self.scheduler, self.observer = world, scheduler, observer
        self._progress = progress or (lambda _: None)
        self.machines = {n.name: Machine(n.cpu_allocatable_milli) for n in world.nodes}
        self.row = {n.name: k for k, n in enumerate(world.nodes)}
        self._class = {n.name: world.class_of[n.node_class] for n in world.nodes}
        self._events: list[tuple[float, int, int, Any]] = []
        self._counter = 0
        self._work = 0  # changes, starts and arrivals to come
        self._ending: set[str] = set()  # nodes of which an end is to come
        self._ended = 0
        self._next_tick_s = 0.0
        self.pods = list(world.pods)
        """Each pod as it was created last."""
        self.attempts = [1] * len(world.pods)
        self._parents_left = [len(p.parents) for p in world.pods]
        self._children: dict[int, list[int]] = {}
        for index, pod in enumerate(world.pods):
            for parent in pod.parents:
                self._children.setdefault(parent, []).append(index)
        self._lost_at: dict[int, int] = {}  # attempt of each pod whose work was noted as lost
        self._freed: list[int] = []
        self._stirred = self._scan_due = False
        self._timers: set[float] = set()
        self.queue = SchedulingQueue(world.queueing, self._set_timer)
        self.outcomes = [Outcome(k, "", math.nan, math.nan, math.nan) for k in range(len(world.pods))]
        self.log = Log()
        self.backlog: list[int] = []
        """Pods that waited for a node, at each arrival."""
        self.changes = Changes(self) if world.changes or world.autoscaler or world.preempts else None
        self.preemptor = Preemptor(self) if world.preempts else None
        self._scaler = Scaler(self, world.autoscaler) if world.autoscaler else None
        if self.changes and not isinstance(observer, NodeObserver):
            raise UserError(f"scenario {world.scenario} has nodes that come and go, of which nobody here can be told")
        check_queues(world)

    def run(self) -> list[Outcome]:
        """Play until every pod has ended or nothing more can happen; the outcomes in order of arrival."""
        for index, pod in enumerate(self.world.pods):
            if not pod.parents:
                self._push(pod.request.created_s, _ARRIVAL, index)
        for change in self.world.changes:
            self.at(change.at_s, self._change_of(change))
        if self._scaler:
            self._push(0.0, _SCAN, None)
        fruitless, now_s = 0, 0.0
        while self._events and fruitless < FRUITLESS:
            if self._outdated():
                heapq.heappop(self._events)
                continue
            fruitless = 0 if self._at_work() else fruitless + 1
            now_s = self._events[0][0]
            arrived, tick = self._happen(now_s)
            for index in arrived:
                self._arrive(index, now_s)
            if self.world.tick_s > 0.0:
                if arrived or len(self.queue):
                    tick = self._tick(now_s, tick)
                self._freed.extend(range(len(self.world.nodes)) if tick else ())
            if (tick or not self.world.tick_s) and self._place_all(now_s):
                fruitless = 0
            if self._scaler and self._scan_due:
                self._scan_due = False
                self._scaler.scan(now_s)
                if self._at_work():
                    self._push(now_s + self._scaler.settings.scan_s, _SCAN, None)
        if self.changes:
            self.changes.close(now_s)
        return self.outcomes

    def at(self, at_s: float, action: Callable[[float], None], *, again: bool = False) -> None:
        """Have something done to nodes or pods later; `again`: only tried, as it was in vain until now."""
        self._push(at_s, _AGAIN if again else _CHANGE, action)

    def freed(self, name: str) -> None:
        """A node has more room, or takes pods again."""
        self._freed.append(self.row[name])

    def stirred(self) -> None:
        """Something happened that makes no room."""
        self._stirred = True

    def reschedule(self, name: str, now_s: float) -> None:
        """What runs on a node has changed."""
        machine = self.machines[name]
        end_s = machine.next_end_s(now_s, self.pods.__getitem__)
        self._ending.discard(name)
        if end_s < math.inf:
            self._ending.add(name)
            self._push(end_s, _END, (name, machine.version))

    def gone(self, index: int, now_s: float, *, evicted: bool) -> None:
        """A pod left its node without success; its owner creates another after a back-off."""
        outcome, pod = self.outcomes[index], self.pods[index]
        machine = self.machines[outcome.node]
        if machine.stop(index, now_s):
            self.reschedule(outcome.node, now_s)
        self.stopped(index, now_s, evicted=evicted)
        del machine.residents[index]
        self._leave(index, outcome.node)
        if self.changes:
            self.changes.lost(index)
        self._told().lost(pod, outcome.node, now_s)
        self.freed(outcome.node)
        lives = self.world.lifecycle
        delay_s = min(lives.backoff_s * 2.0 ** min(self.attempts[index] - 1, 60), lives.max_backoff_s)
        ends = TREATMENTS[pod.request.kind].ends
        self.attempts[index] += 1
        outcome.node, outcome.bound_s, outcome.started_s = "", math.nan, math.nan
        # A ReplicaSet replaces what it lost at once.
        self._push(_up(now_s + (delay_s if ends else 0.0)), _ARRIVAL, index)

    def stopped(self, index: int, now_s: float, *, evicted: bool) -> None:
        """Note, once, that a pod's work so far is lost."""
        o = self.outcomes[index]
        if self._lost_at.get(index) != self.attempts[index]:
            self._lost_at[index] = self.attempts[index]
            self.log.lost.append(Attempt(index, o.node, o.bound_s, o.started_s, now_s, evicted))

    def _leave(self, index: int, name: str) -> None:
        self.scheduler.forget(self.pods[index].request, name)
        if self.preemptor:
            self.preemptor.left(index, name)

    def _told(self) -> NodeObserver:
        assert isinstance(self.observer, NodeObserver)
        return self.observer

    def _push(self, at_s: float, kind: int, what: Any) -> None:
        self._counter += 1
        self._work += _END < kind < _AGAIN
        heapq.heappush(self._events, (at_s, kind, self._counter, what))

    def _set_timer(self, at_s: float) -> None:
        if at_s not in self._timers:
            self._timers.add(at_s)
            self._push(at_s, _TIMER, None)

    def _happen(self, now_s: float) -> tuple[list[int], bool]:
        """Everything of this instant but scheduling: who arrived, and whether the clock ticked."""
        arrived: list[int] = []
        tick = False
        while self._events and self._events[0][0] == now_s:
            _, kind, _, what = heapq.heappop(self._events)
            self._work -= _END < kind < _AGAIN
            if kind == _ARRIVAL:
                arrived.append(what)
            elif kind == _END:
                name, version = what
                if self.machines[name].version == version:
                    self._end_of(name, now_s)
            elif kind in (_CHANGE, _AGAIN):
                what(now_s)
            elif kind == _BEGIN:
                self._begin(what[0], what[1], now_s)
            elif kind == _TIMER:
                self._timers.discard(now_s)
                self.queue.timed(now_s)
            elif kind == _SCAN:
                self._scan_due = True
            else:
                tick = True
        return arrived, tick

    def _at_work(self) -> bool:
        """Whether anything but timers, retries, scans and ticks is still to come."""
        return self._work > 0 or bool(self._ending)

    def _outdated(self) -> bool:
        """Whether the next event is an end that was foreseen before what runs there changed."""
        _, kind, _, what = self._events[0]
        return kind == _END and self.machines[what[0]].version != what[1]

    def _change_of(self, change: NodeChange) -> Callable[[float], None]:
        return lambda now_s: self.changes.apply(change.change, change.node, now_s) if self.changes else None

    def _arrive(self, index: int, now_s: float) -> None:
        pod = self.pods[index]
        if self.attempts[index] > 1 or pod.request.created_s != now_s:
            pod = self.pods[index] = created_again(self.world.pods[index], now_s, self.attempts[index])
            if self.attempts[index] == 1:
                self.outcomes[index].created_s, self.outcomes[index].deadline_s = now_s, pod.request.deadline_s
        self.queue.add(index, pod.request.priority if self.world.by_priority else 0, now_s)
        self.backlog.append(len(self.queue) - 1)
        self.observer.created(pod)

    def _tick(self, now_s: float, due: bool) -> bool:
        """Whether pods are placed now; sees to it that the next multiple of the tick comes."""
        step = self.world.tick_s
        at_tick = now_s % step == 0.0
        following = (math.floor(now_s / step) + 1) * step
        if following > self._next_tick_s:
            self._next_tick_s = following
            self._push(following, _TICK, None)
        return due or at_tick

    def _fits_freed(self, index: int) -> bool:
        if self.preemptor and not self.scheduler.related:
            return self.preemptor.may_try(index, self._freed)
        return self.preemptor is not None or self.scheduler.could_fit(self.pods[index], self._freed)

    def _place_all(self, now_s: float) -> bool:
        """Wake who may hope, and let all be tried; whether anybody was bound."""
        if self._freed:
            self.queue.room(now_s, self._fits_freed)
        elif self._stirred:
            self.queue.event(now_s, idle=True)
        self._freed, self._stirred = [], False
        return self._place(now_s)

    def _place(self, now_s: float) -> bool:
        """Cycle after cycle until nobody may be tried any more; whether anybody was bound."""
        bound = False
        while (index := self.queue.pop(now_s)) is not None:
            pod = self.pods[index]
            self.log.cycles += 1
            node = self.preemptor.cycle(index, now_s) if self.preemptor else self.scheduler.schedule(pod, now_s)
            if node is None:
                held = self.scheduler.held
                self.log.held += held
                patched_s = self.scheduler.patched_s(pod) if held else math.inf
                self.queue.refused(index, now_s, held=held, patched_s=_up(patched_s))
                continue
            self.queue.placed(index)
            self._bind(index, node, now_s)
            self.queue.event(now_s, idle=False)
            if self.scheduler.related:
                self.queue.joined(now_s, [k for k in self.queue.unfit() if self.scheduler.lets_go(pod, self.pods[k])])
            bound = True
        return bound

    def _bind(self, index: int, name: str, now_s: float) -> None:
        machine, pod, outcome = self.machines[name], self.pods[index], self.outcomes[index]
        outcome.node, outcome.bound_s = name, now_s
        machine.residents[index] = None
        if self.world.fifo and machine.running:
            machine.waiting.append(index)
            self.observer.bound(pod, name, now_s, math.nan)
            return
        ready_s = self._ready_s(index, name, now_s)
        if ready_s > now_s or not machine.up:
            self.observer.bound(pod, name, now_s, math.nan)
            if machine.up:
                self._push(ready_s, _BEGIN, (index, self.attempts[index]))
            return
        self.observer.bound(pod, name, now_s, now_s)
        self._start(index, name, now_s)

    def _ready_s(self, index: int, name: str, now_s: float) -> float:
        """When the image is there, the container has started and what the parents left has come over."""
        pod, machine, ready_s = self.pods[index], self.machines[name], now_s
        if pod.image:
            ready_s = max(now_s, machine.images.setdefault(pod.image, now_s + pod.pull_s))
        ready_s += pod.start_s + max((self._transfer_s(parent, name) for parent in pod.parents), default=0.0)
        return _up(ready_s) if ready_s > now_s else now_s

    def _transfer_s(self, parent: int, name: str) -> float:
        source, net = self.outcomes[parent].node, self.world.network
        if source == name:
            return 0.0
        near = self.world.nodes[self.row[source]].zone == self.world.nodes[self.row[name]].zone
        latency_s, speed = (net.latency_s, net.bytes_per_s) if near else (net.zone_latency_s, net.zone_bytes_per_s)
        return latency_s + self.pods[parent].output_bytes / speed

    def _begin(self, index: int, attempt: int, now_s: float) -> None:
        """The container of a pod starts, if the pod is still that one and not on its way out."""
        o = self.outcomes[index]
        evicted = self.changes is not None and index in self.changes.terminating
        if self.attempts[index] == attempt and o.node and self.machines[o.node].up and not evicted:
            self.observer.started(self.pods[index], now_s)
            self._start(index, o.node, now_s)

    def _start(self, index: int, name: str, now_s: float) -> None:
        pod = self.pods[index]
        self.outcomes[index].started_s = now_s
        run_s = float(pod.true_run_s[self._class[name]])
        for drift in self.world.drifts:
            here = drift.node_class in ("", self.world.classes[self._class[name]])
            if now_s >= drift.at_s and here and drift.workload in ("", pod.request.workload):
                run_s *= drift.factor
        device = self.scheduler.device_of(pod.request.uid) if pod.device_milli > 0.0 else -1
        self.machines[name].start(Running(index, run_s, now_s, device), now_s)
        if self.changes:
            self.changes.started(index)
        self.reschedule(name, now_s)

    def _end_of(self, name: str, now_s: float) -> None:
        machine = self.machines[name]
        for running in machine.over(now_s):
            pod = self.pods[running.index]
            self.outcomes[running.index].finished_s = now_s
            del machine.residents[running.index]
            self._leave(running.index, name)
            self.observer.finished(pod, running.started_s, now_s)
            self._ended += 1
            self._progress(self._ended)
            self._release(running.index, now_s)
        self.freed(name)
        if self.world.fifo and machine.waiting and not machine.running:
            index = machine.waiting.pop(0)
            self.observer.started(self.pods[index], now_s)
            self._start(index, name, now_s)
            return
        self.reschedule(name, now_s)

    def _release(self, index: int, now_s: float) -> None:
        for child in self._children.get(index, ()):
            self._parents_left[child] -= 1
            if not self._parents_left[child]:
                self._push(max(now_s, self.pods[child].request.created_s), _ARRIVAL, child)


def _up(time_s: float) -> float:
    """The first simulated time that is not earlier."""
    return math.ceil(time_s / QUANTUM_S - 1e-9) * QUANTUM_S if time_s < math.inf else time_s
