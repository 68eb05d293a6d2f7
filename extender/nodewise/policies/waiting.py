"""The books of pods that wait for a node: who is deferred for what and until when, and who goes before whom.

Mutable, without a clock, owned by one thread; whoever serves the filter verb tells it of every pod that comes and goes.
What is priced is only what changed: a pod that is deferred is looked at again when room where it fits was given back,
or when its time is over; every other question about it is answered from the books.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from nodewise.core.feasible import has_room
from nodewise.core.types import ClusterView, Floats, PodRequest, Policy, Rows, Scores
from nodewise.policies import defer
from nodewise.policies.defer import DeferSettings

Bools = NDArray[np.bool_]

KEPT_S = 1.0
"""How long room is kept for a pod that goes first and did not ask yet: it may be held up elsewhere, and never ask."""

_NONE = np.zeros(0, np.int64)


@dataclass(slots=True)
class _Entry:
    pod: PodRequest
    allowed: Bools  # [N] nodes that pass every filter but that for room
    run_s: float
    belief_row: int
    key: tuple[float, float, int]
    """The higher goes first; the last part is its turn by age, negative."""
    limit_s: float
    since_s: float = math.nan
    """When it was first deferred."""
    until_s: float = -math.inf
    seen: int = -1
    """Number of the last change of room that it was asked after."""
    row: int = -1
    """The node that it is deferred for; -1 if it is not deferred."""
    kept: int = -1
    """The node that it would take, where lower pods leave it the room until it asks; -1 if none is known."""
    kept_since_s: float = math.nan
    """Since when."""


class Waiting:
    """Pods without a node. `settings` None: nobody is deferred; `ordered`: lower pods leave higher ones their nodes.

    kube-scheduler asks in an order of its own. So before a pod is answered, the higher ones are priced that fit where
    room was given back and were not asked since: they are deferred in their absence, or what they would take is kept.
    """

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
        key = (priority, index, -self._turn)
        self._entries[pod.uid] = _Entry(pod, allowed, run_s, view.belief_row, key, limit_s)

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
        kept, entry.kept, entry.row = entry.kept, -1, -1
        if self._ordered:
            rows = self._left_for(entry, view, rows)
            if len(rows) == 0:
                return _NONE, now_s + KEPT_S
        entry.seen = self._changes
        if not self._may_defer(entry, now_s):
            return rows, now_s
        choice = self._choice(entry, view, rows, may_defer=True)
        if not choice.waits:
            return rows, now_s
        if kept >= 0:
            self._give_back(entry, kept)
        self._defer(entry, choice.row, now_s)
        return _NONE, entry.until_s

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
            entry.row, entry.seen, entry.kept = -1, -1, -1
        self._deferred = 0

    def _left_for(self, entry: _Entry, view: ClusterView, rows: Rows) -> Rows:
        """Those of `rows` [M] on which the pod fits beside all higher ones that would take a node now."""
        free, wants = self._free.copy(), _wants(entry.pod)
        higher = [other for other in self._entries.values() if other.key > entry.key]
        for other in sorted(higher, key=attrgetter("key"), reverse=True):
            row = self._taken_by(other, view, free)
            if row >= 0:
                free[row] -= _wants(other.pod)
                if not (free[rows] >= wants).all(axis=1).any():
                    return _NONE
        return rows[(free[rows] >= wants).all(axis=1)]

    def _taken_by(self, entry: _Entry, view: ClusterView, free: Floats) -> int:
        """Which node a pod would take of the room that is still `free` [N, 3], by all that is known; -1: none.

        It is priced if it was not asked since room for it was given back, without regard to others of its owner.
        """
        wants = _wants(entry.pod)
        if entry.kept >= 0 and view.now_s >= entry.kept_since_s + KEPT_S:
            row, entry.kept = entry.kept, -1
            self._give_back(entry, row)
            return -1
        if entry.kept >= 0 and (free[entry.kept] >= wants).all():
            return entry.kept
        entry.kept = -1
        if entry.seen == self._changes:
            return -1
        fits, news = entry.allowed & (self._free >= wants).all(axis=1), self._freed_at > entry.seen
        if not (fits & news).any():
            entry.seen = self._changes
            return -1
        rows = np.flatnonzero(fits & (free >= wants).all(axis=1))
        if not news[rows].any():
            return -1
        self._deferred -= entry.row >= 0
        entry.row = -1
        its_view = replace(view, belief_row=entry.belief_row, owner_id=-1)
        choice = self._choice(entry, its_view, rows, may_defer=self._may_defer(entry, view.now_s))
        if choice.waits:
            self._defer(entry, choice.row, view.now_s)
        else:
            entry.kept, entry.kept_since_s = choice.now_row, view.now_s
        return entry.kept

    def _may_defer(self, entry: _Entry, now_s: float) -> bool:
        if self._settings is None or self._deferred >= self._settings.budget or not defer.may_wait(entry.pod):
            return False
        return now_s < (now_s if math.isnan(entry.since_s) else entry.since_s) + entry.limit_s

    def _defer(self, entry: _Entry, row: int, now_s: float) -> None:
        entry.since_s = now_s if math.isnan(entry.since_s) else entry.since_s
        entry.until_s, entry.row, entry.seen = entry.since_s + entry.limit_s, row, self._changes
        self._deferred += 1

    def _give_back(self, entry: _Entry, row: int) -> None:
        """Room that was kept for a pod is news for all but itself."""
        self._changes += 1
        self._freed_at[row] = entry.seen = self._changes

    def _choice(self, entry: _Entry, view: ClusterView, rows: Rows, *, may_defer: bool) -> defer.Choice:
        """What the pod would do if it were asked; without `may_defer` it would not wait."""
        self.priced += 1
        elsewhere = entry.allowed.copy()
        elsewhere[rows] = False
        later = np.flatnonzero(elsewhere)
        later = later[~has_room(entry.pod, view.nodes, later)] if may_defer else _NONE
        cpu_milli: Floats = np.zeros(view.beliefs.run_mean.shape[1])
        for other in self._entries.values():
            if other.row >= 0 and other.key > entry.key:
                cpu_milli[view.nodes.node_class[other.row]] += other.pod.cpu_milli
        queue_s = defer.ahead_s(view, later, cpu_milli)
        return defer.choose(entry.pod, view, rows, later, queue_s, self._limits)


def _wants(pod: PodRequest) -> Floats:
    return np.array([pod.cpu_milli, pod.memory_bytes, pod.gpus_milli])


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
