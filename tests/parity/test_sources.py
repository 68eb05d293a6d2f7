"""The scenarios of the source systems against what was published, or measured, of them: a test per row."""

import itertools

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.run import simulate
from nodewise_simulator.sources import STUDIES, pull_bounds

_STUDIES = {study.name: study for study in STUDIES}


def means(study: str, policy: str, seeds: range | tuple[int, ...], **options: float | str) -> dict[str, float]:
    """Every metric's mean over seeds."""
    found = _STUDIES[study]
    runs = [found.play(policy, seed, **options) for seed in seeds]
    assert all(run.keys() == found.units.keys() for run in runs)
    return {metric: float(np.mean([run[metric] for run in runs])) for metric in found.units}


def headline(study: str, policy: str, seeds: range | tuple[int, ...], **options: float | str) -> float:
    return means(study, policy, seeds, **options)[_STUDIES[study].headline]


def test_s0a_round_robin_38_least_work_13_66_and_the_optimum_13_25() -> None:
    expected = {
        "round-robin": (38.03, 0.248, -38.51), "lwr-wait": (13.66, 0.860, -14.92),
        "earliest-finish-time": (13.25, 1.0, 0),
    }  # fmt: skip
    for policy, (completion, agreement, reward) in expected.items():
        found = means("S0a", policy, range(3))
        assert found["completion_mean"] == pytest.approx(completion, rel=0.03)
        assert found["agreement"] == pytest.approx(agreement, abs=0.015)
        assert found["violated"] == pytest.approx(0.332, abs=0.015)  # a column of the table, whatever is chosen
        if reward:
            assert found["reward_a"] == pytest.approx(reward, rel=0.05)


def test_s0a_a_dqn_of_one_episode_is_behind_the_rule_that_its_source_compares_it_with() -> None:
    """The source's 50 and 60 episodes take half a minute: README."""
    for policy in ("dqn-a", "dqn-b"):
        least_work, learned, blind = (headline("S0a", name, (0,), **o) for name, o in (
            ("lwr-wait", {}), (policy, {"episodes": 1}), ("round-robin", {})
        ))  # fmt: skip
        assert least_work < learned < 0.6 * blind


def test_s0b_round_robin_5_82_least_work_4_18_drift_4_40_regression_and_the_optimum_3_857() -> None:
    expected = {
        "round-robin": (5.82, 0.630, -8.97), "lwr-load": (4.18, 0.433, -6.34), "drift-aware": (4.40, 0.467, -6.74),
        "earliest-finish-time": (3.857, 0.386, 0),
    }  # fmt: skip
    for policy, (completion, violated, reward) in expected.items():
        found = means("S0b", policy, range(3))
        assert found["completion_mean"] == pytest.approx(completion, rel=0.01)
        assert found["violated"] == pytest.approx(violated, abs=0.01)
        if reward:
            assert found["reward_2"] == pytest.approx(reward, rel=0.01)
    regression = means("S0b", "regression", (0,))
    assert regression["agreement"] == pytest.approx(0.958, abs=0.025)  # 96.4 % printed, 95.2 % measured
    assert regression["violated"] == pytest.approx(0.3867, abs=0.01)
    assert regression["reward_3"] == pytest.approx(-6.95, rel=0.01)


def test_s0q_means_at_rho_0_8_the_tuned_weight_and_the_pooled_bound() -> None:
    found = {name: headline("S0q-array", name, range(1, 4)) for name in _STUDIES["S0q-array"].policies}
    assert found["round-robin"] == pytest.approx(575.0, rel=0.15)  # unstable: grows with the trace
    for policy, mean in (
        ("join-shortest-queue", 6.20), ("lwr-wait", 5.49), ("earliest-finish-time", 5.43), ("tuned-index", 5.245),
        ("pooled-srpt", 3.68),
    ):  # fmt: skip
        assert found[policy] == pytest.approx(mean, rel=0.04), policy
    assert found["tuned-index"] / found["earliest-finish-time"] == pytest.approx(5.245 / 5.43, abs=0.006)
    assert 3.0 <= means("S0q-array", "tuned-index", (1,))["weight"] <= 5.0
    assert found["bound"] <= found["pooled-srpt"] < found["tuned-index"]


def test_s0q_as_arrays_agrees_with_the_world() -> None:
    """They differ by what a score of 0–100 cannot tell apart."""
    world = simulate("S0q@pods=500,warm=50", "earliest-finish-time-oracle", 1).metrics
    array = means("S0q-array", "earliest-finish-time", (1,), pods=500, warm=50)
    assert array["response_mean"] == pytest.approx(world["completion_mean"], rel=0.01)
    assert array["sla"] == pytest.approx(world["sla"], abs=0.01)


def test_s1_longest_first_48_90_and_47_78_against_the_bound_47_194() -> None:
    for policy, seconds in (("lpt-pull", 48.90), ("lpt-earliest-completion", 47.78), ("bound", 47.194)):
        assert headline("S1", policy, range(2)) == pytest.approx(seconds, abs=0.005)
    best = means("S1", "milp", (0,), limit_s=2.0)
    assert 47.19 <= best["proved"] <= best["makespan"] <= 47.776


def test_s1_rules_as_coded_60_81_repaired_89_44_random_74_and_the_untrained_net_72_6() -> None:
    for policy, seconds, spread in (("random", 74.10, 12.33), ("greedy", 60.81, 3.78), ("untrained", 72.60, 14.38)):
        assert headline("S1", policy, range(30)) == pytest.approx(seconds, abs=3.0 * spread / 30**0.5)
    for policy in ("greedy", "matching", "sjf"):
        assert headline("S1", policy, (0, 1)) == headline("S1", "greedy", (0, 1))  # alike where speeds are separable
        assert headline("S1", f"{policy}-repaired", (0, 1)) == pytest.approx(89.44, abs=0.005)


def test_s1r_ratios_to_the_bound_over_50_random_queues() -> None:
    expected = {
        "random": (1.500, 0.12), "greedy-repaired": (1.762, 0.09), "untrained": (1.413, 0.12),
        "lpt-pull": (1.023, 0.003), "lpt-earliest-completion": (1.018, 0.003), "bound": (1.0, 1e-12),
    }  # fmt: skip
    for policy, (ratio, spread) in expected.items():
        assert headline("S1r", policy, range(50)) == pytest.approx(ratio, abs=spread), policy


def test_s1_affinity_leaves_longest_first_well_above_the_bound() -> None:
    """Ours, not the source's: here a task's node matters, and noise that nobody sees."""
    policies = ("random", "matching-repaired", "lpt-pull", "lpt-earliest-completion", "bound")
    found = {name: headline("S1-affinity", name, range(5)) for name in policies}
    assert 1.0 == found["bound"] < found["lpt-earliest-completion"] < found["lpt-pull"] < found["random"]
    assert found["lpt-earliest-completion"] > 1.1


def test_the_mixed_integer_programme_is_the_best_of_all_assignments() -> None:
    time_s = np.random.default_rng(3).uniform(1.0, 9.0, (6, 3))
    best = min(pull_bounds.makespan(time_s, np.array(a)) for a in itertools.product(range(3), repeat=6))
    nodes, proved = pull_bounds.mixed_integer(time_s, 10.0)
    assert pull_bounds.makespan(time_s, nodes) == pytest.approx(best)
    assert proved == pytest.approx(best, rel=1e-3)
    assert pull_bounds.linear_bound(time_s) <= best


def test_s2_ties_in_time_and_sla_and_differs_in_dynamic_energy_only() -> None:
    expected = {
        "random": (95.9, 6255.0, 3.5), "round-robin": (96.0, 6255.1, 0.1), "priority-minmin": (107.0, 6266.1, 0.1),
        "marl-without-net": (100.7, 6259.4, 0.6), "least-watts": (46.6, 6205.7, 0.1),
    }  # fmt: skip
    for policy, (dynamic, total, spread) in expected.items():
        found = means("S2", policy, range(20, 30))
        assert found["energy_dynamic"] == pytest.approx(dynamic, abs=spread), policy
        assert found["energy_total"] == pytest.approx(total, abs=spread), policy
        assert found["completion_mean"] == pytest.approx(19.3, abs=0.05)
        assert (found["sla"], found["completed"]) == (1.0, 1000.0)


def test_s2_nets_that_never_learn_change_next_to_nothing_and_the_fluid_bound_holds() -> None:
    """Episode 20: the best known is 48.6 Wh; the published bound of 33.5 is looser than the fluid's."""
    marl, without = (headline("S2", name, (20,)) for name in ("marl", "marl-without-net"))
    assert marl == pytest.approx(without, abs=5.0)
    assert marl != without
    assert headline("S2", "least-watts", (20,)) == pytest.approx(48.6, abs=0.05)
    assert 33.5 <= headline("S2", "bound", (20,)) <= 48.56


def test_s3_heavy_sums_of_the_published_run() -> None:
    expected = {
        "all-cpu": 4418, "round-robin": 3863, "random": 3729, "greedy": 3518, "all-gpu": 3037, "threshold": 2732,
        "oracle": 2732, "gpu-1.0": 3037, "gpu-0.0": 4418,
    }  # fmt: skip
    assert {name: round(headline("S3-heavy", name, (999,))) for name in expected} == expected
    assert headline("S3-heavy", "forest", (999,), trees=10) == pytest.approx(2740.0, rel=0.003)


def test_s3_live_mean_times_where_the_gpu_is_best_for_every_task() -> None:
    expected = {"round-robin": 0.192, "random": 0.163, "greedy": 0.152, "all-gpu": 0.109, "threshold": 0.109}
    found = {name: means("S3-live", name, range(4)) for name in expected}
    for name, seconds in expected.items():
        assert found[name]["mean_time"] == pytest.approx(seconds, rel=0.10), name
    assert found["all-gpu"] == found["threshold"]
    told = means("S3-live", "all-gpu", (0,), power="simulator")
    assert told["energy"] == pytest.approx(4.0 * means("S3-live", "all-gpu", (0,))["energy"])  # 200 W against 50 W


@pytest.mark.parametrize(
    ("study", "expected", "ratios"),
    [
        (
            "S3q-live",
            {"hash-to-gpu": 3.77, "earliest-finish-time": 0.263, "bound": 0.098},
            {"gpu-least-backlog": 0.519 / 0.263, "oracle-side": 0.519 / 0.263},
        ),
        (
            "S3q-heavy",
            {"hash-to-gpu": 47.8, "gpu-least-backlog": 44.0, "earliest-finish-time": 0.782, "bound": 0.130},
            {"oracle-side": 0.735 / 0.782},
        ),
    ],
)
def test_s3q_mean_responses_at_30_tasks_a_second(
    study: str, expected: dict[str, float], ratios: dict[str, float]
) -> None:
    """Traces are far apart (standard deviation 35 %), policies on the same trace are not: ratios are held closely."""
    seeds = (0, 2)
    for policy, seconds in expected.items():
        assert headline(study, policy, seeds) == pytest.approx(seconds, rel=0.30), policy
    finish_first = headline(study, "earliest-finish-time", seeds)
    for policy, ratio in ratios.items():
        assert headline(study, policy, seeds) / finish_first == pytest.approx(ratio, rel=0.05), policy
    tuned = means(study, "tuned-index", seeds)
    assert tuned["response_mean"] < 0.97 * finish_first
    if study == "S3q-heavy":
        assert tuned["weight"] <= 0.15
        published = headline(study, "tuned-index", seeds, weight=0.15)
        assert published / finish_first == pytest.approx(0.620 / 0.782, rel=0.05)
        assert tuned["response_mean"] <= published


def test_s4_gives_the_published_numbers_to_two_decimals() -> None:
    expected = {
        "threshold": 12.97, "all-cpu": 12.97, "round-robin": 56.87, "random": 67.14, "greedy": 18.30, "all-gpu": 122.92
    }  # fmt: skip
    assert {name: round(headline("S4", name, (99,)), 2) for name in expected} == expected
    assert headline("S4", "forest-biased", (99,), trees=3) == pytest.approx(122.92, abs=0.005)
    assert headline("S4", "forest", (99,), trees=10) == pytest.approx(13.42, rel=0.04)
    head = {"threshold": 2.24, "round-robin": 29.32, "random": 36.89, "greedy": 44.66}
    assert {name: round(headline("S4", name, (99,), generator="head"), 2) for name in head} == head


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_study_says_whose_each_policy_is_and_refuses_others(study: object) -> None:
    found = _STUDIES[study.name]  # type: ignore[attr-defined]
    assert all(says.startswith(("as coded", "repaired", "ours", "bound")) for says in found.policies.values())
    assert found.headline in found.units
    with pytest.raises(UserError, match=f"scenario {found.name} has no policy 'nobody'; choose one of"):
        found.play("nobody", 0)
