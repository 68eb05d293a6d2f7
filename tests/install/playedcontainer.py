"""One container of a pod over its restarts: start, probes, back-off, end."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.install.container import PATH, Mount, Running, Start
from tests.install.images import image
from tests.install.probes import succeeds
from tests.install.volumes import NotYetError, expand

from nodewise_simulator.controlplane import ApiError

if TYPE_CHECKING:
    from tests.install.runningpod import RunningPod

Json = dict[str, Any]
FIRST_BACKOFF_S, LONGEST_BACKOFF_S, FORGOTTEN_AFTER_S = 10.0, 300.0, 600.0
"""A kubelet's: the first restart is at once."""


class Played:
    """One container; its `status` is what the pod's status says of it."""

    def __init__(self, pod: RunningPod, container: Json) -> None:
        self.container = container
        self.started = asyncio.Event()
        self.ready = False
        self.ended = False
        """It will not be started again."""
        self._pod = pod
        self._state: Json = {"waiting": {"reason": "PodInitializing"}}
        self._last: Json = {}
        self._restarts = 0
        self._running: Running | None = None
        self._task: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int | None:
        """Of the program, while it runs."""
        return None if self._running is None else self._running.pid

    def begin(self) -> None:
        """Start it, and again whenever it ends and the pod's policy says so."""
        self._task = asyncio.create_task(self._run())

    async def over(self) -> int:
        """Wait until it has ended for good; its exit code."""
        assert self._task is not None
        return await asyncio.shield(self._task)  # whoever stops waiting does not end the container

    async def run_to_end(self) -> None:
        """An init container: again until it succeeds."""
        self.begin()
        await self.over()

    def waits(self, reason: str, message: str = "") -> None:
        """Not started, and why."""
        self._set({"waiting": {"reason": reason, "message": message}})

    def signal(self, number: signal.Signals) -> None:
        """To the program itself."""
        assert self._running is not None, f"{self.container['name']} does not run"
        self._running.signal(number)

    def kill(self) -> None:
        """At once, with what it started."""
        if self._task is not None:
            self._task.cancel()
        if self._running is not None:
            self._running.kill()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL when the grace period is over."""
        running, task = self._running, self._task
        if running is None or task is None:
            if task is not None:
                task.cancel()
            return
        self.ended = True
        began_s = time.monotonic()
        hook = (self.container.get("lifecycle") or {}).get("preStop") or {}
        if "sleep" in hook:
            await asyncio.sleep(min(hook["sleep"]["seconds"], grace_s))
        elif hook:
            raise NotImplementedError(f"preStop {hook}")
        running.signal(signal.SIGTERM)
        done, _ = await asyncio.wait((task,), timeout=max(0.0, grace_s - (time.monotonic() - began_s)))
        if not done:
            running.kill()
            await asyncio.wait((task,), timeout=5)

    def status(self) -> Json:
        """An entry of containerStatuses."""
        spec, running = self.container, self._running
        return {
            "name": spec["name"],
            "image": spec["image"],
            "imageID": "",
            "containerID": f"process://{running.pid}" if running else "",
            "ready": self.ready,
            "started": self.started.is_set(),
            "restartCount": self._restarts,
            "state": self._state,
            "lastState": self._last,
        }

    def _set(self, state: Json, *, ready: bool = False) -> None:
        if (state, ready) != (self._state, self.ready):
            self._state, self.ready = state, ready
            self._pod.changed.set()

    async def _run(self) -> int:
        policy = self.container.get("restartPolicy") or self._pod.spec["spec"].get("restartPolicy", "Always")
        backoff_s = 0.0
        while True:
            try:
                start = await self._start_of()
            except (NotYetError, ApiError) as why:
                self.waits("CreateContainerConfigError", str(why))
                await asyncio.sleep(1.0)
                continue
            began_s = time.monotonic()
            code = await self._once(start)
            if self.ended or policy == "Never" or (policy == "OnFailure" and code == 0):
                self.ended = True
                self._pod.changed.set()
                return code
            if time.monotonic() - began_s > FORGOTTEN_AFTER_S:
                backoff_s = 0.0
            if backoff_s:
                self.waits("CrashLoopBackOff", f"back-off {backoff_s:g}s")
            await asyncio.sleep(backoff_s)
            backoff_s = min(max(FIRST_BACKOFF_S, 2 * backoff_s), LONGEST_BACKOFF_S)
            self._restarts += 1

    async def _once(self, start: Start) -> int:
        pod, name = self._pod, self.container["name"]
        log = pod.logs / f"{pod.spec['metadata']['name']}-{name}.log"
        running = await Running.start(start, pod.netns, pod.folder / "containers" / name, log)
        self._running = running
        started_at = _timestamp()
        self._set({"running": {"startedAt": started_at}})
        probing = asyncio.create_task(self._probe(running))
        try:
            code = await running.wait()
        finally:
            probing.cancel()
            running.kill()
            self._running = None
            self.started.clear()
        if probing.done() and not probing.cancelled():
            probing.result()
        ended = {"exitCode": code, "startedAt": started_at, "finishedAt": _timestamp()}
        ended["reason"] = "Completed" if code == 0 else "Error"
        self._last = {"terminated": ended}
        self._set({"terminated": ended})
        return code

    async def _probe(self, running: Running) -> None:
        spec = self.container
        if startup := spec.get("startupProbe"):
            await asyncio.sleep(startup.get("initialDelaySeconds", 0))
            failures = 0
            while not await self._asked(startup, running):
                failures += 1
                if failures >= startup.get("failureThreshold", 3):
                    return running.signal(signal.SIGTERM)
                await asyncio.sleep(startup.get("periodSeconds", 10))
        self.started.set()
        self._pod.changed.set()
        await asyncio.gather(self._readiness(running), self._liveness(running))
        return None

    async def _readiness(self, running: Running) -> None:
        state, probe = self._state, self.container.get("readinessProbe")
        if not probe:
            self._set(state, ready=True)
            return
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        successes = failures = 0
        while True:
            if await self._asked(probe, running):
                successes, failures = successes + 1, 0
            else:
                successes, failures = 0, failures + 1
            if successes >= probe.get("successThreshold", 1):
                self._set(state, ready=True)
            elif failures >= probe.get("failureThreshold", 3):
                self._set(state, ready=False)
            # A kubelet looks at once again after a container's start, until it is ready.
            await asyncio.sleep(
                probe.get("periodSeconds", 10) if self.ready else min(1, probe.get("periodSeconds", 10))
            )

    async def _liveness(self, running: Running) -> None:
        if not (probe := self.container.get("livenessProbe")):
            return
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        failures = 0
        while failures < probe.get("failureThreshold", 3):
            failures = 0 if await self._asked(probe, running) else failures + 1
            await asyncio.sleep(probe.get("periodSeconds", 10))
        running.signal(signal.SIGTERM)
        await asyncio.sleep(self._pod.spec["spec"].get("terminationGracePeriodSeconds", 30))
        running.kill()

    async def _asked(self, probe: Json, running: Running) -> bool:
        return await succeeds(probe, self.container, self._pod.pod_ip, running.pid)

    async def _start_of(self) -> Start:
        pod, spec = self._pod, self.container
        made_of = image(spec["image"])
        if made_of is None:
            raise NotYetError(f"ErrImagePull: no program stands for image {spec['image']}")
        outer, own = pod.spec["spec"].get("securityContext") or {}, spec.get("securityContext") or {}
        context = {**outer, **own}
        user = context.get("runAsUser", made_of.user)
        if context.get("runAsNonRoot") and user == 0:
            raise NotYetError("container has runAsNonRoot and image will run as root")
        env = {"PATH": PATH, "HOSTNAME": pod.spec["metadata"]["name"], **dict(made_of.env), **pod.env}
        env |= await pod.sources.environment(pod.spec, spec, pod.pod_ip)
        argv = [*(spec.get("command") or made_of.entrypoint), *(spec.get("args") or ())]
        if not argv:
            raise NotYetError("no command specified")
        mounts = [Mount(here, path, read_only=True) for here, path in made_of.files]
        mounts.append(Mount(pod.hosts, "/etc/hosts", read_only=False))
        for mount in sorted(spec.get("volumeMounts") or (), key=lambda m: str(m["mountPath"])):
            folder, read_only = pod.volumes[mount["name"]]
            here = folder / Path(mount.get("subPath", ""))
            mounts.append(Mount(here, mount["mountPath"], read_only or mount.get("readOnly", False)))
        groups = [*outer.get("supplementalGroups", ()), *([outer["fsGroup"]] if "fsGroup" in outer else [])]
        capabilities = own.get("capabilities") or {}
        return Start(
            argv=[expand(word, env) for word in argv],
            env=env,
            mounts=mounts,
            user=user,
            group=context.get("runAsGroup", made_of.user),
            groups=groups,
            working_dir=spec.get("workingDir", made_of.working_dir),
            read_only_root=own.get("readOnlyRootFilesystem", False),
            drop_capabilities="ALL" in capabilities.get("drop", ()),
            no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        )


def _timestamp() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
