"""HEFT and PEFT: ranks, the order of jobs and pods, and how long a job takes."""

import json
from pathlib import Path

import numpy as np
import pytest

from nodewise.policies import POLICIES
from nodewise_simulator import dag, scenarios
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.run import play
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World

_COSTS = [
    [14, 16, 9], [13, 19, 18], [11, 13, 19], [13, 8, 17], [12, 13, 10], [13, 16, 9], [7, 15, 11], [5, 11, 14],
    [18, 12, 20], [21, 7, 16],
]  # fmt: skip
_EDGES = {
    0: [(1, 18), (2, 12), (3, 9), (4, 11), (5, 14)], 1: [(7, 19), (8, 16)], 2: [(6, 23)], 3: [(7, 27), (8, 23)],
    4: [(8, 13)], 5: [(7, 15)], 6: [(9, 17)], 7: [(9, 11)], 8: [(9, 13)],
}  # fmt: skip


def test_upward_ranks_are_those_of_the_example_that_heft_was_published_with() -> None:
    found = dag.upward_rank(np.array(_COSTS, float), [_EDGES.get(k, []) for k in range(10)])
    published = [108, 77, 80, 80, 69, 63.333, 42.667, 35.667, 44.333, 14.667]
    np.testing.assert_allclose(found, published, atol=5e-4)


def test_the_optimistic_cost_is_the_dearest_child_at_its_best_processor() -> None:
    # 0 hands to 1 (cost 4) and 2 (cost 1); both hand to 3 (cost 2)
    run_s = np.array([[1.0, 1.0], [10.0, 3.0], [2.0, 6.0], [5.0, 5.0]])
    found = dag.optimistic_cost(run_s, [[(1, 4.0), (2, 1.0)], [(3, 2.0)], [(3, 2.0)], []])
    # After 1 and 2: 5 s wherever. After 0 at the first processor 1 moves over (4 + 3 + 5), at the second it stays.
    assert found.tolist() == [[12, 8], [5, 5], [5, 5], [0, 0]]
    with pytest.raises(ValueError, match="circle"):
        dag.optimistic_cost(run_s[:2], [[(1, 0.0)], [(0, 0.0)]])


def two_jobs(folder: Path) -> World:
    """Three stages: the first and the long second wait for nobody, the third waits for the first."""
    waves = [{"fresh_durations": {}, "first_wave": {"1": [1000 * s]}, "rest_wave": {}} for s in (1, 9, 2)]
    stages = {str(k): wave for k, wave in enumerate(waves)}
    profile = {"2g/q1": {"adj": [[0, 0, 1], [0, 0, 0], [0, 0, 0]], "stages": stages}}
    (folder / "tpch_profiles.json").write_text(json.dumps(profile))
    return scenarios.make(f"decima@trace={folder},pods=6,warm=0,nodes=4,width=1", 1)


@pytest.mark.parametrize(("policy", "order"), [("heft", [1, 0, 2, 4, 3, 5]), ("peft", [0, 1, 2, 3, 4, 5])])
def test_jobs_go_by_arrival_and_their_pods_by_rank(tmp_path: Path, policy: str, order: list[int]) -> None:
    plain = two_jobs(tmp_path)
    assert dag.job_of(plain).tolist() == [0, 0, 0, 1, 1, 1]
    made, placed = getattr(dag, policy)(plain)
    ranks = [p.request.priority for p in made.pods]
    # HEFT's longest way first (9, 3 and 2 s), PEFT's by what comes after the pod (0, 2 and 0 s)
    assert sorted(range(6), key=lambda k: -ranks[k]) == order
    assert [p.manifest["spec"]["priority"] for p in made.pods] == ranks
    result, _ = play(made, placed)
    assert result.policy == policy
    assert result.metrics["unfinished"] == 0


def test_a_job_takes_from_its_arrival_to_its_last_end_beside_its_critical_path(tmp_path: Path) -> None:
    made = two_jobs(tmp_path)
    rule = POLICIES["earliest-finish-time"]
    direct = Direct(made, rule, rule)
    scheduler = KubeScheduler(made.nodes, direct, direct.cache.view, np.random.default_rng(1))
    outcomes = Engine(made, scheduler, direct).run()
    found = dag.job_metrics(made, outcomes)
    took = [max(outcomes[k].finished_s for k in rows) - made.pods[rows[0]].request.created_s
            for rows in ((0, 1, 2), (3, 4, 5))]  # fmt: skip
    assert found["job_completion_mean"] == pytest.approx(np.mean(took))
    # The 9 s of the second stage are the critical path; all stages are the same query, as fast on the same class
    least_s = made.pods[1].true_run_s.min()
    assert found["job_slowdown_mean"] == pytest.approx(np.mean(took) / least_s)
    assert found["job_slowdown_mean"] >= 1
    assert found["jobs_unfinished"] == 0
