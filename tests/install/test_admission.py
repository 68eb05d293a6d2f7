"""The chart's admission policies on a real API server: which pods become ours, and who may ask for class production."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from nodewise.core.annotations import SLA_CLASS, hints
from nodewise.core.types import SlaClass
from nodewise_simulator.controlplane import ControlPlane, node, program

from .admission import APPLY, CHART, GROUP, KINDS, MERGE, PATCH, STRATEGIC, Cluster, helm, need, pod, pods, workload

Json = dict[str, Any]
LABEL = "nodewise.dev/scheduling"
DEDICATED = {"key": "nodewise.dev/dedicated", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
CONTROLLERS = ("deployment", "replicaset", "daemonset", "job", "validatingadmissionpolicy-status")
BETA = "--runtime-config=admissionregistration.k8s.io/v1beta1=true"
VALUES = (
    "admission.slaProduction.enabled=true",
    "admission.slaProduction.users={alice}",
    "admission.slaProduction.groups={sre}",
    "admission.slaProduction.serviceAccounts={ci/deployer}",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With the policies of the chart, real controllers, and a tenant who may do everything that no policy denies."""
    need("kube-controller-manager")
    manager = program("kube-controller-manager")
    with ControlPlane((BETA,), audit=True) as plane:
        made = Cluster(plane)
        for kind, name in (
            ("User", "tenant"),
            ("User", "alice"),
            ("Group", "sre"),
            ("Group", "system:serviceaccounts"),
        ):
            binding = {
                "metadata": {"name": name.replace(":", "-")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}],
            }
            plane.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        plane.create_nodes([node(f"node-{k}", cpu_milli=4000, memory_bytes=1 << 33) for k in range(2)])
        for name in ("team", "nodewise-system"):
            plane.create_namespace(name, {LABEL: "enabled"})
        for name in ("other", "forge"):
            plane.create_namespace(name)
        plane.call("PATCH", "/api/v1/namespaces/kube-system", {"metadata": {"labels": {LABEL: "enabled"}}}, MERGE)
        controllers = ",".join(f"{name}-controller" for name in CONTROLLERS)
        # Each with an account of its own in kube-system, as it is in a cluster.
        plane.start_process(
            "kube-controller-manager",
            [
                manager, "--kubeconfig", plane.kubeconfig, "--secure-port", "0", "--leader-elect=false",
                "--use-service-account-credentials", f"--controllers={controllers}",
            ],
        )  # fmt: skip
        for thing in helm(*VALUES):
            made.apply(thing)
        made.wait(lambda: made.scheduler_of_new_pods("team") == "nodewise", "the opt-in policy is at work")
        forged = pod("probe", {"annotations": {SLA_CLASS: "production"}})
        made.wait(
            lambda: made.ask("POST", f"{pods('forge')}?dryRun=All", forged, user="tenant")[0] == 403,
            "the policy on production is at work",
        )
        yield made


# --- opt-in


def test_a_pod_of_a_labelled_namespace_becomes_ours_and_keeps_what_its_author_wrote(cluster: Cluster) -> None:
    spec = cluster.pod("plain", "team")["spec"]
    assert spec["schedulerName"] == "nodewise"
    assert DEDICATED in spec["tolerations"]
    assert spec["nodeSelector"] == {"nodewise.dev/dedicated": "true"}
    own = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    chosen = {"zone": "a", "nodewise.dev/dedicated": "true"}
    for name, selector in (("rich", {"zone": "a"}), ("same", chosen)):
        spec = cluster.pod(name, "team", tolerations=[own], nodeSelector=selector)["spec"]
        assert (spec["schedulerName"], spec["nodeSelector"]) == ("nodewise", chosen)
        assert spec["tolerations"][0] == own
        assert DEDICATED in spec["tolerations"]


BY_NAME = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
]}}  # fmt: skip
MIRROR = {"kubernetes.io/config.mirror": "1", "kubernetes.io/config.hash": "1"}
OF_DAEMON_SET = [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "logs", "uid": "1", "controller": True}]


@pytest.mark.parametrize(
    ("namespace", "meta", "spec"),
    [
        pytest.param("other", {}, {}, id="of a namespace without the label"),
        pytest.param("kube-system", {}, {}, id="of kube-system though it has the label"),
        pytest.param("nodewise-system", {}, {}, id="of our own namespace though it has the label"),
        pytest.param("team", {}, {"schedulerName": "volcano"}, id="of another scheduler"),
        pytest.param("team", {}, {"schedulerName": "nodewise"}, id="that names us itself"),
        pytest.param("team", {}, {"nodeName": "node-1"}, id="with a node"),
        pytest.param("team", {"annotations": MIRROR}, {"nodeName": "node-1"}, id="that mirrors a static one"),
        pytest.param("team", {"ownerReferences": OF_DAEMON_SET}, {}, id="of a DaemonSet"),
        pytest.param("team", {}, {"affinity": {"nodeAffinity": BY_NAME}}, id="tied to a node by name"),
        pytest.param("team", {}, {"priorityClassName": "system-cluster-critical"}, id="critical to the cluster"),
        pytest.param("team", {}, {"nodeSelector": {DEDICATED["key"]: "false"}}, id="that asks for other nodes"),
        pytest.param("team", {"labels": {LABEL: "disabled"}}, {}, id="that opts out by label"),
        pytest.param("team", {"annotations": {LABEL: "disabled"}}, {}, id="that opts out by annotation"),
    ],
)
def test_a_pod_is_left_alone(cluster: Cluster, namespace: str, meta: Json, spec: Json, request: Any) -> None:
    name = re.sub(r"\W+", "-", request.node.callspec.id).lower()
    stored = cluster.pod(name, namespace, meta, **spec)["spec"]
    assert stored["schedulerName"] == spec.get("schedulerName", "default-scheduler")
    assert stored.get("nodeSelector") == spec.get("nodeSelector")
    assert DEDICATED not in stored.get("tolerations", ())


def pods_of(cluster: Cluster, app: str, namespace: str, count: int) -> list[Json]:
    def there() -> list[Json]:
        _, listed, _ = cluster.ask("GET", f"{pods(namespace)}?labelSelector=app%3D{app}")
        return listed["items"] if len(listed["items"]) >= count else []

    made: list[Json] = cluster.wait(there, f"{count} pods of {app}")
    return made


def test_the_real_controllers_make_pods_of_ours_but_for_daemon_sets(cluster: Cluster) -> None:
    for kind, count, name in (
        ("Deployment", 1, "nodewise"), ("Job", 1, "nodewise"), ("DaemonSet", 2, "default-scheduler")
    ):  # fmt: skip
        path, thing = workload(kind, f"real-{kind.lower()}")
        assert cluster.ask("POST", path.format("team"), thing)[0] == 201
        made = pods_of(cluster, thing["metadata"]["name"], "team", count)
        assert {each["spec"]["schedulerName"] for each in made} == {name}


def test_without_the_label_or_the_binding_new_pods_go_to_the_default_scheduler(cluster: Cluster) -> None:
    cluster.plane.create_namespace("leaving", {LABEL: "enabled"})

    def ours() -> bool:
        return cluster.scheduler_of_new_pods("leaving") == "nodewise"

    cluster.wait(ours, "the label is seen")
    for label in (None, "disabled", "Enabled", "true"):
        cluster.plane.call("PATCH", "/api/v1/namespaces/leaving", {"metadata": {"labels": {LABEL: label}}}, MERGE)
        begin_s = time.monotonic()
        cluster.wait(lambda: not ours(), f"the label {label} is seen")
        print(f"\nlabel {label}: new pods went to the default scheduler after {time.monotonic() - begin_s:.2f} s")
        cluster.plane.call("PATCH", "/api/v1/namespaces/leaving", {"metadata": {"labels": {LABEL: "enabled"}}}, MERGE)
        cluster.wait(ours, "the label is seen again")
    _, binding = helm(files=("opt-in",))
    cluster.plane.call("DELETE", f"{GROUP}/mutatingadmissionpolicybindings/{binding['metadata']['name']}")
    begin_s = time.monotonic()
    cluster.wait(lambda: not ours(), "the binding is gone")
    print(f"\nnew pods went to the default scheduler {time.monotonic() - begin_s:.2f} s after the binding was deleted")
    cluster.apply(binding)
    cluster.wait(ours, "the binding is back")


def test_with_shared_nodes_only_the_scheduler_changes(cluster: Cluster) -> None:
    def spec() -> Json:
        return dict(cluster.ask("POST", f"{pods('team')}?dryRun=All", pod("probe"))[1]["spec"])

    shared, _ = helm("scheduling.sharedNodes=true", files=("opt-in",))
    dedicated, _ = helm(files=("opt-in",))
    cluster.apply(shared)
    try:
        cluster.wait(lambda: "nodeSelector" not in spec(), "the policy for shared nodes is at work")
        assert spec()["schedulerName"] == "nodewise"
        assert DEDICATED not in spec()["tolerations"]
    finally:
        cluster.apply(dedicated)
        cluster.wait(lambda: "nodeSelector" in spec(), "the policy for dedicated nodes is back")


def test_uninstalling_gives_new_pods_back_before_the_scheduler_goes(cluster: Cluster) -> None:
    env = {**os.environ, "KUBECONFIG": str(cluster.plane.kubeconfig)}
    for argv in (
        ["install", "going", str(CHART), "--create-namespace", "--set", "scheduling.enabled=true,crds.install=false"],
        ["uninstall", "going"],
    ):
        argv = [str(program("helm")), *argv, "--namespace", "going"]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    deleted = [event["objectRef"] for event in cluster.plane.audited("admin") if event["verb"] == "delete"]
    gone = [f"{ref['resource']}/{ref['name']}" for ref in deleted if ref["name"].startswith("going")]
    assert gone[0] == "mutatingadmissionpolicybindings/going-nodewise-opt-in"
    last = len(gone) - 1 - gone[::-1].index(gone[0])
    assert last < gone.index("deployments/going-nodewise-scheduler")
    bindings = cluster.ask("GET", f"{GROUP}/mutatingadmissionpolicybindings")[1]["items"]
    assert [each["metadata"]["name"] for each in bindings] == ["nodewise-opt-in"]


def test_what_is_rendered_is_what_the_cluster_has(cluster: Cluster) -> None:
    def kinds(kubernetes: str, apis: str, *values: str) -> set[str]:
        things = helm(*values, files=("opt-in",), kubernetes=kubernetes, apis=apis)
        return {f"{each['apiVersion'].rpartition('/')[2]} {each['kind']}" for each in things}

    names = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
    assert kinds("1.36.3", "") == kinds("1.36.3", "v1") == {f"v1 {name}" for name in names}
    assert kinds("1.35.0", "v1beta1") == {f"v1beta1 {name}" for name in names}
    assert kinds("1.35.0", "") == kinds("1.36.3", "v1", "scheduling.enabled=false") == set()
    assert kinds("1.36.3", "v1", "admission.optIn.enabled=false") == set()
    for thing in helm(files=("opt-in",), kubernetes="1.35.0", apis="v1beta1"):
        cluster.apply(thing, dry_run=True)


# --- who may ask for production


SPACES = [chr(code) for code in range(0x10000) if chr(code).isspace()]
LOOKALIKES = [
    "рroduction", "prоduction", "produсtion", "productіon", "ｐｒｏｄｕｃｔｉｏｎ", "pro\u200bduction",
    "pro\u00adduction",
    "productİon", "productıon", "produ\u0301ction", "𝐩𝐫𝐨𝐝𝐮𝐜𝐭𝐢𝐨𝐧", "\u200bproduction", "\ufeffproduction",
    "production\u200d", "\u202eproduction", "prod\nuction", "production\x00", "production;batch", "production,",
    "production batch", '"production"', "production/", "ⓟroduction", "PRODUCTİON", "production\u0307", "0", "2", "true",
]  # fmt: skip
READ = [
    *(word for word in ("production", "PRODUCTION", "Production", "pRODUCTION", "pRoDuCtIoN", "productioN")),
    *(f"{space}production{space}" for space in SPACES),
    f"{'production':>50}", "\t\r\n Production \n", " " * 100_000 + "production",
]  # fmt: skip


def is_production(annotations: Json) -> bool:
    return hints(annotations, priority=0, qos_best_effort=False).sla is SlaClass.PRODUCTION


def template_annotations(thing: Json) -> Json:
    spec = thing["spec"]["jobTemplate"]["spec"] if thing["kind"] == "CronJob" else thing["spec"]
    return dict(spec["template"]["metadata"].get("annotations") or {})


class Told:
    """How many attempts were denied, and how many were let through and mean nothing."""

    def __init__(self) -> None:
        self.denied = self.ignored = 0

    def judge(self, status: int, answer: Json, stored: Callable[[], Json], how: str) -> None:
        """`stored` gives the annotations that a pod has, or would get, now."""
        assert not is_production(stored()), how
        if status == 403:
            assert "may not ask for SLA class production" in answer["message"], (how, answer)
            self.denied += 1
        else:
            assert status < 300 or status in (400, 422), (how, answer)
            self.ignored += 1


def test_no_tenant_gets_class_production_in_hundreds_of_ways(cluster: Cluster) -> None:
    told = Told()

    def stored(path: str) -> Json:
        status, thing, _ = cluster.ask("GET", path)
        return {} if status == 404 else dict(thing["metadata"].get("annotations") or {})

    assert all(is_production({SLA_CLASS: text}) for text in READ)
    for k, text in enumerate([*READ, *LOOKALIKES]):  # whatever the extender reads as the class, and what looks like it
        thing = pod(f"value-{k}", {"annotations": {SLA_CLASS: text}})
        status, answer, _ = cluster.ask("POST", pods("forge"), thing, user="tenant")
        told.judge(status, answer, partial(stored, f"{pods('forge')}/value-{k}"), f"create {text[-30:]!r}")
    assert told.denied >= len(READ)

    some = ["production", " PRODUCTION\u2003", "\x1cproduction\x1f", " " * 100_000 + "production"]
    for k, text in enumerate(some):  # later, by whatever takes annotations
        path = f"{pods('forge')}/later-{k}"
        for method, sub, body, kind in ways_to_annotate(cluster.pod(f"later-{k}", "forge"), text):
            where = f"{pods('forge').removesuffix('pods')}bindings" if sub == "legacy" else path + sub
            status, answer, _ = cluster.ask(method, where, body, user="tenant", content_type=kind)
            told.judge(status, answer, partial(stored, path), f"{method} {sub} {kind}")

    for kind in KINDS:  # by what pods are made from
        for k, text in enumerate(some):
            wanted = {SLA_CLASS: text}
            path, thing = workload(kind, f"forged-{k}-{kind.lower()}", wanted)
            status, answer, _ = cluster.ask("POST", path.format("forge"), thing, user="tenant")
            assert status == 403, (kind, answer)
            told.judge(status, answer, dict, f"create {kind}")
            if kind == "Job":  # the template of one that is there cannot change
                continue
            path, thing = workload(kind, f"clean-{k}-{kind.lower()}")
            assert cluster.ask("POST", path.format("forge"), thing, user="tenant")[0] == 201
            path = f"{path.format('forge')}/{thing['metadata']['name']}"
            inner = {"template": {"metadata": {"annotations": wanted}}}
            body = {"spec": {"jobTemplate": {"spec": inner}} if kind == "CronJob" else inner}
            for way in (MERGE, STRATEGIC):
                status, answer, _ = cluster.ask("PATCH", path, body, user="tenant", content_type=way)
                assert status == 403, (kind, answer)
                told.judge(status, answer, dict, f"patch {kind}")
            assert not is_production(template_annotations(cluster.ask("GET", path)[1]))
    print(f"\n{told.denied} denied, {told.ignored} ignored by the parser or refused by the API server")
    assert told.denied + told.ignored >= 200
    there = [each["metadata"].get("annotations") or {} for each in cluster.plane.list_pods("forge")]
    assert not any(map(is_production, there))


def ways_to_annotate(clean: Json, text: str) -> Iterator[tuple[str, str, Any, str]]:
    """Method, subresource, body and type of requests that would annotate a pod that is there."""
    wanted = {SLA_CLASS: text}
    meta = {"metadata": {"annotations": wanted}}
    whole = {**clean, "metadata": {**clean["metadata"], "annotations": wanted, "resourceVersion": ""}}
    for sub in ("", "/status", "/ephemeralcontainers", "/resize"):
        yield "PUT", sub, whole, "application/json"
        yield "PATCH", sub, meta, MERGE
        yield "PATCH", sub, meta, STRATEGIC
        yield "PATCH", sub, [{"op": "add", "path": "/metadata/annotations", "value": wanted}], PATCH
    yield "PATCH", "?fieldManager=me&force=true", {**meta, "apiVersion": "v1", "kind": "Pod"}, APPLY
    target = {"apiVersion": "v1", "kind": "Node", "name": "node-0"}
    binding = {"metadata": {"name": clean["metadata"]["name"], "annotations": wanted}, "target": target}
    yield "POST", "/binding", binding, "application/json"
    yield "POST", "legacy", binding, "application/json"


def test_forged_owner_references_do_not_make_a_tenant_a_controller(cluster: Cluster) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": True}
    meta = {"annotations": {SLA_CLASS: "production"}, "ownerReferences": [owner]}
    assert cluster.ask("POST", pods("forge"), pod("owned", meta), user="tenant")[0] == 403


@pytest.mark.parametrize(
    ("user", "group"),
    [
        ("alice", "system:authenticated"),
        ("bob", "sre"),
        ("system:serviceaccount:ci:deployer", "system:serviceaccounts"),
    ],
)
def test_whoever_is_named_may_and_the_controllers_make_their_pods(cluster: Cluster, user: str, group: str) -> None:
    name = f"of-{user.rpartition(':')[2]}"
    path, thing = workload("Deployment", name, {SLA_CLASS: "production"})
    assert cluster.ask("POST", path.format("forge"), thing, user=user, group=group)[0] == 201
    (made,) = pods_of(cluster, name, "forge", 1)
    assert is_production(made["metadata"]["annotations"])
    # A tenant may go on with what somebody else gave the class.
    path = f"{path.format('forge')}/{name}"
    grow = {"spec": {"replicas": 2}}
    assert cluster.ask("PATCH", path, grow, user="tenant", content_type=MERGE)[0] == 200
    pods_of(cluster, name, "forge", 2)
    status, _, _ = cluster.ask("DELETE", path, user="tenant")
    assert status == 200
    meta = {"metadata": {"labels": {"seen": "yes"}}}
    pod_path = f"{pods('forge')}/{made['metadata']['name']}"
    assert cluster.ask("PATCH", pod_path, meta, user="tenant", content_type=MERGE)[0] == 200


def test_other_classes_and_pods_without_one_are_nobodys_business(cluster: Cluster) -> None:
    for k, text in enumerate((None, "batch", "best-effort", "nonproduction")):
        thing = pod(f"fine-{k}", {"annotations": {SLA_CLASS: text} if text else {}})
        assert cluster.ask("POST", pods("forge"), thing, user="tenant")[0] == 201


def test_the_api_server_finds_no_fault_with_the_expressions(cluster: Cluster) -> None:
    for name in ("nodewise-sla-production", "nodewise-annotations"):

        def checked(name: str = name) -> Json:
            return dict(cluster.ask("GET", f"{GROUP}/validatingadmissionpolicies/{name}")[1].get("status") or {})

        status: Json = cluster.wait(checked, "type checking")
        assert not status.get("typeChecking", {}).get("expressionWarnings"), status
