"""`rollout-oracle`: tries the economic best few nodes for each counted pod, and plays the real future after each.

One step of look-ahead by a clairvoyant: from a copy of the state the pod is put on each candidate, then everybody that
really comes within the horizon is placed by `economic`, with run times as they really are; the cheapest candidate is
taken. Cost at the horizon: what is over costs what it cost, what runs ends as it would with its neighbours as they
are, and what waits starts then on its best node. Only pods that find room when they arrive are tried: those that had to
wait go where `economic` says, as do pods before the first counted one.

On the compiled engine, whose states can be copied; so for its worlds only (immediate binding, no changes of nodes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nodewise.core import cost
from nodewise.core.types import Floats
from nodewise.policies.economic import ECONOMIC
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import rules
from nodewise_simulator.compiled.flat import Flat, Ints, flatten
from nodewise_simulator.compiled.run import State
from nodewise_simulator.metrics import Result, completions, measure
from nodewise_simulator.world import World

NAME = "rollout-oracle"
HORIZON_S = 200.0
CANDIDATES = 4

Step = Callable[[State, int], State]
"""Plays a state on until the pods before this one have come, and returns it."""


def play_rollout(
    world: World, progress: Callable[[int], None] | None = None, horizon_s: float = HORIZON_S,
    candidates: int = CANDIDATES,
) -> Result:  # fmt: skip
    """Play a world so. `progress` is called with the pods that have come. Raises UserError for what is not modelled."""
    flat = _with_own_mask(flatten(world))
    may = flat.masks[flat.pod_i[:, kn.MASK]]  # [P, N]
    least = np.where(may, flat.true_s[:, flat.node_class], np.inf).min(axis=1)
    created_s = flat.pod_f[:, kn.CREATED]
    step = _player(flat)
    state = step(State.start(flat), world.warm)
    for p in range(world.warm, len(world.pods)):
        if state.number[kn.NEXT] > p:  # it came with the one before
            continue
        until = int(np.searchsorted(created_s, created_s[p] + horizon_s, "right"))
        state = _cheapest(flat, step, state, p, max(until, p + 1), candidates, least)
        if progress:
            progress(p + 1)
    step(state, len(world.pods) + 1)
    outcomes = state.outcomes(flat.names)
    metrics = measure(world, outcomes)
    nodes = tuple(o.node for o in outcomes)
    return Result(world.scenario, NAME, world.seed, metrics, nodes, completions(world, outcomes), "compiled")


def _cheapest(flat: Flat, step: Step, before: State, p: int, until: int, candidates: int, least: Floats) -> State:
    """The state when pod `p` has come and was put on the best of the candidates."""
    own, mask = len(flat.masks) - 1, int(flat.pod_i[p, kn.MASK])
    flat.masks[own] = flat.masks[mask]
    flat.pod_i[p, kn.MASK] = own
    tried: list[State] = []
    for _ in range(candidates):
        state = step(before.copy(), p + 1)
        row = int(state.pod_node[p])
        if row < 0 and tried:
            break
        tried.append(state)
        if row < 0:
            break
        flat.masks[own, row] = False  # the next candidate is what economic chooses without this one
    flat.pod_i[p, kn.MASK] = mask
    if len(tried) == 1:
        return tried[0]
    new = np.flatnonzero(np.isnan(before.pod[:until, kn.FINISHED_S]))
    cents = [ahead_cents(flat, step(s.copy(), until), new, least) for s in tried]
    return tried[int(np.argmin(cents))]


def ahead_cents(flat: Flat, state: State, pods: Ints, least: Floats) -> float:
    """What these pods have cost, or will as far as can be seen from this state; `least` [P] is their shortest run."""
    f, row, when = flat.pod_f[pods], state.pod_node[pods], state.pod[pods]
    now_s, least_s = f[:, kn.CREATED].max(), least[pods]
    started_s = when[:, kn.STARTED_S]
    waits = np.isnan(started_s)
    end_s = np.where(np.isnan(when[:, kn.FINISHED_S]), started_s + state.foreseen_s(flat, pods), when[:, kn.FINISHED_S])
    end_s = np.where(waits, now_s + least_s, end_s)
    run_s = np.where(waits, least_s, end_s - started_s)
    node = flat.node_f[row]
    watts = f[:, kn.CPU] / node[:, kn.CPU_ROOM] * np.maximum(node[:, kn.PEAK] - node[:, kn.IDLE], 0.0)
    wants, room = f[:, [kn.CPU, kn.MEM, kn.GPU]], np.maximum(node[:, [kn.CPU_ROOM, kn.MEM_ROOM, kn.GPU_ROOM]], 1.0)
    share = (wants / room).max(axis=1)
    held = watts * flat.settings[kn.ENERGY] + cost.node_cents(share, 1.0, 1.0) * node[:, kn.PRICE]
    late = f[:, kn.LATE] * (end_s > f[:, kn.DEADLINE])
    return float((f[:, kn.DELAY] * (end_s - f[:, kn.CREATED]) + late + np.where(waits, 0.0, held * run_s)).sum())


def _player(flat: Flat) -> Step:
    """`compiled.run.simulate` with `economic`, its kernel looked up once: here it is called five times a pod."""
    kernel, number = rules.player(ECONOMIC)
    n, arrays = len(flat.node_f), flat.arrays()
    scratch = (np.zeros(n, np.bool_), np.zeros((3, len(flat.col_factor))), np.zeros(n), np.zeros(n, np.float32))

    def step(state: State, until: int) -> State:
        kernel(arrays, state.arrays(), (number, True, *scratch), until, True)
        return state

    return step


def _with_own_mask(flat: Flat) -> Flat:
    """With one more row of nodes that a pod may go to, and arrays that may be written."""
    return replace(flat, masks=np.vstack([flat.masks, flat.masks[:1]]), pod_i=flat.pod_i.copy())
