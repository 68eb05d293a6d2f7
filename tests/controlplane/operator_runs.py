"""An operator process on a real API server that notes every request, and pods for it to see."""

import contextlib
import os
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise.core.errors import UserError
from nodewise_operator.store import Fate, Store
from nodewise_simulator.controlplane import ControlPlane, Process, node, pod, programs
from nodewise_simulator.controlplane.access import free_ports

Json = dict[str, Any]
USER = "nodewise-operator"
GIB = 1 << 30


@pytest.fixture(scope="module")
def audited() -> Iterator[ControlPlane]:
    """A control plane that notes every request, with a user that has the operator's rights."""
    try:
        programs()
    except UserError as missing:
        if os.environ.get("NODEWISE_REQUIRE_CONTROLPLANE") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with ControlPlane(users=[USER], audit=True) as plane:
        rights = [
            {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        ]
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        plane.call("POST", f"{rbac}/clusterroles", {"metadata": {"name": USER}, "rules": rights})
        subject = {"kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "ClusterRole", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}
        plane.call(
            "POST", f"{rbac}/clusterrolebindings", {"metadata": {"name": USER}, "subjects": [subject], "roleRef": role}
        )
        yield plane


class Scheduled:
    """Binds pods as they are created, with the clients of the harness: a scheduler is not what is tested here."""

    def __init__(self, plane: ControlPlane, nodes: int = 8) -> None:
        self.plane = plane
        self.nodes = [f"n{k}" for k in range(nodes)]
        plane.create_nodes(
            node(name, cpu_milli=64_000, memory_bytes=256 * GIB, instance_type=f"type-{k % 2}", pods=500)
            for k, name in enumerate(self.nodes)
        )

    def run(self, namespace: str, *pods: Json) -> list[Json]:
        made = self.plane.create_pods(pods)
        for created in made:
            self.bind(namespace, created["metadata"]["name"])
        return made

    def bind(self, namespace: str, name: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": random.choice(self.nodes)}
        body = {"metadata": {"name": name}, "target": target}
        self.plane.call("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", body)


class Running:
    """An operator process and its store."""

    def __init__(
        self, plane: ControlPlane, folder: Path, *flags: str, url: str = "", store: str = "operator.db"
    ) -> None:
        self.plane, self.folder = plane, folder
        self.store_path: Path | str = store if "://" in store else folder / store
        (self.port,) = free_ports(1)
        self.argv = [
            sys.executable, "-m", "nodewise.cli.main", "operator",
            "--kubeconfig", str(plane.user_kubeconfig(USER, url)), "--store", str(self.store_path),
            "--port", str(self.port), "--channel-port", "0", "--unknown-after-s", "2",
            *flags,
        ]  # fmt: skip
        self.log = folder / f"operator-{self.port}.log"
        self.process = self.start()

    def start(self) -> Process:
        self.process = Process("operator", self.argv, self.log)
        return self.process

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return str(reply.read().decode())
        except OSError:
            return ""

    def ready(self) -> "Running":
        self.process.wait_until(lambda: bool(self.get("/readyz")), 90.0)
        return self

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(f"nodewise_operator_{name} ")]
        return float(lines[0].split()[1]) if lines else -1.0

    def rows(self) -> dict[str, Any]:
        """Pods by name, as they are in the store."""
        with contextlib.closing(Store.open(str(self.store_path), create=False)) as store:
            return {row.name: row for row in store.pods()}

    def wait_rows(self, count: int, reached: Callable[[Any], bool], timeout_s: float = 60.0) -> dict[str, Any]:
        give_up_s = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(UserError):  # the store is not there yet
                rows = self.rows()
                if sum(map(reached, rows.values())) >= count:
                    return rows
            if time.monotonic() > give_up_s:
                seen = Counter((row.fate, row.reason) for row in rows.values())
                raise AssertionError(f"{seen} after {timeout_s:g} s; the log ends:\n{self.process.log_tail()}")
            time.sleep(0.2)


@pytest.fixture(params=["kopf", "informer"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(audited: ControlPlane) -> Iterator[Scheduled]:
    yield Scheduled(audited)
    for space in {each["metadata"]["namespace"] for each in audited.list_pods()}:
        audited.delete_pods(space)
    audited.delete_nodes()


@pytest.fixture
def namespace(audited: ControlPlane) -> str:
    name = f"test-{time.monotonic_ns()}"
    audited.create_namespace(name)
    return name


@pytest.fixture
def start(audited: ControlPlane, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as ending:

        def started(*flags: str, **more: Any) -> Running:
            made = Running(audited, tmp_path, *flags, **more)
            ending.callback(lambda: made.process.stop())
            return made

        yield started


def a_pod(namespace: str, name: str, **more: Any) -> Json:
    made = pod(name, cpu_milli=100, memory_bytes=GIB // 8, namespace=namespace, scheduler_name="any-scheduler", **more)
    made["metadata"].setdefault("annotations", {})["run-seconds"] = str(more.get("run_s", 1.0))
    return made


def lasting(namespace: str, name: str, run_s: float) -> Json:
    made = a_pod(namespace, name)
    made["metadata"]["annotations"]["run-seconds"] = str(run_s)
    return made


def run_s(pod: Json, _node: str) -> float | None:
    told = float(pod["metadata"]["annotations"]["run-seconds"])
    return told if told >= 0 else None


def conserved(running: Running) -> None:
    with contextlib.closing(Store.open(str(running.store_path), create=False)) as store:
        decided = {decision.uid for decision in store.decisions()}
        pods = [row.uid for row in store.pods()]
        assert len(pods) == len(set(pods))
        assert decided == set(pods)
        downtimes = store.downtimes()
        for row in store.pods():
            if row.fate is Fate.CENSORED and row.reason == "downtime":
                assert any(d.begin_s <= row.finished_s <= d.end_s + 60.0 for d in downtimes), row
