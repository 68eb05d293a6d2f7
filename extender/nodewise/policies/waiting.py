"""The books of pods that wait for a node: who is deferred for what and until when, and who goes before whom.

Mutable, without a clock, owned by one thread; whoever serves the filter verb tells it of every pod that comes and goes.
What is priced is only what changed: a pod that is deferred is looked at again when room where it fits was given back,
or when its time is over; every other question about it is answered from the books.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodewise.core.feasible import has_room
from nodewise.core.types import ClusterView, Floats, PodRequest, Policy, Rows, Scores
from nodewise.policies import defer
from nodewise.policies.defer import DeferSettings

Bools = NDArray[np.bool_]

AGAIN_S = 0.25
"""A pod that stands back for another asks again after this if nothing happens: the other may have declined."""

STAND_BACK_S = 20.0
"""Longest time that a pod stands back from the same room: the other may be held up elsewhere, and never ask."""

_NONE = np.zeros(0, np.int64)


@dataclass(slots=True)
class _Entry:
    pod: PodRequest
    allowed: Bools  # [N] nodes that pass every filter but that for room
    run_s: float
    key: tuple[float, float, int]
    """The higher goes first; the last part is its turn by age, negative."""
    limit_s: float
    since_s: float = math.nan
    """When it was first deferred."""
    back_s: float = math.nan
    """Since when it stands back for others…"""
    back_for: int = -1
    """…from the room that was given back at this change."""
    until_s: float = -math.inf
    seen: int = -1
    """Number of the last change of room that it was asked after."""
    row: int = -1
    """The node that it is deferred for; -1 if it is not deferred."""


class Waiting:
    """Pods without a node. `settings` None: nobody is deferred; `ordered`: lower pods stand back for higher ones."""

    def __init__(self, settings: DeferSettings | None, *, ordered: bool) -> None:
        self._settings, self._ordered = settings, ordered
        self._limits = settings or DeferSettings()
        self._entries: dict[str, _Entry] = {}
        self._turn = 0
        self._deferred = 0
        self._names: tuple[str, ...] = ()
        self._free = np.zeros((0, 3))  # [N, (CPU, memory, GPU)] when room was looked at last
        self._freed_at = np.zeros(0, np.int64)  # [N] number of the change that gave room back last
        self._changes = 0
        self.priced = 0
        """How often waiting was priced."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def deferred(self) -> int:
        """How many pods are deferred for a node that is to free up."""
        return self._deferred

    def queued(self, pod: PodRequest, view: ClusterView, allowed: Bools) -> None:
        """A pod waits for a node; `allowed` [N] are the rows of `view` that pass every filter but that for room.

        To be told of it twice changes nothing.
        """
        if pod.uid in self._entries:
            return
        self._look(view)
        run_s = defer.expected_run_s(pod, view)
        self._turn += 1
        priority, index = defer.index(pod, view, run_s) if self._ordered else (pod.priority, 0.0)
        limit_s = defer.limit_s(pod, run_s, self._limits)
        self._entries[pod.uid] = _Entry(pod, allowed, run_s, (priority, index, -self._turn), limit_s)

    def gone(self, uid: str) -> None:
        """A pod waits no longer: it has a node, or was deleted."""
        entry = self._entries.pop(uid, None)
        self._deferred -= entry is not None and entry.row >= 0

    def ask(self, pod: PodRequest, view: ClusterView, rows: Rows) -> tuple[Rows, float]:
        """Which of `rows` [M] the pod may take now, and, if none, when it has to ask again though nothing happened."""
        self._look(view)
        entry, now_s = self._entries.get(pod.uid), view.now_s
        if entry is None or not defer.may_wait(pod):
            return rows, now_s
        nothing_new = not (self._freed_at[rows] > entry.seen).any()
        if entry.row >= 0 and now_s < entry.until_s and nothing_new:
            return _NONE, entry.until_s
        self._deferred -= entry.row >= 0
        entry.row = -1
        if self._ordered and self._comes_after(entry, view, rows):
            newest = int(self._freed_at[rows].max())
            if newest != entry.back_for:
                entry.back_for, entry.back_s = newest, now_s
            if now_s < entry.back_s + STAND_BACK_S:
                return _NONE, now_s + AGAIN_S
        entry.seen = self._changes
        if self._settings is None or self._deferred >= self._settings.budget:
            return rows, now_s
        end_s = (now_s if math.isnan(entry.since_s) else entry.since_s) + entry.limit_s
        if now_s >= end_s:
            return rows, now_s
        choice = self._choice(entry, view, rows, self._settings)
        if not choice.waits:
            return rows, now_s
        entry.since_s, entry.until_s, entry.row = end_s - entry.limit_s, end_s, choice.row
        self._deferred += 1
        return _NONE, end_s

    def _look(self, view: ClusterView) -> None:
        """Note which nodes have more room than when we looked last."""
        t = view.nodes
        free = np.stack(
            [
                t.cpu_allocatable_milli - t.cpu_requested_milli,
                t.memory_allocatable_bytes - t.memory_requested_bytes,
                t.gpus_allocatable_milli - t.gpus_requested_milli,
            ],
            axis=1,
        )
        if t.name is not self._names and t.name != self._names:
            self._freed_at = np.zeros(len(t.name), np.int64)
            self._free = np.full_like(free, -np.inf)
            self._renumber(t.name)
        self._names = t.name
        more = (free > self._free).any(axis=1)
        if more.any():
            self._changes += 1
            self._freed_at[more] = self._changes
        self._free = free

    def _renumber(self, names: tuple[str, ...]) -> None:
        """Nodes came or went: rows have other numbers, and everybody is priced anew; a new node is nobody's yet."""
        old = {name: k for k, name in enumerate(self._names)}
        where = np.array([old.get(name, -1) for name in names], np.int64)
        for entry in self._entries.values():
            entry.allowed = np.where(where >= 0, np.append(entry.allowed, False)[where], False)
            entry.row, entry.seen = -1, -1
        self._deferred = 0

    def _comes_after(self, entry: _Entry, view: ClusterView, rows: Rows) -> bool:
        """Whether a higher pod fits on one of the rows and was not asked since that was freed."""
        freed_at = self._freed_at[rows]
        newest = int(freed_at.max(initial=-1))
        for other in self._entries.values():
            if other.seen < newest and other.key > entry.key:
                open_rows = rows[other.allowed[rows] & (freed_at > other.seen)]
                if has_room(other.pod, view.nodes, open_rows).any():
                    return True
        return False

    def _choice(self, entry: _Entry, view: ClusterView, rows: Rows, settings: DeferSettings) -> defer.Choice:
        self.priced += 1
        elsewhere = entry.allowed.copy()
        elsewhere[rows] = False
        later = np.flatnonzero(elsewhere)
        later = later[~has_room(entry.pod, view.nodes, later)]
        cpu_milli: Floats = np.zeros(view.beliefs.run_mean.shape[1])
        for other in self._entries.values():
            if other.row >= 0 and other.key > entry.key:
                cpu_milli[view.nodes.node_class[other.row]] += other.pod.cpu_milli
        queue_s = defer.ahead_s(view, later, cpu_milli)
        return defer.choose(entry.pod, view, rows, later, queue_s, settings)


@dataclass(frozen=True, slots=True)
class WaitingPolicy:
    """A policy whose pods may be told to wait; the node is still the policy's own choice."""

    base: Policy
    name: str
    settings: DeferSettings | None
    ordered: bool

    @property
    def digest(self) -> str:
        """The policy's own, and what is done beside it."""
        return f"{self.base.digest}{self.name.removeprefix(self.base.name)}"

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M]."""
        return self.base.score(pod, view, rows)

    def deferral(self) -> Waiting:
        """Books for one run."""
        return Waiting(self.settings, ordered=self.ordered)


def with_waiting(base: Policy, *, deferring: bool, ordered: bool) -> Policy:
    """The policy, deferring and ordering as its name's ending asks for (`nodewise.policies.defer.split`)."""
    if not deferring and not ordered:
        return base
    name = base.name + (defer.DEFER if deferring else "") + (defer.ORDER if ordered else "")
    return WaitingPolicy(base, name, DeferSettings() if deferring else None, ordered)
