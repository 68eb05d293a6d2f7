"""Start latency, dependent pods, shared accelerators, drift, and what the extender sees late: by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise.policies import DEFAULT
from nodewise_simulator.direct import Direct
from nodewise_simulator.metrics import completions, measure
from nodewise_simulator.physics import Change, Drift, Network, NodeChange
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod

from .engine_worlds import made, on, one_class, pod, run, times


def test_the_first_pod_on_a_node_pulls_the_image_and_one_that_comes_meanwhile_waits_for_it() -> None:
    # Pulled by 20; then a second for the container. Images go with the machine.
    slow: dict[str, Any] = {"image": "i", "pull_s": 20.0, "start_s": 1.0, "spec": on("n0")}
    pods = [
        pod("first", 0, 5, **slow),
        pod("meanwhile", 8, 5, **slow),
        pod("later", 30, 5, **slow),
        pod("new", 50, 5, **slow),
    ]
    changes = (NodeChange(40, Change.REMOVE, "n0"), NodeChange(45, Change.ADD, "n0"))
    engine = run(made(pods, changes=changes))
    assert times(engine) == [(21, 26), (21, 26), (31, 36), (71, 76)]
    assert [o.bound_s for o in engine.outcomes] == [0, 8, 30, 50]


def test_who_does_not_run_yet_slows_nobody() -> None:
    # Half of the CPU beside it from 4 on: 6 s of work at 0.8.
    pods = [pod("slow", 0, 10, cpu="2", sensitivity=0.5), pod("late", 0, 100, cpu="2", start_s=4.0)]
    assert times(run(made(pods)))[0] == (0, 4 + 6 / 0.8)


def test_a_child_is_created_with_its_last_parent_gone_and_waits_for_what_came_from_elsewhere() -> None:
    # 1 GB over 0.25 GB/s between zones and half a millisecond: up to the next 1/64 s; from the same node at once.
    net = Network(latency_s=0.25, bytes_per_s=1e9, zone_latency_s=0.5, zone_bytes_per_s=0.25e9)
    nodes = one_class(3)
    nodes[2]["metadata"]["labels"]["topology.kubernetes.io/zone"] = "zone-b"
    pods = [
        pod("near", 0, 10, spec=on("n0"), output_bytes=1e9), pod("far", 0, 20, spec=on("n2"), output_bytes=1e9),
        pod("there", 0, 5, spec=on("n0"), parents=(0,)), pod("zone", 0, 5, spec=on("n1"), parents=(0,)),
        pod("both", 0, 5, spec=on("n1"), parents=(0, 1), annotations={"nodewise.dev/deadline-seconds": "10"}),
    ]  # fmt: skip
    engine = run(made(pods, nodes, network=net))
    assert times(engine)[2:] == [(10, 15), (11.25, 16.25), (24.5, 29.5)]
    assert [o.created_s for o in engine.outcomes[2:]] == [10, 10, 20]
    assert engine.outcomes[4].deadline_s == 30
    metrics = measure(engine.world, engine.outcomes)
    assert metrics["completion_mean"] == pytest.approx((10 + 20 + 5 + 6.25 + 9.5) / 5)
    assert metrics["sla"] == 1.0
    spread = completions(engine.world, engine.outcomes)
    assert (spread[0], spread[50], spread[100]) == (5, 9.5, 20)
    assert spread[95] == pytest.approx(metrics["completion_p95"])


class Emptiest(Direct):
    """An extender that spreads pods over the accelerators of their node."""

    def device(self, pod: SimPod, node: str, free_milli: Floats) -> int:
        del pod, node
        return int(np.argmax(free_milli))


def shared(names: Sequence[float], chooser: type[Direct] = Direct) -> tuple[list[str | None], list[int], KubeScheduler]:
    """Pods of such shares on n0 with two accelerators; where they go."""
    pods = [pod(f"p{k}", 0, 10, cpu="0", device_milli=m) for k, m in enumerate(names)]
    small = made(pods, one_class(1, gpus=2))
    direct = chooser(small, DEFAULT, DEFAULT)
    scheduler = KubeScheduler(small.nodes, direct, direct.cache.view, np.random.default_rng(0))
    found = [scheduler.schedule(p, 0.0) for p in pods]
    return found, [scheduler.device_of(p.request.uid) for p in pods], scheduler


def test_a_share_goes_to_the_fullest_device_that_has_room_unless_the_extender_says_where() -> None:
    assert shared([600, 300, 500, 100])[:2] == (["n0"] * 4, [0, 0, 1, 0])
    # 900 milli are free in all, but on no device.
    assert shared([600, 500, 600])[:2] == (["n0", "n0", None], [0, 1, -1])
    assert shared([300, 300, 300], Emptiest)[1] == [0, 1, 0]


def test_whole_accelerators_need_devices_that_nobody_shares_and_get_them_back() -> None:
    scheduler = shared([300])[2]
    requests = {"requests": {"nvidia.com/gpu": "1"}}
    whole = [pod(n, 0, 1, spec={"containers": [{"name": "m", "image": "i", "resources": requests}]}) for n in "ab"]
    assert [scheduler.schedule(p, 0.0) for p in whole] == ["n0", None]
    scheduler.forget(pod("p0", 0, 10, cpu="0", device_milli=300.0).request, "n0")
    assert scheduler.schedule(whole[1], 0.0) == "n0"


def test_pods_on_one_device_slow_each_other_by_what_they_take_of_it() -> None:
    # 10 s of work beside 600 of 1,000 milli until 4: at 1 / (1 + 0.5 * 0.6).
    pods = [
        pod("slow", 0, 13, cpu="0", device_milli=400.0, device_sensitivity=0.5),
        pod("other", 0, 6.5, cpu="0", device_milli=600.0), pod("apart", 0, 100, cpu="0", device_milli=900.0),
    ]  # fmt: skip
    engine = run(made(pods, one_class(1, gpus=2)))
    assert times(engine)[0] == (0, 6.5 + 13 - 6.5 / 1.3)
    assert times(engine)[2] == (0, 100)


def test_from_its_time_on_a_drift_slows_pods_that_start() -> None:
    drifts = (Drift(10, 3.0, workload="w"), Drift(20, 2.0, node_class="class-0"), Drift(0, 9.0, workload="other"))
    drifting = made([pod("before", 5, 10), pod("between", 10, 10), pod("after", 20, 10)], drifts=drifts)
    assert times(run(drifting)) == [(5, 15), (10, 40), (20, 80)]
    with pytest.raises(UserError, match="nobody can be told the truth"):
        Direct(drifting, DEFAULT, DEFAULT, oracle=True)


def test_a_late_watch_shows_bindings_late_and_what_was_assumed_until_then() -> None:
    other = pod("other", 0, 9)
    late = made([pod("first", 0, 10), pod("second", 0.25, 10), other], one_class(2), watch_lag_s=0.5)
    direct, (first, second, _) = Direct(late, DEFAULT, DEFAULT), late.pods
    direct.created(first)
    direct.prioritize(first, ["n0", "n1"], 0.0)
    assumed = direct.seen(other, 0.0).nodes.cpu_requested_milli
    assert sorted(assumed) == [0, 1000]
    direct.bound(first, "n0", 0.0, 0.0)
    direct.bound(second, "n1", 0.25, 0.25)  # had but one node to go to, so nobody assumed anything
    assert direct.cache.view(other.request, 0.25).nodes.cpu_requested_milli.tolist() == [1000, 1000]
    np.testing.assert_array_equal(direct.seen(other, 0.25).nodes.cpu_requested_milli, assumed)
    assert direct.seen(other, 0.5).nodes.cpu_requested_milli[0] == 1000
    assert direct.seen(other, 0.75).nodes.cpu_requested_milli.tolist() == [1000, 1000]
    direct.finished(first, 0.0, 1.0)
    assert direct.seen(other, 1.25).nodes.cpu_requested_milli.tolist() == [1000, 1000]
    assert direct.seen(other, 1.5).nodes.cpu_requested_milli.tolist() == [0, 1000]


def test_a_pod_that_is_asked_about_again_is_not_assumed_anywhere() -> None:
    late = made([pod("p", 0, 10)], one_class(2), watch_lag_s=0.5)
    direct = Direct(late, DEFAULT, DEFAULT)
    direct.prioritize(late.pods[0], ["n0"], 0.0)
    assert direct.seen(late.pods[0], 0.25).nodes.cpu_requested_milli.tolist() == [0, 0]


def test_measured_use_is_that_of_the_last_reading_and_has_an_age() -> None:
    seen = made([pod("p", 0, 20, cpu_used_milli=250.0, start_s=1.0)], one_class(2), metrics_period_s=15.0)
    direct, p = Direct(seen, DEFAULT, DEFAULT), seen.pods[0]
    direct.bound(p, "n0", 2.0, math.nan)
    direct.started(p, 3.0)
    nodes = direct.seen(p, 14.0).nodes
    assert (nodes.cpu_used_milli.tolist(), nodes.metrics_age_s.tolist()) == ([0, 0], [14, 14])
    nodes = direct.seen(p, 16.0).nodes
    assert (nodes.cpu_used_milli.tolist(), nodes.metrics_age_s.tolist()) == ([250, 0], [1, 1])
    direct.finished(p, 3.0, 23.0)
    assert direct.seen(p, 29.0).nodes.cpu_used_milli[0] == 250
    assert direct.seen(p, 30.0).nodes.cpu_used_milli[0] == 0
