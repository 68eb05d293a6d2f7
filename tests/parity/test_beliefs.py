"""The compiled estimator against that of `nodewise.core`, and what one more observation is worth to it."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.types import PodRequest
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import beliefs
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.world import SimPod, node_manifest, pod_manifest, sim_pod, world

VAR, NOISE_VAR = 0.09, 0.16
"""Of the log of a run time: of its believed mean, and of one run about it."""


@pytest.mark.parametrize("seed", range(3))
def test_beliefs_are_those_of_the_estimator(seed: int, pod_of: Callable[..., PodRequest]) -> None:
    rng = np.random.default_rng(seed)
    estimator = RunTimeEstimator()
    columns = [estimator.column(f"class-{k}") for k in range(4)]
    told = [math.nan, 60.0, math.nan, 30.0, math.nan, math.nan]
    rows = [estimator.row(pod_of(workload=f"w{k}", expected_run_s=s)) for k, s in enumerate(told)]
    settings = flatten(scenarios.make("hetero@pods=1,warm=0", 1)).settings
    start = estimator.state()
    described = np.array([d for _, d in estimator.workloads])
    cells = np.zeros((beliefs.NOISE_VAR + 1, len(rows), len(columns)))
    learned = [np.array(start[name]) for name in ("row_factor", "col_factor", "row_var", "col_var")]
    odd = (0.0, -1.0, math.inf, math.nan, 1e-9, 1e9)
    for k in range(240):
        row, column = int(rng.integers(5)), int(rng.integers(3) if k < 200 else 3)  # the last row stays unseen
        run = float(rng.lognormal(3.0, 1.0)) if k % 9 else float(rng.choice(odd))
        slowdown = 1.0 + float(rng.random()) if k % 11 else math.inf
        estimator.observe(row, column, run, slowdown)
        beliefs.observe(settings, described, cells, *learned, row, column, run, slowdown)
        if k % 24 in (0, 23):
            beliefs.tables(settings, described, cells, *learned)
            expected = estimator.beliefs()
            np.testing.assert_allclose(cells[beliefs.MEAN], expected.run_mean, rtol=1e-9)
            np.testing.assert_allclose(cells[beliefs.STD], expected.run_std, rtol=1e-9)
            np.testing.assert_allclose(cells[beliefs.COUNT], expected.observations, rtol=1e-9)


# --- what an observation is worth ------------------------------------------------------------------------------------


def worth(means_s: list[float], rates: list[float], is_open: list[int], c: int = 0) -> float:
    """Knowledge gradient of one workload on class c, cents."""
    cells, stakes = np.zeros((beliefs.NOISE_VAR + 1, 1, len(rates))), np.zeros((beliefs.VOLUME + 1, 1, len(rates)))
    cells[beliefs.MEAN, 0], cells[beliefs.MEAN_VAR], cells[beliefs.NOISE_VAR] = means_s, VAR, NOISE_VAR
    stakes[beliefs.RATE, 0], stakes[beliefs.OPEN, 0] = rates, is_open
    return float(beliefs.knowledge_gradient(cells, stakes, 0, c))


def test_of_two_classes_that_are_believed_to_cost_the_same_an_observation_is_worth_the_most() -> None:
    # 3 cents on both; a run moves the belief by 3 * 0.09 / sqrt(0.09 + 0.16) = 0.54 cents, of which E[max(0, Z)] is
    # 1 / sqrt(2 pi).
    assert worth([60.0, 30.0], [0.05, 0.1], [1, 1]) == pytest.approx(0.54 * 0.3989422804, rel=1e-9)
    assert worth([60.0, 33.0], [0.05, 0.1], [1, 1]) < 0.2
    assert worth([60.0, 27.0], [0.05, 0.1], [1, 1]) < 0.2


@pytest.mark.parametrize("other_s", [22.0, 27.0, 31.0, 45.0])
def test_an_observation_is_worth_what_choosing_after_it_saves_on_average(other_s: float) -> None:
    own, other = 60.0 * 0.05, other_s * 0.1
    spread = own * math.sqrt(VAR - 1.0 / (1.0 / VAR + 1.0 / NOISE_VAR))  # by which the posterior mean will differ
    shifts = np.array([NormalDist().inv_cdf((k + 0.5) / 20_000) for k in range(20_000)])
    saved = min(own, other) - np.minimum(own + spread * shifts, other).mean()
    # A third class that costs next to nothing is not open to the workload; a fourth is, and dearer.
    found = worth([60.0, other_s, 1.0, 500.0], [0.05, 0.1, 0.01, 1.0], [1, 1, 0, 1])
    assert found == pytest.approx(saved, abs=1e-5)


def test_where_there_is_no_choice_nothing_is_worth_knowing() -> None:
    assert worth([60.0, 30.0], [0.05, 0.1], [1, 0]) == 0.0


def test_what_is_at_stake_is_the_mean_price_of_a_believed_run_and_none_where_no_node_is_open() -> None:
    nodes = [
        node_manifest("x", cpu_milli=4000, memory_bytes=2.0**30, instance_type="x", price_usd_per_h=3.6),
        node_manifest("y", cpu_milli=4000, memory_bytes=2.0**30, instance_type="y",
                      taints=({"key": "k", "effect": "NoSchedule"},)),
    ]  # fmt: skip

    def pod(name: str, sla: str, cpu: str, expected_s: str) -> SimPod:
        told = {"sla-class": sla, "workload": "w", "expected-seconds": expected_s}
        made = pod_manifest(name, 0.0, {f"nodewise.dev/{key}": value for key, value in told.items()}, {"cpu": cpu})
        return sim_pod(made, np.array([10.0, 10.0]))

    flat = flatten(
        world("t", 0, nodes, ("x", "y"), [pod("a", "production", "2", "30"), pod("b", "batch", "1", "10")], warm=0)
    )
    # Run times are believed as a part of what is expected: 30 s at 1/60 + 0.05 cents, and 10 s at 0.005 + 0.025.
    assert flat.stakes[beliefs.RATE, 0] == pytest.approx([(2.0 + 0.3) / 2, 0.0], rel=1e-12)
    assert flat.stakes[beliefs.OPEN, 0].tolist() == [1.0, 0.0]
    assert flat.stakes[beliefs.VOLUME, 0].tolist() == [2.0, 2.0]
