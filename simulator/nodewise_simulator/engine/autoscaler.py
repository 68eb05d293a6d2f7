"""Cluster Autoscaler over one pool: launches nodes for pods that fit nowhere, removes nodes that are empty for long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nodewise.core.types import Floats
from nodewise_simulator.physics import Autoscaler, Change

if TYPE_CHECKING:
    from nodewise_simulator.engine.loop import Engine


class Scaler:
    """Looks at the cluster every `settings.scan_s`."""

    def __init__(self, engine: Engine, settings: Autoscaler) -> None:
        self.settings = settings
        self._engine = engine
        self._booting: list[str] = []
        self._idle_since_s: dict[str, float] = {}
        self._added_s = -math.inf

    def scan(self, now_s: float) -> None:
        """One look."""
        self._grow(now_s)
        self._shrink(now_s)

    def _grow(self, now_s: float) -> None:
        engine, changes = self._engine, self._engine.changes
        assert changes is not None
        free: dict[str, Floats] = {name: engine.scheduler.empty(name) for name in self._booting}
        spare = [n for n in self.settings.pool if n not in free and not changes.present(n)]
        for index in engine.queue.unfit():
            if engine.preemptor and index in engine.preemptor.nominated:
                continue  # room is being made for it
            pod = engine.pods[index]
            name = next((n for n in free if engine.scheduler.hosts(pod, n, free[n])), "")
            if not name:
                name = next((n for n in spare if engine.scheduler.hosts(pod, n, engine.scheduler.empty(n))), "")
                if not name:
                    continue
                spare.remove(name)
                free[name] = engine.scheduler.empty(name)
                self._launch(name, now_s)
            free[name] = free[name] - engine.scheduler.wants(pod.request)

    def _launch(self, name: str, now_s: float) -> None:
        self._booting.append(name)

        def joined(at_s: float) -> None:
            self._booting.remove(name)
            self._added_s = at_s
            if self._engine.changes and not self._engine.changes.present(name):
                self._engine.changes.add(name, at_s, launched_s=now_s)

        self._engine.at(now_s + self.settings.boot_s, joined)

    def _shrink(self, now_s: float) -> None:
        changes = self._engine.changes
        assert changes is not None
        for name in self.settings.pool:
            if not changes.present(name) or self._engine.machines[name].residents:
                self._idle_since_s.pop(name, None)
                continue
            since_s = self._idle_since_s.setdefault(name, now_s)
            if now_s - since_s >= self.settings.unneeded_s and now_s - self._added_s >= self.settings.after_add_s:
                del self._idle_since_s[name]
                changes.apply(Change.REMOVE, name, now_s)
