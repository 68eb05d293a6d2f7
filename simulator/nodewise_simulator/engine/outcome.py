"""What a run tells: to a watcher while it goes on, and about every pod and node when it is over."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from nodewise.core.pods import NodeSpec
from nodewise_simulator.world import SimPod


@dataclass(slots=True)
class Outcome:
    """The fate of one pod; times in seconds, nan where it never came to that."""

    index: int
    """Position in `World.pods`."""
    node: str
    bound_s: float
    started_s: float
    finished_s: float
    created_s: float = math.nan
    """When it was first created, if that was later than its manifest says; else nan."""
    deadline_s: float = math.nan
    """Its deadline, if it was created later than its manifest says; else nan."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A pod that was lost with its work; another was created in its place."""

    index: int
    node: str
    bound_s: float
    started_s: float
    """nan if it never started."""
    ended_s: float
    """When it stopped to work."""
    evicted: bool
    """Asked to go, rather than lost with its machine."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """Pods that were told to go for a more important one."""

    at_s: float
    index: int
    """Position in `World.pods` of the pod that room is made for."""
    node: str
    victims: tuple[int, ...]
    """The most important first."""
    alike: tuple[str, ...]
    """The nodes where it would have done as little harm, of which this one was drawn; with this one."""


@dataclass(slots=True)
class Log:
    """What no outcome tells."""

    lost: list[Attempt] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    up: list[tuple[str, float, float]] = field(default_factory=list)
    """Node, from when to when it cost: from its launch to its removal. Empty if all nodes were there all the time."""
    cycles: int = 0
    """Scheduling cycles, retries included."""
    held: int = 0
    """Cycles that ended in "no node yet" by the extender's filter."""


class Observer(Protocol):
    """Who is told what a watch would tell."""

    def created(self, pod: SimPod) -> None:
        """A pod exists and has no node yet."""

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """A pod has a node; its containers run from `started_s` on (nan if they still wait)."""

    def started(self, pod: SimPod, started_s: float) -> None:
        """A pod that waited on its node runs."""

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """A pod ended successfully and left its node."""


@runtime_checkable
class NodeObserver(Observer, Protocol):
    """Who can also be told of nodes that come and go; needed where a world has such."""

    def lost(self, pod: SimPod, node: str, now_s: float) -> None:
        """A pod is gone without having succeeded."""

    def node_added(self, node: NodeSpec, now_s: float) -> None:
        """A node joined."""

    def node_removed(self, name: str, now_s: float) -> None:
        """A node is gone."""
