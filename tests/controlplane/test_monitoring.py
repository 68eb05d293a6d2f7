"""What the dashboard asks of kube-scheduler, and what the operator says of its Lease, on the real programs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodewise.core.errors import UserError
from nodewise.kube import api as kube
from nodewise_operator.scheduler_lease import SchedulerLease
from nodewise_simulator.controlplane import ControlPlane, Scheduler, node, pod, program, scheduler_config
from nodewise_simulator.controlplane.access import admin_kubeconfig
from nodewise_simulator.controlplane.scheduler import fetch

from .conftest import skip_or_fail
from .test_channel_auth import account, token

Json = dict[str, Any]
Elect = Callable[..., Scheduler]
DASHBOARD = Path(__file__).parents[2] / "charts" / "nodewise" / "files" / "dashboard.json"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NAME = "nodewise-scheduler"


@pytest.fixture
def elect(plane: ControlPlane, namespace: str) -> Iterator[Elect]:
    """Starts a scheduler that takes a Lease in the test's namespace first, as ours do."""
    with ExitStack() as started:

        def start(binary: str = "kube-scheduler") -> Scheduler:
            try:
                program(binary)
            except UserError as missing:
                skip_or_fail(missing)
            config = scheduler_config(plane.kubeconfig, None)
            config["leaderElection"] = {
                "leaderElect": True, "resourceLock": "leases", "resourceNamespace": namespace, "resourceName": NAME,
            }  # fmt: skip
            scheduler = plane.start_scheduler(config, binary)
            started.callback(scheduler.stop)
            return scheduler

        yield start


def grant(plane: ControlPlane, name: str, rule: Json, subject: tuple[str, str], namespace: str = "") -> None:
    """A role with one rule for one service account."""
    kind, path = (
        ("Role", f"{RBAC}/namespaces/{namespace}/roles") if namespace else ("ClusterRole", f"{RBAC}/clusterroles")
    )
    plane.call("POST", path, {"apiVersion": RBAC[6:], "kind": kind, "metadata": {"name": name}, "rules": [rule]})
    who = {"kind": "ServiceAccount", "namespace": subject[0], "name": subject[1]}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    body = {"apiVersion": RBAC[6:], "kind": f"{kind}Binding", "metadata": {"name": name}, "roleRef": ref}
    plane.call("POST", path.replace("roles", "rolebindings"), body | {"subjects": [who]})


@pytest.mark.parametrize("binary", ["kube-scheduler", "kube-scheduler-1.34"])
def test_what_the_dashboard_asks_of_a_scheduler_is_there_for_an_account_that_may_get_metrics(
    plane: ControlPlane, namespace: str, elect: Elect, binary: str
) -> None:
    plane.create_nodes([node("node-0", cpu_milli=4000, memory_bytes=8 << 30)])
    scheduler = elect(binary)
    plane.create_pods([pod("p", namespace=namespace, cpu_milli=100, memory_bytes=1 << 20)])
    plane.wait_bound(1, namespace)
    prometheus = (namespace, account(plane, namespace, "prometheus"))
    stranger = (namespace, account(plane, namespace, "stranger"))
    grant(plane, f"metrics-of-{namespace}", {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}, prometheus)

    def page(who: tuple[str, str]) -> str | None:
        return fetch(f"{scheduler.url}/metrics", token(plane, *who, audience="https://127.0.0.1"))

    assert page(stranger) is None
    told = page(prometheus)
    assert told is not None
    asked = set(re.findall(r"\bscheduler_\w+(?=\{job)", DASHBOARD.read_text()))
    assert len(asked) == 4
    for name in asked:
        assert re.search(rf"^{name}\{{", told, re.MULTILINE), name


async def test_the_operator_sees_who_holds_the_lease_with_the_right_to_get_that_one_only(
    plane: ControlPlane, namespace: str, elect: Elect, tmp_path: Path
) -> None:
    operator = (namespace, account(plane, namespace, "operator"))
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(admin_kubeconfig(plane.url, token(plane, *operator, audience="https://127.0.0.1"))))
    api = await kube.connect(file)
    later_s = 0.0
    lease = SchedulerLease(api, namespace, NAME, clock=lambda: time.monotonic() + later_s)
    try:
        await lease.look()
        assert (lease.unread, "grant `get`" in lease.trouble) == (True, True)
        rule = {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [NAME],
            "verbs": ["get"],
        }
        grant(plane, "operator", rule, operator, namespace)
        for _ in range(100):  # the API server takes up new rights within a moment
            await lease.look()
            if not lease.trouble:
                break
        assert (lease.held, lease.trouble) == (0.0, ""), "there is none yet"

        scheduler = elect()
        begun_s = time.monotonic()
        while lease.held != 1.0:
            await lease.look()
            assert time.monotonic() - begun_s < 30.0
        scheduler.stop()
        await lease.look()
        later_s += 60.0
        await lease.look()
        assert lease.held == 0.0
    finally:
        await api.close()  # type: ignore[no-untyped-call]
