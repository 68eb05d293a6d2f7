"""The fate of every pod of a run as arrays, whichever engine played it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodewise.core import cost
from nodewise.core.types import Floats
from nodewise_simulator.columns import Ints
from nodewise_simulator.engine import Outcome
from nodewise_simulator.podtable import Asked, asked
from nodewise_simulator.world import World


@dataclass(frozen=True, slots=True)
class Fates:
    """P pods in order of arrival; times in seconds, nan where it never came to that."""

    asked: Asked
    """What they asked for, with times of creation and deadlines as they came to be: a pod that waited for its parents
    was created later than its manifest says."""
    node: Ints  # [P] row in `World.nodes`; -1 without any
    started_s: Floats  # [P]
    finished_s: Floats  # [P]

    @property
    def last_s(self) -> float:
        """When the last pod ended that did; 0 if none did."""
        ended = self.finished_s[~np.isnan(self.finished_s)]
        return float(ended.max()) if len(ended) else 0.0

    @property
    def end_s(self) -> Floats:
        """When each pod ended [P]; one that never did, when the last one ended."""
        return np.where(np.isnan(self.finished_s), self.last_s, self.finished_s)


@dataclass(frozen=True, slots=True)
class Machines:
    """What N nodes have, cost and draw; and, as row -1, no node, which has and costs nothing."""

    cpu_milli: Floats  # [N + 1]
    memory_bytes: Floats  # [N + 1]
    gpus_milli: Floats  # [N + 1]
    price_usd_per_h: Floats  # [N + 1]
    idle_w: Floats  # [N + 1]
    peak_w: Floats  # [N + 1]

    def joules(self, row: Ints, cpu_milli: Floats, run_s: Floats) -> Floats:
        """Energy above idle of pods [P] of so much CPU that ran for so long on these nodes [P]."""
        drawn = cost.dynamic_joules(cpu_milli, self.cpu_milli[row], self.idle_w[row], self.peak_w[row], run_s)
        return np.asarray(drawn)

    def share(self, row: Ints, of: Asked) -> Floats:
        """As `cost.dominant_share`, of all pods [P]."""
        gpus = self.gpus_milli[row]
        made = np.maximum(
            np.maximum(
                of.cpu_milli / np.maximum(self.cpu_milli[row], 1.0),
                of.memory_bytes / np.maximum(self.memory_bytes[row], 1.0),
            ),
            np.where(gpus > 0.0, of.gpus_milli / np.where(gpus > 0.0, gpus, 1.0), 0.0),
        )
        return np.where(row >= 0, made, 0.0)


def machines(world: World) -> Machines:
    """The nodes of a world."""
    rows = [
        (n.cpu_allocatable_milli, n.memory_allocatable_bytes, n.gpus_allocatable_milli, n.price_usd_per_h, n.idle_w,
         n.peak_w)
        for n in world.nodes
    ]  # fmt: skip
    return Machines(*np.array([*rows, (0.0,) * 6]).T)


def fates(world: World, outcomes: Sequence[Outcome] | Fates) -> Fates:
    """The reference engine's outcomes as arrays."""
    if isinstance(outcomes, Fates):
        return outcomes
    if len(outcomes) != len(world.pods):
        raise ValueError(f"{len(outcomes)} outcomes of {len(world.pods)} pods")
    row = {n.name: k for k, n in enumerate(world.nodes)}
    times = [(o.created_s, o.deadline_s, o.started_s, o.finished_s) for o in outcomes]
    created_s, deadline_s, started_s, finished_s = np.array(times, float).reshape(-1, 4).T
    of = asked(world.pods)
    came = Asked(
        np.where(np.isnan(created_s), of.created_s, created_s),
        np.where(np.isnan(deadline_s), of.deadline_s, deadline_s),
        of.sla, of.cpu_milli, of.memory_bytes, of.gpus_milli,
    )  # fmt: skip
    node = np.array([row[o.node] if o.node else -1 for o in outcomes], np.int64)
    return Fates(came, node, started_s, finished_s)
