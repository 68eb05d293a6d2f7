"""The benchmark measures what it says: both servers, on the same requests, with opinions."""

import json
import os
import time

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise_simulator.bench import requests
from nodewise_simulator.bench.extender import FLOOR, bench_extender
from nodewise_simulator.bench.proc import cpu_s
from nodewise_simulator.bench.scheduler import bench_scheduler


def test_the_extender_and_the_floor_are_measured_in_the_same_rounds() -> None:
    seen: list[tuple[int, int]] = []
    rows = bench_extender((5,), rounds=2, requests=3, progress=lambda _, done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {row.policy for row in rows} == {"economic", FLOOR}
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
