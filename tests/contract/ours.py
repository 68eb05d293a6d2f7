"""Our extender without its transport, on a small fixed cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from nodewise import policies
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.extender.service import Service
from nodewise.extender.settings import ExtenderSettings
from nodewise.kube.cache import seen_node
from nodewise_simulator.world import node_manifest

from .emulator import Post

Json = dict[str, Any]
NOW_S = 1_795_238_400.0
NODES = tuple(f"node-{k}" for k in range(5))
GIB = 2.0**30


def service(nodes: Sequence[str] = NODES, scheduler_name: str = "") -> Service:
    """Knows `nodes`, each of another price, so that no two cost the same; believes that everybody's pods are ours."""
    made = Service(
        ExtenderSettings.model_validate({"scheduler_name": scheduler_name}),
        policies.DEFAULT,
        policies.DEFAULT,
        ClusterState(RunTimeEstimator()),
    )
    made.unready = lambda: ""
    manifests = [
        node_manifest(
            name, cpu_milli=16_000, memory_bytes=64 * GIB, instance_type="m6i.4xlarge", zone=f"zone-{k % 3}",
            price_usd_per_h=0.8 - 0.05 * (k * 7 % 11), idle_w=60.0, peak_w=240.0,
        )
        for k, name in enumerate(nodes)
    ]  # fmt: skip
    made.cache.replace_nodes([seen_node(each) for each in manifests])
    made.cache.replace_pods([])
    return made


def prioritize(made: Service) -> Post:
    """Its prioritize verb as a function of bytes."""

    def post(body: bytes) -> tuple[int, bytes]:
        reply = asyncio.run(made.prioritize(body, NOW_S))
        return reply.status, reply.body

    return post


def filter_(made: Service) -> Post:
    """Its filter verb as a function of bytes."""

    def post(body: bytes) -> tuple[int, bytes]:
        reply = made.filter(body)
        return reply.status, reply.body

    return post


def pod(name: str = "web-1", **spec: Any) -> Json:
    """A v1.Pod as a scheduler sends it."""
    resources = {"requests": {"cpu": "500m", "memory": "256Mi"}}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"containers": [{"name": "main", "image": "web:1", "resources": resources}], **spec},
        "status": {"phase": "Pending"},
    }


def args(asked: Json, names: Sequence[str] | None, nodes: Sequence[str] | None = None) -> bytes:
    """ExtenderArgs as Go writes them."""
    items = None if nodes is None else {"metadata": {}, "items": [{"metadata": {"name": n}} for n in nodes]}
    return json.dumps({"Pod": asked, "Nodes": items, "NodeNames": names}, separators=(",", ":")).encode()
