"""One pod from bound to gone: its volumes, its containers, its status."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.install.playedcontainer import Played
from tests.install.services import service_links
from tests.install.volumes import NotYetError, Sources, Volumes

from nodewise_simulator.controlplane import ApiError
from nodewise_simulator.controlplane.api import STRATEGIC_MERGE

Json = dict[str, Any]
RETRY_S = 1.0
_GONE = (404, 409)


class RunningPod:
    """What a kubelet does for one pod; `live` is its whole life, `see` tells it what the watch says meanwhile."""

    def __init__(
        self,
        sources: Sources,
        pod: Json,
        netns: str,
        pod_ip: str,
        host_ip: str,
        folder: Path,
        logs: Path,
        server: Mapping[str, str],
        clean: Callable[[], None],
    ) -> None:
        self.namespace: str = pod["metadata"]["namespace"]
        self.labels: dict[str, str] = pod["metadata"].get("labels", {})
        self.pod_ip = pod_ip
        self.netns = netns
        self.spec: Json = pod
        self.folder, self.logs = folder, logs
        self.hosts = folder / "hosts"
        self.sources = sources
        self.env: dict[str, str] = dict(server)
        self.volumes: dict[str, tuple[Path, bool]] = {}
        self.containers = {c["name"]: Played(self, c) for c in pod["spec"]["containers"]}
        self.init = {c["name"]: Played(self, c) for c in pod["spec"].get("initContainers") or ()}
        self.changed = asyncio.Event()
        self._host_ip = host_ip
        self._clean = clean
        self._leaving = asyncio.Event()
        self._started = _timestamp()
        self._since: dict[str, tuple[str, str]] = {}  # status and its time, by condition
        self._initialized = False
        folder.mkdir(parents=True)
        self.write_hosts("")

    @property
    def ready(self) -> bool:
        """Whether a Service sends requests here."""
        return not self._leaving.is_set() and all(each.ready for each in self.containers.values())

    def write_hosts(self, services: str) -> None:
        """/etc/hosts of all containers; written in place, because they hold it by a mount."""
        if not self.folder.exists():  # gone meanwhile
            return
        name = self.spec["metadata"]["name"]
        text = f"127.0.0.1 localhost\n{self.pod_ip} {name}\n{services}"
        if not self.hosts.exists() or self.hosts.read_text() != text:
            self.hosts.write_text(text)

    def see(self, pod: Json) -> None:
        """The pod as the API server has it now."""
        self.spec["metadata"] = pod["metadata"]
        if "deletionTimestamp" in pod["metadata"]:
            self._leaving.set()

    def kill(self) -> None:
        """End every program at once."""
        self._leaving.set()
        for each in (*self.init.values(), *self.containers.values()):
            each.kill()

    def clean(self) -> None:
        """Give back network and folders, once."""
        clean, self._clean = self._clean, lambda: None
        clean()

    async def live(self) -> None:
        """Until the pod is deleted, or over."""
        telling = asyncio.create_task(self._tell())
        working = asyncio.create_task(self._work())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                await self._patch()
                await leaving
            grace_s = self.spec["metadata"].get("deletionGracePeriodSeconds", 30)
            working.cancel()
            self.changed.set()
            every = (*self.containers.values(), *self.init.values())
            await asyncio.gather(*(each.stop(grace_s) for each in every))
            telling.cancel()
            await self._patch()
            await self._delete()
        finally:
            for task in (telling, working, leaving):
                task.cancel()

    async def _work(self) -> None:
        await self._prepare()
        for each in self.init.values():
            if each.container.get("restartPolicy") == "Always":  # a sidecar: on to the next once it has started
                each.begin()
                await each.started.wait()
            else:
                await each.run_to_end()
        self._initialized = True
        self.changed.set()
        for each in self.containers.values():
            each.begin()
        await asyncio.gather(*(each.over() for each in self.containers.values()))

    async def _prepare(self) -> None:
        if self.spec["spec"].get("enableServiceLinks", True):
            path = f"/api/v1/namespaces/{self.namespace}/services"
            self.env = service_links((await self.sources.api.call("GET", path))["items"]) | self.env
        while True:
            try:
                self.volumes = await Volumes(self.sources, self.folder / "volumes").make(self.spec, self.pod_ip)
                return
            except (NotYetError, ApiError) as why:
                for each in self.containers.values():
                    each.waits("ContainerCreating", f"MountVolume.SetUp failed: {why}")
                await asyncio.sleep(RETRY_S)

    async def _tell(self) -> None:
        while True:
            self.changed.clear()
            if not await self._patch():
                return
            await self.changed.wait()

    async def _patch(self) -> bool:
        body = {"metadata": {"uid": self.spec["metadata"]["uid"]}, "status": self._status()}
        try:
            await self.sources.api.call("PATCH", f"{self._path}/status", body, content_type=STRATEGIC_MERGE)
        except ApiError as error:
            if error.status in _GONE:
                self._leaving.set()
                return False
            raise
        return True

    async def _delete(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.spec["metadata"]["uid"]}}
        try:
            await self.sources.api.call("DELETE", self._path, body)
        except ApiError as error:
            if error.status not in _GONE:
                raise

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.spec['metadata']['name']}"

    def _status(self) -> Json:
        statuses = [each.status() for each in self.containers.values()]
        phase = self._phase(statuses)
        ready = phase == "Running" and all(each["ready"] for each in statuses)
        conditions = [
            self._condition("PodReadyToStartContainers", True),
            self._condition("Initialized", self._initialized),
            self._condition("ContainersReady", ready),
            self._condition("Ready", ready),
        ]
        return {
            "phase": phase,
            "startTime": self._started,
            "hostIP": self._host_ip,
            "podIP": self.pod_ip,
            "podIPs": [{"ip": self.pod_ip}],
            "conditions": conditions,
            "containerStatuses": statuses,
            "initContainerStatuses": [each.status() for each in self.init.values()],
        }

    def _phase(self, statuses: list[Json]) -> str:
        states = [each["state"] for each in statuses]
        if all("terminated" in state for state in states) and all(each.ended for each in self.containers.values()):
            return "Succeeded" if all(s["terminated"]["exitCode"] == 0 for s in states) else "Failed"
        return (
            "Pending"
            if all("waiting" in s and not each["restartCount"] for s, each in zip(states, statuses, strict=True))
            else "Running"
        )

    def _condition(self, kind: str, holds: bool) -> Json:
        status = str(holds)
        if self._since.get(kind, ("", ""))[0] != status:
            self._since[kind] = (status, _timestamp())
        return {"type": kind, "status": status, "lastTransitionTime": self._since[kind][1]}


def _timestamp() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
