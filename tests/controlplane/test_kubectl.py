"""`kubectl nodewise` on a real API server, with the chart's objects, and our programs where its pods would be."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.controlplane.conftest import skip_or_fail
from tests.controlplane.kubectl_installed import MERGE, SYSTEM, Installed, address, until

from nodewise.core.errors import UserError
from nodewise.kube.snapshot import read_snapshot
from nodewise_simulator.controlplane import ControlPlane, node, pod, program, programs

Json = dict[str, Any]
Cli = Callable[..., subprocess.CompletedProcess[str]]

OPT_IN = "nodewise.dev/scheduling"
DEDICATED = "nodewise.dev/dedicated"
GIB = 1 << 30
ADVISE = ("nodewise", "advise", "--draws", "3", "--policy", "economic")
POD_POLICY = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/nodewise-opt-in"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The chart in a cluster with controllers; its scheduler does not run, so that pods of ours wait."""
    try:
        programs()
        for name in ("helm", "kubectl", "kube-controller-manager"):
            program(name)
    except UserError as missing:
        skip_or_fail(missing)
    with ControlPlane(users=["nobody"], controllers=True) as plane:
        plane.create_nodes([node("system-0", cpu_milli=64_000, memory_bytes=256 * GIB, instance_type="s", pods=500)])
        made = Installed(plane, tmp_path_factory.mktemp("kubectl"))
        yield made
        made.stop()


@pytest.fixture
def cli(cluster: Installed, tmp_path: Path) -> Cli:
    """`kubectl nodewise …`, found by the real kubectl as it finds any plugin."""
    for name, called in (("kubectl-nodewise", "main"), ("kubectl_complete-nodewise", "complete")):
        plugin = tmp_path / name
        plugin.write_text(f"#!{sys.executable}\nfrom nodewise.cli.kubectl.main import {called}\n{called}()\n")
        plugin.chmod(0o755)

    def run(*words: str, kubeconfig: Path = cluster.plane.kubeconfig) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": str(kubeconfig),
            "HOME": str(tmp_path), "COLUMNS": "200",
        }  # fmt: skip
        argv = [str(program("kubectl")), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=240, env=env, cwd=tmp_path, check=False)

    return run


def told(done: subprocess.CompletedProcess[str]) -> Json:
    assert done.stdout, done.stderr
    made: Json = json.loads(done.stdout)
    return made


@pytest.fixture
def joined(cluster: Installed) -> Iterator[str]:
    """A namespace of its own that has joined, with its service account."""
    name = f"joined-{time.monotonic_ns()}"
    cluster.plane.create_namespace(name, {OPT_IN: "enabled"})
    until(lambda: cluster.get(f"/api/v1/namespaces/{name}/serviceaccounts/default"), "a service account")
    until(lambda: scheduler_of(cluster, name) == "nodewise", "the label's effect")
    yield name
    for plural, group in (("replicasets", "apps/v1"), ("jobs", "batch/v1")):
        cluster.plane.call("DELETE", f"/apis/{group}/namespaces/{name}/{plural}?propagationPolicy=Background")
    cluster.plane.delete_pods(name)


def scheduler_of(cluster: Installed, namespace: str) -> str:
    """Who would place a pod that is made there now."""
    probe = bare(namespace, "probe")
    made = cluster.plane.call("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", probe)
    return str(made["spec"]["schedulerName"])


def bare(namespace: str, name: str, **more: Any) -> Json:
    made = pod(
        name, cpu_milli=100, memory_bytes=GIB // 8, namespace=namespace, scheduler_name="default-scheduler", **more
    )
    made["metadata"]["labels"] = {"app": "bare"}
    made["metadata"]["annotations"] = {"nodewise.dev/workload": "w"}
    made["spec"] |= {"nodeSelector": {"kubernetes.io/os": "linux"}, "volumes": [{"name": "v", "emptyDir": {}}]}
    made["spec"]["tolerations"] = [{"key": "mine", "operator": "Exists"}]
    return made


def finish(plane: ControlPlane, namespace: str, name: str) -> None:
    """Say, as a kubelet, that the pod ran and ended well."""
    now = time.time()
    began, ended = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for at in (now - 3, now))
    ran = {"exitCode": 0, "startedAt": began, "finishedAt": ended, "reason": "Completed"}
    container = {"name": "main", "image": "pause", "imageID": "", "ready": False, "restartCount": 0}
    status = {
        "phase": "Succeeded",
        "startTime": began,
        "containerStatuses": [{**container, "state": {"terminated": ran}}],
    }
    plane.call("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status}, MERGE)


def fate(cli: Cli, namespace: str, name: str) -> str:
    return str(told(cli("nodewise", "explain", name, "-n", namespace, "-o", "json"))["rows"][0]["fate"])


def replica_set(namespace: str, name: str, replicas: int, **spec: Any) -> Json:
    container = {"name": "main", "image": "pause"}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **spec}},
        },
    }


def pods_of(cluster: Installed, namespace: str) -> dict[str, Json]:
    return {
        one["metadata"]["name"]: one
        for one in cluster.plane.list_pods(namespace)
        if not one["metadata"].get("deletionTimestamp")
    }


def test_fifty_pods_that_wait_are_released_and_none_is_lost(
    cluster: Installed, joined: str, cli: Cli, tmp_path: Path
) -> None:
    path = f"/apis/apps/v1/namespaces/{joined}/replicasets"
    cluster.plane.call("POST", path, replica_set(joined, "owned", 24))
    cluster.plane.call("POST", path, replica_set(joined, "stays", 1, schedulerName="nodewise"))
    cluster.plane.create_pods([bare(joined, f"bare-{k}") for k in range(25)])
    before = until(lambda: found if len(found := pods_of(cluster, joined)) == 50 else None, "50 pods")
    assert {one["spec"]["schedulerName"] for one in before.values()} == {"nodewise"}
    assert DEDICATED in before["bare-0"]["spec"]["nodeSelector"]

    refused = cli("nodewise", "release", "-n", joined, "--yes")
    assert (refused.returncode, "--remove-label" in refused.stderr) == (2, True), refused.stderr
    asked = cli("nodewise", "release", "-n", joined, "--remove-label")
    assert (asked.returncode, "say --yes" in asked.stderr) == (2, True), asked.stderr
    planned = told(cli("nodewise", "release", "-n", joined, "--remove-label", "--dry-run", "-o", "json"))
    assert Counter(row["took"] for row in planned["rows"]) == {"recreated": 25, "deleted": 24, "left": 1}
    assert {name: one["metadata"]["uid"] for name, one in pods_of(cluster, joined).items()} == {
        name: one["metadata"]["uid"] for name, one in before.items()
    }

    done = told(cli("nodewise", "release", "-n", joined, "--remove-label", "--yes", "-o", "json"))
    assert Counter(row["took"] for row in done["rows"]) == {"recreated": 25, "deleted": 24, "left": 1}
    assert "change schedulerName there" in str(done)
    after = until(lambda: found if len(found := pods_of(cluster, joined)) == 50 else None, "50 pods again")
    schedulers = Counter(one["spec"]["schedulerName"] for one in after.values())
    assert schedulers == {"default-scheduler": 49, "nodewise": 1}
    for k in range(25):
        old, new = before[f"bare-{k}"], after[f"bare-{k}"]
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert new["metadata"]["annotations"] == old["metadata"]["annotations"]
        assert new["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert {t["key"] for t in new["spec"]["tolerations"]} == {
            "mine", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable",
        }  # fmt: skip
        assert [v["name"] for v in new["spec"]["volumes"] if not v["name"].startswith("kube-api-access-")] == ["v"]
        assert json.loads((tmp_path / done["manifests"] / f"{joined}_bare-{k}.json").read_text())["kind"] == "Pod"
    again = cli("nodewise", "release", "-n", joined, "--yes", "-o", "json")
    assert [row["took"] for row in told(again)["rows"]] == ["left"]


def test_a_job_survives_the_release_of_its_pods(cluster: Installed, joined: str, cli: Cli) -> None:
    """Deleting 4 pods of a Job with a backoffLimit of 1 would end it as failed."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "pause"}]}}
    job = {
        "metadata": {"name": "job"},
        "spec": {"parallelism": 4, "completions": 4, "backoffLimit": 1, "template": template},
    }
    path = f"/apis/batch/v1/namespaces/{joined}/jobs"
    cluster.plane.call("POST", path, job)
    before = until(lambda: found if len(found := pods_of(cluster, joined)) == 4 else None, "4 pods")
    done = told(cli("nodewise", "release", "-n", joined, "--remove-label", "--yes", "-o", "json"))
    assert [(row["took"], row["says"]) for row in done["rows"]] == [
        ("deleted", "Job job was suspended and resumed, and makes another")
    ] * 4
    until(lambda: (held := pods_of(cluster, joined)) and len(held) == 4 and not held.keys() & before.keys(), "4 others")
    assert {one["spec"]["schedulerName"] for one in pods_of(cluster, joined).values()} == {"default-scheduler"}
    held = cluster.plane.call("GET", f"{path}/job")
    assert (held["spec"]["suspend"], held["status"].get("failed", 0)) == (False, 0)


def test_when_the_admission_policy_is_gone_no_label_has_to_be_removed(
    cluster: Installed, joined: str, cli: Cli
) -> None:
    cluster.plane.create_pods([bare(joined, "a")])
    binding = cluster.get(POD_POLICY)
    assert binding is not None
    cluster.plane.call("DELETE", POD_POLICY)
    try:
        until(lambda: scheduler_of(cluster, joined) == "default-scheduler", "the policy's end")
        done = told(cli("nodewise", "release", "-A", "--yes", "-o", "json"))
        (row,) = [row for row in done["rows"] if row["namespace"] == joined]
        assert (row["took"], row["says"]) == ("recreated", "now of default-scheduler")
    finally:
        for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"):
            binding["metadata"].pop(field, None)
        cluster.plane.call("POST", POD_POLICY.rpartition("/")[0], binding)


def test_a_namespace_where_nothing_waits_leaves_by_its_label_alone(cluster: Installed, joined: str, cli: Cli) -> None:
    words = ("nodewise", "release", "-n", joined, "--remove-label")
    assert f"The label {OPT_IN} would come off: {joined}." in cli(*words, "--dry-run").stdout
    assert told(cli(*words, "--yes", "-o", "json"))["labels_removed"] == [joined]
    assert OPT_IN not in cluster.plane.call("GET", f"/api/v1/namespaces/{joined}")["metadata"]["labels"]
    nowhere = cli("nodewise", "release", "-n", "nowhere", "--yes")
    assert (nowhere.returncode, "there is no namespace nowhere" in nowhere.stderr) == (2, True)


def test_doctor_tells_a_scheduler_scaled_to_0_from_none_and_names_a_secret_that_is_missing(
    cluster: Installed, cli: Cli
) -> None:
    until(lambda: len(cluster.pods("scheduler")) == 2 and len(cluster.pods("operator")) == 1, "pods of the parts")
    secret = f"/api/v1/namespaces/{SYSTEM}/secrets/nodewise-extender-token"
    kept = cluster.plane.call("GET", secret)["metadata"]
    cluster.plane.call("DELETE", secret)
    fails = [row["says"] for row in told(cli("nodewise", "doctor", "-o", "json"))["rows"] if row["verdict"] == "fail"]
    assert f"Secret {SYSTEM}/nodewise-extender-token is not there, and pods of ours wait for it" in fails
    made = {"name": kept["name"], "labels": kept["labels"], "annotations": kept["annotations"]}
    made["annotations"].pop("kubernetes.io/service-account.uid", None)
    again = {"type": "kubernetes.io/service-account-token", "metadata": made}
    cluster.plane.call("POST", secret.rpartition("/")[0], again)
    deployment = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/nodewise-scheduler"
    cluster.plane.call("PATCH", deployment, {"spec": {"replicas": 0}}, MERGE)
    until(lambda: not cluster.pods("scheduler"), "no scheduler")
    (row,) = [r for r in told(cli("nodewise", "doctor", "-o", "json"))["rows"] if "scaled to 0" in r["says"]]
    assert row["verdict"] == "fail"
    assert "The scheduler is scaled to 0" in cli("nodewise", "status").stdout
    assert cli(*row["fix"].split()[1:]).returncode == 0
    until(lambda: len(cluster.pods("scheduler")) == 2, "both schedulers")


def test_what_kubectl_completes_is_what_the_plugin_has(cli: Cli) -> None:
    done = cli("__complete", "nodewise", "")
    assert [line.split("\t")[0] for line in done.stdout.splitlines() if not line.startswith((":", "Completion"))] == [
        "status", "explain", "advise", "profiles", "release", "doctor",
    ]  # fmt: skip


def test_a_user_without_rights_is_told_so_and_nothing_crashes(cluster: Installed, cli: Cli) -> None:
    nobody = cluster.plane.user_kubeconfig("nobody")
    for command in (("status",), ("doctor",), ("profiles",), ("release", "-A"), ("explain", "a"), ("advise",)):
        done = cli("nodewise", *command, kubeconfig=nobody)
        assert done.returncode == 2, command
        assert done.stderr.startswith("kubectl-nodewise: you may not "), done.stderr
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    cluster.plane.call("POST", f"{rbac}/clusterroles", {"metadata": {"name": "lists"}, "rules": rules})
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lists"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}
    binding = {"metadata": {"name": "lists"}, "roleRef": ref, "subjects": [subject]}
    cluster.plane.call("POST", f"{rbac}/clusterrolebindings", binding)
    done = cli("nodewise", "doctor", "-o", "json", kubeconfig=nobody)
    rows = {row["check"]: row for row in told(done)["rows"]}
    assert rows["crds"]["verdict"] == rows["rbac"]["verdict"] == rows["opt-in"]["verdict"] == "unknown"
    assert rows["crds"]["says"].startswith("you may not get customresourcedefinitions")


def test_a_tenants_pod_with_our_labels_is_no_part_of_ours(cluster: Installed, joined: str, cli: Cli) -> None:
    until(lambda: len(cluster.pods("scheduler")) == 2 and len(cluster.pods("operator")) == 1, "pods of the parts")
    fake = bare(joined, "fake")
    fake["metadata"]["labels"] = {"app.kubernetes.io/part-of": "nodewise", "app.kubernetes.io/component": "scheduler"}
    cluster.plane.create_pods([fake])
    refused = cli("nodewise", "release", "-n", joined, "--dry-run")
    assert (refused.returncode, f"in the namespaces {joined}, {SYSTEM}" in refused.stderr) == (2, True), refused.stderr
    status = told(cli("nodewise", "status", "--system-namespace", SYSTEM, "-o", "json"))
    assert {row["pod"].split("/")[0] for row in status["rows"]} == {SYSTEM}
    words = ("-n", joined, "--system-namespace", SYSTEM, "--remove-label", "--dry-run", "-o", "json")
    (row,) = told(cli("nodewise", "release", *words))["rows"]
    assert (row["pod"], row["took"]) == ("fake", "recreated")


@pytest.fixture(scope="module")
def served(cluster: Installed) -> Iterator[Installed]:
    """The same cluster with our programs at work, and four nodes that are ours."""
    if not address():
        pytest.skip("this machine has no address but loopback, which the API server's proxy does not reach")
    nodes = [node(f"ours-{k}", cpu_milli=8000, memory_bytes=32 * GIB, instance_type=f"t{k % 2}") for k in range(4)]
    for one in nodes:
        one["metadata"]["labels"][DEDICATED] = "true"
        one["spec"] = {**one.get("spec", {}), "taints": [{"key": DEDICATED, "value": "true", "effect": "NoSchedule"}]}
    cluster.plane.create_nodes(nodes)
    cluster.play()
    cluster.run_parts()
    yield cluster
    cluster.stop()


def test_every_command_on_a_cluster_at_work(served: Installed, joined: str, cli: Cli, tmp_path: Path) -> None:
    time.sleep(1.1)  # stamps are of whole seconds: a pod of the second in which the recording began was there before it
    served.plane.create_pods([bare(joined, f"p{k}") for k in range(6)])
    bound = served.plane.wait_bound(6, joined)
    assert {node.split("-")[0] for node in bound.values()} == {"ours"}

    rows = until(
        lambda: r if (r := told(cli("nodewise", "explain", "p0", "-n", joined, "-o", "json")))["rows"] else None, "rows"
    )
    assert rows["decision"], (rows, served.processes[0].log_tail(), served.scheduler.process.log_tail())
    assert (rows["decision"]["winner"], rows["now"]["node"]) == (bound["p0"], bound["p0"])
    assert (rows["rows"][0]["fate"], rows["rows"][0]["node"]) == ("running", bound["p0"])
    words = cli("nodewise", "explain", f"{joined}/p0").stdout
    assert all(word in words for word in (bound["p0"], "economic", "outcome", "running", "decided by extender"))
    assert "nothing is known of pod" in cli("nodewise", "explain", "nope", "-n", joined).stderr

    status = told(cli("nodewise", "status", "-o", "json"))
    assert Counter(row["component"] for row in status["rows"]) == {"scheduler": 2, "operator": 1}
    assert {row["says"] for row in status["rows"]} == {"ok"}
    assert status["leader"]["held"]
    assert {"namespace": joined, "opted_in": True, "bound": 6, "pending": 0, "over": 0} in status["namespaces"]
    assert status["unknown"] == []
    table = cli("nodewise", "status").stdout
    assert all(word in table for word in (joined, "leads", "NodeProfiles"))

    finish(served.plane, joined, "p5")
    until(lambda: fate(cli, joined, "p5") == "succeeded", "the outcome of p5")
    advice = cli(*ADVISE, "--save", "kept.json")
    assert advice.returncode == 0, advice.stderr
    assert all(word in advice.stdout for word in (joined, "sooner")), advice.stdout
    assert sum(kept.node in bound.values() for kept in read_snapshot(tmp_path / "kept.json").pods) == 6

    profiles = until(lambda: cli("nodewise", "profiles").stdout.splitlines()[2:], "profiles")
    assert profiles

    done = cli("nodewise", "doctor", "-o", "json")
    by: dict[str, list[Json]] = {}
    for row in told(done)["rows"]:
        by.setdefault(row["check"], []).append(row)
    bad = [row for row in told(done)["rows"] if row["verdict"] not in ("ok", "warn")]
    assert (done.returncode, bad) == (0, []), bad
    for check in ("versions", "crds", "rbac", "operator", "scheduler config", "lease", "extender", "dedicated nodes"):
        assert [row["verdict"] for row in by[check]] == ["ok"] * len(by[check]), by[check]
    assert all(word in cli("nodewise", "doctor").stdout for word in ("rbac", "kube-scheduler v1.36", " ok"))


def test_doctor_says_what_is_wrong_and_fails(served: Installed, joined: str, cli: Cli) -> None:
    plane = served.plane
    maps = f"/api/v1/namespaces/{SYSTEM}/configmaps/nodewise-scheduler"
    config = yaml.safe_load(served.config["config.yaml"])
    config["extenders"][0] |= {"ignorable": False, "nodeCacheCapable": False, "weight": 1, "httpTimeout": "30s"}
    plane.call("PATCH", maps, {"data": {"config.yaml": yaml.safe_dump(config)}}, MERGE)
    admin = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": "nodewise-extender", "namespace": SYSTEM}
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    plane.call("POST", bindings, {"metadata": {"name": "wide"}, "roleRef": admin, "subjects": [subject]})
    plane.call("DELETE", f"{bindings}/nodewise-operator")
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingruns.nodewise.dev"
    plane.call("DELETE", crd)
    stranger = bare("default", "stranger")
    stranger["spec"]["nodeName"] = "ours-0"
    stranger["metadata"]["annotations"] = {"nodewise.dev/deadline-seconds": "soon"}
    until(lambda: served.get("/api/v1/namespaces/default/serviceaccounts/default"), "a service account")
    plane.create_pods(
        [
            stranger,
            {
                **bare(joined, "beside"),
                "spec": {**bare(joined, "beside")["spec"], "nodeName": "ours-0", "schedulerName": "nodewise"},
            },
        ]
    )

    def found() -> Any:
        done = cli("nodewise", "doctor", "-o", "json")
        rows = told(done)["rows"]
        says = "\n".join(f"{row['verdict']} {row['check']}: {row['says']}" for row in rows)
        assert done.returncode == 1, says
        assert all(row["fix"] for row in rows if row["verdict"] in ("warn", "fail"))
        return says if "nodewise-operator may not" in says else None

    says = until(found, "the authorizer's cache")
    for word in (
        "fail scheduler config: the extender is not ignorable", "warn scheduler config: nodeCacheCapable is off",
        "warn scheduler config: the extender's weight is 1", "warn scheduler config: httpTimeout is 30s",
        "fail crds: not installed: trainingruns.nodewise.dev",
        f"warn rbac: service account {SYSTEM}/nodewise-extender may",
        f"fail rbac: service account {SYSTEM}/nodewise-operator may not list nodes",
        "warn shared nodes: 1 node takes pods of ours and of other schedulers (ours-0)",
        "warn annotations: nodewise.dev/deadline-seconds is ignored in 1 pod (default/stranger): not a number",
        f"started before ConfigMap {SYSTEM}/nodewise-scheduler was changed",
    ):  # fmt: skip
        assert word in says, says
    served.scheduler.stop()
    plane.create_pods([bare(joined, "waits")])
    says = cli("nodewise", "doctor").stdout
    assert "nobody holds the Lease" in says  # it let go of it in the end
    assert "no scheduler of that name leads" in says
