"""What `kubectl nodewise doctor` makes of a cluster; on a real one it is tested in tests/controlplane."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import yaml

from nodewise.cli.kubectl import checks, dedicated
from nodewise.cli.kubectl.checks import CHECKS, KINDS, _our_schemas, examined
from nodewise.cli.kubectl.checks_scheduler import duration_s
from nodewise.cli.kubectl.cluster import Refused
from nodewise.cli.kubectl.config import ConfigMap, changed_s, read_config, started_s
from nodewise.cli.kubectl.facts import KARPENTER, Facts, Told, slim_pod
from nodewise.cli.kubectl.findings import Finding, Verdict
from nodewise.cli.kubectl.parts import Holder, Parts, read_metrics, split_image
from nodewise.cli.kubectl.rights import Right, asked_of
from nodewise.cli.kubectl.workloads import Idle, Missing, waits
from nodewise_simulator.controlplane.profile import scheduler_config

Json = dict[str, Any]
NOW_S = 1_795_262_400.0
CREATED = "2026-11-21T11:00:00Z"  # an hour before
NOT_ALLOWED = Refused(403, "forbidden", "Forbidden", "list pods in all namespaces")


def part(component: str, name: str, *images: str, ready: str = "True") -> Json:
    return {
        "metadata": {
            "name": name, "namespace": "nodewise-system",
            "labels": {"app.kubernetes.io/component": component, "app.kubernetes.io/version": "0.1.0"},
        },
        "spec": {
            "serviceAccountName": f"nodewise-{component}",
            "containers": [{"name": f"c{k}", "image": image} for k, image in enumerate(images)],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }  # fmt: skip


OPERATOR = part("operator", "operator-0", "ghcr.io/nodewise/nodewise-operator:0.1.0")
SCHEDULER = part("scheduler", "scheduler-0", "registry.k8s.io/kube-scheduler:v1.36.3", "nodewise-extender:0.1.0")


def config() -> Json:
    made = scheduler_config("k", "http://127.0.0.1:8888")
    made["leaderElection"] = {"leaderElect": True, "resourceName": "nodewise", "resourceNamespace": "nodewise-system"}
    return made


ESTABLISHED = {"conditions": [{"type": "Established", "status": "True"}]}


def crds() -> dict[str, Json | None]:
    made: dict[str, Json | None] = {KARPENTER: None}
    for name, schemas in _our_schemas().items():
        versions = [{"name": version, "schema": {"openAPIV3Schema": schema}} for version, schema in schemas.items()]
        made[name] = {
            "metadata": {"name": name},
            "spec": {"versions": versions},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        }
    return made


def pod(
    name: str, scheduler: str, node: str = "", phase: str = "Running", owner: str = "ReplicaSet", **meta: Any
) -> Json:
    return slim_pod(
        {
            "metadata": {
                "name": name,
                "namespace": "team",
                "creationTimestamp": CREATED,
                "ownerReferences": [{"kind": owner}],
                **meta,
            },
            "spec": {"schedulerName": scheduler, "nodeName": node},
            "status": {"phase": phase},
        }
    )


def healthy() -> Facts:
    parts = Parts([OPERATOR], [SCHEDULER], config())
    return Facts(
        now_s=NOW_S, parts=parts, version={"gitVersion": "v1.36.1"}, crds=crds(),
        namespaces=[{"metadata": {"name": "team", "labels": {"nodewise.dev/scheduling": "enabled"}}}],
        nodes=[{"metadata": {"name": "n", "labels": {"nodewise.dev/dedicated": "true"}},
                "spec": {"taints": [{"key": "nodewise.dev/dedicated"}]}}],
        pods=[pod("a", "nodewise", "n"), pod("d", "default-scheduler", "n", owner="DaemonSet")],
        policies=[], opt_in=[{"metadata": {"name": "opt-in"}}], holder=Holder("scheduler-0", 2.0, 15.0),
        operators=[Told(OPERATOR, (200, {"status": "ok"}), {})],
        extenders=[Told(SCHEDULER, (200, {"status": "ok", "policy": "economic"}), {})],
        autoscalers=[], rights={right: right.wanted for right in asked_of(parts)},
    )  # fmt: skip


def found(facts: Facts, *verdicts: Verdict) -> list[Finding]:
    wanted = verdicts or (Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN)
    return [finding for finding in examined(facts, CHECKS) if finding.verdict in wanted]


def test_a_healthy_cluster_has_nothing_to_mend() -> None:
    assert found(healthy()) == []
    assert {finding.check for finding in found(healthy(), Verdict.OK)} == set(CHECKS)


def extender(**changes: Any) -> Parts:
    made = config()
    made["extenders"][0] |= changes
    return Parts([OPERATOR], [SCHEDULER], made)


def scheduler_tag(tag: str) -> Parts:
    made = copy.deepcopy(SCHEDULER)
    made["spec"]["containers"][0]["image"] = f"registry.k8s.io/kube-scheduler:{tag}"
    return Parts([OPERATOR], [made], config())


def lease(**changes: Any) -> Parts:
    made = config()
    made["leaderElection"] |= changes
    return Parts([OPERATOR], [SCHEDULER], made)


def policy(spec: Json, status: Json) -> list[Json]:
    return [{"metadata": {"name": "p"}, "spec": spec, "status": status}]


METRICS = read_metrics(
    '# HELP x\nnodewise_extender_decisions_total{policy="a"} 90.0\n'
    'nodewise_extender_decisions_total{policy="b"} 10.0\nnodewise_extender_fallbacks_total{reason="deadline"} 6.0\n'
)
OLDER = "kube-scheduler is 1.35, one minor behind the API server's 1.36"
AS_TOLD: dict[str, tuple[Json, str, str]] = {
    "an older scheduler": ({"parts": scheduler_tag("v1.35.2")}, "warn", OLDER),
    "a newer scheduler": ({"parts": scheduler_tag("v1.37.0")}, "fail", "which Kubernetes does not support"),
    "a much older scheduler": ({"parts": scheduler_tag("v1.34.4")}, "fail", "which Kubernetes does not support"),
    "a tag that is no version": ({"parts": scheduler_tag("latest")}, "warn", "cannot be told against v1.36.1"),
    "not ignorable": ({"parts": extender(ignorable=False)}, "fail", "not ignorable"),
    "a small weight": ({"parts": extender(weight=5)}, "warn", "weight is 5"),
    "a weight above what people wrote": ({"parts": extender(weight=1000)}, "warn", "lose against it"),
    "a long time-out": ({"parts": extender(httpTimeout="1m0s")}, "warn", "httpTimeout is 1m0s"),
    "no time-out": ({"parts": extender(httpTimeout="")}, "warn", "5s, by default"),
    "whole nodes": ({"parts": extender(nodeCacheCapable=False)}, "warn", "nodeCacheCapable is off"),
    "in the open": ({"parts": extender(urlPrefix="http://extender.x.svc:8888")}, "warn", "in the open"),
    "the default scheduler's Lease": (
        {"parts": lease(resourceName="kube-scheduler", resourceNamespace="kube-system")}, "fail",
        "by the Lease of the default scheduler",
    ),
    "nobody leads": ({"holder": Holder("", float("inf"), 15.0)}, "fail", "nobody holds the Lease"),
    "a leader that is silent": ({"holder": Holder("s", 31.0, 15.0)}, "fail", "has not renewed"),
    "an extender that is stale": (
        {"extenders": [Told(SCHEDULER, (503, {"status": "stale"}), {})]}, "fail", "is not ready: stale",
    ),
    "many fallbacks": (
        {"extenders": [Told(SCHEDULER, (200, {}), METRICS)]}, "warn", "the rule had to decide 6% of 100 times",
    ),
    "an old CRD": (
        {"crds": crds() | {KINDS[0]: {"metadata": {}, "spec": {}, "status": ESTABLISHED}}},
        "warn", f"of another version than this program: {KINDS[0]}",
    ),
    "no CRD": ({"crds": crds() | {KINDS[1]: None}}, "fail", f"not installed: {KINDS[1]}"),
    "an operator without its store": (
        {"operators": [Told(OPERATOR, (503, {"status": "the store is away"}), {})]}, "fail", "the store is away",
    ),
    "low agreement": (
        {"policies": policy({"mode": "Active"}, {"agreement": "70.0%"})}, "warn", "only 70.0% of its pods were bound",
    ),
    "a degraded policy": (
        {"policies": policy({}, {"conditions": [{"type": "Degraded", "status": "True", "message": "no bundle x"}]})},
        "fail", "p: no bundle x",
    ),
    "active without the label": (
        {"policies": policy({"mode": "Active", "namespaces": ["team", "other"]}, {})}, "warn",
        "PlacementPolicy p is Active for other, which did not join",
    ),
    "joined without a policy": (
        {"policies": policy({"mode": "Shadow", "namespaces": ["other"]}, {})}, "warn", "no PlacementPolicy is for team",
    ),
    "joined without an admission policy": ({"opt_in": []}, "warn", "no admission policy of ours sends their pods"),
    "joined, and the scheduler is gone": (
        {"parts": Parts([OPERATOR], []), "extenders": []}, "fail", "team joined, and no scheduler of ours is here",
    ),
    "shared nodes": (
        {"pods": [pod("a", "nodewise", "n"), pod("b", "default-scheduler", "n")]}, "warn",
        "1 node takes pods of ours and of other schedulers (n)",
    ),
    "a label without its taint": (
        {"nodes": [{"metadata": {"name": "n", "labels": {"nodewise.dev/dedicated": "true"}}, "spec": {"taints": []}}]},
        "warn", "the label nodewise.dev/dedicated without the taint is on n",
    ),
    "a pod that waits for long": ({"pods": [pod("a", "nodewise", "", "Pending")]}, "warn", "1 pod of ours waits for"),
    "Karpenter": ({"crds": crds() | {KARPENTER: {}}}, "warn", "an autoscaler is here (Karpenter (its CRDs))"),
    "no node of ours": (
        {"nodes": [], "namespaces": []}, "warn", "no node has the label nodewise.dev/dedicated=true",
    ),
    "another value of the label": (
        {"namespaces": [{"metadata": {"name": "team", "labels": {"nodewise.dev/scheduling": "true"}}}]}, "warn",
        "the label nodewise.dev/scheduling means nothing with these values: team ('true')",
    ),
    "a scheduler scaled to 0": (
        {"parts": Parts([OPERATOR], []), "idle": [Idle("scheduler", "nodewise-system/s", 0)]}, "fail",
        "the scheduler is scaled to 0: pods that name nodewise wait",
    ),
    "an operator scaled to 0": (
        {"parts": Parts([], [SCHEDULER], config()), "idle": [Idle("operator", "nodewise-system/o", 0)]}, "warn",
        "the operator is scaled to 0: nothing is recorded",
    ),
    "a Deployment that makes no pods": (
        {"parts": Parts([OPERATOR], []), "idle": [Idle("scheduler", "nodewise-system/s", 2)]}, "fail",
        "Deployment nodewise-system/s has made no pod",
    ),
    "Deployments that may not be seen": ({"idle": NOT_ALLOWED}, "unknown", "you may not list pods"),
    "a Secret that nobody made": (
        {"missing": [Missing("nodewise-system/tls", ("ca.crt", "tls.key"))]}, "fail",
        "Secret nodewise-system/tls is not there",
    ),
    "a configuration that changed since": (
        {"parts": Parts([OPERATOR], [SCHEDULER | {"status": {"startTime": "2026-11-21T11:00:00Z"}}], config(), "",
                        ConfigMap("nodewise-system/c", NOW_S - 3599))}, "warn",
        "nodewise-system/scheduler-0 started before ConfigMap nodewise-system/c was changed",
    ),
    "policies and no operator": (
        {"parts": Parts([], [SCHEDULER], config()), "policies": policy({}, {})}, "warn",
        "1 policy here, and no operator runs",
    ),
    "a key that nobody reads": (
        {"pods": [pod("a", "nodewise", "n", annotations={"nodewise.dev/slaclass": "batch"})]}, "warn",
        "annotation nodewise.dev/slaclass of 1 pod (team/a) is not read",
    ),
    "an annotation written as a label": (
        {"pods": [pod("a", "x", "n", labels={"nodewise.dev/sla-class": "batch"})]}, "warn",
        "label nodewise.dev/sla-class of 1 pod (team/a) is not read",
    ),
    "opting in by a pod": (
        {"pods": [pod("a", "x", "n", labels={"nodewise.dev/scheduling": "enabled"})]}, "warn",
        "label nodewise.dev/scheduling: enabled of 1 pod (team/a) is not read",
    ),
    "pods may not be read": ({"pods": NOT_ALLOWED}, "unknown", "you may not list pods in all namespaces"),
}  # fmt: skip


@pytest.mark.parametrize("case", AS_TOLD)
def test_each_trouble_is_told_with_its_fix(case: str) -> None:
    changes, verdict, says = AS_TOLD[case]
    findings = found(replace(healthy(), **changes))
    told = [finding for finding in findings if says in finding.says]
    assert told, findings
    assert told[0].verdict == verdict
    assert told[0].fix or verdict == "unknown"


def test_an_old_crd_of_helm_is_left_to_helm() -> None:
    old = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "spec": {}, "status": ESTABLISHED}
    (told,) = found(replace(healthy(), crds=crds() | {KINDS[0]: old}))
    assert (told.check, "helm upgrade" in told.fix, "kubectl" in told.fix) == ("crds", True, False)


def test_without_a_scheduler_a_label_is_trouble_only_where_a_policy_acts_on_it() -> None:
    advises: Json = {"parts": Parts([OPERATOR], []), "extenders": [], "opt_in": []}
    (told,) = [f for f in found(replace(healthy(), **advises)) if f.check == "opt-in"]
    assert (told.verdict, "the label does nothing" in told.says) == ("warn", True)
    assert "kubectl label namespaces team nodewise.dev/scheduling-" in told.fix
    gone = replace(healthy(), parts=Parts([], []), extenders=[], operators=[], opt_in=[], policies=[{}])
    assert {f.check: f.verdict for f in found(gone)} == {
        "installed": "fail", "opt-in": "warn", "placement policies": "warn",
    }  # fmt: skip


def test_before_it_is_installed_helm_brings_everything() -> None:
    nothing = replace(healthy(), parts=Parts([], []), crds=crds() | {KINDS[1]: None})
    fixes = {f.check: f.fix for f in found(nothing)}
    install = "helm install nodewise charts/nodewise -n nodewise-system --create-namespace"
    assert fixes["installed"] == install
    assert fixes["crds"].startswith(install)
    assert "kubectl apply" not in fixes["crds"]
    fixes = {f.check: f.fix for f in found(replace(healthy(), crds=crds() | {KINDS[1]: None}))}
    assert fixes["crds"].startswith("helm upgrade")


def test_what_mends_the_configuration_says_where_it_is_and_how_it_comes_to_work() -> None:
    where = ConfigMap("nodewise-system/nodewise-scheduler", 0.0)
    (told,) = found(replace(healthy(), parts=replace(extender(weight=5), config_map=where)))
    for word in ("extenders[0].weight must be 150", "ConfigMap nodewise-system/nodewise-scheduler", "--force-conflicts",
                 "kubectl rollout restart deployment -n nodewise-system -l"):  # fmt: skip
        assert word in told.fix


def test_a_configuration_counts_from_its_data_and_a_scheduler_from_its_container() -> None:
    def entry(what: str, minute: int) -> Json:
        return {"fieldsV1": {what: {}}, "time": f"2026-11-21T12:{minute:02}:00Z"}

    held = {"metadata": {"creationTimestamp": CREATED, "managedFields": [entry("f:data", 1), entry("f:metadata", 9)]}}
    assert changed_s(held) == NOW_S + 60
    assert changed_s({"metadata": {"creationTimestamp": CREATED}}) == NOW_S - 3600
    running = {"name": "c0", "state": {"running": {"startedAt": "2026-11-21T12:02:00Z"}}}
    started = SCHEDULER | {"status": {"startTime": CREATED, "containerStatuses": [running]}}
    assert (started_s(started, "c0"), started_s(started, "c1"), started_s(SCHEDULER, "c0")) == (
        NOW_S + 120, NOW_S - 3600, None,
    )  # fmt: skip
    again = Parts([OPERATOR], [started], config(), "", ConfigMap("x/y", NOW_S + 60))
    assert [f for f in found(replace(healthy(), parts=again)) if f.check == "scheduler config"] == []


def test_why_a_part_is_not_ready_is_what_kubernetes_says_of_its_containers() -> None:
    held = copy.deepcopy(OPERATOR)
    held["status"] = {
        "phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes fit"}],
        "containerStatuses": [{"name": "operator", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
    }  # fmt: skip
    (told,) = [
        f for f in found(replace(healthy(), parts=Parts([held], []))) if f.verdict == "fail" and f.check == "installed"
    ]
    assert told.says == "none of 1 operator pod is ready (operator: ImagePullBackOff; no node: 0/3 nodes fit)"
    assert waits([OPERATOR]) == ""


def test_pods_that_nobody_places_are_given_back_in_one_command() -> None:
    waits_for: Json = {"pods": [pod("a", "nodewise", "", "Pending")], "extenders": [], "holder": None}

    def fix(**changes: Any) -> str:
        facts = replace(healthy(), **waits_for | changes)
        return next(f.fix for f in found(facts) if f.check == "stuck pods")

    scaled = fix(parts=Parts([OPERATOR], []), idle=[Idle("scheduler", "nodewise-system/s", 0)])
    assert "kubectl scale -n nodewise-system deployment/s --replicas 2" in scaled
    assert scaled.endswith("kubectl nodewise release -A --remove-label")
    assert fix(parts=Parts([], [])).endswith("release -A --remove-label --scheduler-name nodewise")
    moved = copy.deepcopy(OPERATOR)
    moved["metadata"]["namespace"] = "mine"
    assert fix(parts=Parts([moved], [])).endswith("release -A --remove-label --system-namespace mine")


def test_versions_are_those_of_labels_images_and_this_program(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = part("scheduler", "s", "registry.k8s.io/kube-scheduler:v1.36.3", "x/nodewise-extender:v0.2.0")
    (told,) = found(replace(healthy(), parts=Parts([OPERATOR], [newer], config())))
    assert told.says == "parts of several versions run: 0.1.0, 0.2.0"
    monkeypatch.setattr(checks, "__version__", "0.3.0")
    (told,) = found(healthy())
    assert told.says == "this program is of version 0.3.0, and what runs here of 0.1.0"


def admission(scheduler: str, key: str = "") -> Json:
    """A policy as charts/nodewise/templates/admission/opt-in.yaml renders it; without a key, of shared nodes."""
    patch = f'[JSONPatch{{op: "add", path: "/spec/schedulerName", value: "{scheduler}"}}]'
    if key:
        patch += f"""
+ [JSONPatch{{op: "add", path: "/spec/tolerations/-", value: Object.spec.tolerations{{
    key: "{key}", operator: "Equal", value: "gold", effect: "NoSchedule"}}}}]"""
    return {"spec": {"mutations": [{"jsonPatch": {"expression": patch}}]}}


def test_which_nodes_are_ours_is_what_the_admission_policy_of_our_scheduler_says() -> None:
    policies = [admission("other", "x"), admission("nodewise", "example.com/pool")]
    ours = dedicated.read(policies, "nodewise")
    assert ours == ("example.com/pool", "gold")
    assert dedicated.read([admission("nodewise")], "nodewise") is None
    assert dedicated.read(policies[:1], "nodewise") == ("nodewise.dev/dedicated", "true")
    (told,) = [f for f in found(replace(healthy(), dedicated=ours, pods=[])) if f.check == "dedicated nodes"]
    assert "kubectl label node NAME example.com/pool=gold" in told.fix


def test_what_may_not_be_read_is_unknown_and_what_the_operator_is_told_outlives_the_scheduler() -> None:
    told = copy.deepcopy(OPERATOR)
    told["spec"]["containers"][0]["env"] = [
        {"name": "NODEWISE_OPERATOR_SCHEDULER_NAME", "value": "mine"},
        {"name": "NODEWISE_OPERATOR_SCHEDULER_LEASE", "value": "system/mine-lease"},
    ]
    parts = Parts([told], [])
    assert (parts.scheduler_name, parts.lease) == ("mine", ("system", "mine-lease"))
    hidden = Parts([OPERATOR], [SCHEDULER], None, "you may not get configmaps")
    assert (hidden.scheduler_name, hidden.lease) == ("nodewise", None)
    (finding,) = [f for f in found(replace(healthy(), parts=hidden)) if f.check == "lease"]
    assert (finding.verdict, finding.says) == ("unknown", "you may not get configmaps")


def test_pods_that_wait_for_nobody_are_a_failure() -> None:
    waits: Json = {"pods": [pod("a", "nodewise", "", "Pending")], "holder": Holder("", float("inf"), 15.0)}
    (told,) = [f for f in found(replace(healthy(), **waits)) if f.check == "stuck pods"]
    assert (told.verdict, "release" in told.fix) == ("fail", True)


def test_rights_that_lack_and_rights_that_are_too_many_are_told_by_account() -> None:
    facts = healthy()
    assert isinstance(facts.rights, dict)
    lacks = next(
        r for r in facts.rights if r.account.endswith("-extender") and (r.verb, r.resource) == ("watch", "pods")
    )
    more = next(r for r in facts.rights if r.account.endswith("-operator") and r.resource == "secrets")
    told = found(replace(facts, rights=facts.rights | {lacks: False, more: True}))
    assert [(f.verdict, f.says) for f in told] == [
        ("fail", "service account nodewise-system/nodewise-extender may not watch pods"),
        ("warn", "service account nodewise-system/nodewise-operator may get secrets, which it needs not"),
    ]
    asked = Right("a/b", "create", "", "pods/binding", "n", "x").review()["spec"]
    assert asked["user"] == "system:serviceaccount:a:b"
    assert asked["resourceAttributes"] == {
        "verb": "create", "resource": "pods", "subresource": "binding", "namespace": "n", "name": "x",
    }  # fmt: skip


def test_small_texts_are_read_as_kubernetes_reads_them() -> None:
    assert [duration_s(text) for text in ("250ms", "1m30s", "5", "x", "1.5s")] == [0.25, 90.0, None, None, 1.5]
    assert split_image("localhost:5000/a/b:v1@sha256:ff") == ("localhost:5000/a/b", "v1", "sha256:ff")
    assert split_image("localhost:5000/a/b") == ("localhost:5000/a/b", "", "")
    assert read_config(yaml.safe_dump(config())) == config()
    assert read_config("a: [") is read_config("kind: Other") is None
