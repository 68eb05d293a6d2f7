"""Nodes that join, leave, fail, come back and are drained, and what becomes of the pods there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from nodewise.core.errors import UserError
from nodewise_simulator.engine.machine import Machine
from nodewise_simulator.engine.outcome import NodeObserver
from nodewise_simulator.physics import Change

if TYPE_CHECKING:
    from nodewise_simulator.engine.loop import Engine


class Changes:
    """What happens to the nodes of one run."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._world = engine, engine.world
        self.terminating: set[int] = set()
        """Pods that were evicted and still hold their room."""
        self._away: dict[int, str] = {}  # pods that were lost and do not run again yet: their budget
        first: dict[str, Change] = {}
        for change in sorted(self._world.changes, key=lambda c: c.at_s):
            if change.node not in engine.row:
                raise UserError(f"scenario {self._world.scenario} changes node {change.node!r}, which it does not have")
            first.setdefault(change.node, change.change)
        absent = {name for name, change in first.items() if change is Change.ADD}
        absent |= set(self._world.autoscaler.pool) if self._world.autoscaler else set()
        self._since = {n.name: 0.0 for n in self._world.nodes if n.name not in absent}
        self._do: dict[Change, Callable[[str, float], None]] = {
            Change.ADD: self.add,
            Change.REMOVE: self.remove,
            Change.FAIL: self._fail,
            Change.RESTORE: self._restore,
            Change.CORDON: self._cordon,
            Change.UNCORDON: self._uncordon,
            Change.DRAIN: self._drain,
        }
        for name in absent:
            engine.machines[name].up = False
            engine.scheduler.remove(name)
            self._observer().node_removed(name, 0.0)

    def present(self, name: str) -> bool:
        """Whether the machine is there, in whatever state."""
        return name in self._since

    def apply(self, change: Change, name: str, now_s: float) -> None:
        """Let it happen; what is no change any more (a machine that is gone already fails) is passed over."""
        if self.present(name) != (change is Change.ADD):
            self._engine.machines[name].changes += 1
            self._do[change](name, now_s)

    def add(self, name: str, now_s: float, launched_s: float | None = None) -> None:
        """A machine joins; it costs since `launched_s`."""
        engine = self._engine
        old, node = engine.machines[name], self._world.nodes[engine.row[name]]
        machine = engine.machines[name] = Machine(node.cpu_allocatable_milli)
        machine.version, machine.changes = old.version + 1, old.changes + 1  # what was planned for the old one is void
        self._since[name] = now_s if launched_s is None else launched_s
        engine.scheduler.add(name)
        self._observer().node_added(node, now_s)
        engine.freed(name)

    def remove(self, name: str, now_s: float) -> None:
        """Machine, Node object and pods are gone."""
        engine, machine = self._engine, self._engine.machines[name]
        machine.up = False
        engine.scheduler.remove(name)
        self._lose_all(name, now_s)
        self._observer().node_removed(name, now_s)
        engine.log.up.append((name, self._since.pop(name), now_s))

    def lost(self, index: int) -> None:
        """A pod left its node without success."""
        self.terminating.discard(index)
        self._away[index] = self._engine.pods[index].budget

    def started(self, index: int) -> None:
        """A pod works, if it was lost before: again."""
        self._away.pop(index, None)

    def close(self, now_s: float) -> None:
        """The run is over."""
        self._engine.log.up.extend((name, since_s, now_s) for name, since_s in self._since.items())

    def _observer(self) -> NodeObserver:
        observer = self._engine.observer
        assert isinstance(observer, NodeObserver)
        return observer

    def _lose_all(self, name: str, now_s: float) -> None:
        for index in list(self._engine.machines[name].residents):
            self._engine.gone(index, now_s, evicted=False)

    def _fail(self, name: str, now_s: float) -> None:
        machine = self._engine.machines[name]
        if not machine.up:
            return
        machine.up = False
        for running in list(machine.running):
            machine.stop(running.index, now_s)
            self._engine.stopped(running.index, now_s, evicted=False)
        self._engine.reschedule(name, now_s)  # nothing ends there
        plan, lives = machine.changes, self._world.lifecycle

        def unreachable(at_s: float) -> None:
            if machine.changes == plan:
                self._cordon(name, at_s)
                self._engine.at(at_s + lives.evict_s, deleted)

        def deleted(at_s: float) -> None:
            if machine.changes == plan:
                self._lose_all(name, at_s)

        self._engine.at(now_s + lives.detect_s, unreachable)

    def _restore(self, name: str, now_s: float) -> None:
        machine = self._engine.machines[name]
        if not machine.up:
            machine.up = True
            self._lose_all(name, now_s)
            self._uncordon(name, now_s)

    def _cordon(self, name: str, now_s: float) -> None:
        del now_s
        self._engine.scheduler.cordon(name, closed=True)
        self._engine.stirred()

    def _uncordon(self, name: str, now_s: float) -> None:
        del now_s
        self._engine.scheduler.cordon(name, closed=False)
        self._engine.freed(name)

    def _drain(self, name: str, now_s: float) -> None:
        machine = self._engine.machines[name]
        self._cordon(name, now_s)
        plan = machine.changes

        def evict(at_s: float) -> None:
            if machine.changes != plan:
                return
            for index in [k for k in machine.residents if k not in self.terminating]:
                if self._may_go(index):
                    self.evict(index, name, at_s)
            if any(k not in self.terminating for k in machine.residents):
                self._engine.at(at_s + self._world.lifecycle.drain_retry_s, evict, again=True)

        evict(now_s)

    def _may_go(self, index: int) -> bool:
        budget = self._engine.pods[index].budget
        return not budget or self.disruptions_allowed(budget) > 0

    def disruptions_allowed(self, budget: str) -> float:
        """How many more pods of a budget may go now; inf if the world does not limit it."""
        down = sum(b == budget for b in self._away.values())
        return max(self._world.budgets.get(budget, math.inf) - down, 0)

    def evict(self, index: int, name: str, now_s: float) -> None:
        """A pod is told to go: its work ends, and its room is held until its grace is over."""
        engine, attempt = self._engine, self._engine.attempts[index]
        if engine.machines[name].stop(index, now_s):
            engine.reschedule(name, now_s)
        engine.stopped(index, now_s, evicted=True)
        self._away[index] = engine.pods[index].budget
        self.terminating.add(index)

        def leave(at_s: float) -> None:
            if index in self.terminating and engine.attempts[index] == attempt:
                engine.gone(index, at_s, evicted=True)

        engine.at(now_s + self._world.lifecycle.grace_s, leave)
