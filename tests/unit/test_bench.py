"""The benchmark measures what it says: both servers, on the same requests, with opinions."""

import json
import os
import time

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise_simulator import scenarios
from nodewise_simulator.bench import requests
from nodewise_simulator.bench.extender import FLOOR, bench_extender
from nodewise_simulator.bench.proc import cpu_s
from nodewise_simulator.bench.scheduler import bench_scheduler
from nodewise_training import bench as training
from nodewise_training.bench import PlainLearner
from nodewise_training.ppo import Learner, Settings


def test_the_extender_and_the_floor_are_measured_in_the_same_rounds() -> None:
    seen: list[tuple[int, int]] = []
    rows = bench_extender((5,), rounds=2, requests=3, progress=lambda _, done, total: seen.append((done, total)))
    assert seen == [(k, 6) for k in range(1, 7)]
    assert {row.policy for row in rows} == {"economic", "learned", FLOOR}
    assert {row.metric for row in rows} >= {"latency_p50", "latency_p99", "cpu", "cpu_ratio"}
    for row in rows:
        assert (row.scenario, row.seeds) == ("names=5", 2)
        assert 0.0 < row.low <= row.mean <= row.high
        assert row.mean == 1.0 or not (row.policy == FLOOR and row.metric.endswith("_ratio"))


def test_a_request_is_as_long_as_a_real_one_and_holds_every_name_once() -> None:
    (body,) = requests.bodies(100, 1, np.random.default_rng(0))
    asked = json.loads(body)
    assert sorted(asked["NodeNames"]) == requests.node_names(100) != asked["NodeNames"]
    assert 3_000 < len(json.dumps(asked["Pod"], separators=(",", ":"))) < 4_000
    pod, told = pod_request(asked["Pod"])
    assert not pod.pinned
    assert told.ignored == ()


def test_cpu_time_of_a_process_is_what_it_says_itself() -> None:
    before, own = cpu_s(os.getpid()), time.process_time()
    while time.process_time() - own < 0.05:
        pass
    assert cpu_s(os.getpid()) - before == pytest.approx(time.process_time() - own, abs=0.02)


@pytest.mark.parametrize("arguments", [{"sizes": (1,)}, {"sizes": ()}, {"rounds": 0}, {"requests": 0}])
def test_senseless_arguments_are_refused_before_anything_starts(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least 1 round"):
        bench_extender(**arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at most 30 pods a node"):
        bench_scheduler(nodes=10, pods=301)
    with pytest.raises(UserError, match="at least 1 round and 200 pods"):
        training.bench_training(pods=199)


def test_both_learners_of_the_bench_take_the_same_step() -> None:
    made = scenarios.make("hetero@load=0.85,pods=200,warm=0", 7)
    ours, plain = (kind(Settings(microbatch=32), 3) for kind in (Learner, PlainLearner))
    batch, _ = training.collected(made, ours.net())
    assert len(batch.index) > 150
    told, other = ours.update(batch), plain.update(batch)
    assert told == pytest.approx(other, rel=1e-3, abs=1e-5)
    before = Learner(Settings(), 3).scorer
    for name, own in ours.scorer.named_parameters():
        moved, theirs = (
            (after - before.get_parameter(name)).detach() for after in (own, plain.scorer.get_parameter(name))
        )
        assert moved.abs().max() > 1e-5
        assert (moved - theirs).abs().max() < 0.02 * moved.abs().max()


def test_every_way_to_collect_and_to_learn_is_measured_in_every_round() -> None:
    seen: list[tuple[int, int]] = []
    rows = training.bench_training(rounds=2, pods=200, progress=lambda _, done, total: seen.append((done, total)))
    assert seen == [(k, 21) for k in range(1, 22)]
    by = {(row.policy, row.metric): row for row in rows}
    assert len(by) == len(rows) == 14
    for row in rows:
        assert row.seeds == 2
        assert 0.0 < row.low <= row.mean <= row.high
    for name in (training.REFERENCE_RULE, training.REFERENCE_NET):
        assert by[name, "decide_ratio"].mean == 1.0
    assert by[training.GREEDY, "decide_ratio"].mean == pytest.approx(
        by[training.GREEDY, "decide"].mean / by[training.REFERENCE_NET, "decide"].mean, rel=0.5
    )
    assert by[training.OURS, "learn_ratio"].unit == "to plain torch"
