"""Pods as columns: the same world as their manifests, and no object per pod where nobody looks at one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise_simulator import scenarios
from nodewise_simulator.columns import PodColumns, told
from nodewise_simulator.compiled.flat import Flat, flatten
from nodewise_simulator.scenarios.draws import NORMAL, UNIFORM, chosen, draws
from nodewise_simulator.world import World, sim_pod

TEXTS = ("hetero@pods=150,warm=50", "random-clusters@nodes=7,per_node=20,warm=5")


def of(text: str) -> tuple[World, PodColumns]:
    made = scenarios.make(text, 4)
    assert isinstance(made.pods, PodColumns)
    return made, made.pods


@pytest.mark.parametrize("text", TEXTS)
def test_each_pod_is_what_its_manifest_says_and_the_arrays_are_those_of_the_manifests(text: str) -> None:
    made, pods = of(text)
    read = tuple(
        sim_pod(p.manifest, p.true_run_s, p.sensitivity, noise=p.noise, noise_factor=p.noise_factor) for p in pods
    )
    for pod, again in zip(pods, read, strict=True):
        assert pod.request == pod_request(pod.manifest)[0] or np.isnan(pod.request.expected_run_s)
        assert repr(pod.request) == repr(again.request)
    own, other = flatten(made), flatten(replace(made, pods=read))
    for f in fields(Flat):
        np.testing.assert_array_equal(getattr(own, f.name), getattr(other, f.name), err_msg=f.name)


def test_a_pod_is_the_same_at_each_look_and_a_slice_is_a_tuple() -> None:
    _, pods = of(TEXTS[0])
    assert pods[3] is pods[3] is pods[-len(pods) + 3] is pods[2:5][1] is list(pods)[3]
    assert pods[:0] == ()
    with pytest.raises(IndexError):
        pods[len(pods)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cpu_milli": 0.5}, "column cpu_milli of pod 1 is 0.5"),
        ({"memory_bytes": np.nan}, "memory_bytes of pod 1 is nan"),
        ({"created_s": 0.01}, "created_s of pod 1"),
        ({"expected_s": 1.00001}, "expected_s of pod 1"),
        ({"deadline_after_s": 0.0}, "deadline_after_s of pod 1"),
        ({"gpus_milli": 500.0}, "gpus_milli of pod 1"),
        ({"true_run_s": 0.0}, "true_run_s of pod 1"),
        ({"template": 1000}, "template of pod 1 is 1000"),
        ({"owner": 2}, "owner of pod 1 is 2"),
        ({"created_s": np.inf}, "created_s of pod 1 is inf"),
        ({"memory_bytes": np.inf}, "memory_bytes of pod 1 is inf"),
        ({"expected_s": np.inf}, "expected_s of pod 1 is inf"),
        ({"true_run_s": np.inf}, "true_run_s of pod 1"),
        ({"sensitivity": -1.0}, "sensitivity of pod 1 is -1.0"),
        ({"sensitivity": np.nan}, "sensitivity of pod 1 is nan"),
        ({"noise": np.nan}, "noise of pod 1 is nan"),
        ({"noise_factor": 0.0}, "noise_factor of pod 1 is 0.0"),
        ({"created_s": 1e6}, "pod 2 is created before pod 1; put the rows in order of created_s"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_number_that_no_manifest_says_is_refused_with_its_pod(wrong: Mapping[str, Any], says: str) -> None:
    _, pods = of(TEXTS[0])
    ((name, value),) = wrong.items()
    column = getattr(pods, name).copy()
    column[1] = value
    with pytest.raises(UserError, match=says):
        replace(pods, **{name: column})
    with pytest.raises(UserError, match="column sensitivity has 2 rows"):
        replace(pods, sensitivity=np.zeros(2))


def test_the_first_pods_of_columns_are_those_pods() -> None:
    _, pods = of(TEXTS[1])
    first = pods.part(60)
    assert [repr(p) for p in first] == [repr(p) for p in pods[:60]]


def test_times_are_told_as_an_annotation_writes_them() -> None:
    seconds = np.array([0.0005, 0.0015, 2.6745, 1.0005, 12.3456, 1e9 + 0.0005, 33.3335, np.inf, np.nan])
    assert [f"{x:.3f}" for x in told(seconds)] == [f"{x:.3f}" for x in seconds]
    assert told(seconds)[:-2].tolist() == [float(f"{x:.3f}") for x in seconds[:-2]]


def test_draws_for_many_pods_are_those_of_a_generator_that_is_asked_pod_by_pod() -> None:
    one, other, odds = np.random.default_rng(5), np.random.default_rng(5), np.array([0.2, 0.5, 0.3])
    made = draws(one, 200, (NORMAL, UNIFORM, NORMAL, UNIFORM))
    for k, picked in enumerate(chosen(odds, made[:, 1]).tolist()):
        assert 0.7 * made[k, 0] == other.normal(0.0, 0.7)
        assert picked == other.choice(3, p=odds)
        assert made[k, 2] * 0.15 == other.normal(0.0, 0.15)
        assert 3.0 + (8.0 - 3.0) * made[k, 3] == other.uniform(3.0, 8.0)
    assert one.random() == other.random()


_RUN = """
import gc, sys
from nodewise_simulator.bench.memory import bench_memory, peak_rss_bytes
from nodewise_simulator.world import SimPod
bench_memory(pods=2_100, policy="best-fit")
before = peak_rss_bytes()
rows = {row.metric: row.mean for row in bench_memory(pods=int(sys.argv[1]), policy="best-fit")}
assert rows["unfinished"] == 0.0 < rows["cost"]
assert sum(isinstance(thing, SimPod) for thing in gc.get_objects()) < 1000
print(rows["pods"], peak_rss_bytes() - before)
"""


def test_a_long_run_with_its_metrics_takes_less_than_1500_bytes_a_pod() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _RUN, "20000"], capture_output=True, text=True, check=True, env=env)
    pods, grown = map(float, done.stdout.split())
    assert pods == 20_000
    assert grown / pods < 1500.0  # the bound of a million in 2 GiB, less what Python and numba take
