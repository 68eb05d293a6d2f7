"""Policies side by side on the same worlds: common random numbers, paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator import scenarios
from nodewise_simulator.metrics import UNITS, Result
from nodewise_simulator.run import check_bundle, play, resolve
from nodewise_simulator.workers import Workers

_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One number of a comparison, with its 95 % interval over seeds."""

    scenario: str
    policy: str
    metric: str
    unit: str
    mean: float
    low: float
    high: float
    seeds: int

    def as_dict(self) -> dict[str, object]:
        """The row as every `--output json` document holds it."""
        return asdict(self)


def run_seed(scenario: str, seed: int, policies: Sequence[str], bundle: Path | None = None) -> list[Result]:
    """All policies on the world of one seed. Raises UserError for an unknown scenario, policy or bundle."""
    found = [resolve(name, bundle) for name in policies]
    world = scenarios.make(scenario, seed)
    return [play(world, policy, oracle=oracle)[0] for policy, oracle in found]


def compare(
    scenario: str,
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    baseline: str = "",
    bundle: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Every policy on the world of every seed.

    `baseline` (default: the first policy) is what `cost_ratio` is to; `jobs` processes share the seeds; `progress` is
    called with (seeds done, seeds). Raises UserError before anything runs if an argument is wrong.
    """
    baseline = baseline or policies[0]
    if baseline not in policies:
        raise UserError(f"baseline {baseline!r} is not among the compared policies; add it to --policies")
    if len(set(policies)) != len(policies):
        raise UserError("--policies names a policy twice; name each once")
    check_bundle(policies, bundle)
    for name in policies:
        resolve(name, bundle)
    scenarios.make(scenario, seeds[0])
    results: dict[int, list[Result]] = {}
    if jobs <= 1 or len(seeds) == 1:
        for k, seed in enumerate(seeds):
            results[seed] = run_seed(scenario, seed, policies, bundle)
            if progress:
                progress(k + 1, len(seeds))
    else:
        with Workers(jobs) as workers:
            futures = {workers.submit(run_seed, scenario, seed, list(policies), bundle): seed for seed in seeds}
            for k, future in enumerate(as_completed(futures)):
                results[futures[future]] = future.result()
                if progress:
                    progress(k + 1, len(seeds))
    return rows_of(scenario, policies, [results[seed] for seed in seeds], baseline)


def rows_of(scenario: str, policies: Sequence[str], results: Sequence[Sequence[Result]], baseline: str) -> list[Row]:
    """The rows of results [seed][policy]: each metric with its interval, and `cost_ratio` to the baseline."""
    made: list[Row] = []
    costs = {name: np.array([run[k].metrics["cost"] for run in results]) for k, name in enumerate(policies)}
    for k, name in enumerate(policies):
        for metric, unit in UNITS.items():
            values = np.array([run[k].metrics.get(metric, np.nan) for run in results])
            if np.isnan(values).any():
                continue
            made.append(Row(scenario, name, metric, unit, float(values.mean()), *interval(values), len(values)))
        ratio = float(costs[name].mean() / costs[baseline].mean())
        low, high = ratio_interval(costs[name], costs[baseline])
        made.append(Row(scenario, name, "cost_ratio", f"to {baseline}", ratio, low, high, len(results)))
    return made


def interval(values: Floats) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds (percentiles of 10,000 resamples, always the same ones)."""
    means = values[_resamples(len(values))].mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def ratio_interval(values: Floats, baseline: Floats) -> tuple[float, float]:
    """95 % paired bootstrap interval of the ratio of totals: both sides are resampled by the same seeds."""
    picks = _resamples(len(values))
    ratios = values[picks].sum(axis=1) / baseline[picks].sum(axis=1)
    return float(np.percentile(ratios, 2.5)), float(np.percentile(ratios, 97.5))


def _resamples(n: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
