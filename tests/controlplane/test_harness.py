"""What everything else in this folder, the demo and the benchmark stand on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import (
    ControlPlane,
    Kubelet,
    Scheduler,
    ToyExtender,
    node,
    pod,
    program_version,
    programs,
    total,
    winner_only,
)

Json = dict[str, Any]
StartScheduler = Callable[..., Scheduler]
GIB = 1 << 30
GOLDENS = Path(__file__).parent.parent / "contract" / "goldens"
SCHEDULERS = ("kube-scheduler", "kube-scheduler-1.34")


def small_pods(count: int, namespace: str, **more: Any) -> list[Json]:
    return [pod(f"p-{i}", namespace=namespace, cpu_milli=500, memory_bytes=GIB // 4, **more) for i in range(count)]


def nodes(count: int) -> list[Json]:
    return [node(f"node-{i}", cpu_milli=16_000, memory_bytes=64 * GIB, zone=f"zone-{i % 3}") for i in range(count)]


def nodes_that_all_beat_the_first_in_tree(count: int) -> list[Json]:
    """Nodes whose in-tree scores exceed those of node-0 by more than the 100 points that weight 1 is worth.

    They hold the image; node-0 does not, and a pod of 29 of its 40 CPUs leaves it loaded and out of balance.
    """
    first, *others = nodes(count)
    first["status"]["allocatable"]["cpu"] = "40"
    for other in others:
        other["status"]["images"] = [{"names": ["registry.k8s.io/pause:3.10"], "sizeBytes": 4 * GIB}]
    return [first, *others]


def test_a_scheduler_without_extender_binds_and_the_kubelet_completes(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    plane.create_nodes(nodes(10))
    scheduler = start_scheduler(None)
    with Kubelet(plane.url, plane.token, lambda _pod, name: 0.2 if name < "node-5" else 0.4) as kubelet:
        stored = plane.create_pods(small_pods(20, namespace))
        where = plane.wait_bound(20, namespace)
        done = plane.wait_phase("Succeeded", 20, namespace)

    assert total(scheduler.metrics(), "scheduler_schedule_attempts_total", result="scheduled") == 20
    assert {f.uid: (f.name, f.node) for f in kubelet.finished} == {
        p["metadata"]["uid"]: (p["metadata"]["name"], where[p["metadata"]["name"]]) for p in stored
    }
    for finished in kubelet.finished:
        asked_s = 0.2 if finished.node < "node-5" else 0.4
        assert finished.bound_s <= finished.started_s <= finished.finished_s - asked_s + 1e-3
    for each in done.values():
        (container,) = each["status"]["containerStatuses"]
        assert container["state"]["terminated"]["reason"] == "Completed"
        conditions = {c["type"]: c["status"] for c in each["status"]["conditions"]}
        assert conditions == {
            "PodScheduled": "True",  # the scheduler's own, which holds the time of binding
            "Initialized": "True",
            "Ready": "False",
            "ContainersReady": "False",
        }


def test_a_pod_deleted_with_grace_goes_and_is_not_finished(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    plane.create_nodes(nodes(1))
    start_scheduler(None)
    (slow,) = small_pods(1, namespace)
    slow["spec"]["terminationGracePeriodSeconds"] = 30
    with Kubelet(plane.url, plane.token, lambda _pod, _node: 3600.0) as kubelet:
        plane.create_pods([slow])
        plane.wait_phase("Running", 1, namespace)
        plane.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/p-0")
        give_up_s = time.monotonic() + 20
        while plane.list_pods(namespace):
            assert time.monotonic() < give_up_s, "the kubelet did not remove the pod"
            time.sleep(0.05)
    assert kubelet.finished == []


@pytest.mark.parametrize("binary", SCHEDULERS)
def test_the_winner_alone_at_weight_150_is_obeyed_for_every_pod_against_all_in_tree_scores(
    binary: str, plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    plane.create_nodes(nodes_that_all_beat_the_first_in_tree(10))
    load = pod("load", namespace=namespace, cpu_milli=29_000, memory_bytes=0)
    load["spec"]["nodeName"] = "node-0"
    plane.create_pods([load])
    with ToyExtender(winner_only(lambda _pod, _names: "node-0")) as extender:
        start_scheduler(extender.url, binary)
        plane.create_pods(small_pods(20, namespace))
        where = plane.wait_bound(21, namespace)

    assert set(where.values()) == {"node-0"}
    assert len(extender.bodies) == 20


@pytest.mark.parametrize(("stock", "expected"), [(False, "node-3"), (True, "node-7")])
def test_our_profile_lets_a_preferred_affinity_outvote_the_extender_and_the_stock_one_does_not(
    stock: bool, expected: str, plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    plane.create_nodes(nodes(10))
    on_3 = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-3"]}
    prefers = {"weight": 1, "preference": {"matchExpressions": [on_3]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [prefers]}}
    with ToyExtender(winner_only(lambda _pod, _names: "node-7")) as extender:
        start_scheduler(extender.url, stock=stock)
        plane.create_pods(small_pods(5, namespace, affinity=affinity))
        where = plane.wait_bound(5, namespace)
    assert set(where.values()) == {expected}


@pytest.mark.parametrize("binary", SCHEDULERS)
def test_prioritize_requests_are_still_the_recorded_ones(
    binary: str, plane: ControlPlane, start_scheduler: StartScheduler, pytestconfig: pytest.Config
) -> None:
    plane.create_nodes(nodes(5))
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": "resize-29410", "controller": True}
    annotations = {
        "nodewise.dev/deadline-seconds": "120",
        "nodewise.dev/expected-seconds": "30",
        "nodewise.dev/sla-class": "production",
        "nodewise.dev/workload": "resize",
    }
    asked = pod(
        "resize-29410-x7k2p",
        cpu_milli=500,
        memory_bytes=GIB // 4,
        annotations=annotations,
        owner={**job, "uid": "3f0c2a53-6d0e-4f7b-9b63-0d5a9f5a8a11", "blockOwnerDeletion": True},
        tolerations=[{"key": "dedicated", "operator": "Equal", "value": "batch", "effect": "NoSchedule"}],
    )
    asked["spec"]["containers"][0]["resources"]["requests"]["memory"] = "256Mi"
    with ToyExtender() as extender:
        start_scheduler(extender.url, binary)
        plane.create_pods([asked])
        plane.wait_bound(1)
    (body,) = extender.bodies

    major, minor, _ = program_version(binary)
    golden = GOLDENS / f"prioritize-request-{major}.{minor}.json"
    if pytestconfig.getoption("--record-goldens", default=False):
        GOLDENS.mkdir(parents=True, exist_ok=True)
        golden.write_bytes(body)
    if not golden.exists():
        pytest.skip(f"nothing is recorded for {major}.{minor}: pytest tests/controlplane --record-goldens")
    assert lasting(body) == lasting(golden.read_bytes())


def lasting(body: bytes) -> Json:
    """The request without what differs from run to run; candidates come in any order."""
    request: Json = json.loads(body)
    for field in ("uid", "creationTimestamp", "resourceVersion"):
        assert request["Pod"]["metadata"].pop(field)
    for manager in request["Pod"]["metadata"].get("managedFields", ()):  # 1.34 sends them, 1.36 does not
        assert manager.pop("time")
    request["NodeNames"].sort()
    return request


def test_missing_programs_are_told_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(UserError, match=r"no program etcd in .*setup-envtest"):
        programs()
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    with pytest.raises(UserError, match=r"KUBEBUILDER_ASSETS is not set.*setup-envtest"):
        programs()


def test_no_child_outlives_a_killed_python(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from nodewise_simulator.controlplane import Process\n"
        "child = Process('sleep', ['sleep', '300'], pathlib.Path(sys.argv[1]))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as python:
        assert python.stdout is not None
        child = int(python.stdout.readline())
        os.kill(child, 0)
        python.kill()
    give_up_s = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < give_up_s, f"process {child} lives on"
        time.sleep(0.02)
