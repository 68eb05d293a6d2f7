"""The operator on a real API server: its rows are right, and pods and nodes are never written to."""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from tests.postgres import create_database, postgres_server

from nodewise_operator.store import Fate, Store
from nodewise_simulator.controlplane import ControlPlane, Kubelet

from .operator_runs import USER, Running, Scheduled, audited, conserved, lasting, namespace, run_s, source, start, world

__all__ = ["audited", "namespace", "postgres_server", "source", "start", "world"]


WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def fail(plane: ControlPlane, namespace: str, name: str, reason: str = "Error", exit_code: int = 3) -> None:
    """As the kubelet says it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ended = {"exitCode": exit_code, "reason": reason, "startedAt": now, "finishedAt": now}
    status = {
        "name": "main",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    body = {"status": {"phase": "Failed", "containerStatuses": [status]}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
    plane.call("PATCH", path, body, "application/strategic-merge-patch+json")


def test_both_databases_hold_the_same_rows_of_the_same_run(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], postgres_server: str
) -> None:
    operators = [start().ready(), start(store=create_database(postgres_server, "operator")).ready()]
    with Kubelet(audited.url, audited.token, run_s):
        world.run(namespace, *(lasting(namespace, f"p-{k}", 1.0 + k % 3) for k in range(60)))
        sqlite, postgres = (o.wait_rows(60, lambda row: row.fate is Fate.SUCCEEDED) for o in operators)
    for name, row in sqlite.items():
        # What the neighbours are believed to have cost depends on which event was seen first, the rest does not.
        assert replace(row, slowdown=0.0) == replace(postgres[name], slowdown=0.0)
    for operator in operators:
        conserved(operator)


def test_each_fate_is_recorded_as_the_kubelet_wrote_it_and_no_pod_or_node_is_written_to(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    operator = start("--source", source).ready()
    with Kubelet(audited.url, audited.token, run_s):
        world.run(
            namespace,
            *(lasting(namespace, f"ok-{k}", 1.0 + k % 3) for k in range(10)),
            *(lasting(namespace, name, -1) for name in ("deleted", "failed", "oom", "runs")),
        )
        operator.wait_rows(13, lambda r: r.started_s > 0)
        audited.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/deleted")
        fail(audited, namespace, "failed")
        fail(audited, namespace, "oom", "OOMKilled", 137)
        rows = operator.wait_rows(13, lambda r: r.fate not in (Fate.WAITING, Fate.RUNNING))
    assert {(rows[f"ok-{k}"].fate, rows[f"ok-{k}"].reason) for k in range(10)} == {(Fate.SUCCEEDED, "")}
    assert {name: (rows[name].fate, rows[name].reason) for name in ("deleted", "failed", "oom", "runs")} == {
        "deleted": (Fate.CENSORED, "deleted"),
        "failed": (Fate.FAILED, "Error"),
        "oom": (Fate.FAILED, "OOMKilled"),
        "runs": (Fate.RUNNING, ""),
    }
    assert rows["failed"].exit_code == 3
    for k in range(10):
        row = rows[f"ok-{k}"]
        assert row.created_s <= row.bound_s <= row.started_s <= row.finished_s
        assert abs(row.finished_s - row.started_s - (1.0 + k % 3)) <= 1.5  # the stamps are whole seconds
        assert row.node in world.nodes
        assert row.node_class.startswith("type-")
        assert row.cents >= 0
    conserved(operator)
    with contextlib.closing(Store.open(str(operator.store_path), create=False)) as store:
        scored = [d for d in store.decisions() if not d.neutral]
        assert len(scored) == 14
        assert all(d.bound in d.candidates and len(d.candidates) == 8 and d.winner in d.candidates for d in scored)
        assert all(d.features and len(d.features) == 4 * len(d.columns) * len(d.featured) for d in scored)
        assert len(list(store.observations())) >= 9
    written = [
        e
        for e in audited.audited(USER)
        if e["verb"] in WRITES and e.get("objectRef", {}).get("resource") in ("pods", "nodes")
    ]
    assert written == []
    assert {e["verb"] for e in audited.audited(USER)} >= {"list", "watch"}
    for each in audited.list_pods(namespace):
        assert not each["metadata"].get("finalizers")
        assert not [k for k in each["metadata"].get("annotations") or {} if "nodewise" in k or "kopf" in k]


def test_a_dead_operator_keeps_nobody_from_deleting_pods_and_nodes(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    operator = start("--source", source).ready()
    world.run(namespace, *(lasting(namespace, f"p{k}", -1) for k in range(30)))
    operator.wait_rows(30, lambda r: bool(r.node))
    operator.process.signal(signal.SIGKILL)
    operator.process.stop()
    audited.delete_pods(namespace)
    audited.delete_nodes()
    assert audited.list_pods(namespace) == []
    assert audited.call("GET", "/api/v1/nodes")["items"] == []
