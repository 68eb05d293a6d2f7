"""The chart in a real cluster, with our programs where its pods would be; for tests of `kubectl nodewise`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nodewise_simulator.controlplane import ApiError, ControlPlane, Process, program
from nodewise_simulator.controlplane.access import free_ports

Json = dict[str, Any]

CHART = Path(__file__).parents[2] / "charts" / "nodewise"
SYSTEM = "nodewise-system"
MERGE = "application/merge-patch+json"


def until(holds: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    give_up_s = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < give_up_s, what
        time.sleep(0.1)
    return found


def address() -> str:
    """One of this machine that is not loopback, which the API server's proxy to pods refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return ""
        return str(asked.getsockname()[0])


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address()}:{port}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def rendered() -> list[Json]:
    argv = [str(program("helm")), "template", "nodewise", str(CHART), "-n", SYSTEM, "--kube-version", "1.36.3"]
    done = subprocess.run([*argv, "--set", "scheduling.enabled=true"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


class Installed:
    """A cluster with the chart in it; `ports` are those that the parts' pods say that they have."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        self.extender_port, self.operator_port, self.port = free_ports(3)
        self.processes: list[Process] = []
        plane.create_namespace(SYSTEM)
        until(lambda: self.get(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/default"), "a service account")
        objects = rendered()
        for one in objects:
            if one["kind"] == "Deployment":
                self._point(one)
        file = folder / "chart.json"
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "List",
                    "items": [o for o in objects if "hook" not in str(o["metadata"].get("annotations"))],
                }
            )
        )
        until(
            lambda: self.kubectl("apply", "--server-side", "-f", str(file), check=False).returncode == 0,
            "applied",
            30.0,
        )
        self.config = next(o for o in objects if o["kind"] == "ConfigMap" and "config.yaml" in o["data"])["data"]

    def _point(self, deployment: Json) -> None:
        """At ports that are free here."""
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env") or ():
                ports = {"NODEWISE_ADMIN_PORT": self.extender_port, "NODEWISE_OPERATOR_PORT": self.operator_port}
                if variable["name"] in ports:
                    variable["value"] = str(ports[variable["name"]])

    def get(self, path: str) -> Json | None:
        try:
            return self.plane.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def kubectl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = [str(program("kubectl")), "--kubeconfig", str(self.plane.kubeconfig), *words]
        env = {**os.environ, "HOME": str(self.folder)}
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=check)

    def pods(self, component: str) -> list[Json]:
        return [
            one
            for one in self.plane.list_pods(SYSTEM)
            if one["metadata"]["labels"].get("app.kubernetes.io/component") == component
        ]

    def play(self, *, ready: bool = True) -> None:
        """Say, as a kubelet, that the parts' pods run here."""
        until(lambda: len(self.pods("scheduler")) == 2 and len(self.pods("operator")) == 1, "pods of the parts")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": now}
        for one in (*self.pods("scheduler"), *self.pods("operator")):
            status = {
                "phase": "Running", "podIP": address(), "podIPs": [{"ip": address()}], "conditions": [condition],
                "startTime": now,
            }  # fmt: skip
            path = f"/api/v1/namespaces/{SYSTEM}/pods/{one['metadata']['name']}"
            if not one["spec"].get("nodeName"):
                target = {"apiVersion": "v1", "kind": "Node", "name": "system-0"}
                self.plane.call(
                    "POST", f"{path}/binding", {"metadata": {"name": one["metadata"]["name"]}, "target": target}
                )
            self.plane.call("PATCH", f"{path}/status", {"status": status}, MERGE)

    def run_parts(self) -> None:
        """Extender, operator, and a scheduler with the chart's own configuration."""
        cli, access = [sys.executable, "-m", "nodewise.cli.main"], ["--kubeconfig", str(self.plane.kubeconfig)]
        self._start(
            "extender", *cli, "extender", *access, "--port", str(self.port), "--admin-host", address(),
            "--admin-port", str(self.extender_port), "--policy", "economic", "--silence-s", "30",
        )  # fmt: skip
        self._start(
            "operator", *cli, "operator", *access, "--host", address(), "--port", str(self.operator_port),
            "--store", str(self.folder / "operator.db"), "--channel-port", "0", "--policy", "economic",
        )  # fmt: skip
        for process, port in zip(self.processes, (self.extender_port, self.operator_port), strict=True):
            process.wait_until(lambda port=port: ready(port), 60.0)  # type: ignore[misc]
        config = yaml.safe_load(self.config["config.yaml"])
        config["clientConnection"]["kubeconfig"] = str(self.plane.kubeconfig)
        config["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{self.port}"
        self.scheduler = self.plane.start_scheduler(config)

    def _start(self, name: str, *argv: str) -> None:
        self.processes.append(Process(name, list(argv), self.folder / f"{name}.log"))

    def stop(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.stop()
        for process in self.processes:
            process.stop()
