"""What a pod costs, and what it does to others, from hidden truth: what a learner is told, never what a policy sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import jit
from nodewise_simulator.compiled.room import fits, share_of

_INV_SQRT_2PI, _SQRT_HALF = 1.0 / math.sqrt(2.0 * math.pi), math.sqrt(0.5)


@jit
def worth_of_a_second(
    pod_f: Floats, node_f: Floats, pod: Floats, p: int, row: int, now_s: float, left_s: float
) -> float:
    """What a second of delay costs a running pod, in cents: delay, node-hours, the chance of becoming late; no energy.

    Its own noise is hidden from everybody, and integrated out: the rest of its run is taken as log-normal about what
    was foreseeable.
    """
    worth: float = pod_f[p, kn.DELAY]
    worth += share_of(pod_f, node_f, p, row) * node_f[row, kn.PRICE] * (100.0 / 3600.0)
    if pod_f[p, kn.DEADLINE] < np.inf:
        median_s = max((now_s - pod[p, kn.STARTED_S] + left_s) / pod_f[p, kn.FACTOR], 1e-3)
        sigma = max(pod_f[p, kn.NOISE], kn.LEAST_NOISE)
        slack_s = max(pod_f[p, kn.DEADLINE] - pod[p, kn.STARTED_S], 1e-3)
        z = (math.log(slack_s) - math.log(median_s)) / sigma
        worth += pod_f[p, kn.LATE] * math.exp(-0.5 * z * z) * _INV_SQRT_2PI / (sigma * median_s)
    return worth


@jit
def _left_s(node: Floats, slot_f: Floats, row: int, j: int, now_s: float) -> float:
    """Time from now to the end of what runs in a slot, if nothing changes; slots are as of their node's last event."""
    left_s: float = node[kn.UPDATED, row] + slot_f[kn.LEFT, row, j] / slot_f[kn.SPEED, row, j] - now_s
    return max(left_s, 0.0)


@jit
def _true_cost(
    pod_f: Floats, true_s: Floats, node_f: Floats, node_i: Ints, node: Floats, slot_i: Ints, slot_f: Floats,
    p: int, row: int, now_s: float,
) -> Any:  # fmt: skip
    """(expected cents, cents of a second more, expected run) of pod `p` on a node as it is, harm to residents included.

    Energy, a hundredth of the rest, is left out. From hidden truth, its own noise integrated out; a resident weighs on
    it, and it on a resident, for as long as both run.
    """
    sigma, room = max(pod_f[p, kn.NOISE], kn.LEAST_NOISE), max(node_f[row, kn.CPU_ROOM], 1.0)
    up = math.exp(0.5 * sigma * sigma)
    alone_s = true_s[p, node_i[kn.CLASS, row]] / pod_f[p, kn.FACTOR] * up
    run_s, harm, own_share = alone_s, 0.0, pod_f[p, kn.CPU] / room
    for j in range(node_i[kn.COUNT, row]):
        together_s = min(_left_s(node, slot_f, row, j, now_s), alone_s)
        run_s += pod_f[p, kn.SENSITIVITY] * (pod_f[slot_i[kn.RUNNING, row, j], kn.CPU] / room) * together_s
        harm += own_share * slot_f[kn.HURT, row, j] * together_s
    rate = pod_f[p, kn.DELAY] + share_of(pod_f, node_f, p, row) * node_f[row, kn.PRICE] * (100.0 / 3600.0)
    cents, worth = rate * run_s + harm, rate
    if pod_f[p, kn.DEADLINE] < np.inf:
        median_s = max(run_s / up, 1e-3)
        z = (math.log(max(pod_f[p, kn.DEADLINE] - now_s, 1e-3)) - math.log(median_s)) / sigma
        cents += pod_f[p, kn.LATE] * 0.5 * math.erfc(z * _SQRT_HALF)
        worth += pod_f[p, kn.LATE] * math.exp(-0.5 * z * z) * _INV_SQRT_2PI / (sigma * median_s)
    return cents, worth, alone_s


@jit
def charge_displaced(
    pod_f: Floats, pod_i: Ints, true_s: Floats, node_f: Floats, node_i: Ints, masks: NDArray[np.bool_],
    node: Floats, slot_i: Ints, slot_f: Floats, pod: Floats, p: int, chosen: int, now_s: float,
) -> None:  # fmt: skip
    """Charge each resident of every other node with what `p`, bound to row `chosen`, would gain if it were not there.

    With it gone the node might be the better choice, or have room at all. HARM leaves out these who stayed away.
    """
    paid, _, _ = _true_cost(pod_f, true_s, node_f, node_i, node, slot_i, slot_f, p, chosen, now_s)
    for row in range(len(node_f)):
        if masks[pod_i[p, kn.MASK], row] and fits(pod_f, node, row, p):
            cents, _, _ = _true_cost(pod_f, true_s, node_f, node_i, node, slot_i, slot_f, p, row, now_s)
            paid = min(paid, cents)
    for row in range(len(node_f)):
        if (
            row == chosen
            or node_i[kn.COUNT, row] == 0
            or not masks[pod_i[p, kn.MASK], row]
            or fits(pod_f, node, row, p)
        ):
            continue
        cents, worth, alone_s = _true_cost(pod_f, true_s, node_f, node_i, node, slot_i, slot_f, p, row, now_s)
        room = max(node_f[row, kn.CPU_ROOM], 1.0)
        for j in range(node_i[kn.COUNT, row]):
            r = slot_i[kn.RUNNING, row, j]
            if (
                pod[r, kn.ROOM_TAKEN_S] > now_s
                or node[kn.FREE, row] + pod_f[r, kn.CPU] < pod_f[p, kn.CPU]
                or node[kn.FREE + 1, row] + pod_f[r, kn.MEM] < pod_f[p, kn.MEM]
                or node[kn.FREE + 2, row] + pod_f[r, kn.GPU] < pod_f[p, kn.GPU]
            ):
                continue
            together_s = min(_left_s(node, slot_f, row, j, now_s), alone_s)
            eased = together_s * (
                pod_f[p, kn.SENSITIVITY] * (pod_f[r, kn.CPU] / room) * worth
                + pod_f[p, kn.CPU] / room * slot_f[kn.HURT, row, j]
            )
            if paid - cents + eased > 0.0:
                pod[r, kn.DISPLACED] += paid - cents + eased
                pod[r, kn.ROOM_TAKEN_S] = now_s + alone_s
