"""Intervals, verdicts and words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nodewise_simulator.advise import gains as gn
from nodewise_simulator.advise.gains import Cell, Gain, Verdict, intervals, thin_cells, verdict
from nodewise_simulator.advise.outcomes import METRICS
from nodewise_simulator.advise.words import number, span

COST = METRICS.index("cost")


def test_intervals_hold_one_more_time_as_often_as_they_say() -> None:
    """Gains of 1, with what a draw has in all pods, what a pod has in all draws, and the rest."""
    rng, held, trials = np.random.default_rng(0), 0, 300
    before = np.full((8, 60, 4), 10.0)
    for _ in range(trials):
        saved = (
            1.0 + rng.normal(0.0, 0.2, (8, 1, 1)) + rng.normal(0.0, 2.0, (1, 60, 1)) + rng.normal(0.0, 0.5, (8, 60, 1))
        )
        gain = intervals(before, before - saved)["completion"]
        once = 1.0 + rng.normal(0.0, 0.2) + rng.normal(0.0, 2.0 / math.sqrt(60))
        held += gain.low <= once <= gain.high
    assert 0.91 <= held / trials <= 0.985


def test_completion_is_a_mean_and_the_others_are_sums() -> None:
    before = np.full((3, 50, 4), 10.0)
    made = intervals(before, before - 2.0)
    assert made["completion"] == Gain("completion", 10.0, 2.0, 2.0, 2.0)
    for metric in METRICS[1:]:
        assert (made[metric].before, made[metric].mean, made[metric].low) == pytest.approx((500.0, 100.0, 100.0))


def test_nobody_saves_more_than_is_spent() -> None:
    before = np.zeros((3, 40, 4))
    before[:, ::8] = 1.0
    made = intervals(before, np.zeros_like(before))["sla_misses"]
    assert made.mean == made.high == made.before == pytest.approx(15.0 / 3.0)
    assert made.low < 5.0


def test_gains_that_come_in_a_few_bursts_are_less_certain_than_scattered_ones() -> None:
    before = np.full((3, 400, 4), 10.0)
    scattered, burst = before.copy(), before.copy()
    scattered[:, ::10] -= 10.0
    burst[:, :40] -= 10.0
    one, other = (intervals(before, after)["cost"] for after in (scattered, burst))
    assert one.mean == other.mean
    assert other.high - other.low > 5.0 * (one.high - one.low)


@pytest.mark.parametrize(
    ("low", "high", "share", "says"),
    [
        (1.0, 9.0, 0.0, Verdict.GAINS),
        (-9.0, -1.0, 0.0, Verdict.LOSES),
        (-1.0, 2.0, 0.0, Verdict.NOTHING),
        (-1.0, 20.0, 0.0, Verdict.UNKNOWN),
        (1.0, 9.0, 0.3, Verdict.UNKNOWN),
        (1.0, 9.0, 0.1, Verdict.GAINS),
    ],
)
def test_verdicts(low: float, high: float, share: float, says: Verdict) -> None:
    thin = [Cell("w", "c", share, 1.0)] if share else []
    assert verdict(Gain("cost", 100.0, (low + high) / 2.0, low, high), thin) is says


def test_thin_cells_are_those_that_the_policy_would_use() -> None:
    observations = np.array([[50.0, 2.0, 0.0], [4.6, 1.0, 9.0]])
    columns = np.array([[0, 1, 0, -1], [0, 1, 1, -1]])  # two draws of four pods
    found = thin_cells([0, 0, 1, 1], columns, observations, ("a", "b"), ("x", "y", "z"))
    assert found == (Cell("a", "y", 0.25, 2.0), Cell("b", "y", 0.125, 1.0))


@pytest.mark.parametrize(("freedom", "says"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (19, 2.093)])
def test_students_t_is_that_of_the_tables(freedom: int, says: float) -> None:
    assert gn._student(freedom) == pytest.approx(says, rel=0.005)


@pytest.mark.parametrize(
    ("value", "says"),
    [(0.0, "0.00"), (-0.001, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (1234.0, "1,230"), (float("nan"), "–")],
)
def test_numbers_have_three_digits(value: float, says: str) -> None:
    assert number(value) == says


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(45.0, "45 s"), (150.0, "2 min 30 s"), (4680.0, "1 h 18 min"), (7200.0, "2 h"), (3 * 86400.0, "3 d")],
)
def test_spans_have_two_units(seconds: float, says: str) -> None:
    assert span(seconds) == says
