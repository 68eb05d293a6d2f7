"""When pods arrive: a Poisson process on a sinusoid with bursts, at a given mean rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats

_BURST_RUNS = (0.5, 10.0)
"""Shortest and longest burst, in mean run times; the log of the length is uniform. Never a share of the trace, so that
a longer trace has more bursts and no longer ones."""
_IN_BURST = 0.2
"""Share of the time that is spent in bursts, in the long run."""
_PERIOD_RUNS = (8.0, 24.0)
"""Period of the sinusoid, in mean run times."""
_STEPS_PER_RUN = 32


@dataclass(frozen=True, slots=True)
class Wave:
    """The rhythm of arrivals; times are multiples of `run_s`, the mean run time of a pod."""

    burst: float
    """Factor of the rate in a burst; 1: none."""
    wave: float
    """Amplitude of the sinusoid; 0: none."""
    run_s: float


def arrivals(rng: np.random.Generator, rhythm: Wave, rate: float, warm: int, counted: int) -> Floats:
    """Times of `warm` + `counted` arrivals [s], ascending; the counted ones come at `rate` per second on average.

    The rate is met over the counted part, whatever bursts fall into it (its pods are still Poisson: their number is
    given, their last one's time is not).
    """
    total = warm + counted
    horizon_s = 4.0 * total / rate + 4.0 * _PERIOD_RUNS[1] * rhythm.run_s
    grid_s = np.arange(0.0, horizon_s, rhythm.run_s / _STEPS_PER_RUN)
    period_s, phase = rng.uniform(*_PERIOD_RUNS) * rhythm.run_s, rng.uniform(0.0, 2.0 * math.pi)
    height = 1.0 + rhythm.wave * np.sin(2.0 * math.pi * grid_s / period_s + phase)
    height[_in_burst(rng, grid_s, rhythm.run_s)] *= rhythm.burst
    so_far = np.concatenate([[0.0], np.cumsum(height)[:-1]]) * (grid_s[1] - grid_s[0])
    # The factor at which the counted part takes as long as it should; the time falls as the factor rises.
    low, high = rate / (2.0 * rhythm.burst * (1.0 + rhythm.wave)), 2.0 * rate / (1.0 - rhythm.wave)
    for _ in range(60):
        middle = math.sqrt(low * high)
        begin_s, end_s = np.interp([warm / middle, total / middle], so_far, grid_s)
        low, high = (middle, high) if end_s - begin_s > counted / rate else (low, middle)
    return np.asarray(np.interp(np.cumsum(rng.exponential(1.0, total)) / middle, so_far, grid_s))


def _in_burst(rng: np.random.Generator, grid_s: Floats, run_s: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    low, high = _BURST_RUNS
    mean_runs = (high - low) / math.log(high / low)
    gap_s = mean_runs * run_s * (1.0 - _IN_BURST) / _IN_BURST
    inside = np.zeros(len(grid_s), bool)
    now_s = rng.exponential(gap_s)
    while now_s < grid_s[-1]:
        long_s = run_s * math.exp(rng.uniform(math.log(low), math.log(high)))
        begin, end = np.searchsorted(grid_s, [now_s, now_s + long_s])
        inside[begin:end] = True
        now_s += long_s + rng.exponential(gap_s)
    return inside
