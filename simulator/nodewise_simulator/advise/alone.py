"""How long recorded runs would have taken alone, for each of several strengths of contention.

As in the engines, a pod of sensitivity s beside others that request the share p of its node's CPU runs at
1 ÷ (1 + s × p); so its time alone is the integral of that over its stay, and does not depend on where it would have
run otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats

GRID = np.linspace(0.0, 1.0, 21)
"""[S] sensitivities that are told apart."""


@dataclass(frozen=True, slots=True)
class Stay:
    """A pod on a node, in seconds from the window's start; `finished_s` is nan if it was still there at the end."""

    node: int
    started_s: float
    finished_s: float
    cpu_milli: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Of each stay [P]; 0 where a pod did not run on a known node."""

    whole_s: Floats  # [P, S] time alone of what was seen of its run
    since_s: Floats  # [P, S] the part of it after the window's start
    pressure_at_start: Floats  # [P] share of the CPU that the others request
    pressure_at_end: Floats  # [P]


def alone(stays: Sequence[Stay], room_milli: Floats, end_s: float) -> Alone:
    """The times alone of all stays; `room_milli` [N] is the CPU of each node, `end_s` the end of the recording."""
    made = Alone(
        np.zeros((len(stays), len(GRID))), np.zeros((len(stays), len(GRID))), np.zeros(len(stays)), np.zeros(len(stays))
    )
    on_node: dict[int, list[int]] = {}
    for k, stay in enumerate(stays):
        if stay.node >= 0 and _end(stay, end_s) > stay.started_s:
            on_node.setdefault(stay.node, []).append(k)
    for node, here in on_node.items():
        _of_node(made, here, [stays[k] for k in here], max(room_milli[node], 1.0), end_s)
    return made


def _end(stay: Stay, end_s: float) -> float:
    return end_s if math.isnan(stay.finished_s) else stay.finished_s


def _of_node(made: Alone, here: list[int], stays: Sequence[Stay], room_milli: float, end_s: float) -> None:
    starts = np.array([s.started_s for s in stays])
    ends = np.array([_end(s, end_s) for s in stays])
    cpu = np.array([s.cpu_milli for s in stays])
    times = np.unique(np.concatenate([starts, ends, [0.0]]))
    first, last = np.searchsorted(times, starts), np.searchsorted(times, ends)
    change = np.zeros(len(times))
    np.add.at(change, first, cpu)
    np.add.at(change, last, -cpu)
    requested, passed_s = np.cumsum(change)[:-1], np.diff(times)
    counts = times[:-1] >= 0.0
    for k, own, a, b in zip(here, cpu, first, last, strict=True):
        pressure = np.maximum(requested[a:b] - own, 0.0) / room_milli
        done_s = passed_s[a:b, None] / (1.0 + pressure[:, None] * GRID)
        made.whole_s[k] = done_s.sum(axis=0)
        made.since_s[k] = done_s[counts[a:b]].sum(axis=0)
        made.pressure_at_start[k], made.pressure_at_end[k] = pressure[0], pressure[-1]
