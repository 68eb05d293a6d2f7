"""Replays by `economic` on the compiled engine: the same decisions as `replay.replayed`, many times as fast."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator, row_key
from nodewise.core.types import CostRates
from nodewise_simulator.advise.record import Recording
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, flatten
from nodewise_simulator.compiled.run import State, play_rule
from nodewise_simulator.engine import Outcome
from nodewise_simulator.world import World


@dataclass(frozen=True, slots=True)
class Compiled:
    """What all draws of a recording share."""

    flat: Flat
    start: State
    """With what was learned, before the first pod."""
    recording: Recording

    def replayed(self, world: World) -> list[Outcome]:
        """The fate of every pod under `economic`."""
        pods, there = self.recording.pods, [k for k, p in enumerate(self.recording.pods) if p.stays]
        pod_f = self.flat.pod_f.copy()
        pod_f[:, kn.SENSITIVITY] = [p.sensitivity for p in world.pods]
        flat = replace(self.flat, pod_f=pod_f, true_s=np.stack([p.true_run_s for p in world.pods]))
        state = self.start.copy()
        play_rule(flat, state, len(there))
        since_s = state.pod[:, kn.STARTED_S].copy()
        for k in there:
            if pods[k].started_s < 0.0:
                state.pod[k, kn.STARTED_S] = pods[k].started_s
        play_rule(flat, state)
        state.pod[there, kn.STARTED_S] = since_s[there]
        return state.outcomes([n.name for n in world.nodes])


def compiled(world: World, recording: Recording, rates: CostRates) -> Compiled | None:
    """For worlds drawn from this recording; None if the compiled engine does not model something that is in it."""
    there = [k for k, p in enumerate(recording.pods) if p.stays]
    if there != list(range(len(there))):
        return None  # some that stay come later: pods of DaemonSets and the like
    try:
        flat = flatten(world, rates)
    except UserError:
        return None
    masks = np.zeros((len(there), len(world.nodes)), bool)
    pod_i = flat.pod_i.copy()
    for k in there:
        masks[k, recording.pods[k].node] = True
        pod_i[k, kn.MASK] = len(flat.masks) + k
    flat = replace(flat, pod_i=pod_i, masks=np.concatenate([flat.masks, masks]))
    return Compiled(*_learned(flat, world, recording.estimator), recording)


def _learned(flat: Flat, world: World, estimator: RunTimeEstimator) -> tuple[Flat, State]:
    """The arrays, with rows for workloads that only the estimator knows, and a state that knows what it does."""
    keys = list(dict.fromkeys([*(row_key(p.request) for p in world.pods), *estimator.workloads]))
    known = {key: k for k, key in enumerate(estimator.workloads)}
    order = [known[key] for key in keys]
    learned = estimator.state()
    more = len(keys) - flat.stakes.shape[1]
    flat = replace(
        flat,
        described=np.array([described for _, described in keys], bool),
        row_factor=np.array(learned["row_factor"], float)[order],
        col_factor=np.array(learned["col_factor"], float),
        stakes=np.pad(flat.stakes, ((0, 0), (0, more), (0, 0))),
    )
    state = State.start(flat)
    for index, name in ((bl.COUNT, "count"), (bl.SUM, "sum"), (bl.SUM_SQ, "sum_sq")):
        state.cells[index] = np.array(learned[name], float)[order]
    state.row_var[:] = np.array(learned["row_var"], float)[order]
    state.col_var[:] = learned["col_var"]
    return flat, state
