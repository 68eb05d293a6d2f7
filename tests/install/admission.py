"""Asking a real API server as anybody, about the chart's admission policies."""

import json
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import ControlPlane, program, programs

from .conftest import require

Json = dict[str, Any]
CHART = Path(__file__).parents[2] / "charts/nodewise"
GROUP = "/apis/admissionregistration.k8s.io/v1"
FILES = ("opt-in", "sla-production", "annotations")
KINDS = ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "Job", "CronJob", "ReplicationController")
MERGE, STRATEGIC, PATCH, APPLY = (
    f"application/{kind}"
    for kind in ("merge-patch+json", "strategic-merge-patch+json", "json-patch+json", "apply-patch+yaml")
)
_UNCHECKED = ssl._create_unverified_context()  # a self-signed certificate on loopback


def need(*names: str) -> None:
    """Skip the test, or fail it where they must be there, without the programs of a control plane and these."""
    try:
        programs()
        for name in ("helm", *names):
            program(name)
    except UserError as missing:
        require("NODEWISE_REQUIRE_CONTROLPLANE", str(missing))


def helm(*values: str, files: tuple[str, ...] = FILES, kubernetes: str = "1.36.3", apis: str = "v1") -> list[Json]:
    """The objects of the admission templates."""
    argv = [str(program("helm")), "template", "nodewise", str(CHART), "--namespace", "nodewise-system"]
    argv += ["--kube-version", kubernetes]
    if apis:
        argv += ["--api-versions", f"admissionregistration.k8s.io/{apis}/MutatingAdmissionPolicy"]
    for value in ("scheduling.enabled=true", *values):
        argv += ["--set", value]
    for file in files:
        argv += ["--show-only", f"templates/admission/{file}.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "could not find template" in done.stderr:  # helm's way to say that it is empty
        return []
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


class Cluster:
    """A control plane that answers as anybody, with what it warned of."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def ask(
        self, method: str, path: str, body: Any = None, *, user: str = "", group: str = "system:authenticated",
        content_type: str = "application/json",
    ) -> tuple[int, Json, list[str]]:  # fmt: skip
        """Status, answer and warnings of a request, as admin or on behalf of `user`."""
        request = urllib.request.Request(self.plane.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.plane.token}")
        request.add_header("Content-Type", content_type)
        if user:
            request.add_header("Impersonate-User", user)
            request.add_header("Impersonate-Group", group)
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=30, context=_UNCHECKED) as reply:
                status, raw, headers = reply.status, reply.read(), reply.headers
        except urllib.error.HTTPError as error:
            status, raw, headers = error.code, error.read(), error.headers
        told = [re.sub(r'^299 \S+ "|"$|\\(?=["\\])', "", text) for text in headers.get_all("Warning") or ()]
        return status, json.loads(raw), told

    def apply(self, thing: Json, *, dry_run: bool = False) -> None:
        """By server-side apply; nothing may be warned of."""
        kind, name = thing["kind"], thing["metadata"]["name"]
        plural = {"y": kind[:-1] + "ies", "g": kind + "s"}[kind[-1]].lower()
        path = f"/apis/{thing['apiVersion']}/{plural}/{name}?fieldManager=test&force=true"
        path += "&dryRun=All" if dry_run else ""
        status, answer, warned = self.ask("PATCH", path, thing, content_type=APPLY)
        assert status in (200, 201), answer
        assert not warned, warned

    def pod(self, name: str, namespace: str, meta: Json | None = None, user: str = "", **spec: Any) -> Json:
        """Create a pod; as it is stored."""
        status, stored, _ = self.ask("POST", pods(namespace), pod(name, meta, **spec), user=user)
        assert status == 201, stored
        return stored

    def wait(self, reached: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
        limit_s = time.monotonic() + timeout_s
        while not (found := reached()):
            assert time.monotonic() < limit_s, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.1)
        return found

    def scheduler_of_new_pods(self, namespace: str) -> str:
        """By a pod that is never stored."""
        status, answer, _ = self.ask("POST", f"{pods(namespace)}?dryRun=All", pod("probe"))
        assert status == 201, answer
        return str(answer["spec"]["schedulerName"])


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def pod(name: str, meta: Json | None = None, **spec: Any) -> Json:
    containers = [{"name": "main", "image": "app"}]
    return {"metadata": {"name": name, **(meta or {})}, "spec": {"containers": containers, **spec}}


def workload(kind: str, name: str, annotations: Json | None = None, own: Json | None = None) -> tuple[str, Json]:
    """Path (without namespace: `{}`) and object of a workload whose pods have `annotations`."""
    labels = {"app": name}
    template: Json = {"metadata": {"labels": labels, "annotations": annotations or {}}, "spec": pod("")["spec"]}
    spec: Json = {"template": template}
    if kind in ("Job", "CronJob"):
        template["spec"]["restartPolicy"] = "Never"
    else:
        spec["selector"] = labels if kind == "ReplicationController" else {"matchLabels": labels}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if kind == "CronJob":
        spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": spec}}
    groups = {"Job": "apis/batch/v1", "CronJob": "apis/batch/v1", "ReplicationController": "api/v1"}
    group = groups.get(kind, "apis/apps/v1")
    version = group.removeprefix("apis/").removeprefix("api/")
    made = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "annotations": own or {}}, "spec": spec}
    return f"/{group}/namespaces/{{}}/{kind.lower()}s", made
