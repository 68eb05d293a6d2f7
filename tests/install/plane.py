"""A cluster to install into: control plane, made-up nodes, and two nodes whose pods are real processes."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.install.certificates import authority
from tests.install.network import Bridge
from tests.install.podrunner import PodRunner
from tests.install.provisioner import STORAGE_CLASS, provision

from nodewise_simulator.controlplane import ApiError, ControlPlane, Kubelet, node, program, scheduler_config
from nodewise_simulator.controlplane.loop import LoopThread

Json = dict[str, Any]
HOSTS = ("host-0", "host-1")
"""Nodes whose pods are processes."""
HOST_LABEL = "example.com/runs-processes"
RUNS_S = "example.com/runs-seconds"
"""Annotation of a pod that ends by itself; without it what its author expects."""
GIB = 1 << 30


def _authenticating(folder: Path) -> tuple[str, ...]:
    """Flags by which the API server publishes whom to trust, as wherever kubeadm made it; schedulers read that."""
    flags = []
    for what in ("client", "requestheader-client"):
        file = folder / f"{what}-ca.crt"
        file.write_bytes(authority(f"{what} CA")[0])
        flags.append(f"--{what}-ca-file={file}")
    return (*flags, "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group")


def _run_s(pod: Json, _node: str) -> float | None:
    notes = pod["metadata"].get("annotations", {})
    told = notes.get(RUNS_S, notes.get("nodewise.dev/expected-seconds"))
    return None if told is None else float(told)


class Plane:
    """A control plane for the length of a `with` block, without nodes and schedulers, and with nothing installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self._open = ExitStack()
        with ExitStack() as opened:
            bridge = opened.enter_context(Bridge())
            args = _authenticating(self.folder)
            self.control = opened.enter_context(
                ControlPlane(args, audit=True, address=bridge.address, controllers=True)
            )
            control = self.control
            self.call = control.call
            control.call("POST", "/apis/storage.k8s.io/v1/storageclasses", STORAGE_CLASS)
            thread = LoopThread("provisioner")
            opened.callback(thread.close)
            thread.start(provision(control.url, control.token, self.folder / "volumes"))
            self.runner = opened.enter_context(
                PodRunner(control.url, control.token, bridge, HOSTS, self.folder / "pods")
            )
            opened.enter_context(Kubelet(control.url, control.token, _run_s, others=HOSTS))
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add_hosts(self, *, taints: Iterable[Json] = ()) -> None:
        """The nodes whose pods are processes."""
        size: Json = {"cpu_milli": 64_000, "memory_bytes": 256 * GIB}
        self.control.create_nodes(node(name, labels={HOST_LABEL: "true"}, taints=taints, **size) for name in HOSTS)

    def start_default_scheduler(self, extender_url: str | None = None) -> None:
        """The stock one, for every pod that does not ask for another; or one that asks an extender."""
        stock = extender_url is None
        config = scheduler_config(
            self.control.kubeconfig, extender_url, scheduler_name="default-scheduler", stock=stock
        )
        self.control.start_scheduler(config)

    def helm(self, *words: str | Path, fails: bool = False) -> str:
        """What helm prints; it must succeed, unless it shall not."""
        return self._tool("helm", words, fails)

    def kubectl(self, *words: str | Path, fails: bool = False) -> str:
        """What kubectl prints."""
        return self._tool("kubectl", words, fails)

    def _tool(self, name: str, words: Iterable[str | Path], fails: bool) -> str:
        home = self.folder / "home"
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(self.control.kubeconfig)}
        argv = [str(program(name)), *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=240)
        said = f"{name} {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        assert (done.returncode != 0) == fails, f"{said}\n{self.runner.describe()}"
        return done.stdout + (done.stderr if fails else "")

    def namespace(self, name: str, labels: dict[str, str] | None = None) -> str:
        """Make a namespace, and wait for the account that its pods need."""
        self.control.create_namespace(name, labels)
        self.wait(lambda: self.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 20, "service account")
        return name

    def exists(self, path: str) -> bool:
        """Whether the API server has it."""
        try:
            self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def wait(self, holds: Callable[[], object], timeout_s: float, what: str) -> float:
        """Poll until it holds; the seconds it took. Fails with `what` when it takes longer than `timeout_s`."""
        began_s = time.monotonic()
        while not holds():
            took_s = time.monotonic() - began_s
            assert took_s < timeout_s, f"{what}: not after {timeout_s:g} s\n{self.runner.describe()}"
            time.sleep(0.1)
        return time.monotonic() - began_s

    def ready(self, namespace: str, component: str) -> list[Json]:
        """The pods of one component of the release that are Ready and stay."""
        pods = self.control.list_pods(namespace)
        return [
            pod
            for pod in pods
            if pod["metadata"].get("labels", {}).get("app.kubernetes.io/component") == component
            and "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
        ]

    def audit(self) -> list[Json]:
        """Every finished request so far, oldest first."""
        with (self.control.folder / "audit.log").open() as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]
