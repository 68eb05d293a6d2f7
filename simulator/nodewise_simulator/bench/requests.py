"""A cluster to ask about, the requests, and a client that adds next to nothing to the time of an exchange."""

from __future__ import annotations

import json
import socket
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.units import stamp
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.world import node_manifest

Json = dict[str, Any]
_GIB = 2.0**30
_TYPES = ("m4.4xlarge", "c7i.4xlarge", "m6i.4xlarge", "g4dn.4xlarge")
_RESIDENTS_PER_NODE = 5
_WORKLOADS = 20
_HEAD = b"POST /prioritize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def node_names(count: int) -> list[str]:
    """The names of the nodes, in order."""
    return [f"node-{k:05d}" for k in range(count)]


def fill(api: FakeApi, nodes: int, rng: np.random.Generator) -> None:
    """Nodes of four classes, and five running pods of twenty workloads on each."""
    now_s = time.time()
    for k, name in enumerate(node_names(nodes)):
        api.put(
            "nodes",
            node_manifest(
                name, cpu_milli=15_890, memory_bytes=56 * _GIB, instance_type=_TYPES[k % len(_TYPES)],
                zone=f"zone-{k % 3}", price_usd_per_h=0.6 + 0.1 * (k % 4), idle_w=12.0, peak_w=100.0,
            ),
        )  # fmt: skip
    for k in range(nodes * _RESIDENTS_PER_NODE):
        begun = stamp(now_s - float(rng.integers(1, 600)))
        pod = _pod(f"resident-{k}", int(rng.integers(_WORKLOADS)), now_s)
        pod["spec"]["nodeName"] = f"node-{k // _RESIDENTS_PER_NODE:05d}"
        running = {"name": "main", "state": {"running": {"startedAt": begun}}}
        pod["status"] = {"phase": "Running", "containerStatuses": [running]}
        api.put("pods", pod)


def bodies(nodes: int, count: int, rng: np.random.Generator) -> list[bytes]:
    """Prioritize requests for `count` different pods, the candidates in another order each, as a scheduler's are."""
    names, now_s, made = np.array(node_names(nodes)), time.time(), []
    for k in range(count):
        args = {
            "Pod": _realistic(_pod(f"asked-{k}", int(rng.integers(_WORKLOADS)), now_s)),
            "Nodes": None,
            "NodeNames": rng.permutation(names).tolist(),
        }
        made.append(json.dumps(args, separators=(",", ":")).encode())
    return made


def _pod(name: str, workload: int, now_s: float) -> Json:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"job-{workload}", "uid": f"job-{workload}"}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": stamp(float(int(now_s))),
            "annotations": {
                "nodewise.dev/workload": f"workload-{workload}",
                "nodewise.dev/sla-class": ("production", "batch", "best-effort")[workload % 3],
                "nodewise.dev/deadline-seconds": "600",
            },
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            "schedulerName": "nodewise",
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "containers": [
                {
                    "name": "main",
                    "image": f"registry.example.com/team/workload-{workload}:1.4.2",
                    "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
                }
            ],
        },
        "status": {"phase": "Pending"},
    }


def _realistic(pod: Json) -> Json:
    """The pod with what templates, admission and the API server's defaults add: about 3.4 kB."""
    meta, spec = pod["metadata"], pod["spec"]
    meta["labels"] = {f"app.kubernetes.io/{k}": f"{k}-of-the-job" for k in ("name", "instance", "part-of", "version")}
    meta["labels"] |= {"batch.kubernetes.io/job-name": "job", "batch.kubernetes.io/controller-uid": meta["uid"]}
    meta["annotations"] |= {"prometheus.io/scrape": "true", "checksum/config": "4f1c" * 16}
    main = spec["containers"][0]
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1}
    token = {"name": "kube-api-access-x2m7q", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    main |= {
        "command": ["/bin/worker", "--queue=high", "--batch-size=128"],
        "env": [{"name": f"SETTING_{k}", "value": f"a value of ordinary length {k}"} for k in range(12)],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "volumeMounts": [{"name": "config", "mountPath": "/etc/worker", "readOnly": True}, token],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    sidecar: Json = {"name": "log-shipper", "image": "registry.example.com/platform/log-shipper:2.0.1"}
    sidecar |= {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}, "volumeMounts": [token]}
    spec["containers"].append(sidecar | {"imagePullPolicy": "IfNotPresent"})
    spec |= {
        "volumes": [
            {"name": "config", "configMap": {"name": "worker", "defaultMode": 420}},
            {"name": token["name"], "projected": {"defaultMode": 420, "sources": [{"configMap": {"name": "ca"}}]}},
        ],
        "tolerations": [
            {"key": f"node.kubernetes.io/{k}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for k in ("not-ready", "unreachable")
        ],
        "serviceAccountName": "default",
        "securityContext": {"runAsNonRoot": True},
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    return pod


class Client:
    """One keep-alive connection without a library: the head is ready, the reply is cut by its length."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def prioritize(self, body: bytes) -> tuple[float, bytes]:
        """Seconds from the first byte out to the last byte in, and the reply. Raises UserError for any but a 200."""
        message = _HEAD % len(body) + body
        begin_s = time.perf_counter()
        self._socket.sendall(message)
        got = self._socket.recv(1 << 20)
        while (end := got.find(b"\r\n\r\n")) < 0 or len(got) < end + 4 + _length(got[:end]):
            more = self._socket.recv(1 << 20)
            if not more:
                raise UserError("the server closed the connection in the middle of a reply")
            got += more
        took_s = time.perf_counter() - begin_s
        if not got.startswith(b"HTTP/1.1 200 "):
            raise UserError(f"the server replied {got[:end].decode(errors='replace').splitlines()[0]!r} to prioritize")
        return took_s, got[end + 4 :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def _length(head: bytes) -> int:
    at = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[at:].split(b"\r\n", 1)[0])
