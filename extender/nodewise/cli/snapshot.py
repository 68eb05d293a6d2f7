"""`nodewise snapshot`: what was recorded of a cluster, in one file."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nodewise.cli.output import progress
from nodewise.core.errors import UserError
from nodewise.kube.snapshot import (
    Snapshot,
    SnapshotNode,
    SnapshotPod,
    encoded,
    trimmed_node,
    write_snapshot,
)

_PAGE = 500
_TIMEOUT_S = 60.0

Tell = Callable[[str, int, int], None]


def command(
    store: Annotated[
        str,
        typer.Option(envvar="NODEWISE_OPERATOR_STORE", help="The operator's store, by URL or path. Else: the cluster."),
    ] = "",
    kubeconfig: Annotated[
        Path | None, typer.Option(help="File that names the cluster. Without it: $KUBECONFIG.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    since: Annotated[str, typer.Option(help="Only from then on: 24h, 7d, or a time as 2026-01-31T12:00:00Z.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="Write there instead of to stdout; compressed if it ends in .gz.")
    ] = None,
) -> None:
    """Write what was recorded of a cluster to one file, for `nodewise advise`: nodes, pods, fates, what was learned.

    Without an operator's store, what the cluster itself still remembers: finished pods tell their run times. No
    environment, arguments or volumes of pods are kept; all their labels are.
    """
    from nodewise.cli.advise import since_s

    if file is None and sys.stdout.isatty():
        raise UserError("a snapshot is no sight for a terminal: write `nodewise snapshot > FILE`")
    if store and (kubeconfig or context):
        raise UserError("--store and --kubeconfig name two sources: choose one")
    begin_s = since_s(since)
    with progress() as tell:
        made = of_store(store, begin_s) if store else asyncio.run(of_cluster(kubeconfig, context, begin_s, tell))
    if file is not None:
        write_snapshot(made, file)
        return
    try:
        sys.stdout.buffer.write(encoded(made))
        sys.stdout.buffer.flush()
    except OSError as error:
        raise UserError(f"the snapshot cannot be written ({error.strerror}): is there room?") from error


def of_store(url: str, since_s: float | None = None) -> Snapshot:
    """What an operator has recorded. Raises UserError if there is no store of that name."""
    from nodewise_operator.snapshot import recorded
    from nodewise_operator.store import Store

    store = Store.open(url, create=False, migrate=False)
    try:
        return recorded(store, since_s)
    finally:
        store.close()


def _time(value: float) -> float | None:
    return value if math.isfinite(value) else None


async def of_cluster(kubeconfig: Path | None, context: str | None, since_s: float | None, tell: Tell) -> Snapshot:
    """What a cluster's API still remembers. Raises UserError if it cannot be reached or does not let us list."""
    from nodewise.kube.api import connect, node_call, pod_call

    api = await connect(kubeconfig, context)
    try:
        node_list = await _listed("nodes", node_call(api), _node, tell)
        pods = await _listed("pods", pod_call(api), _pod, tell)
    finally:
        await api.close()  # type: ignore[no-untyped-call]
    now_s = time.time()
    begins = [at for p in pods if (at := _created_s(p)) is not None]
    return Snapshot(
        made_s=now_s,
        source="cluster",
        begin_s=max(min(begins, default=now_s), since_s or 0.0),
        end_s=now_s,
        nodes=node_list,
        pods=pods,
    )


async def _listed(what: str, call: Callable[..., Any], read: Callable[[Any], Any], tell: Tell) -> list[Any]:
    """All objects of a resource, page by page, each read as it arrives; what cannot be read is passed over."""
    import aiohttp

    found: list[Any] = []
    token = None
    while True:
        try:
            reply = await call(limit=_PAGE, _request_timeout=_TIMEOUT_S, **({"_continue": token} if token else {}))
            body = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise UserError(f"the API server does not answer ({why}): check the kubeconfig and the network") from error
        if reply.status == 410 and token:
            found, token = [], None  # the list took too long; the server has forgotten where we were
            continue
        if reply.status != 200:
            raise UserError(f"the API server does not let us list {what} (HTTP {reply.status}): ask for that right")
        page = json.loads(body)
        for item in page.get("items") or ():
            try:
                found.append(read(item))
            except (KeyError, ValueError, TypeError, AttributeError):
                continue
        token = (page.get("metadata") or {}).get("continue")
        left = (page.get("metadata") or {}).get("remainingItemCount") or 0
        tell(f"listing {what}", len(found), len(found) + left)
        if not token:
            return found


def _node(node: dict[str, Any]) -> SnapshotNode:
    return SnapshotNode(manifest=trimmed_node(node))


def _pod(pod: dict[str, Any]) -> SnapshotPod:
    from nodewise_operator.outcomes import facts

    seen = facts(pod)
    return SnapshotPod(
        manifest=seen.manifest, fate=seen.fate.value, reason=seen.reason, node=seen.node, bound_s=_time(seen.bound_s),
        started_s=_time(seen.started_s), finished_s=_time(seen.ended_s),
    )  # fmt: skip


def _created_s(pod: SnapshotPod) -> float | None:
    from nodewise.core.units import epoch_s

    text = pod.manifest["metadata"].get("creationTimestamp")
    return epoch_s(text) if text and pod.fate in ("succeeded", "failed") else None
