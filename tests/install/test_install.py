"""The chart from install to uninstall on one cluster: the tests go in order, each from where the last one ended."""

import itertools
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.install.people import person, refused, unused
from tests.install.plane import GIB, RUNS_S, Plane
from tests.install.release import (
    ACCOUNTS,
    ADVISE,
    CHART,
    NAMESPACE,
    SCHEDULING,
    TLS,
    bound_by,
    make_secret,
    package,
    user,
    values,
)
from tests.install.rights import RBAC, Did, did, granted

from nodewise_simulator.controlplane import node, pod, taint

Json = dict[str, Any]
PODS = "/api/v1/namespaces/{}/pods"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/nodewise-scheduler"
POLICY = "/apis/nodewise.dev/v1alpha1/placementpolicies/batch"
RBAC_GROUP = "rbac.authorization.k8s.io"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
DEDICATED = "nodewise.dev/dedicated"
OPTED_IN = {"nodewise.dev/scheduling": "enabled"}
LEADS_AGAIN_S = 15.0
WAIT = ("--wait", "--timeout", "120s")
KUBERNETES_ROLES = ("system:kube-scheduler", "system:volume-scheduler", "extension-apiserver-authentication-reader")
"""Kubernetes' own, which every kube-scheduler has."""
JUSTIFIED = {
    (
        "nodewise-operator",
        "create",
        "nodeprofiles.nodewise.dev",
    ): "a server-side apply that makes one is logged as patch",
}
"""Rights of our roles that nothing uses here, and why they are granted."""

pytestmark = pytest.mark.timeout(300)


def job(name: str, namespace: str, pods: int, run_s: float) -> Json:
    """A Job whose pods name no scheduler; annotated as a user would who wants to be placed well."""
    notes = {"nodewise.dev/workload": name, "nodewise.dev/sla-class": "batch", RUNS_S: str(run_s)}
    container = {
        "name": "main",
        "image": "example.com/work:1",
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
    }
    template = {"metadata": {"annotations": notes}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {"completions": pods, "parallelism": pods, "template": template}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def start(plane: Plane, *jobs: Json) -> None:
    for each in jobs:
        plane.call("POST", f"/apis/batch/v1/namespaces/{each['metadata']['namespace']}/jobs", each)


def succeeded(plane: Plane, namespace: str) -> int:
    jobs = plane.call("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return sum(each["status"].get("succeeded", 0) for each in jobs)


def waiting(plane: Plane, scheduler: str) -> list[Json]:
    """Pods of the namespace `batch` that wait for this scheduler."""
    pods = plane.control.list_pods("batch")
    return [each for each in pods if "nodeName" not in each["spec"] and each["spec"]["schedulerName"] == scheduler]


def by_account(plane: Plane, account: str) -> list[Json]:
    """What one of the release's service accounts asked the API server for."""
    return [event for event in plane.audit() if event["user"].get("username") == user(account)]


def _credential(event: Json) -> tuple[str, str]:
    """Which token a request came with, and from where."""
    extra = event["user"].get("extra") or {}
    (found,) = extra.get("authentication.kubernetes.io/credential-id") or ["the Secret's"]
    (where,) = event["sourceIPs"]
    return str(found), str(where)


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def leader(plane: Plane) -> str:
    """The pod that holds the Lease."""
    holder: str = plane.call("GET", LEASE)["spec"].get("holderIdentity") or ""
    return holder.partition("_")[0]


def nodewise(plane: Plane, *words: str, kubeconfig: Path | None = None) -> str:
    """`kubectl nodewise …`, as the admin if nobody else is named."""
    code = "from nodewise.cli.kubectl.main import main; main()"
    argv = [sys.executable, "-c", code, *words, "--kubeconfig", str(kubeconfig or plane.control.kubeconfig)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=plane.folder, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cluster(plane: Plane) -> Plane:
    """60 nodes of three classes that are ours, and 6 for everybody."""
    classes = itertools.cycle(("m5.2xlarge", "m6g.2xlarge", "c6i.2xlarge"))
    ours: Json = {"labels": {DEDICATED: "true"}, "taints": [taint(DEDICATED, "true")]}
    size: Json = {"cpu_milli": 8000, "memory_bytes": 32 * GIB}
    plane.control.create_nodes(node(f"ours-{k:02}", instance_type=next(classes), **size, **ours) for k in range(60))
    plane.control.create_nodes(node(f"shared-{k}", instance_type="m5.2xlarge", **size) for k in range(6))
    plane.namespace("batch")
    plane.namespace("other")
    plane.namespace(NAMESPACE)
    return plane


def test_the_chart_before_this_one_installs_in_advise_mode_and_the_default_scheduler_binds_all(cluster: Plane) -> None:
    plane = cluster
    before = package(plane, "0.0.1")
    plane.helm("install", "nodewise", before, "-n", NAMESPACE, "-f", values(plane, "advise", ADVISE), *WAIT)
    assert len(plane.ready(NAMESPACE, "operator")) == 1
    assert not plane.ready(NAMESPACE, "scheduler")
    spec = {"mode": "Active", "namespaces": ["batch"]}
    policy = {"apiVersion": "nodewise.dev/v1alpha1", "kind": "PlacementPolicy", "metadata": {"name": "batch"}}
    plane.call("POST", POLICY.rpartition("/")[0], {**policy, "spec": spec})
    plane.call("PATCH", "/api/v1/namespaces/batch", {"metadata": {"labels": OPTED_IN}}, "application/merge-patch+json")
    start(plane, job("early", "batch", 6, 1))
    plane.wait(lambda: succeeded(plane, "batch") == 6, 60, "a Job in advise mode")
    assert {name for name, _ in bound_by(plane, "batch").values()} == {"admin"}


def test_after_an_upgrade_labelled_namespaces_are_ours_and_policies_are_still_there(cluster: Plane) -> None:
    plane = cluster
    policy = plane.call("GET", POLICY)["metadata"]["uid"]
    make_secret(plane)
    file = values(plane, "scheduling", {**SCHEDULING, **TLS})
    plane.helm("upgrade", "nodewise", CHART, "-n", NAMESPACE, "-f", file, *WAIT)
    assert plane.call("GET", POLICY)["metadata"]["uid"] == policy
    schedulers = plane.ready(NAMESPACE, "scheduler")
    assert len({each["spec"]["nodeName"] for each in schedulers}) == len(schedulers) == 2, "two replicas on one node"

    start(plane, *(job(f"work-{k}", "batch", 30, 2) for k in range(10)), job("else", "other", 30, 2))
    plane.wait(lambda: succeeded(plane, "batch") == 306 and succeeded(plane, "other") == 30, 120, "330 pods")

    work = {name: who for name, who in bound_by(plane, "batch").items() if name.startswith("work-")}
    assert Counter(name for name, _ in work.values()) == {user("nodewise-scheduler"): 300}
    assert {name for name, _ in bound_by(plane, "other").values()} == {"admin"}
    where = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in plane.control.list_pods("batch")}
    assert {where[name].partition("-")[0] for name in work} == {"ours"}
    assert {p["spec"]["nodeName"].partition("-")[0] for p in plane.control.list_pods("other")} == {"shared"}


def test_the_store_holds_a_decision_for_every_pod_that_was_placed(cluster: Plane) -> None:
    plane = cluster
    (file,) = (plane.folder / "volumes").glob("*/nodewise.db")

    def count(query: str) -> int:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as store:
            return int(store.execute(query).fetchone()[0])

    ended = "pods.namespace = 'batch' and name like 'work-%' and fate = 'succeeded'"
    plane.wait(lambda: count(f"select count(*) from pods where {ended}") == 300, 30, "outcomes of 300 pods")
    sent = f"from decisions join pods using (uid) where source = 'extender' and {ended}"
    plane.wait(lambda: count(f"select count(distinct uid) {sent}") == 300, 30, "decisions of the extenders")
    assert count(f"select count(*) {sent} and winner = node") == 300
    assert count("select coalesce(sum(dropped), 0) from segments") == 0


def test_kubectl_nodewise_reads_all_of_it_through_the_api_server(cluster: Plane) -> None:
    plane = cluster
    assert leader(plane) in nodewise(plane, "status")
    placed = next(p for p in plane.control.list_pods("batch") if p["metadata"]["name"].startswith("work-"))
    (why,) = json.loads(nodewise(plane, "explain", "-n", "batch", placed["metadata"]["name"], "-o", "json"))["rows"]
    assert (why["node"], why["fate"]) == (placed["spec"]["nodeName"], "succeeded")
    assert {each["winner"] for each in why["decisions"] if each["source"] == "extender"} == {why["node"]}
    nodewise(plane, "doctor")  # it would exit with 1 if anything were wrong


@pytest.mark.parametrize("command", ["status", "explain", "advise", "profiles", "doctor"])
def test_a_command_needs_the_rights_that_the_chart_tells_of_it_and_uses_them(cluster: Plane, command: str) -> None:
    plane = cluster
    kubeconfig = person(plane, command, "batch")
    placed = next(p for p in plane.control.list_pods("batch") if p["metadata"]["name"].startswith("work-"))
    more = {
        "explain": ("-n", "batch", placed["metadata"]["name"]),
        "advise": ("--policy", "economic", "--draws", "3"),  # its answer does not matter here, its time does
    }
    said = nodewise(plane, command, *more.get(command, ()), "-o", "json", kubeconfig=kubeconfig)
    assert "you may not" not in said
    assert refused(plane, command) <= {Did("list", "pods", "", "")}  # everywhere first, then where it is installed
    assert unused(plane, command) == set()


def test_who_may_view_or_edit_the_cluster_may_do_so_with_our_kinds(cluster: Plane) -> None:
    plane = cluster
    kinds = {"nodeprofiles": "", "placementpolicies": "", "policymodels": "", "trainingruns": "batch"}
    for role in ("view", "edit"):
        binding = {"roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": role}}
        for where, who in (("", role), ("namespaces/batch/", f"{role}-of-batch")):
            subjects = [{"apiGroup": RBAC_GROUP, "kind": "User", "name": who}]
            path = f"{RBAC}/{where}{'rolebindings' if where else 'clusterrolebindings'}"
            plane.call("POST", path, {"metadata": {"name": who}, **binding, "subjects": subjects})

    def may(who: str, verb: str, resource: str) -> bool:
        asked = {"verb": verb, "group": "nodewise.dev", "resource": resource, "namespace": kinds[resource]}
        review = plane.call("POST", REVIEWS, {"spec": {"user": who, "resourceAttributes": asked}})
        return bool(review["status"]["allowed"])

    plane.wait(lambda: may("edit", "create", "placementpolicies"), 20, "the roles are aggregated")
    assert {(who, kind) for who in ("view", "edit") for kind in kinds if not may(who, "list", kind)} == set()
    assert [who for who in ("view", "edit-of-batch") if may(who, "patch", "placementpolicies")] == []
    assert not any(may("edit", verb, "nodeprofiles") for verb in ("create", "patch", "delete"))
    assert may("view-of-batch", "list", "trainingruns")


def test_when_the_leader_is_killed_the_other_binds_within_its_lease_and_no_pod_is_lost(cluster: Plane) -> None:
    plane = cluster
    first = leader(plane)
    (other,) = {each["metadata"]["name"] for each in plane.ready(NAMESPACE, "scheduler")} - {first}
    stopped = threading.Event()

    def load() -> None:
        for k in itertools.count():
            if stopped.wait(0.2):
                return
            start(plane, job(f"load-{k:03}", "batch", 2, 600))

    creating = threading.Thread(target=load)
    creating.start()
    try:
        time.sleep(2)
        before = plane.call("GET", LEASE)["spec"]
        began_s = time.monotonic()
        while leader(plane) != other:  # as often as it comes back: else it might be the one that takes over
            assert time.monotonic() - began_s < 4 * LEADS_AGAIN_S, f"nobody took over\n{plane.runner.describe()}"
            if plane.runner.runs(first, "scheduler"):
                plane.runner.signal(first, "scheduler", signal.SIGKILL)
            time.sleep(0.2)
        after = plane.call("GET", LEASE)["spec"]
        time.sleep(2)
    finally:
        stopped.set()
        creating.join()
    plane.wait(lambda: all("nodeName" in p["spec"] for p in plane.control.list_pods("batch")), 30, "all are bound")
    pods = {
        p["metadata"]["name"] for p in plane.control.list_pods("batch") if p["metadata"]["name"].startswith("load-")
    }
    by = {name: address for name, (_, address) in bound_by(plane, "batch").items() if name in pods}
    taken_s = _seconds(after["acquireTime"]) - _seconds(before["renewTime"])
    print(f"the other led {taken_s:.1f} s after the last renewal; {len(pods)} pods, bound by {Counter(by.values())}")
    assert len(pods - by.keys()) <= 1  # one at a time is bound as its scheduler is killed
    assert pods <= bound_by(plane, "batch", cut=True).keys()
    assert plane.runner.pods[other].pod_ip in by.values()
    assert taken_s < LEADS_AGAIN_S
    plane.wait(lambda: len(plane.ready(NAMESPACE, "scheduler")) == 2, 60, "the killed one is back")


def test_every_request_was_allowed_and_every_right_of_our_roles_is_used_or_justified(cluster: Plane) -> None:
    plane = cluster
    idle: dict[tuple[str, str, str], str] = {}
    for account in ACCOUNTS:
        events = by_account(plane, account)
        denied = [e for e in events if e["annotations"].get("authorization.k8s.io/decision") != "allow"]
        assert not denied, Counter((e["verb"], e["requestURI"]) for e in denied)
        rights, done = granted(plane.call, account, NAMESPACE), did(events)
        assert len(done) > 5
        ours = [right for right in rights if right.role not in KUBERNETES_ROLES]
        idle |= {(account, each.verb, each.resource): "" for each in ours if not any(each.covers(one) for one in done)}
    assert idle.keys() == JUSTIFIED.keys()


def test_the_tokens_that_were_used_are_those_that_were_mounted_and_come_from_their_pods(cluster: Plane) -> None:
    plane = cluster
    mounted = {f"JTI={each.jti}": plane.runner.addresses[each.pod] for each in plane.runner.issued if not each.audience}
    used = {account: {_credential(event) for event in by_account(plane, account)} for account in ACCOUNTS}
    assert {jti: where for account in ACCOUNTS[:2] for jti, where in used[account]} == mounted
    assert used["nodewise-operator"].isdisjoint(used["nodewise-scheduler"])
    schedulers = {where for _, where in used["nodewise-scheduler"]}
    assert used["nodewise-extender"] == {("the Secret's", where) for where in schedulers}
    assert len(schedulers) == 2
    # Those of the channel, one a replica, say nothing to the API server.
    assert len({each.jti for each in plane.runner.issued if each.audience == "nodewise-operator"}) == 2


def test_after_uninstall_new_pods_go_to_the_default_scheduler_and_release_frees_those_that_wait(cluster: Plane) -> None:
    plane = cluster
    kept = plane.call("GET", POLICY)["metadata"]["uid"]
    small: Json = {"namespace": "batch", "scheduler_name": "default-scheduler", "cpu_milli": 100, "memory_bytes": GIB}
    big = {**small, "cpu_milli": 16_000}  # no node of ours has so much, and none of the others
    plane.control.create_pods(pod(f"stuck-{k}", **big) for k in range(20))
    controlled = job("stuck-job", "batch", 30, 1)
    controlled["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "16"
    start(plane, controlled)
    plane.wait(lambda: len(waiting(plane, "nodewise")) == 50, 20, "50 pods that name us")

    plane.helm("uninstall", "nodewise", "-n", NAMESPACE, *WAIT)
    # The binding of the admission policy goes first, and the API server goes by it for up to a second more: until then
    # pods may be given to a scheduler that is no more. `release` takes them with the others.
    for k in itertools.count():
        (made,) = plane.control.create_pods([pod(f"new-{k}", **small)])
        if made["spec"]["schedulerName"] == "default-scheduler":
            break
        assert k < 50
        time.sleep(0.2)
    plane.wait(lambda: f"new-{k}" in bound_by(plane, "batch"), 20, "a new pod after uninstall")
    assert len(waiting(plane, "nodewise")) == 50 + k
    assert plane.call("GET", POLICY)["metadata"]["uid"] == kept

    said = nodewise(plane, "release", "-n", "batch", "--yes", kubeconfig=person(plane, "release", "batch"))
    assert f"{20 + k} recreated" in said
    assert refused(plane, "release") <= {Did("list", "pods", "", "")}
    assert unused(plane, "release") == set()
    # Pods of a Job that were deleted count as failed, and seven of them as the whole Job.
    plane.wait(lambda: len(waiting(plane, "default-scheduler")) == 50, 20, "all wait for the default scheduler")
    assert not waiting(plane, "nodewise")
    assert {f"new-{n}" for n in range(k + 1)} <= bound_by(plane, "batch").keys()
