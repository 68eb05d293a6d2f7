"""What a placement cost, as a learner is told: expected cents, with what nobody could foresee taken out.

Two ideas against the noise that stands between a rollout and the gradient in it:

- *Expected-cost reward.* A pod's run time has a part of its own that no placement changes. Its cost is therefore not
  what it came to, but its expectation over that part, given the contention that it met.
- *Difference reward* (Wolpert and Tumer, "Optimal payoff functions for members of collectives", 2001). A decision is
  charged with its own pod's cost and with what that pod did to all others, then and later: the cost that would not be
  there without it. Those on its node it slowed; those that its room would have suited went elsewhere. The engine adds
  that up as it goes (`compiled.credit`).

The baseline is the mean of what the same pod cost in the other rollouts of the same trace (leave-one-out; Mao et al.,
"Variance reduction for reinforcement learning in input-driven environments", ICLR 2019; Kool et al. 2019).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat
from nodewise_simulator.compiled.run import State

_MOST_TAUGHT = 3.0
"""Early on a first observation would outweigh everything else many times over."""


def expected_cents(flat: Flat, state: State, pods: NDArray[np.int64]) -> Floats:
    """Expected cost of pods that are bound [len(pods)]; of one that still runs, as it is foreseen now."""
    f, row = flat.pod_f[pods], state.pod_node[pods]
    begun_s, ended_s = state.pod[pods, kn.STARTED_S], state.pod[pods, kn.FINISHED_S]
    run_s = np.where(np.isnan(ended_s), state.foreseen_s(flat, pods), ended_s - begun_s)
    median_s = run_s / f[:, kn.FACTOR]
    sigma = np.maximum(f[:, kn.NOISE], kn.LEAST_NOISE)
    mean_s = median_s * np.exp(f[:, kn.NOISE] ** 2 / 2.0)
    slack_s = np.maximum(f[:, kn.DEADLINE] - begun_s, 1e-3)
    late = torch.special.ndtr(torch.from_numpy((np.log(median_s) - np.log(slack_s)) / sigma)).numpy()
    node = flat.node_f[row]
    room = np.maximum(node[:, : kn.GPU_ROOM + 1], 1.0)
    share = (f[:, [kn.CPU, kn.MEM, kn.GPU]] / room).max(axis=1)
    watts = f[:, kn.CPU] / room[:, kn.CPU_ROOM] * np.maximum(node[:, kn.PEAK] - node[:, kn.IDLE], 0.0)
    flow_s = begun_s - f[:, kn.CREATED] + np.where(flat.pod_i[pods, kn.ENDS] > 0, mean_s, 0.0)
    cents: Floats = (
        f[:, kn.DELAY] * flow_s + f[:, kn.LATE] * late + watts * mean_s * flat.settings[kn.ENERGY]
        + share * node[:, kn.PRICE] * mean_s * (100.0 / 3600.0)
    )  # fmt: skip
    return cents


def to_others_cents(state: State, pods: NDArray[np.int64], information: float) -> Floats:
    """What pods cost all others [len(pods)], in cents.

    That is harm on their nodes, what later pods lost for want of their room, less `information` × what their runs
    taught: the knowledge gradient of their workload on the class of their node when they were bound, over all pods of
    the workload, at most `_MOST_TAUGHT`.
    """
    taught = np.minimum(information * state.pod[pods, kn.TAUGHT], _MOST_TAUGHT)
    cents: Floats = state.pod[pods, kn.HARM] + state.pod[pods, kn.DISPLACED] - taught
    return cents


def leave_one_out(costs: Floats) -> Floats:
    """Advantage [G, P] of costs [G, P] of the same P pods in G >= 2 rollouts: how much less than in the others.

    A pod that was not decided in a rollout is nan there, and nan in the result.
    """
    known = ~np.isnan(costs)
    total, number = np.where(known, costs, 0.0).sum(axis=0), known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        others: Floats = np.where(number > 1, (total - costs) / (number - 1), np.nan)
    return others - costs


def normalised(advantage: Floats, limit: float) -> Floats:
    """Divided by their own standard deviation, nan left out, and cut at ± `limit` of them."""
    spread = float(np.nanstd(advantage))
    return np.clip(advantage / max(spread, 1e-9), -limit, limit)
