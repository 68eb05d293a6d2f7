"""Kubernetes objects as our types."""

import math
from typing import Any

import pytest

from nodewise.core.pods import default_workload, node_spec, pod_request, pod_state
from nodewise.core.types import Kind, SlaClass

Json = dict[str, Any]


def manifest(**changes: Any) -> Json:
    pod: Json = {
        "metadata": {
            "uid": "u1", "name": "train-x", "namespace": "ml", "creationTimestamp": "1970-01-01T00:01:40Z",
            "annotations": {"nodewise.dev/deadline-seconds": "50", "nodewise.dev/expected-seconds": "20"},
            "ownerReferences": [{"kind": "Job", "name": "train", "controller": True}],
        },
        "spec": {
            "priority": 5, "nodeSelector": {"nvidia.com/gpu.product": "A10G", "kubernetes.io/arch": "amd64"},
            "containers": [{"name": "c", "image": "img:1", "resources": {"requests": {"nvidia.com/gpu": "1"}}}],
        },
    }  # fmt: skip
    for part, values in changes.items():
        pod[part] = {**pod.get(part, {}), **values}
    return pod


def test_a_pod_is_read() -> None:
    request, told = pod_request(manifest())
    assert (request.uid, request.namespace, request.owner, request.kind) == ("u1", "ml", "Job/train", Kind.JOB)
    assert (request.cpu_milli, request.cpu_nonzero_milli, request.gpus_milli) == (0.0, 100.0, 1000.0)
    assert (request.memory_bytes, request.memory_nonzero_bytes) == (0.0, 200 * 2.0**20)
    assert (request.gpu_model, request.archs) == ("A10G", ("amd64",))
    assert (request.sla, request.priority) == (SlaClass.PRODUCTION, 5)
    assert (request.created_s, request.deadline_s, request.expected_run_s) == (100.0, 150.0, 20.0)
    assert told.ignored == ()


def test_what_a_pod_leaves_out_has_a_default() -> None:
    request, _ = pod_request({"metadata": {"uid": "u"}})
    assert (request.namespace, request.name, request.owner, request.archs) == ("default", "", "", ())
    assert math.isnan(request.created_s)
    assert request.deadline_s == math.inf
    assert request.sla is SlaClass.BEST_EFFORT
    late = {"metadata": {"uid": "u", "annotations": {"nodewise.dev/deadline-seconds": "5"}}}
    assert pod_request(late)[0].deadline_s == math.inf  # counted from a creation that nobody told


@pytest.mark.parametrize("pod", [{"metadata": {}}, {}])
def test_a_pod_without_uid_is_a_key_error(pod: Json) -> None:
    with pytest.raises(KeyError):
        pod_request(pod)


def soft(part: str, *keys: str) -> Json:
    terms = [{"weight": 1, "podAffinityTerm": {"topologyKey": key}} for key in keys]
    return {part: {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def test_preferences_are_kept_and_requirements_are_not() -> None:
    preference = {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}
    affinity = soft("podAffinity", "zone") | soft("podAntiAffinity", "host", "zone")
    affinity["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": [{"preference": preference}]}
    spread = [
        {"topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
        {"topologyKey": "hard", "whenUnsatisfiable": "DoNotSchedule"},
    ]
    request, _ = pod_request(manifest(spec={"affinity": affinity, "topologySpreadConstraints": spread}))
    assert request.preferred_node_terms == (preference,)
    assert request.preferred_topologies == ("zone", "host", "rack")
    assert pod_request(manifest())[0].preferred_topologies == ()


def owned(kind: str, name: str) -> Json:
    return {"namespace": "ns", "ownerReferences": [{"kind": kind, "name": name, "controller": True}]}


@pytest.mark.parametrize(
    ("meta", "images", "workload"),
    [
        (owned("ReplicaSet", "web-6d4cf56db6"), ["nginx:1.27"], "ns/web:nginx"),
        (owned("Job", "backup-28934520"), ["img"], "ns/backup:img"),
        (owned("Job", "train"), ["reg.io:5000/a/b:v1@sha256:0", "a@sha256:1"], "ns/train:a,reg.io:5000/a/b"),
        (owned("StatefulSet", "db"), ["pg:17", "pg:17"], "ns/db:pg"),
        ({"generateName": "run-"}, ["img:2"], "default/run:img"),
        ({"name": "alice"}, ["img:2"], "default/:img"),
    ],
)
def test_two_rollouts_or_two_runs_are_one_workload(meta: Json, images: list[str], workload: str) -> None:
    assert default_workload(meta, {"containers": [{"image": image} for image in images]}) == workload


def ran(*states: Json, phase: str = "Running") -> Json:
    return {"phase": phase, "containerStatuses": [{"name": f"c{k}", "state": s} for k, s in enumerate(states)]}


def at(second: int) -> str:
    return f"1970-01-01T00:00:{second:02d}Z"


def ended(start: int, end: int) -> Json:
    return {"terminated": {"startedAt": at(start), "finishedAt": at(end)}}


@pytest.mark.parametrize(
    ("status", "started_s", "finished_s", "succeeded", "done"),
    [
        (ran(ended(10, 20), ended(12, 40), phase="Succeeded"), 12.0, 40.0, True, True),
        (ran(ended(10, 20), phase="Failed"), 10.0, 20.0, False, True),
        (ran({"running": {"startedAt": at(7)}}), 7.0, math.nan, False, False),
        (ran({"running": {"startedAt": at(7)}}, {"waiting": {}}), math.nan, math.nan, False, False),
        ({"phase": "Pending"}, math.nan, math.nan, False, False),
    ],
)
def test_the_fate_of_a_pod(status: Json, started_s: float, finished_s: float, succeeded: bool, done: bool) -> None:
    state = pod_state(manifest(spec={"nodeName": "n1"}, status=status))
    assert (state.node, state.succeeded, state.done) == ("n1", succeeded, done)
    assert state.started_s == pytest.approx(started_s, nan_ok=True)
    assert state.finished_s == pytest.approx(finished_s, nan_ok=True)


def test_a_node_is_read() -> None:
    node = node_spec(
        {
            "metadata": {
                "name": "n1",
                "labels": {"kubernetes.io/arch": "arm64", "topology.kubernetes.io/zone": "z"},
                "annotations": {
                    "nodewise.dev/price-usd-per-hour": "1.5", "nodewise.dev/idle-watts": "-3",
                    "nodewise.dev/peak-watts": "lots",
                },
            },
            "spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}], "unschedulable": True},
            "status": {"allocatable": {"cpu": "3920m", "memory": "1Ki", "pods": "29", "nvidia.com/gpu": "2"}},
        }
    )  # fmt: skip
    assert (node.name, node.node_class, node.arch, node.zone) == ("n1", "arm64", "arm64", "z")
    assert (node.cpu_allocatable_milli, node.memory_allocatable_bytes) == (3920.0, 1024.0)
    assert (node.gpus_allocatable_milli, node.pods_allocatable) == (2000.0, 29.0)
    assert (node.price_usd_per_h, node.idle_w, node.peak_w) == (1.5, 0.0, 0.0)
    assert node.unschedulable
    assert len(node.taints) == 1


def test_an_annotation_that_no_node_can_have_is_taken_for_a_mistake() -> None:
    told = {"price-usd-per-hour": "250000", "idle-watts": "1e7", "peak-watts": "1e99"}
    annotations = {f"nodewise.dev/{name}": value for name, value in told.items()}
    node = node_spec({"metadata": {"name": "n", "annotations": annotations}})
    assert (node.price_usd_per_h, node.price_source, node.idle_w, node.peak_w, node.power_source) == (0, "", 0, 0, "")


def test_what_a_node_leaves_out_has_a_default() -> None:
    node = node_spec({"metadata": {"name": "n"}, "status": {"nodeInfo": {"architecture": "amd64"}}})
    assert (node.arch, node.zone, node.pods_allocatable, node.cpu_allocatable_milli) == ("amd64", "", 110.0, 0.0)


@pytest.mark.parametrize("run", ["etl-28394820", "etl-x7k2p", "etl-9qz4w", "etl"])
def test_the_runs_of_one_job_are_one_workload(run: str) -> None:
    meta = {"namespace": "n", "ownerReferences": [{"kind": "Job", "name": run, "controller": True}]}
    assert default_workload(meta, {"containers": [{"image": "etl:3"}]}) == "n/etl:etl"


def test_a_pod_is_ready_only_if_its_kubelet_says_so() -> None:
    crashed = {"containerStatuses": [{"state": {"terminated": {"startedAt": "1970-01-01T00:00:01Z"}}}]}
    assert not pod_state(manifest(status=crashed)).ready
    assert pod_state(manifest(status={"conditions": [{"type": "Ready", "status": "True"}]})).ready
