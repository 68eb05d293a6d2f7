"""What a recording tells of run times: alone, slowed by neighbours, and elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.estimator import Observation, RunTimeEstimator
from nodewise.core.types import CostRates
from nodewise.kube.snapshot import Snapshot
from nodewise_simulator import scenarios
from nodewise_simulator.advise.alone import GRID, Stay, alone
from nodewise_simulator.advise.check import record
from nodewise_simulator.advise.record import Recording, recording
from nodewise_simulator.advise.truth import Truth, truth
from nodewise_simulator.world import QUANTUM_S, World

SENSITIVITY = 8  # of GRID: 0.4


def alike(sensitivity: float, seed: int = 1, pods: int = 700) -> World:
    """A world in which neighbours slow every pod alike."""
    made = scenarios.make(f"hetero@load=0.85,pods={pods},warm=100", seed)
    return replace(made, pods=tuple(replace(p, sensitivity=sensitivity) for p in made.pods))


@pytest.fixture(scope="module")
def world() -> World:
    return alike(float(GRID[SENSITIVITY]))


@pytest.fixture(scope="module")
def whole(world: World) -> Snapshot:
    return record(world)[0]


@pytest.fixture(scope="module")
def cut(world: World) -> Snapshot:
    """The same, seen until the 500th pod came; the last ten still wait."""
    seen = record(world, until_s=world.pods[500].request.created_s)[0]
    waiting = [
        msgspec.structs.replace(p, fate="waiting", node="", bound_s=None, started_s=None, finished_s=None)
        for p in seen.pods[-10:]
    ]
    return msgspec.structs.replace(seen, pods=[*seen.pods[:-10], *waiting])


def test_time_alone_is_worked_by_hand() -> None:
    # 0 to 10 alone, 10 to 20 beside one that requests half of the node.
    made = alone(
        [Stay(0, 0.0, 20.0, 1000.0), Stay(0, 10.0, 30.0, 2000.0), Stay(1, 0.0, 5.0, 1.0)], np.full(2, 4e3), 99.0
    )
    np.testing.assert_allclose(made.whole_s[0], 10.0 + 10.0 / (1.0 + GRID * 0.5))
    np.testing.assert_allclose(made.whole_s[1], 10.0 / (1.0 + GRID * 0.25) + 10.0)
    np.testing.assert_allclose(made.whole_s[2], 5.0)
    np.testing.assert_allclose((made.pressure_at_start[:2], made.pressure_at_end[:2]), [[0.0, 0.25], [0.5, 0.0]])


def test_only_what_comes_after_the_windows_start_counts_as_since() -> None:
    made = alone(
        [Stay(0, -30.0, 20.0, 1.0), Stay(0, -9.0, math.nan, 1.0), Stay(-1, 0.0, 9.0, 1.0)], np.array([4e9]), 50.0
    )
    np.testing.assert_allclose(made.whole_s[:, 0], [50.0, 59.0, 0.0])
    np.testing.assert_allclose(made.since_s[:, 0], [20.0, 50.0, 0.0])


def test_time_alone_of_a_recording_is_the_true_one(world: World, whole: Snapshot) -> None:
    made = recording(whole)
    true_s = {p.request.uid: p.true_run_s for p in world.pods}
    everyone = (*made.pods, *made.past)
    assert len(everyone) == len(world.pods)
    for k, pod in enumerate(everyone):
        expected_s = true_s[pod.request.uid][world.class_of[made.nodes[pod.node].node_class]]
        assert made.alone.whole_s[k, SENSITIVITY] == pytest.approx(expected_s, abs=4 * QUANTUM_S)


def test_contention_is_found_where_it_is_and_not_where_there_is_none(whole: Snapshot) -> None:
    _, low, high = truth(recording(whole), CostRates()).contention.interval
    assert low <= GRID[SENSITIVITY] <= high
    assert low > 0.0
    assert high < 0.8
    middle, low, high = truth(recording(record(alike(0.0))[0]), CostRates()).contention.interval
    assert (middle, low) == (0.0, 0.0)
    assert high <= 0.3


@pytest.fixture(scope="module")
def made(cut: Snapshot) -> Recording:
    return recording(cut)


@pytest.fixture(scope="module")
def about(made: Recording) -> Truth:
    return truth(made, CostRates())


def test_what_was_seen_stays_as_it_was_and_what_was_not_varies(made: Recording, about: Truth) -> None:
    draws = [about.world(seed) for seed in range(30)]
    ended = [k for k, p in enumerate(made.pods) if p.ended and not p.stays]
    running = [k for k, p in enumerate(made.pods) if p.fate == "running" and not p.stays]
    waiting = [k for k, p in enumerate(made.pods) if p.fate == "waiting"]
    assert len(ended) > 100
    assert len(running) > 10
    for k in ended + running:
        own = about.column[k]
        for draw in draws:
            index = int(np.searchsorted(GRID, draw.pods[k].sensitivity - 1e-9))
            seen_s = made.alone.whole_s[k, index]
            run_s = draw.pods[k].true_run_s[own]
            assert run_s >= seen_s - 1e-6 if k in running else run_s == pytest.approx(seen_s)
    times = np.log([[d.pods[k].true_run_s for k in ended[:50]] for d in draws])  # [draws, pods, C]
    elsewhere = np.delete(times.std(axis=0)[0], about.column[ended[0]])
    assert elsewhere.min() > 0.02
    for k in waiting[:5]:
        assert np.std([np.log(d.pods[k].true_run_s) for d in draws]) > 0.1


def test_residents_have_the_rest_of_their_run_left(made: Recording, about: Truth) -> None:
    residents = [k for k, p in enumerate(made.pods) if p.stays]
    assert residents
    draw = about.world(1)
    for k in residents:
        pod = made.pods[k]
        assert pod.request.created_s == -1.0
        if pod.ended:
            assert draw.pods[k].true_run_s.max() <= pod.finished_s + 1.0 + 1e-6


def test_cells_are_drawn_as_uncertain_as_they_are(about: Truth, made: Recording) -> None:
    """A waiting pod's log run has the cell's and the run's variance, and the mean that was learned."""
    k = next(k for k, p in enumerate(made.pods) if p.fate == "waiting" and about.observations[about.row[k]].max() > 3)
    row = about.row[k]
    logs = np.log([about.world(seed).pods[k].true_run_s for seed in range(400)]) - about.log_scale[k]
    expected = np.sqrt(np.square(about.mean_sd[row]) + about.noise_sd[row] ** 2)
    shift = about.shift[row]  # [C, S]: what contention costs is drawn too
    np.testing.assert_allclose(logs.std(axis=0), expected, rtol=0.25)
    assert (np.abs(logs.mean(axis=0) - about.log_mean[row]) < 0.1 + np.abs(shift).max(axis=1)).all()


def test_posterior_is_what_beliefs_are_made_of() -> None:
    estimator = RunTimeEstimator()
    rng = np.random.default_rng(0)
    for k in range(300):
        estimator.learn(Observation(str(k), f"w{k % 3}", False, f"c{k % 2}", float(rng.lognormal(3.0, 0.3)), 1.0))
    estimator.column("never")
    beliefs, posterior = estimator.beliefs(), estimator.posterior()
    noise = posterior.noise_sd[:, None]
    np.testing.assert_allclose(np.exp(posterior.log_mean + 0.5 * noise**2), beliefs.run_mean)
    np.testing.assert_allclose(beliefs.run_mean * np.sqrt(np.expm1(noise**2 + posterior.mean_sd**2)), beliefs.run_std)
    seen = posterior.observations > 0
    # 50 runs that scatter by 0.3: known to 0.3 ÷ √50, and the scatter itself to a few percent.
    np.testing.assert_allclose(posterior.mean_sd[seen], 0.3 / math.sqrt(50), rtol=0.25)
    np.testing.assert_allclose(posterior.noise_sd, 0.3, rtol=0.15)
    assert posterior.mean_sd[~seen].min() > 0.3


def test_a_recording_without_anything_to_learn_from_is_refused(whole: Snapshot) -> None:
    with pytest.raises(UserError, match="no nodes"):
        recording(msgspec.structs.replace(whole, nodes=[]))
    with pytest.raises(UserError, match="no finished or waiting pods"):
        recording(msgspec.structs.replace(whole, pods=[]))
    with pytest.raises(UserError, match="earlier --since"):
        recording(whole, since_s=whole.end_s + 1.0)
    broken = msgspec.structs.replace(whole.pods[0], manifest={"metadata": {}})
    with pytest.raises(UserError, match="would not accept"):
        recording(msgspec.structs.replace(whole, pods=[broken]))
    with pytest.raises(UserError, match="estimator is not one of ours"):
        recording(msgspec.structs.replace(whole, estimator={"workloads": []}))
