"""etcd and kube-apiserver on this machine, and the calls that fill them with nodes and pods."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nodewise_simulator.controlplane.access import admin_kubeconfig, free_ports, service_account_keys
from nodewise_simulator.controlplane.api import Api, pods_path
from nodewise_simulator.controlplane.controller_manager import controller_manager
from nodewise_simulator.controlplane.loop import LoopThread
from nodewise_simulator.controlplane.process import Process
from nodewise_simulator.controlplane.programs import program, programs
from nodewise_simulator.controlplane.scheduler import Scheduler, fetch
from nodewise_simulator.controlplane.waiting import wait_for_pods

Json = dict[str, Any]


class ControlPlane:
    """A Kubernetes API on 127.0.0.1 for the length of a `with` block (4 to 10 s to ready on two cores).

    Nothing runs but etcd and kube-apiserver; without `controllers`, Jobs make no pods, owners collect nothing, and a
    namespace never finishes deleting. Start schedulers with `start_scheduler` and let a `Kubelet` play the pods.
    Enter it from the main thread (see `Process`). Not for secrets: certificates are self-signed, and etcd skips
    fsync.
    """

    kubeconfig: Path
    """File with the address and the token of a cluster admin (JSON, which is YAML)."""
    url: str
    """https://127.0.0.1:port"""
    token: str
    """The admin's bearer token."""

    @property
    def ca_file(self) -> Path:
        """The certificate that the API server shows, and the one that signed it."""
        return self.folder / "certs" / "apiserver.crt"

    def __init__(
        self,
        apiserver_args: Sequence[str] = (),
        *,
        users: Sequence[str] = (),
        audit: bool = False,
        address: str = "127.0.0.1",
        controllers: bool = False,
    ) -> None:
        """`apiserver_args` are added to kube-apiserver's command line.

        `users` are known by a token of their own (`user_kubeconfig`) and may do nothing until somebody grants it; with
        `audit` every finished request is noted (`audited`). The API server listens on `address` alone, for pods in
        network namespaces of their own one that they reach. `controllers` runs kube-controller-manager too, and pods
        then need the service account that it makes in each namespace.
        """
        self._address = address
        self._controllers = controllers
        self._apiserver_args = apiserver_args
        self._tokens = {name: secrets.token_hex(16) for name in users}
        self._audit = audit
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        paths = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="nodewise-controlplane-"))
        self.token = secrets.token_hex(16)
        self._loop = LoopThread("controlplane")
        try:
            self._start_apiserver(paths["kube-apiserver"], self._start_etcd(paths["etcd"]))
            self.kubeconfig = self.folder / "kubeconfig"
            self.kubeconfig.write_text(json.dumps(admin_kubeconfig(self.url, self.token), indent=1))
            self.kubeconfig.chmod(0o600)
            self._api = self._loop.run(Api(self.url, self.token).__aenter__())
            # /readyz does not wait for the namespaces that a post-start hook creates.
            self._processes[-1].wait_until(
                lambda: fetch(f"{self.url}/api/v1/namespaces/default", self.token) is not None
            )
            if self._controllers:
                argv = controller_manager(self.folder, self.kubeconfig, self.ca_file)
                self.start_process("kube-controller-manager", argv)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run(self._api.__aexit__(None, None, None))
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.close()
        for process in reversed(self._processes):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_process(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Process:
        """Start any program that is to end with this control plane (at the latest), with a log in `folder`.

        `env` is added to our own environment.
        """
        process = Process(name, argv, self.folder / f"{len(self._processes)}-{name}.log", env)
        self._processes.append(process)
        return process

    def _start_etcd(self, path: Path) -> str:
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        etcd = self.start_process(
            "etcd",
            [
                path,
                *("--data-dir", self.folder / "etcd"),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
                "--unsafe-no-fsync",
            ],
        )
        etcd.wait_until(lambda: fetch(f"{client}/health") is not None)
        return client

    def _start_apiserver(self, path: Path, etcd_url: str) -> None:
        (port,) = free_ports(1)
        self.url = f"https://{self._address}:{port}"
        private, public = service_account_keys(self.folder)
        tokens = self.folder / "tokens.csv"
        others = "".join(f"{token},{name},{name}\n" for name, token in self._tokens.items())
        tokens.write_text(f'{self.token},admin,1,"system:masters"\n{others}')
        tokens.chmod(0o600)
        apiserver = self.start_process(
            "kube-apiserver",
            [
                path,
                *("--etcd-servers", etcd_url),
                *("--secure-port", str(port), "--bind-address", self._address, "--advertise-address", self._address),
                *("--cert-dir", self.folder / "certs"),
                *("--service-account-issuer", "https://127.0.0.1"),
                *("--service-account-key-file", public, "--service-account-signing-key-file", private),
                *("--token-auth-file", tokens, "--authorization-mode", "RBAC"),
                *("--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none"),
                # Nobody lifts a new node's taint; without the controller manager there are no service accounts either.
                "--disable-admission-plugins=TaintNodesByCondition" + ("" if self._controllers else ",ServiceAccount"),
                *(self._audit_args() if self._audit else ()),
                *self._apiserver_args,
            ],
        )
        apiserver.wait_until(lambda: fetch(f"{self.url}/readyz", self.token) is not None)

    def _audit_args(self) -> tuple[str, ...]:
        policy = self.folder / "audit-policy.json"
        rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        log = self.folder / "audit.log"
        return (f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-maxsize=1000")

    def audited(self, user: str) -> list[Json]:
        """Every audit event of one user so far, oldest first; a watch has one when it begins and one when it ends."""
        with (self.folder / "audit.log").open() as lines:
            events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["user"].get("username") == user]

    def user_kubeconfig(self, name: str, url: str = "") -> Path:
        """Write a kubeconfig for one of `users`, to reach the API server at another `url` if told; its path."""
        file = self.folder / f"kubeconfig-{name}-{secrets.token_hex(4)}"
        file.write_text(json.dumps(admin_kubeconfig(url or self.url, self._tokens[name]), indent=1))
        file.chmod(0o600)
        return file

    def start_scheduler(self, config: Json, binary: str = "kube-scheduler") -> Scheduler:
        """Start a scheduler with this KubeSchedulerConfiguration (see `scheduler_config`) and wait for its /healthz."""
        (port,) = free_ports(1)
        file = self.folder / f"scheduler-{port}.json"
        file.write_text(json.dumps(config, indent=1))
        access = ("--authentication-kubeconfig", self.kubeconfig, "--authorization-kubeconfig", self.kubeconfig)
        certs = ("--cert-dir", self.folder / f"scheduler-{port}")
        listen = ("--secure-port", str(port), "--bind-address", "127.0.0.1")
        process = self.start_process(binary, [program(binary), "--config", file, *listen, *certs, *access])
        scheduler = Scheduler(process, f"https://127.0.0.1:{port}", self.token)
        try:
            process.wait_until(lambda: fetch(f"{scheduler.url}/healthz") is not None)
        except BaseException:
            process.stop()
            raise
        return scheduler

    def create_nodes(self, nodes: Iterable[Json]) -> list[Json]:
        """POST them whole over 16 connections (some 1,000 a second on two cores); returns them as stored."""
        return self._loop.run(self._api.create_all(("/api/v1/nodes", each) for each in nodes))

    def create_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        """Create a namespace; it cannot be deleted here, so take a new name each time."""
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels or {}}})

    def create_pods(self, pods: Iterable[Json]) -> list[Json]:
        """POST them, each into its own `metadata.namespace`, over 16 connections; returns them as stored."""
        placed = ((pods_path(each["metadata"]["namespace"]), each) for each in pods)
        return self._loop.run(self._api.create_all(placed))

    def list_pods(self, namespace: str | None = None) -> list[Json]:
        """All pods of one namespace, or of all."""
        pods: list[Json] = self.call("GET", pods_path(namespace))["items"]
        return pods

    def delete_pods(self, namespace: str = "default") -> None:
        """Delete all pods of a namespace at once, without grace; returns when the API server no longer lists them."""
        at_once = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self.call("DELETE", pods_path(namespace), at_once)

    def delete_nodes(self) -> None:
        """Delete all nodes."""
        self.call("DELETE", "/api/v1/nodes")

    def wait_bound(self, count: int, namespace: str = "default", timeout_s: float = 60.0) -> dict[str, str]:
        """Node by pod name, once `count` pods of the namespace are bound; TimeoutError quotes an unbound pod."""
        bound = self._wait(count, namespace, timeout_s, "bound", lambda pod: "nodeName" in pod["spec"])
        return {name: pod["spec"]["nodeName"] for name, pod in bound.items()}

    def wait_phase(
        self, phase: str, count: int, namespace: str = "default", timeout_s: float = 60.0
    ) -> dict[str, Json]:
        """Pods by name, once `count` of the namespace are in this phase, such as "Succeeded"; or TimeoutError."""
        return self._wait(count, namespace, timeout_s, phase, lambda pod: pod["status"].get("phase") == phase)

    def call(self, method: str, path: str, body: Json | None = None, content_type: str = "application/json") -> Json:
        """Any other request as cluster admin; raises ApiError."""
        return self._loop.run(self._api.call(method, path, body, content_type=content_type))

    def _wait(
        self, count: int, namespace: str, timeout_s: float, state: str, reached: Callable[[Json], bool]
    ) -> dict[str, Json]:
        return self._loop.run(wait_for_pods(self._api, count, namespace, timeout_s, state, reached))
