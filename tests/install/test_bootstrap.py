"""Everything at once on a cold cluster: nothing of ours may wait for something of ours."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from tests.install.conftest import require
from tests.install.plane import GIB, Plane
from tests.install.release import CHART, NAMESPACE, PATIENT, TLS, bound_by, make_secret, user, values

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import node, pod, program, scheduler_config, taint
from nodewise_simulator.controlplane.access import free_ports

Json = dict[str, Any]
ROUNDS = int(os.environ.get("NODEWISE_BOOTSTRAP_ROUNDS", "2"))
MOST_S = 30.0
DEDICATED = "nodewise.dev/dedicated"
TAGS = ("", "v1.34.4")
"""Of the kube-scheduler, in turn: the chart's own, and the oldest one tested."""

pytestmark = pytest.mark.timeout(120 * (ROUNDS + 1))


@pytest.fixture
def cold(able: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        program("kube-scheduler-1.34")
    except UserError as missing:
        require("NODEWISE_REQUIRE_CONTROLPLANE", str(missing))
    return tmp_path_factory.mktemp("cold")


def test_a_cold_cluster_with_everything_applied_at_once_comes_up_every_time(cold: Path) -> None:
    took = []
    for k in range(ROUNDS):
        took.append(_round(cold / str(k), TAGS[k % 2]))
        print("round", k, took[-1], flush=True)
    bound_s, ready_s = zip(*took, strict=True)
    for what, seconds in (("bound", bound_s), ("working", ready_s)):
        print(f"{ROUNDS} of {ROUNDS} {what}: median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s")
    assert max(bound_s) < MOST_S


def test_an_extender_that_may_refuse_would_lock_everything_out(plane: Plane) -> None:
    """What the test above would see if our configuration were the wrong one."""
    config = scheduler_config(plane.control.kubeconfig, "http://127.0.0.1:1", scheduler_name="locked")
    config["extenders"][0] |= {"filterVerb": "filter", "ignorable": False}
    plane.control.start_scheduler(config)
    plane.control.create_nodes([node("free", cpu_milli=8000, memory_bytes=32 * GIB)])
    plane.namespace("batch")
    plane.control.create_pods(
        [pod("waits", namespace="batch", scheduler_name="locked", cpu_milli=100, memory_bytes=GIB)]
    )

    def told() -> str:
        waits = plane.call("GET", "/api/v1/namespaces/batch/pods/waits")
        return "".join(each.get("message", "") for each in waits["status"].get("conditions", ()))

    plane.wait(lambda: "connection refused" in told(), 20, "it says why")
    assert "nodeName" not in plane.call("GET", "/api/v1/namespaces/batch/pods/waits")["spec"]


def _round(folder: Path, tag: str) -> tuple[float, float]:
    """Seconds from the first scheduler's start until all of ours are bound, and until our scheduler placed a pod."""
    folder.mkdir()
    with Plane(folder) as plane:
        # Whoever opts in the very namespace that the scheduler lives in has not locked it out.
        plane.namespace(NAMESPACE, {"nodewise.dev/scheduling": "enabled"})
        plane.namespace("batch", {"nodewise.dev/scheduling": "enabled"})
        make_secret(plane)
        content: Json = {
            **TLS,
            "scheduling": {"enabled": True, "scheduler": {"image": {"tag": tag}}, "extender": PATIENT},
        }
        plane.helm("install", "nodewise", CHART, "-n", NAMESPACE, "-f", values(plane, "cold", content))
        plane.wait(lambda: _made(plane), 20, "the policy and the pods of the chart")
        plane.control.create_pods(
            [pod("first", namespace="batch", scheduler_name="default-scheduler", cpu_milli=100, memory_bytes=GIB)]
        )
        began_s = time.monotonic()
        # The default scheduler asks the extender too, as in the variants of manifests/attach, and none is there.
        plane.start_default_scheduler(f"http://127.0.0.1:{free_ports(1)[0]}")
        plane.add_hosts()
        ours: Json = {"labels": {DEDICATED: "true"}, "taints": [taint(DEDICATED, "true")]}
        plane.control.create_nodes([node("ours", cpu_milli=8000, memory_bytes=32 * GIB, **ours)])
        plane.wait(lambda: all("nodeName" in p["spec"] for p in plane.control.list_pods(NAMESPACE)), 60, "bound")
        bound_s = time.monotonic() - began_s
        plane.wait(lambda: "first" in bound_by(plane, "batch"), 60, "the first pod of ours")
        ready_s = time.monotonic() - began_s
        assert bound_by(plane, "batch")["first"][0] == user("nodewise-scheduler")
        plane.wait(lambda: len(plane.ready(NAMESPACE, "operator")) == 1, 60, "operator")
        plane.wait(lambda: len(plane.ready(NAMESPACE, "scheduler")) == 2, 60, "schedulers")
        assert {
            s["restartCount"] for p in plane.control.list_pods(NAMESPACE) for s in p["status"]["containerStatuses"]
        } == {0}
        assert "Phase:          Succeeded" in plane.helm("test", "nodewise", "-n", NAMESPACE, "--timeout", "60s")
        return bound_s, ready_s


def _made(plane: Plane) -> bool:
    policy = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/nodewise-opt-in"
    probe = pod("probe", namespace="batch", scheduler_name="default-scheduler", cpu_milli=1, memory_bytes=1)
    if len(plane.control.list_pods(NAMESPACE)) < 3 or not plane.exists(policy):
        return False
    path = "/api/v1/namespaces/batch/pods?dryRun=All"  # the policy is in force some time after it is there
    return bool(plane.call("POST", path, probe)["spec"]["schedulerName"] == "nodewise")
