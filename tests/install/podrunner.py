"""A kubelet whose containers are processes of this machine: see `PodRunner`."""

import asyncio
import shutil
import signal
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.install.network import Bridge
from tests.install.runningpod import RunningPod
from tests.install.services import hosts_file
from tests.install.volumes import Issued, Sources

from nodewise_simulator.controlplane import Api
from nodewise_simulator.controlplane.loop import LoopThread

Json = dict[str, Any]


class PodRunner:
    """Runs the pods that are bound to `nodes`, each in a network namespace of its own on `bridge`.

    What a container gets is what its pod says: its image's program (`images`), its mounts at their paths below a root
    of its own, its environment, its user, the tokens that were asked for it. Probes decide about Ready, a program
    that ends is started again with a kubelet's back-off, deletion sends SIGTERM and waits. In the place of kube-proxy
    and DNS, /etc/hosts names a Service's first ready pod. Not done: resource limits, seccomp, tokens and mounted
    objects that change later, `kubectl logs` and `exec`.
    """

    def __init__(self, url: str, token: str, bridge: Bridge, nodes: Collection[str], folder: Path) -> None:
        self.pods: dict[str, RunningPod] = {}
        """By name, from bound to gone."""
        self.addresses: dict[str, str] = {}
        """Of every pod that was here, by its name."""
        self.folder = folder
        self._url, self._api, self._bridge, self._nodes = url, Api(url, token), bridge, nodes
        self._sources = Sources(self._api)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def issued(self) -> list[Issued]:
        """Every token that containers were given by projection."""
        return self._sources.issued

    def __enter__(self) -> Self:
        self._thread = LoopThread("podrunner")
        self._work = self._thread.start(self._run())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        died = self._work.done() and self._work.exception()
        for pod in list(self.pods.values()):
            pod.kill()
        self._thread.close()
        for pod in list(self.pods.values()):
            pod.clean()
        if died:
            raise died

    def signal(self, pod: str, container: str, number: signal.Signals) -> None:
        """To the program of one container; SIGKILL is what an out-of-memory kill looks like."""
        self.pods[pod].containers[container].signal(number)

    def runs(self, pod: str, container: str) -> bool:
        """Whether the container's program runs now."""
        return self.pods[pod].containers[container].pid is not None

    def log(self, pod: str, container: str) -> str:
        """All that the container wrote, over its restarts."""
        file = self.folder / "logs" / f"{pod}-{container}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def describe(self) -> str:
        """What went on in every pod, for who reads a failure."""
        told = []
        for name, pod in list(self.pods.items()):
            for container in pod.containers.values():
                status = container.status()
                told.append(f"{name} {status['name']}: ready={status['ready']} {status['state']} {status['lastState']}")
                told += self.log(name, status["name"]).splitlines()[-12:]
        if self._work.done() and (died := self._work.exception()):
            told.append(f"the pod runner itself ended: {died!r}")
        return "\n".join(told)

    async def _run(self) -> None:
        async with self._api, asyncio.TaskGroup() as tasks:
            for node in self._nodes:
                tasks.create_task(self._watch(node))
            tasks.create_task(self._resolve())

    async def _watch(self, node: str) -> None:
        async for kind, thing in self._api.events("/api/v1/pods", params={"fieldSelector": f"spec.nodeName={node}"}):
            for pod in thing["items"] if kind == "SYNC" else [thing]:
                name = pod["metadata"]["name"]
                known = self.pods.get(name)
                if kind == "DELETED":
                    if known is not None:
                        known.kill()
                elif known is not None:
                    known.see(pod)
                elif pod["status"].get("phase") not in ("Succeeded", "Failed"):
                    self._begin(pod)

    def _begin(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        namespace, address = self._bridge.add()
        folder = self.folder / pod["metadata"]["uid"]
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        host, port = self._url.removeprefix("https://").split(":")
        server = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        server |= {"KUBERNETES_SERVICE_PORT_HTTPS": port, "KUBERNETES_PORT": f"tcp://{host}:{port}"}

        def clean() -> None:
            self._bridge.remove(namespace)
            shutil.rmtree(folder, ignore_errors=True)

        running = RunningPod(self._sources, pod, namespace, address, self._bridge.address, folder, logs, server, clean)
        self.pods[name] = running
        self.addresses[name] = address
        task = asyncio.get_running_loop().create_task(self._live(name, running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, name: str, running: RunningPod) -> None:
        try:
            await running.live()
        finally:
            running.kill()
            running.clean()
            self.pods.pop(name, None)

    async def _resolve(self) -> None:
        """Rewrite every pod's /etc/hosts when the Services of its namespace, or who is ready, changed."""
        while True:
            for namespace in {pod.namespace for pod in self.pods.values()}:
                neighbours = [pod for pod in self.pods.values() if pod.namespace == namespace]
                services = (await self._api.call("GET", f"/api/v1/namespaces/{namespace}/services"))["items"]
                text = hosts_file(services, [(p.labels, p.pod_ip) for p in neighbours if p.ready])
                for pod in neighbours:
                    pod.write_hosts(text)
            await asyncio.sleep(0.3)
