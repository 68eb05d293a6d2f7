"""How one pod after another is given to another scheduler, so that none is lost and none that got a node is touched.

With one exception: the API server suspends a Job whatever its pods have become since we looked. A pod of it that gets a
node in that moment ends with the others, and the Job makes another in its place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from nodewise.cli.kubectl import jobs
from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, Json, Refused, collection, object_path
from nodewise.cli.kubectl.recreate import controller, recreated, under_another_name
from nodewise.core.errors import UserError

_TRIES = 5
"""Times that a pod which changes under our hands is looked at anew."""
_GONE_S, _CREATED_S = 20.0, 30.0
_POLL_S = 0.2
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a polite kill, and a terminal that closes."""
_DEFAULT_SCHEDULER = "default-scheduler"
_JOB_CONTROLLER = "kubernetes.io/job-controller"
_OWNERS = {
    "ReplicaSet": ("replicasets", "apps/v1"), "StatefulSet": ("statefulsets", "apps/v1"),
    "DaemonSet": ("daemonsets", "apps/v1"), "Job": ("jobs", "batch/v1"),
    "ReplicationController": ("replicationcontrollers", "v1"),
}  # fmt: skip
"""Controllers whose template can be read: kind → resource and group."""


class Took(StrEnum):
    """What was done with one pod."""

    DELETED = "deleted"
    RECREATED = "recreated"
    LEFT = "left"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """One pod, what was done with it and why."""

    namespace: str
    pod: str
    took: Took
    says: str
    manifest: str = ""
    """File with the manifest of a bare pod; empty if none was written."""


@dataclass
class Release:
    """Gives pods that wait for `name` to scheduler `to`."""

    cluster: Cluster
    name: str
    to: str
    key: str
    """Of the toleration and node selector that our admission policy added."""
    folder: Path
    ended_by: int = 0
    """The signal that ended `run` early, or would have; 0 if none came."""
    _templates: dict[str, str] = field(default_factory=dict)
    """What a controller's template names, by uid."""
    _jobs: dict[str, tuple[Took, str]] = field(default_factory=dict)
    """What was decided on a Job, by uid."""
    _waiting: Counter[str] = field(default_factory=Counter)
    """Pods that are to be released, by their owner's uid."""

    async def still_taken(self, stuck: Sequence[Json]) -> list[str]:
        """Namespaces whose new pods still come to us, asked by a dry run of one of their pods."""
        first = {pod["metadata"]["namespace"]: pod for pod in reversed(stuck)}
        return [namespace for namespace, pod in sorted(first.items()) if await self._comes_to_us(namespace, pod)]

    async def _comes_to_us(self, namespace: str, pod: Json) -> bool:
        # As a controller makes it, whose template names no scheduler.
        asked = under_another_name(recreated(pod, _DEFAULT_SCHEDULER, self.key))
        try:
            made = await self._create(namespace, asked, dry_run=True)
        except Refused:  # by a quota, or we may not create pods: then the label has to tell
            what = f"get namespace {namespace}"
            space = await self.cluster.get(object_path("namespaces", namespace), what)
            return bool(found.namespaces_opted_in([space]))
        return bool(made["spec"].get("schedulerName") == self.name)

    async def planned(self, stuck: Sequence[Json]) -> list[Outcome]:
        """What `run` would do."""
        self._count(stuck)
        return [await self._plan(pod) for pod in stuck]

    def run(self, stuck: Sequence[Json]) -> list[Outcome]:
        """Do it, pod by pod; Ctrl-C and its like end it after the pod that is being recreated."""
        self._count(stuck)
        done: list[Outcome] = []
        with _between_pods() as interrupted:
            for pod in stuck:
                if interrupted:
                    done.append(_outcome(pod, Took.LEFT, "interrupted before it"))
                    continue
                try:
                    done.append(self.cluster.run(self._release(pod)))
                except UserError as error:
                    done.append(_outcome(pod, Took.FAILED, str(error)))
        self.ended_by = interrupted[0] if interrupted else 0
        return done

    async def _plan(self, pod: Json) -> Outcome:
        owner = controller(pod)
        if owner is None:
            return _outcome(pod, Took.RECREATED, f"would be recreated for {self.to}")
        why = await self._template_says_us(pod, owner)
        if why:
            return _outcome(pod, Took.LEFT, why)
        if owner["kind"] == "Job":
            return _outcome(pod, *await self._of_job(pod, owner, act=False))
        return _outcome(pod, Took.DELETED, f"would be deleted; {_called(owner)} makes another")

    async def _release(self, pod: Json) -> Outcome:
        kept: list[Path] = []
        try:
            return await self._released(pod, kept)
        except UserError as error:
            if not kept:
                raise
            says = f"{error}; if it is gone, create it with: kubectl create -f {kept[0]}"
            return _outcome(pod, Took.FAILED, says, kept[0])

    async def _released(self, pod: Json, kept: list[Path]) -> Outcome:
        """As `_release`, which is to know of the manifest that was written, in `kept`, also if this raises."""
        lost = False  # an answer to a deletion, which may have been done
        for _ in range(_TRIES):
            owner = controller(pod)
            why = await self._template_says_us(pod, owner) if owner else ""
            if why:
                return _outcome(pod, Took.LEFT, why)
            if owner and owner["kind"] == "Job":
                took, says = await self._of_job(pod, owner, act=True)
                if took is not Took.DELETED or says:
                    return _outcome(pod, took, says)
            manifest: Json = {}
            if not owner:
                manifest, file = await self._written(pod)
                kept[:] = [file]
            try:
                await self._delete(pod)
            except UserError as error:
                said = error.status if isinstance(error, Refused) else 0
                if _is_final(error) and said != 404:
                    raise
                lost = lost or said not in (404, 409, 429)
                now = await self._seen(pod)
                if now and found.is_stuck(now):
                    pod = now
                    await asyncio.sleep(_POLL_S)
                    continue
                why = _left(now, lost=lost)
                if now is None and why and kept:  # the HTTP client may have sent it twice, and the first one did it
                    why += f"; if nobody deleted it but this, create it with: kubectl create -f {kept[0]}"
                if why:
                    return _outcome(pod, Took.LEFT, why, *kept)
            if owner:
                return _outcome(pod, Took.DELETED, f"{_called(owner)} makes another")
            return await self._again(pod, manifest, file)
        return _outcome(pod, Took.FAILED, f"it was still there after {_TRIES} tries: try again", *kept)

    async def _of_job(self, pod: Json, owner: Json, *, act: bool) -> tuple[Took, str]:
        """What becomes of the waiting pods of a Job, decided and done once for all of them; DELETED without a word
        leaves their deletion to the caller.
        """
        uid = str(owner["uid"])
        if uid not in self._jobs:
            self._jobs[uid] = await self._renewed(pod["metadata"]["namespace"], owner, act=act)
        return self._jobs[uid]

    async def _renewed(self, namespace: str, owner: Json, *, act: bool) -> tuple[Took, str]:
        called = _called(owner)
        what = f"get jobs in namespace {namespace}"
        job = await self.cluster.get(jobs.path_of(namespace, owner["name"]), what)
        if job["spec"].get("managedBy", _JOB_CONTROLLER) != _JOB_CONTROLLER:
            return Took.LEFT, f"{called} is managed by {job['spec']['managedBy']}: let that make it anew"
        if not await jobs.running(self.cluster, job):
            if act:
                try:
                    await jobs.renew(self.cluster, job)
                except UserError as error:  # and none of its other pods suspends it once more
                    return Took.FAILED, str(error)
            return Took.DELETED, f"{called} {'was' if act else 'would be'} suspended and resumed, and makes another"
        waiting = self._waiting[str(owner["uid"])]
        if jobs.bears(job, waiting):
            return Took.DELETED, "" if act else f"would be deleted; {called} counts that as a failure and makes another"
        return Took.LEFT, (
            f"{called} has other pods that run, so it cannot be suspended, and deleting {waiting} of its pods would be "
            "more failures than it bears: delete them yourself, some at a time"
        )

    def _count(self, stuck: Sequence[Json]) -> None:
        self._waiting = Counter(str(owner["uid"]) for pod in stuck if (owner := controller(pod)))

    async def _written(self, pod: Json) -> tuple[Json, Path]:
        """The pod's new manifest, which the API server would take, on disk. Raises UserError if either is not so."""
        meta = pod["metadata"]
        made = recreated(pod, self.to, self.key)
        try:
            would = await self._create(meta["namespace"], under_another_name(made), dry_run=True)
        except Refused as refused:
            if not _quota(refused):  # which the pod itself may fill
                raise UserError(f"the API server would not take it again: {refused.message.rstrip('.')}") from None
        else:
            if would["spec"].get("schedulerName") == self.name:
                raise UserError(f"it would come back to {self.name}: an admission policy sends it there")
        file = self.folder / f"{meta['namespace']}_{meta['name']}.json"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A manifest may hold passwords, and the cluster showed it to its user alone.
            file.touch(mode=0o600)
            file.chmod(0o600)  # of one that was there
            with file.open("w") as out:
                json.dump(made, out, indent=2)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror}): name another folder with --backup") from None
        return made, file

    async def _again(self, pod: Json, manifest: Json, file: Path) -> Outcome:
        """Create it, once the one before is gone. What goes wrong from here on says where the manifest is."""
        rescue = f"create it with: kubectl create -f {file}"
        try:
            if not await self._gone(pod):
                waits = ", ".join(pod["metadata"].get("finalizers") or ()) or "its end"
                return _outcome(pod, Took.FAILED, f"it is deleted, but still there ({waits}); then {rescue}", file)
            made = await self._created(manifest)
        except UserError as error:
            return _outcome(pod, Took.FAILED, f"it is deleted and could not be created ({error}); {rescue}", file)
        scheduler = made["spec"].get("schedulerName")
        if scheduler == self.name:
            return _outcome(pod, Took.FAILED, f"it came back to {self.name}: an admission policy sends it there", file)
        return _outcome(pod, Took.RECREATED, f"now of {scheduler}", file)

    async def _gone(self, pod: Json) -> bool:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + _GONE_S
        while await self._seen(pod) is not None:
            if loop.time() > ends_s:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _seen(self, pod: Json) -> Json | None:
        """As `_now`, asked again and again while the API server is busy or away. Raises UserError in the end."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + _GONE_S
        while True:
            try:
                return await self._now(pod)
            except UserError as error:
                if _is_final(error) or loop.time() > ends_s:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _created(self, manifest: Json) -> Json:
        """Create it, again and again while the API server is busy or away. Raises UserError in the end."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + _CREATED_S
        while True:
            try:
                return await self._create(manifest["metadata"]["namespace"], manifest)
            except UserError as error:
                exists = isinstance(error, Refused) and error.reason == "AlreadyExists"
                if exists and await self._is_ours_made(manifest):  # an answer was lost
                    return manifest
                if (_is_final(error) and not _quota(error)) or loop.time() > ends_s:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _is_ours_made(self, manifest: Json) -> bool:
        now = await self._named(manifest["metadata"])
        return now is not None and now["spec"].get("schedulerName") == self.to

    async def _create(self, namespace: str, manifest: Json, *, dry_run: bool = False) -> Json:
        query = {"dryRun": "All"} if dry_run else {}
        what = f"create pods in namespace {namespace}"
        return await self.cluster.ask("POST", collection("pods", namespace), what, manifest, query=query)

    async def _delete(self, pod: Json) -> None:
        """Only this very pod, and only as we have seen it: without a node."""
        meta = pod["metadata"]
        body = {
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        }  # fmt: skip
        what = f"delete pods in namespace {meta['namespace']}"
        await self.cluster.ask("DELETE", object_path("pods", meta["name"], meta["namespace"]), what, body)

    async def _now(self, pod: Json) -> Json | None:
        """The same pod as it is now; None if it is gone."""
        now = await self._named(pod["metadata"])
        return now if now and now["metadata"]["uid"] == pod["metadata"]["uid"] else None

    async def _named(self, meta: Json) -> Json | None:
        what = f"get pods in namespace {meta['namespace']}"
        try:
            return await self.cluster.get(object_path("pods", meta["name"], meta["namespace"]), what)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def _template_says_us(self, pod: Json, owner: Json) -> str:
        """Why deleting the pod would help nothing: its controller's template names us. Empty if it does not."""
        uid = str(owner.get("uid"))
        if uid not in self._templates:
            self._templates[uid] = await self._template(pod["metadata"]["namespace"], owner)
        if self._templates[uid] != self.name:
            return ""
        return f"the template of {_called(owner)} names {self.name} itself: change schedulerName there"

    async def _template(self, namespace: str, owner: Json) -> str:
        """The scheduler that a controller's template names; empty if it is none, or cannot be read."""
        if owner.get("kind") not in _OWNERS:
            return ""
        resource, group = _OWNERS[owner["kind"]]
        try:
            held = await self.cluster.get(
                object_path(resource, owner["name"], namespace, group), f"get {resource} in namespace {namespace}"
            )
        except Refused:
            return ""
        spec: Any = ((held.get("spec") or {}).get("template") or {}).get("spec") or {}
        return str(spec.get("schedulerName") or "")


def _is_final(error: UserError) -> bool:
    """The API server has said no, did nothing, and would say no again."""
    return isinstance(error, Refused) and 400 <= error.status < 500 and error.status not in (408, 409, 429)


def _left(now: Json | None, *, lost: bool) -> str:
    """Why nothing more is done with a pod that does not wait any more; empty if it was we who deleted it."""
    if now is None:
        return "" if lost else "it is gone, or another pod has its name"
    if now["spec"].get("nodeName"):
        return f"it got node {now['spec']['nodeName']} meanwhile"
    return "" if lost and now["metadata"].get("deletionTimestamp") else "it is on its way out"


def _quota(error: UserError) -> bool:
    """The quota does not count the deleted pod out at once."""
    return isinstance(error, Refused) and "exceeded quota" in error.message


def _outcome(pod: Json, took: Took, says: str, manifest: Path | None = None) -> Outcome:
    meta = pod["metadata"]
    return Outcome(meta["namespace"], meta["name"], took, says, str(manifest) if manifest else "")


def _called(owner: Json) -> str:
    return f"{owner.get('kind')} {owner.get('name')}"


@contextmanager
def _between_pods() -> Iterator[list[int]]:
    """What would end us is noted in the list, and no more: between deletion and creation it would lose a pod."""
    noted: list[int] = []
    held = [one for one in _ENDING if signal.getsignal(one) is not signal.SIG_IGN]  # as nohup has it
    before = {one: signal.signal(one, lambda number, _: noted.append(number)) for one in held}
    try:
        yield noted
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
