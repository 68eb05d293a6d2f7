"""`nodewise profile` on a real API server with the real Job controller, under a kubelet that runs the commands."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise.core.errors import UserError
from nodewise_operator.resources import NodeProfile
from nodewise_operator.resources.generate import crd
from nodewise_operator.workloads import WORKLOADS
from nodewise_simulator.controlplane import (
    ApiError,
    ControlPlane,
    Exit,
    Kubelet,
    node,
    program,
    run_command,
    scheduler_config,
    taint,
)

from .conftest import skip_or_fail

Json = dict[str, Any]
NAMESPACE = "profiling"
SIZE = "0.1"
SORT, MATMUL = (f"{name}-{WORKLOADS[name].size(float(SIZE))}" for name in ("sort", "matmul"))
GIB = 1 << 30
CONTROLLERS = "job-controller,garbage-collector-controller"  # the one for nodes would miss their leases
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/nodeprofiles.nodewise.dev"
RIGHTS = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
    {"apiGroups": ["nodewise.dev"], "resources": ["nodeprofiles"], "verbs": ["list", "create", "patch"]},
    {"apiGroups": ["nodewise.dev"], "resources": ["nodeprofiles/status"], "verbs": ["patch"]},
]
RIGHTS_INSIDE = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """A control plane of our own: its Job controller and its definitions would disturb the others' tests."""
    try:
        manager = program("kube-controller-manager")
    except UserError as missing:
        skip_or_fail(missing)
    with ControlPlane() as plane:
        access = ("--kubeconfig", plane.kubeconfig, "--secure-port", "0", "--leader-elect=false")
        plane.start_process("kube-controller-manager", [manager, *access, f"--controllers={CONTROLLERS}"])
        config = scheduler_config(plane.kubeconfig, None, scheduler_name="default-scheduler", stock=True)
        plane.start_scheduler(config)
        # Admission refuses every pod that is not restricted.
        plane.create_namespace(NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
        plane.create_nodes(
            [
                node("old-1", cpu_milli=4000, memory_bytes=8 * GIB, instance_type="m4.xlarge"),
                node("new-1", cpu_milli=4000, memory_bytes=8 * GIB, instance_type="m7g.xlarge", arch="arm64"),
                node("gpu-1", cpu_milli=4000, memory_bytes=8 * GIB, instance_type="g5.xlarge", taints=[taint("gpu")]),
            ]
        )
        yield plane


@pytest.fixture(scope="module")
def kubeconfig(cluster: ControlPlane) -> Path:
    """Of somebody with the rights that the command's help names, and no others."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    inside = f"{rbac}/namespaces/{NAMESPACE}"
    account = {"kind": "ServiceAccount", "name": "profiler", "namespace": NAMESPACE}
    group = "rbac.authorization.k8s.io"
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    cluster.call("POST", accounts, {"metadata": {"name": "profiler"}})
    for where, kind, rules in ((rbac, "ClusterRole", RIGHTS), (inside, "Role", RIGHTS_INSIDE)):
        cluster.call("POST", f"{where}/{kind.lower()}s", {"metadata": {"name": "profiler"}, "rules": rules})
        binding = {"metadata": {"name": "profiler"}, "subjects": [account]}
        binding["roleRef"] = {"apiGroup": group, "kind": kind, "name": "profiler"}
        cluster.call("POST", f"{where}/{kind.lower()}bindings", binding)
    token = cluster.call("POST", f"{accounts}/profiler/token", {"spec": {}})["status"]["token"]
    made = json.loads(cluster.kubeconfig.read_text())
    made["users"][0]["user"] = {"token": token}
    path = cluster.folder / "profiler"
    path.write_text(json.dumps(made))
    return path


def command(kubeconfig: Path, *more: str) -> list[str]:
    called = [sys.executable, "-m", "nodewise.cli.main", "profile", "--kubeconfig", str(kubeconfig)]
    called += ["--image", "nodewise:test", "--namespace", NAMESPACE, "--size", SIZE, "--runs", "1"]
    return [*called, "-o", "json", *more]


def profile(kubeconfig: Path, *more: str, rc: int = 0) -> Json:
    done = subprocess.run(command(kubeconfig, *more), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == rc, done.stderr
    told: Json = json.loads(done.stdout)
    return told


def jobs(cluster: ControlPlane) -> list[str]:
    listed = cluster.call("GET", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")["items"]
    return [job["metadata"]["name"] for job in listed if "deletionTimestamp" not in job["metadata"]]


def install(cluster: ControlPlane) -> None:
    cluster.call("PATCH", f"{CRD}?fieldManager=test&force=true", crd(NodeProfile), "application/apply-patch+yaml")
    for _ in range(200):
        try:
            cluster.call("GET", NodeProfile.path())
        except ApiError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("NodeProfile was not established")


def profiles(cluster: ControlPlane) -> dict[str, dict[str, Json]]:
    """Benchmarks by class, and by name."""
    listed = cluster.call("GET", NodeProfile.path())["items"]
    return {each["spec"]["nodeClass"]: {b["name"]: b for b in each["status"]["benchmarks"]} for each in listed}


def playing(cluster: ControlPlane) -> Kubelet:
    return Kubelet(cluster.url, cluster.token, lambda _pod, _node: None, run_command)


def test_workloads_run_on_each_class_and_their_results_are_printed_and_kept(
    cluster: ControlPlane, kubeconfig: Path
) -> None:
    with playing(cluster) as kubelet:
        told = profile(kubeconfig, "--workloads", "primes,file-io")
        assert told["not_kept"].startswith("not kept: NodeProfile is not installed")
        ran = {(row["node_class"], row["workload"]): row for row in told["rows"]}
        assert ran.keys() == {(c, w) for c in ("m4.xlarge", "m7g.xlarge") for w in ("primes", "file-io")}
        assert told["left_out"] == {"g5.xlarge": "gpu-1 has the taint gpu: --tolerate runs there all the same"}
        assert {(row["node_class"], row["node"]) for row in ran.values()} == {
            ("m4.xlarge", "old-1"), ("m7g.xlarge", "new-1")
        }  # fmt: skip
        for (_, workload), row in ran.items():
            assert row["seconds"] > 0
            assert row["speed"] == pytest.approx(row["reference_s"] / row["seconds"])
            assert row["checksum"] == "56257" or workload == "file-io"  # primes below 696,000

        install(cluster)
        told = profile(kubeconfig, "--workloads", "sort", "--class", "m4.xlarge", "--class", "g5.xlarge", "--tolerate")
        assert (told["not_kept"], told["left_out"]) == ("", {})
        (sort,) = profiles(cluster)["m4.xlarge"].values()
        assert {row["node_class"]: row["seconds"] for row in told["rows"]} == pytest.approx(
            {c: kept[SORT]["seconds"] for c, kept in profiles(cluster).items()}
        )
        assert (sort["node"], sort["runs"]) == ("old-1", 1)
        assert "lower" not in sort  # one run has no interval
        profile(kubeconfig, "--workloads", "matmul", "--class", "m4.xlarge")
        assert profiles(cluster)["m4.xlarge"].keys() == {SORT, MATMUL}
        assert profiles(cluster)["g5.xlarge"].keys() == {SORT}

    assert jobs(cluster) == []
    ran_on = [finished.node for finished in kubelet.finished]
    assert sorted(ran_on) == ["gpu-1", "new-1", "new-1", "old-1", "old-1", "old-1", "old-1"]


def test_a_workload_that_fails_says_why_and_the_others_are_measured(cluster: ControlPlane, kubeconfig: Path) -> None:
    async def broken(pod: Json, name: str) -> Exit:
        if "sort" in pod["spec"]["containers"][0]["command"]:
            return Exit(127, "Traceback\nModuleNotFoundError: No module named 'nodewise_operator'")
        return await run_command(pod, name)

    with Kubelet(cluster.url, cluster.token, lambda _pod, _node: None, broken):
        told = profile(kubeconfig, "--workloads", "sort,primes", "--class", "m4.xlarge")
        sort, primes = told["rows"]
        assert sort["seconds"] is None
        assert sort["why"] == "Error, exit code 127: ModuleNotFoundError: No module named 'nodewise_operator'"
        assert primes["seconds"] > 0
        profile(kubeconfig, "--workloads", "sort", "--class", "m4.xlarge", rc=1)
    assert jobs(cluster) == []


def test_a_right_that_is_missing_is_named(cluster: ControlPlane, kubeconfig: Path) -> None:
    elsewhere = command(kubeconfig, "--namespace", "default")
    done = subprocess.run(elsewhere, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot create Jobs in namespace default: jobs.batch is forbidden" in done.stderr


def test_a_class_on_which_nothing_ends_is_given_up_after_the_first_workload(
    cluster: ControlPlane, kubeconfig: Path
) -> None:
    begun: list[str] = []
    with Kubelet(cluster.url, cluster.token, lambda pod, _node: begun.append(pod["metadata"]["name"])):
        called = ("--workloads", "sort,primes", "--class", "m4.xlarge", "--timeout", "4")
        told = profile(kubeconfig, *called, rc=1)
    (why,) = {row["why"] for row in told["rows"]}
    assert why.startswith("nothing after 4 s: ")
    assert [row["workload"] for row in told["rows"]] == ["sort", "primes"]
    assert len(begun) <= 1  # the second one was not tried
    assert jobs(cluster) == []


@pytest.mark.parametrize(("number", "rc"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_profile_leaves_no_job(
    number: signal.Signals, rc: int, cluster: ControlPlane, kubeconfig: Path
) -> None:
    with Kubelet(cluster.url, cluster.token, lambda _pod, _node: None):
        called = subprocess.Popen(command(kubeconfig), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            limit_s = time.monotonic() + 60
            while len(jobs(cluster)) < 2 or not cluster.list_pods(NAMESPACE):
                assert called.poll() is None, called.communicate()
                assert time.monotonic() < limit_s
                time.sleep(0.1)
            called.send_signal(number)
            assert called.wait(40) == rc, called.communicate()
            assert jobs(cluster) == []
        finally:
            called.kill()
            called.communicate()
