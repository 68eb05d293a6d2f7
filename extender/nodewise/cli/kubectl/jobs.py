"""Jobs give their waiting pods up and make new ones when they are suspended and resumed.

Deleting those pods would count as failures: a Job with a backoffLimit of 1 and 4 waiting pods has failed for good once
they are deleted, and goes on with 4 new ones once it was suspended and resumed (seen on 1.36.3).
"""

from __future__ import annotations

import asyncio

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, Json, Refused, object_path
from nodewise.core.errors import UserError

_SUSPENDED_S, _RESUMED_S = 30.0, 30.0
_POLL_S = 0.2
_UID = "batch.kubernetes.io/controller-uid"


def path_of(namespace: str, name: str) -> str:
    """Of a Job."""
    return object_path("jobs", name, namespace, "batch/v1")


def bears(job: Json, failures: int) -> bool:
    """Whether it may go on after so many more failed pods."""
    spec = job.get("spec") or {}
    if spec.get("podFailurePolicy") or spec.get("backoffLimitPerIndex") is not None:
        return False
    return int((job.get("status") or {}).get("failed") or 0) + failures <= int(spec.get("backoffLimit", 6))


async def running(cluster: Cluster, job: Json) -> bool:
    """Whether a pod of the Job has a node and is not over: suspending would end it."""
    pods = await cluster.pods(job["metadata"]["namespace"], labelSelector=f"{_UID}={job['metadata']['uid']}")
    return any(pod["spec"].get("nodeName") and found.phase(pod) in ("Pending", "Running") for pod in pods)


async def renew(cluster: Cluster, job: Json) -> None:
    """Suspend and resume it. Raises UserError if its pods did not go, or it was not resumed, and says how to then."""
    meta = job["metadata"]
    try:
        await _suspend(cluster, meta, suspend=True, version=meta["resourceVersion"])
    except UserError as error:
        if not (isinstance(error, Refused) and 400 <= error.status < 500):  # the answer was lost: it may be done
            await _resumed(cluster, meta)
        raise
    try:
        gone = await _pods_gone(cluster, meta)
    finally:
        await _resumed(cluster, meta)
    if not gone:
        raise UserError(
            f"Job {meta['name']} was suspended for {_SUSPENDED_S:.0f} s, and pods of it still wait; it is resumed with "
            "them: look at it with kubectl describe, and try again"
        )


async def _pods_gone(cluster: Cluster, meta: Json) -> bool:
    for _ in range(int(_SUSPENDED_S / _POLL_S)):
        job = await cluster.get(path_of(meta["namespace"], meta["name"]), f"get jobs in namespace {meta['namespace']}")
        pods = await cluster.pods(meta["namespace"], labelSelector=f"{_UID}={meta['uid']}")
        conditions = (job.get("status") or {}).get("conditions") or ()
        suspended = any(c.get("type") == "Suspended" and c.get("status") == "True" for c in conditions)
        if suspended and not any(map(found.is_stuck, pods)):
            return True
        await asyncio.sleep(_POLL_S)
    return False


async def _resumed(cluster: Cluster, meta: Json) -> None:
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + _RESUMED_S
    while True:
        try:
            await _suspend(cluster, meta, suspend=False)
            return
        except UserError as error:
            if loop.time() > ends_s:
                how = f"""kubectl patch job -n {meta["namespace"]} {meta["name"]} -p '{{"spec":{{"suspend":false}}}}'"""
                raise UserError(f"Job {meta['name']} is suspended ({error}); resume it with: {how}") from None
        await asyncio.sleep(_POLL_S)


async def _suspend(cluster: Cluster, meta: Json, *, suspend: bool, version: str = "") -> None:
    patch: Json = {"spec": {"suspend": suspend}}
    if version:
        patch["metadata"] = {"resourceVersion": version}
    await cluster.ask(
        "PATCH", path_of(meta["namespace"], meta["name"]), f"patch jobs in namespace {meta['namespace']}", patch,
        content_type="application/merge-patch+json",
    )  # fmt: skip
