"""Run times that are consistent with the recording, drawn one set after the other.

For draw k every cell (workload, node class) has a median m, drawn from the estimator's posterior of medians (not of
runs). A finished pod keeps what set it apart from the others: log run alone on class c = log run alone as recorded +
m[w, c] - m[w, class where it ran]. So what was seen stays as it was seen in every draw, and what was not seen is as
uncertain as what is known of the two cells. Pods that were not seen to end get the rest of their run from the same
distribution, given that they ran at least as long as was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from nodewise.core.estimator import EstimatorSettings
from nodewise.core.kinds import TREATMENTS
from nodewise.core.types import CostRates, Floats
from nodewise_simulator.advise.alone import GRID
from nodewise_simulator.advise.contention import Contention, contention
from nodewise_simulator.advise.record import Recording, believed_slowdown
from nodewise_simulator.world import QUANTUM_S, SimPod, World

_NORMAL = NormalDist()
_UNSEEN_SD = EstimatorSettings().cell_spread
"""Added to the uncertainty of a cell that nothing was seen of: there the model's shape is believed, not the data."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Everything that draws share. P pods that are played, W rows and C columns of the estimator."""

    recording: Recording
    classes: tuple[str, ...]
    names: tuple[str, ...]  # [W] workloads
    row: list[int]  # [P]
    column: list[int]  # [P] where it ran; -1 if that is not known
    log_scale: Floats  # [P] of the expected time, 0 where none was told
    log_mean: Floats  # [W, C]
    mean_sd: Floats  # [W, C]
    noise_sd: Floats  # [W]
    observations: Floats  # [W, C]
    shift: Floats  # [W, C, S] of `log_mean`, for each sensitivity: what the estimator took off was a guess
    contention: Contention
    horizon_s: float

    def world(self, seed: int) -> World:
        """The recorded arrivals with one draw of everything that was not seen."""
        rng = np.random.default_rng([seed, 17])
        _, own = self.contention.draw(rng)
        rows = np.arange(len(self.log_mean))
        medians = self.log_mean + self.shift[rows, :, own] + rng.normal(0.0, 1.0, self.mean_sd.shape) * self.mean_sd
        pods = tuple(
            self._pod(k, medians, own[self.row[k]], float(rng.uniform())) for k in range(len(self.recording.pods))
        )
        return World("recording", seed, self.recording.node_manifests, self.recording.nodes, self.classes, pods, warm=0)

    def _pod(self, index: int, medians: Floats, sensitivity: int, uniform: float) -> SimPod:
        seen, column, row = self.recording.pods[index], self.column[index], self.row[index]
        made = self.recording.alone
        whole_s, since_s = float(made.whole_s[index, sensitivity]), float(made.since_s[index, sensitivity])
        if not TREATMENTS[seen.request.kind].ends:
            stays_s = seen.finished_s if seen.finished_s == seen.finished_s else math.inf
            begin_s = max(seen.request.created_s, seen.started_s)  # the first, if the second is nan
            left_s = min(stays_s, self.recording.length_s + self.horizon_s) - begin_s
            return SimPod(seen.manifest, seen.request, np.full(len(self.classes), max(left_s, QUANTUM_S)), 0.0)
        there = medians[row] + self.log_scale[index]  # [C] log of the median run
        if seen.ended and column >= 0:
            apart = math.log(max(whole_s, QUANTUM_S)) - there[column]
        else:
            at_least = (math.log(max(whole_s, 1e-9)) - there[column]) / self.noise_sd[row] if column >= 0 else -math.inf
            apart = self.noise_sd[row] * _beyond(at_least, uniform)
        run_s = np.exp(there + apart)
        if seen.stays:
            # It comes as it is: what it did before is done, on the node where it is.
            run_s = np.full(len(self.classes), float(run_s[column]) - (whole_s - since_s)) - seen.request.created_s
        return SimPod(seen.manifest, seen.request, np.maximum(run_s, QUANTUM_S), float(GRID[sensitivity]))


def _beyond(least: float, uniform: float) -> float:
    """A standard normal draw that is at least so much, from a uniform one."""
    if least > 6.0:
        return math.sqrt(least**2 - 2.0 * math.log(max(1.0 - uniform, 1e-300)))
    below = _NORMAL.cdf(least)
    return _NORMAL.inv_cdf(min(max(below + (1.0 - below) * uniform, 1e-12), 1.0 - 1e-12))


def truth(recording: Recording, rates: CostRates) -> Truth:
    """What the recording and its estimator say of every cell."""
    estimator = recording.estimator
    posterior = estimator.posterior()
    every = (*recording.pods, *recording.past)
    row = [estimator.row(p.request) for p in every]
    column = [estimator.column(recording.nodes[p.node].node_class) if p.node >= 0 else -1 for p in every]
    told = np.array([p.request.expected_run_s for p in every])
    log_scale = np.where(np.isnan(told), 0.0, np.log(np.where(np.isnan(told), 1.0, told)))
    teach = [
        k for k, p in enumerate(every)
        if p.ended and p.fate == "succeeded" and column[k] >= 0 and TREATMENTS[p.request.kind].teaches_speed
    ]  # fmt: skip
    whole_s = np.maximum(recording.alone.whole_s[teach], QUANTUM_S)
    run_s = np.array([every[k].finished_s - every[k].started_s for k in teach])
    of_row, of_column = np.array(row, int)[teach], np.array(column, int)[teach]
    c = len(estimator.node_classes)
    log_slope = (
        np.log(run_s)[:, None] - np.log(whole_s) - np.log1p(recording.alone.pressure_at_end[teach][:, None] * GRID)
    )
    found = contention(
        np.log(whole_s) - log_scale[teach][:, None], log_slope, of_row, of_row * c + of_column, len(posterior.log_mean)
    )
    guessed = np.array([believed_slowdown(every[k], recording.alone.pressure_at_start[k], rates) for k in teach])
    over = np.log(guessed)[:, None] - (np.log(run_s)[:, None] - np.log(whole_s))  # [n, S]
    unseen = posterior.observations < 0.5
    return Truth(
        recording=recording,
        classes=estimator.node_classes,
        names=tuple(workload for workload, _ in estimator.workloads),
        row=row[: len(recording.pods)],
        column=column[: len(recording.pods)],
        log_scale=log_scale[: len(recording.pods)],
        log_mean=posterior.log_mean,
        mean_sd=np.sqrt(np.square(posterior.mean_sd) + np.where(unseen, _UNSEEN_SD**2, 0.0)),
        noise_sd=posterior.noise_sd,
        observations=posterior.observations,
        shift=_shift(over, of_row, of_column, posterior.log_mean.shape),
        contention=found,
        horizon_s=rates.service_horizon_s,
    )


def _shift(over: Floats, row: Floats, column: Floats, shape: tuple[int, ...]) -> Floats:
    """Mean of `over` [n, S] in each cell; where there is none, in its row, else everywhere [W, C, S]."""
    made = np.zeros((*shape, len(GRID)))
    if len(over):
        made += over.mean(axis=0)
    for w in np.unique(row):
        made[w] = over[row == w].mean(axis=0)
        for c in np.unique(column[row == w]):
            made[w, c] = over[(row == w) & (column == c)].mean(axis=0)
    return made
