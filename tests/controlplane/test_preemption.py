"""Preemption in the real scheduler and in the simulator's engine."""

import time
from typing import Any

from nodewise_simulator.bench.preemptions import agreement
from nodewise_simulator.controlplane import ControlPlane, ToyExtender, node, pod, scheduler_config

Json = dict[str, Any]
GIB = 1 << 30


def test_the_simulator_evicts_whom_the_real_scheduler_evicts(plane: ControlPlane) -> None:
    found, victims = agreement(plane, 25, seed=3)
    assert found.differed == []
    assert found.agreed + found.tied == 25
    assert found.tied_inside == found.tied
    assert victims > 20


def test_a_pod_that_the_filter_holds_evicts_again_and_again_where_it_lacks_room(plane: ControlPlane) -> None:
    """As the engine plays it; `Never` is what keeps a pod that may be held from harming others."""
    for name, value, policy in (("rash", 7, "PreemptLowerPriority"), ("meek", 7, "Never")):
        body = {"metadata": {"name": name}, "value": value, "preemptionPolicy": policy}
        plane.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
    plane.create_nodes(node(name, cpu_milli=4000, memory_bytes=4 * GIB) for name in ("full", "free"))
    with ToyExtender(holds=lambda p: p["metadata"]["name"] in ("rash", "meek")) as extender:
        scheduler = plane.start_scheduler(scheduler_config(plane.kubeconfig, extender.url, filters=True))
        try:
            low = pod("low", cpu_milli=4000, memory_bytes=GIB)
            low["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "full"}
            plane.create_pods([low])
            plane.wait_bound(1)
            held = {name: pod(name, cpu_milli=1000, memory_bytes=GIB) for name in ("meek", "rash")}
            for name, manifest in held.items():
                manifest["spec"]["priorityClassName"] = name
            plane.create_pods([held["meek"]])
            _wait(lambda: _refused(_pods(plane).get("meek", {})))
            time.sleep(0.5)
            assert "low" in _pods(plane)
            plane.create_pods([held["rash"]])
            _wait(lambda: "low" not in _pods(plane))
            # On `free`; when `low` is gone on `full` alone, then on both.
            _wait(lambda: sum(name == "rash" for name, _ in extender.filtered) >= 3)
            assert "nodeName" not in _pods(plane)["rash"]["spec"]
            plane.create_pods([low])  # as its owner does; its binding wakes the held pod
            _wait(lambda: "low" not in _pods(plane))
            assert "nodeName" not in _pods(plane)["rash"]["spec"]
        finally:
            scheduler.stop()


def _pods(plane: ControlPlane) -> dict[str, Json]:
    return {p["metadata"]["name"]: p for p in plane.list_pods("default")}


def _refused(found: Json) -> bool:
    return any(c.get("reason") == "Unschedulable" for c in found.get("status", {}).get("conditions", ()))


def _wait(reached: Any) -> None:
    limit_s = time.monotonic() + 30.0
    while not reached():
        assert time.monotonic() < limit_s
        time.sleep(0.02)
