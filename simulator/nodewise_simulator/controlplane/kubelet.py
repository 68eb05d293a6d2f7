"""A kubelet for every node at once: pods that are bound run, and end after the time that the caller says."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from nodewise_simulator.controlplane.api import STRATEGIC_MERGE, Api, ApiError
from nodewise_simulator.controlplane.commands import Exit
from nodewise_simulator.controlplane.loop import LoopThread

Json = dict[str, Any]
RunTime = Callable[[Json, str], float | None]
Run = Callable[[Json, str], Coroutine[Any, Any, Exit] | None]
_GONE = (404, 409)  # deleted meanwhile, or another pod has its name now


@dataclass(frozen=True)
class FinishedPod:
    """What Kubernetes' timestamps of whole seconds do not tell; times are seconds since the epoch, by our clock."""

    uid: str
    name: str
    node: str
    bound_s: float  # when the watch said so
    started_s: float
    finished_s: float


class Kubelet:
    """Plays all bound pods of a cluster between `start()` and `stop()` (or in a `with` block), in a thread of its own.

    A pod becomes Running when it is bound and Succeeded after `run_s(pod, node name)` seconds (real ones; None:
    never), called once as it starts, in the kubelet's thread. A pod that is being deleted stops and goes. Pods that
    are Running when `start()` is called start anew. Containers, images, probes and restarts are not played.

    `run(pod, node name)` may run something instead, such as the pod's command (`commands.run_command`): then its pod
    ends when that does, Succeeded or Failed. For pods of which it says None, `run_s` stands. Pods on the nodes named in
    `others` are somebody else's.
    """

    def __init__(
        self, url: str, token: str, run_s: RunTime, run: Run | None = None, *, others: Collection[str] = ()
    ) -> None:
        self.finished: list[FinishedPod] = []
        """Pods that ran to their end, in that order."""
        self._api = Api(url, token)
        self._run_s = run_s
        self._run = run
        self._pods = ",".join(f"spec.nodeName!={node}" for node in ("", *others))

    def start(self) -> Self:
        """Begin to watch; returns at once."""
        self._thread = LoopThread("kubelet")
        self._work = self._thread.start(self._watch())
        return self

    def stop(self) -> None:
        """End; raises what ended the kubelet before, such as an error in `run_s`."""
        died = self._work.done() and self._work.exception()
        self._thread.close()
        if died:
            raise died

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _watch(self) -> None:
        played: dict[str, asyncio.Task[None]] = {}  # by uid, from bound to gone
        async with self._api, asyncio.TaskGroup() as tasks:

            def see(pod: Json, now_s: float) -> None:
                uid = pod["metadata"]["uid"]
                leaving = "deletionTimestamp" in pod["metadata"]
                if leaving and (task := played.get(uid)) is not None:
                    task.cancel()
                if leaving:
                    tasks.create_task(self._remove(pod))
                elif uid not in played and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                    played[uid] = tasks.create_task(self._play(pod, now_s))

            def forget(uid: str) -> None:
                if (task := played.pop(uid, None)) is not None:
                    task.cancel()

            async for kind, thing in self._api.events("/api/v1/pods", params={"fieldSelector": self._pods}):
                now_s = time.time()
                if kind == "SYNC":
                    for uid in played.keys() - {pod["metadata"]["uid"] for pod in thing["items"]}:
                        forget(uid)
                    for pod in thing["items"]:
                        see(pod, now_s)
                elif kind == "DELETED":
                    forget(thing["metadata"]["uid"])
                else:
                    see(thing, now_s)

    async def _play(self, pod: Json, bound_s: float) -> None:
        meta, node = pod["metadata"], pod["spec"]["nodeName"]
        started_s = time.time()
        running = self._run(pod, node) if self._run is not None else None
        run_s = self._run_s(pod, node) if running is None else None
        there = await self._patch(pod, _running(pod, started_s))
        if running is not None and not there:
            running.close()
        if not there or (running is None and run_s is None):
            return
        ended = Exit()
        if running is not None:
            ended = await running
        elif run_s is not None:
            await asyncio.sleep(started_s + run_s - time.time())
        record = FinishedPod(meta["uid"], meta["name"], node, bound_s, started_s, finished_s=time.time())
        self.finished.append(record)  # first, so that whoever sees the pod Succeeded finds its record
        if not await self._patch(pod, _ended(pod, ended, started_s, record.finished_s)):
            self.finished.remove(record)

    async def _patch(self, pod: Json, status: Json) -> bool:
        """Whether the pod was still there.

        Strategic merge keeps the scheduler's condition; the uid guards a successor of the same name.
        """
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        try:
            await self._api.call("PATCH", f"{_path(pod)}/status", body, content_type=STRATEGIC_MERGE)
        except ApiError as error:
            if error.status in _GONE:
                return False
            raise
        return True

    async def _remove(self, pod: Json) -> None:
        """What a kubelet does once the containers of a deleted pod have stopped."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        try:
            await self._api.call("DELETE", _path(pod), body)
        except ApiError as error:
            if error.status not in _GONE:
                raise


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _timestamp(at_s: float) -> str:
    """metav1.Time on the wire: UTC, cut to whole seconds."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _running(pod: Json, started_s: float) -> Json:
    started = _timestamp(started_s)
    state = {"running": {"startedAt": started}}
    return {
        "phase": "Running",
        "startTime": started,
        "conditions": [_condition(kind, "True", started) for kind in ("Initialized", "Ready", "ContainersReady")],
        "containerStatuses": _containers(pod, state, ready=True),
    }


def _ended(pod: Json, exit_: Exit, started_s: float, finished_s: float) -> Json:
    finished = _timestamp(finished_s)
    failed = exit_.code != 0
    ended: Json = {
        "startedAt": _timestamp(started_s),
        "finishedAt": finished,
        "exitCode": exit_.code,
        "reason": "Error" if failed else "Completed",
    }
    if exit_.message:
        ended["message"] = exit_.message
    reason = "PodFailed" if failed else "PodCompleted"
    return {
        "phase": "Failed" if failed else "Succeeded",
        "conditions": [_condition(kind, "False", finished, reason=reason) for kind in ("Ready", "ContainersReady")],
        "containerStatuses": _containers(pod, {"terminated": ended}, ready=False),
    }


def _condition(kind: str, status: str, since: str, **more: str) -> Json:
    return {"type": kind, "status": status, "lastTransitionTime": since, **more}


def _containers(pod: Json, state: Json, *, ready: bool) -> list[Json]:
    return [
        {
            "name": c["name"],
            "image": c["image"],
            "imageID": "",
            "containerID": f"fake://{pod['metadata']['uid']}/{c['name']}",
            "ready": ready,
            "started": ready,
            "restartCount": 0,
            "state": state,
        }
        for c in pod["spec"]["containers"]
    ]
