"""What waiting is worth, compiled: the numbers of `nodewise.policies.defer`, one node at a time.

Sums are added in the same order as there, so they are the same to the last bit; logarithms and exponentials may differ
from numpy's in the last one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodewise.core.raw import Node, Pair
from nodewise.core.table import OVERDUE
from nodewise.core.types import Floats
from nodewise.policies.defer import DeferSettings
from nodewise.policies.economic import TERMS
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import machine, view
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import inlined, jit, priced

Bools = NDArray[np.bool_]

MARGIN, BASE_S, PER_RUN, MOST_S, BUDGET = 0, 1, 2, 3, 6
"""Indices of `DeferSettings` as an array; MOST_S stands before three numbers."""

_cents = priced((), TERMS)


class Sight(NamedTuple):
    """What is foreseen of the residents of each node, kept for the instant that it was made for; scratch."""

    ends_s: Floats  # [N, CAP] believed time left, the first to end first
    who: Ints  # [N, CAP] their places in `desk.Desk.resident`
    given: Floats  # [N] CPU that they give back per second in the long run
    made_s: Floats  # [N] the instant
    made_of: Ints  # [2, N] `kernels.FORESEEN` and `kernels.COUNT` of the node at it
    of_class: Floats  # [3, C] see `view.of_classes`
    queue_s: Floats  # [C] how long those who go first keep a node of the class taken
    cents: Floats  # [1] written by what prices, and of no use
    ones: Floats  # [TERMS] every term counts once


def sight(nodes: int, residents: int, classes: int) -> Sight:
    """Room for what is foreseen of this many nodes, of this many residents each at most."""
    return Sight(
        np.zeros((nodes, residents)), np.zeros((nodes, residents), np.int64), np.zeros(nodes), np.full(nodes, np.nan),
        np.zeros((2, nodes), np.int64), np.zeros((3, classes)), np.zeros(classes), np.zeros(1), np.ones(len(TERMS)),
    )  # fmt: skip


def limits(settings: DeferSettings) -> Floats:
    """The settings as an array."""
    return np.array([settings.margin, settings.base_s, settings.per_run, *settings.most_s, settings.budget])


@jit
def expected_run_s(pod_f: Floats, pod_i: Ints, cells: Floats, present: Bools, p: int) -> Any:
    """As `defer.expected_run_s`."""
    w, seen, least_s = pod_i[p, kn.WORKLOAD], pod_f[p, kn.EXPECTED] > 0.0, np.inf
    for c in range(len(present)):
        seen |= cells[bl.COUNT, w, c] != 0.0
        if present[c]:
            least_s = min(least_s, cells[bl.MEAN, w, c])
    return least_s * pod_f[p, kn.SCALE] if seen else np.nan


@jit
def limit_s(pod_f: Floats, pod_i: Ints, limits: Floats, p: int, run_s: float) -> Any:
    """As `defer.limit_s`."""
    if pod_i[p, kn.MAY_WAIT] == 0 or not run_s < np.inf:
        return 0.0
    slack_s = pod_f[p, kn.DEADLINE] - pod_f[p, kn.CREATED] - run_s
    most_s = min(limits[BASE_S] + limits[PER_RUN] * run_s, limits[MOST_S + pod_i[p, kn.SLA]])
    return max(min(most_s, slack_s), 0.0)


@jit
def index(pod_f: Floats, p: int, run_s: float) -> Any:
    """As the second part of `defer.index`."""
    return pod_f[p, kn.DELAY] / run_s if 0.0 < run_s < np.inf else 0.0


@jit
def has_room(pod_f: Floats, node: Floats, row: int, p: int) -> Any:
    """As `nodewise.core.feasible.has_room`, which counts no pods."""
    enough = node[kn.FREE, row] >= pod_f[p, kn.CPU] and node[kn.FREE + 1, row] >= pod_f[p, kn.MEM]
    return enough and node[kn.FREE + 2, row] >= pod_f[p, kn.GPU]


@jit
def _look_ahead(
    settings: Floats, node: Floats, node_i: Ints, resident: Floats, cells: Floats, ends_s: Floats, who: Ints,
    given: Floats, row: int, now_s: float,
) -> None:  # fmt: skip
    """When the residents of a node are believed to end, in that order, and what they give back."""
    c, total = node_i[kn.CLASS, row], 0.0
    stretch = 1.0 + settings[kn.CONTENTION] * node[kn.PRESSURE, row]
    for j in range(node_i[kn.COUNT, row]):
        w, scale = np.int64(resident[row, j, kn.CELL_ROW]), resident[row, j, kn.OF_SCALE]
        run_s, left_s = cells[bl.MEAN, w, c] * scale * stretch, np.inf
        if resident[row, j, kn.OF_END] > 0.0:
            elapsed_s = now_s - resident[row, j, kn.SINCE_S]
            if math.isnan(elapsed_s):
                elapsed_s = 0.0
            left_s = max(run_s - elapsed_s, OVERDUE * cells[bl.STD, w, c] * scale)
        total += resident[row, j, kn.OF_END] * resident[row, j, kn.OF_CPU] / max(run_s, 1e-3)
        at = j
        while at > 0 and ends_s[row, at - 1] > left_s:
            ends_s[row, at], who[row, at] = ends_s[row, at - 1], who[row, at - 1]
            at -= 1
        ends_s[row, at], who[row, at] = left_s, j
    given[row] = total


@jit
def _foresee(
    settings: Floats, node: Floats, node_i: Ints, resident: Floats, cells: Floats, ends_s: Floats, who: Ints,
    given: Floats, made_s: Floats, made_of: Ints, row: int, now_s: float,
) -> None:  # fmt: skip
    """`_look_ahead`, once an instant, and again if pods came or went since.

    Beliefs change only when pods end, and what ends at an instant ends before anybody asks.
    """
    foreseen, count = node_i[kn.FORESEEN, row], node_i[kn.COUNT, row]
    if made_s[row] != now_s or made_of[0, row] != foreseen or made_of[1, row] != count:
        made_s[row], made_of[0, row], made_of[1, row] = now_s, foreseen, count
        _look_ahead(settings, node, node_i, resident, cells, ends_s, who, given, row, now_s)


@jit
def ahead_s(
    settings: Floats, node: Floats, node_i: Ints, resident: Floats, cells: Floats, seen: Sight, cpu_milli: Floats,
    now_s: float,
) -> None:  # fmt: skip
    """As `defer.ahead_s`, for each class at once, into `seen.queue_s` [C]; `cpu_milli` [C] is overwritten."""
    ends_s, who, given, made_s, made_of, _, queue_s, _, _ = seen
    some = False
    for c in range(len(queue_s)):
        queue_s[c] = 0.0
        some |= cpu_milli[c] > 0.0
    if not some:
        return
    for row in range(node.shape[1]):
        _foresee(settings, node, node_i, resident, cells, ends_s, who, given, made_s, made_of, row, now_s)
        queue_s[node_i[kn.CLASS, row]] += given[row]
    for c in range(len(queue_s)):
        queue_s[c] = cpu_milli[c] / max(queue_s[c], 1e-9) if cpu_milli[c] > 0.0 else 0.0
        cpu_milli[c] = 0.0


@jit
def choose(
    pod_f: Floats, pod_i: Ints, settings: Floats, node: Floats, node_i: Ints, resident: Floats, cells: Floats,
    present: Bools, seen: Sight, now: Bools, later: Bools, margin: float, p: int, now_s: float,
    owned: bool,
) -> Any:  # fmt: skip
    """As `defer.choose`: (whether it waits, cents now, cents then, for which row, how long, the best row now).

    It fits on the nodes `now` [N], and may fit on those of `later` [N]. `seen.queue_s` is what `ahead_s` wrote.
    `owned`: whether others of its owner are looked at.
    """
    ends_s, who, given, made_s, made_of, of_class, queue_s, unused, ones = seen
    owner = pod_i[p, kn.OWNER]
    best_s = view.of_classes(pod_f, pod_i, settings, cells, present, p, of_class)
    asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
    now_cents, now_row = np.inf, -1
    for row in range(len(now)):
        if now[row]:
            c, count = node_i[kn.CLASS, row], node_i[kn.COUNT, row]
            machine.tell_time(settings, node, resident, cells, count, c, row, now_s, False)
            mates = dk.of_owner(resident, count, owner, row) if owned else 0.0
            pair = Pair(of_class[0, c], of_class[1, c], best_s, of_class[2, c], mates, 0.0)
            cents = _cents(unused, 0, ones, view.of_node(node, row), asking, pair)
            if cents < now_cents:
                now_cents, now_row = cents, row
    then_cents, then_row, then_s = np.inf, -1, np.inf
    if now_cents == np.inf:
        return False, now_cents, then_cents, then_row, then_s, now_row
    for row in range(len(later)):
        if not later[row]:
            continue
        c, count = node_i[kn.CLASS, row], node_i[kn.COUNT, row]
        _foresee(settings, node, node_i, resident, cells, ends_s, who, given, made_s, made_of, row, now_s)
        first = _first_enough(pod_f, node, resident, who, count, row, p)
        if first == count or ends_s[row, first] == np.inf:
            continue
        wait_s = ends_s[row, first] + queue_s[c]
        mates = dk.of_owner(resident, count, owner, row) if owned else 0.0
        pair = Pair(of_class[0, c], of_class[1, c], best_s, of_class[2, c], mates, 0.0)
        there = _then(settings, node, resident, ends_s, who, count, row, first, wait_s)
        cents = _cents(unused, 0, ones, there, asking, pair)
        if cents < then_cents:
            then_cents, then_row, then_s = cents, row, wait_s
    return margin * then_cents < now_cents, now_cents, then_cents, then_row, then_s, now_row


@inlined
def _first_enough(pod_f: Floats, node: Floats, resident: Floats, who: Ints, count: int, row: int, p: int) -> Any:
    """After which of the foreseen ends the pod first fits; the number of residents if after none."""
    cpu, mem, gpu = pod_f[p, kn.CPU], pod_f[p, kn.MEM], pod_f[p, kn.GPU]
    free_cpu, free_mem, free_gpu = node[kn.FREE, row], node[kn.FREE + 1, row], node[kn.FREE + 2, row]
    for k in range(count):
        other = np.int64(resident[row, who[row, k], kn.POD])
        free_cpu += pod_f[other, kn.CPU]
        free_mem += pod_f[other, kn.MEM]
        free_gpu += pod_f[other, kn.GPU]
        if (free_cpu >= cpu or cpu == 0.0) and (free_mem >= mem or mem == 0.0) and (free_gpu >= gpu or gpu == 0.0):
            return k
    return count


@inlined
def _then(
    settings: Floats, node: Floats, resident: Floats, ends_s: Floats, who: Ints, count: int, row: int, first: int,
    wait_s: float,
) -> Any:  # fmt: skip
    """The node as it will be after its foreseen end number `first`."""
    cpu, rate, weighted, ended_s = 0.0, 0.0, 0.0, ends_s[row, first]
    for k in range(first + 1, count):
        j, left_s = who[row, k], ends_s[row, k]
        cpu += resident[row, j, kn.OF_CPU]
        rate += resident[row, j, kn.OF_RATE]
        stays_s = left_s if left_s < np.inf else settings[kn.HORIZON]
        weighted += resident[row, j, kn.OF_RATE] * (stays_s - ended_s)
    exposure_s = max(weighted / max(rate, 1e-12), 0.0)
    now = view.of_node(node, row)
    return Node(
        now.cpu_allocatable_milli, now.cpu_requested_milli, now.cpu_nonzero_milli, now.cpu_used_milli,
        now.memory_allocatable_bytes, now.memory_requested_bytes, now.memory_nonzero_bytes, now.memory_used_bytes,
        now.gpus_allocatable_milli, now.gpus_requested_milli, now.work_remaining_s, now.longest_remaining_s,
        wait_s, cpu / max(now.cpu_allocatable_milli, 1.0), rate, exposure_s,
        now.metrics_age_s, now.price_usd_per_h, now.idle_w, now.peak_w,
        now.production_pods, now.batch_pods, now.best_effort_pods,
    )  # fmt: skip
