"""The pod runner itself: what its containers see, and what becomes of them."""

import signal
from typing import Any

import pytest
from tests.install.plane import HOST_LABEL, Plane

Json = dict[str, Any]

HOST: Json = {
    "nodeSelector": {HOST_LABEL: "true"},
    "tolerations": [{"key": HOST_LABEL, "operator": "Exists"}],
}
SEES = """
id -u; id -G; ls -Am / | tr -d '\\n'; echo; ls -m /var/run/secrets/kubernetes.io/serviceaccount
env | cut -d= -f1 | sort
touch /x || true; touch /cache/y && echo cache is writable
trap 'echo got TERM; exit 0' TERM
while true; do sleep 0.2; done
"""


def pod(name: str, script: str, **more: Any) -> Json:
    container: Json = {"name": "main", "image": "busybox:1", "command": ["/bin/sh", "-c", script]}
    container |= more.pop("container", {})
    spec = {**HOST, "containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "runner"}, "spec": spec}


def state(plane: Plane, name: str) -> Json:
    """The entry of containerStatuses; empty before there is one."""
    status: Json = plane.call("GET", f"/api/v1/namespaces/runner/pods/{name}")["status"]
    found: list[Json] = status.get("containerStatuses", [{"state": {}, "restartCount": 0}])
    return found[0]


@pytest.fixture(scope="module", autouse=True)
def runner_namespace(plane: Plane) -> str:
    return plane.namespace("runner")


def test_a_container_sees_its_image_its_mounts_and_its_token_and_nothing_else(plane: Plane) -> None:
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": "cache", "mountPath": "/cache"}]
    plane.control.create_pods(
        [
            pod(
                "sees",
                SEES,
                container={"volumeMounts": mounts, "securityContext": context},
                volumes=[{"name": "cache", "emptyDir": {}}],
                securityContext={"runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": True, "fsGroup": 65532},
            )
        ]
    )
    plane.wait(lambda: "cache is writable" in plane.runner.log("sees", "main"), 30, "the container's own words")
    user, groups, root, token, *rest = plane.runner.log("sees", "main").splitlines()
    assert (user, groups, token) == ("65532", "65532", "ca.crt, namespace, token")
    machine = {"bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "tmp", "usr", "var"}
    assert set(root.split(", ")) == {"cache", *machine}
    assert {word for word in rest if word.isupper()} == {
        *("HOSTNAME", "PATH", "PWD", "KUBERNETES_PORT"),
        *("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS"),
    }
    assert "touch: cannot touch '/x': Read-only file system" in rest
    plane.call("DELETE", "/api/v1/namespaces/runner/pods/sees")
    plane.wait(lambda: not plane.exists("/api/v1/namespaces/runner/pods/sees"), 20, "the pod's end")
    assert "got TERM" in plane.runner.log("sees", "main")


def test_a_program_that_dies_is_started_again(plane: Plane) -> None:
    plane.control.create_pods([pod("dies", "echo once more; exec sleep 1000")])
    plane.wait(lambda: "running" in state(plane, "dies")["state"], 30, "start")
    plane.runner.signal("dies", "main", signal.SIGKILL)
    plane.wait(
        lambda: state(plane, "dies")["restartCount"] == 1 and "running" in state(plane, "dies")["state"], 20, "2"
    )
    assert state(plane, "dies")["lastState"]["terminated"]["exitCode"] == 137
