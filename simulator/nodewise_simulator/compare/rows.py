"""Numbers of a comparison: means with paired bootstrap intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.metrics import UNITS, Result

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


def rows_of(
    scenario: str,
    policies: Sequence[str],
    results: Sequence[Sequence[Result]],
    baseline: str,
    units: Mapping[str, str] = UNITS,
    headline: str = "cost",
) -> list[Row]:
    """The rows of results [seed][policy]: each metric with its interval, and `HEADLINE_ratio` to the baseline."""
    made: list[Row] = []
    values = {name: np.array([run[k].metrics[headline] for run in results]) for k, name in enumerate(policies)}
    for k, name in enumerate(policies):
        for metric, unit in units.items():
            of_metric = np.array([run[k].metrics.get(metric, np.nan) for run in results])
            if np.isnan(of_metric).any():
                continue
            made.append(
                Row(scenario, name, metric, unit, float(of_metric.mean()), *interval(of_metric), len(of_metric))
            )
        total = values[baseline].sum()
        if total != 0.0:
            ratio = float(values[name].sum() / total)
            low, high = ratio_interval(values[name], values[baseline])
            made.append(Row(scenario, name, f"{headline}_ratio", f"to {baseline}", ratio, low, high, len(results)))
    return made


def interval(values: Floats) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds (percentiles of 10,000 resamples, always the same ones)."""
    means = values[_resamples(len(values))].mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def ratio_interval(values: Floats, baseline: Floats) -> tuple[float, float]:
    """95 % paired bootstrap interval of the ratio of totals: both sides are resampled by the same seeds.

    (nan, nan) if a resample of the baseline adds up to zero.
    """
    picks = _resamples(len(values))
    totals = baseline[picks].sum(axis=1)
    if (totals == 0.0).any():
        return float("nan"), float("nan")
    ratios = values[picks].sum(axis=1) / totals
    return float(np.percentile(ratios, 2.5)), float(np.percentile(ratios, 97.5))


def _resamples(n: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
