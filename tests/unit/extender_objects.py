"""Nodes, pods and requests for the tests of the extender."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nodewise.extender.server import Running, running
from nodewise.extender.settings import ExtenderSettings
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.world import node_manifest

Json = dict[str, Any]
NODES = ("node-0", "node-1", "node-2", "node-3")
CREATED = "2026-11-21T12:00:00Z"
NOW_S = 1_795_262_400.0  # the same moment
LIMIT_S = 20.0  # only a hang reaches it


def node(name: str) -> Json:
    made = node_manifest(
        name, cpu_milli=8000, memory_bytes=32 * 2**30, instance_type=f"type-{name}", price_usd_per_h=0.4, peak_w=200.0
    )
    return made | {"metadata": {**made["metadata"], "uid": f"uid-{name}"}}


def pod(name: str, on: str = "", phase: str = "Pending", **spec: Any) -> Json:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}}
    bound = {"nodeName": on} if on else {}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": CREATED,
            "annotations": {"nodewise.dev/workload": "sort"},
            "ownerReferences": [
                {"kind": "Job", "name": "sort", "uid": "j", "apiVersion": "batch/v1", "controller": True}
            ],
        },
        "spec": {
            "schedulerName": "nodewise",
            "containers": [{"name": "main", "resources": resources}],
            **bound,
            **spec,
        },
        "status": {"phase": phase},
    }


def finished(name: str, on: str, run_s: int, phase: str = "Succeeded") -> Json:
    made = pod(name, on, phase)
    ended = {"startedAt": CREATED, "finishedAt": f"2026-11-21T12:{run_s // 60:02}:{run_s % 60:02}Z"}
    made["status"]["containerStatuses"] = [{"name": "main", "state": {"terminated": ended}}]
    return made


def request(asked: Json, names: tuple[str, ...] = NODES) -> bytes:
    return json.dumps({"Pod": asked, "Nodes": None, "NodeNames": names}).encode()


def hosts(body: bytes) -> list[str]:
    return [entry["Host"] for entry in json.loads(body)]


def settings(**given: Any) -> ExtenderSettings:
    asked = {} if "bundle" in given else {"policy": "economic"}  # whatever is built in
    return ExtenderSettings.model_validate({"port": 0, "admin_port": 0} | asked | given)


@asynccontextmanager
async def serving(api: FakeApi, folder: Path, **given: Any) -> AsyncIterator[Running]:
    """An extender in this process that has read its first lists."""
    async with running(settings(kubeconfig=api.kubeconfig(folder / "kubeconfig"), **given)) as extender:
        await eventually(extender.synced)
        yield extender


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  (what is waited for happens elsewhere)
            await asyncio.sleep(0.005)


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def post(
    port: int, bodies: dict[str, bytes], headers: dict[str, str] | None = None
) -> dict[str, tuple[int, bytes, http.client.HTTPMessage]]:
    """One connection, one POST a path: the reply of each; a closed connection would raise."""
    out = {}
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as sock:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock, connection.auto_open = sock, 0
        for path, body in bodies.items():
            connection.request("POST", path, body, headers or {})
            reply = connection.getresponse()
            out[path] = reply.status, reply.read(), reply.headers
    return out
