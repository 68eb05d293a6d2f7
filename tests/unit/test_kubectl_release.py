"""`kubectl nodewise release`: nothing is lost, whatever happens between two requests."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewise.cli.kubectl import jobs, releasing
from nodewise.cli.kubectl.recreate import controller, recreated, under_another_name

from .kubectl_objects import Answer, Json, Scripted, pending, run_plugin, status

Run = Callable[..., tuple[int, Json | str]]
PODS = "/api/v1/namespaces/team/pods"


class Api:
    """Pods of one namespace, with hooks where another client may come between."""

    def __init__(self, *pods: Json) -> None:
        self.pods = {pod["metadata"]["name"]: pod for pod in pods}
        self.label: str | None = None
        self.before_delete: Callable[[str], object] = lambda name: None
        self.after_delete: Callable[[str], tuple[int, Json] | None] = lambda name: None
        self.refuse_get: Callable[[str], tuple[int, Json] | None] = lambda name: None
        self.refuse_create: Callable[[Json], tuple[int, Json] | None] = lambda pod: None
        self.template = ""
        self.policies: list[Json] = []
        self.send_to = "nodewise"
        """Scheduler that the label's admission policy writes into new pods."""
        self.after_patch: Callable[[], object] = lambda: None
        self.made: list[Json] = []

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Json]:
        name = path.rpartition("/")[2]
        space = {"metadata": {"name": "team", "labels": {"nodewise.dev/scheduling": self.label}}}
        if path == "/api/v1/namespaces/team":
            if method == "PATCH":
                self.label = body["metadata"]["labels"]["nodewise.dev/scheduling"]
                self.after_patch()
            return 200, space
        if path == "/api/v1/namespaces":
            return 200, {"items": [space, {"metadata": {"name": "other"}}]}
        if path.endswith("/v1/mutatingadmissionpolicies"):
            return 200, {"items": self.policies}
        if path.endswith("/replicasets/owner"):
            return 200, {"spec": {"template": {"spec": {"schedulerName": self.template}}}}
        if method == "GET" and path.endswith("/pods"):
            found = [] if "labelSelector" in query or "nowhere" in path else [*self.pods.values()]
            return 200, {"items": copy.deepcopy(found), "metadata": {}}
        if method == "POST":
            return self._create(body, dry_run="dryRun" in query)
        if method == "GET" and (refused := self.refuse_get(name)):
            return refused
        held = self.pods.get(name)
        if held is None:
            return status(404, "NotFound")
        if method == "DELETE":
            self.before_delete(name)
            held = self.pods[name]["metadata"]
            asked = body["preconditions"]
            if (asked["uid"], asked["resourceVersion"]) != (held["uid"], held["resourceVersion"]):
                return status(409, "Conflict", "the precondition does not hold")
            gone = self.pods.pop(name)
            return self.after_delete(name) or (200, gone)
        return 200, held

    def _create(self, body: Json, *, dry_run: bool) -> tuple[int, Json]:
        if not dry_run and (refused := self.refuse_create(body)):
            return refused
        made = copy.deepcopy(body)
        if self.label == "enabled" and made["spec"]["schedulerName"] == "default-scheduler":
            made["spec"]["schedulerName"] = self.send_to
        if not dry_run:
            made["metadata"] |= {"uid": f"new-{body['metadata']['name']}", "resourceVersion": "9"}
            self.pods[body["metadata"]["name"]] = made
            self.made.append(made)
        return 201, made


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs it against an `Api`: exit status, and its JSON, or what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(releasing, "_CREATED_S", 0.5)
    monkeypatch.setattr(releasing, "_GONE_S", 0.5)
    monkeypatch.setattr(releasing, "_POLL_S", 0.05)

    def run(api: Answer, *words: str) -> tuple[int, Json | str]:
        with Scripted(api) as server:
            given = ("--kubeconfig", str(server.kubeconfig(tmp_path, "team")), "--backup", "kept", "-o", "json")
            code, out, err = run_plugin(monkeypatch, capsys, "release", *given, *words)
        return code, json.loads(out) if out else err

    return run


def rows(told: Json | str) -> dict[str, tuple[str, str]]:
    assert isinstance(told, dict), told
    return {row["pod"]: (row["took"], row["says"]) for row in told["rows"]}


def test_a_pod_that_gets_a_node_meanwhile_is_left_alone(release: Run) -> None:
    api = Api(pending("a"), pending("b"))

    def bind(name: str) -> None:
        if name == "a":
            api.pods["a"]["metadata"]["resourceVersion"] = "8"
            api.pods["a"]["spec"]["nodeName"] = "n1"

    api.before_delete = bind
    code, told = release(api, "--yes")
    assert (code, rows(told)) == (
        0, {"a": ("left", "it got node n1 meanwhile"), "b": ("recreated", "now of default-scheduler")},
    )  # fmt: skip
    assert api.pods["a"]["metadata"]["uid"] == "uid-a"


def test_a_pod_whose_status_changes_meanwhile_is_taken_all_the_same(release: Run) -> None:
    api = Api(pending("a"))
    changes = iter(("8", "9"))
    api.before_delete = lambda name: api.pods[name]["metadata"].update(resourceVersion=next(changes, "9"))
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0]) == (0, "recreated")


def test_another_pod_of_the_same_name_is_not_touched(release: Run) -> None:
    api = Api(pending("a"))
    api.before_delete = lambda name: api.pods[name]["metadata"].update(uid="another", resourceVersion="50")
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0]) == (0, "left")
    assert rows(told)["a"][1].startswith("it is gone, or another pod has its name")
    assert api.pods["a"]["metadata"]["uid"] == "another"


def test_the_manifest_is_on_disk_before_the_pod_is_deleted(release: Run, tmp_path: Path) -> None:
    api = Api(pending("a"))
    seen: list[Json] = []
    api.before_delete = lambda name: seen.append(json.loads((tmp_path / "kept" / "team_a.json").read_text()))
    release(api, "--yes")
    assert [one["spec"]["schedulerName"] for one in seen] == ["default-scheduler"]


def test_a_pod_that_cannot_be_made_again_is_told_with_its_manifest(release: Run, tmp_path: Path) -> None:
    api = Api(pending("a"), pending("b"))
    api.refuse_create = lambda pod: status(403, "Forbidden", "no more") if pod["metadata"]["name"] == "a" else None
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0], rows(told)["b"][0]) == (1, "failed", "recreated")
    assert "kubectl create -f kept/team_a.json" in rows(told)["a"][1]
    assert json.loads((tmp_path / "kept" / "team_a.json").read_text())["metadata"]["name"] == "a"


def test_a_deletion_whose_answer_is_lost_loses_no_pod(release: Run, tmp_path: Path) -> None:
    api = Api(pending("a"), pending("b"))
    api.after_delete = lambda name: status(504, "Timeout")
    busy = iter((status(429, "TooManyRequests"), status(500, "InternalError")))
    api.refuse_get = lambda name: next(busy, None)
    code, told = release(api, "--yes")
    assert (code, {row[0] for row in rows(told).values()}, len(api.made)) == (0, {"recreated"}, 2)


def test_a_deletion_that_was_lost_and_not_done_is_made_once_more(release: Run) -> None:
    api = Api(pending("a"))
    held = api.pods["a"]
    answers = iter((status(504, "Timeout"),))

    def undone(name: str) -> tuple[int, Json] | None:
        answer = next(answers, None)
        if answer:
            api.pods[name] = held
        return answer

    api.after_delete = undone
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0], len(api.made)) == (0, "recreated", 1)


def test_whoever_never_hears_of_the_deleted_pod_again_is_told_of_its_manifest(release: Run, tmp_path: Path) -> None:
    api = Api(pending("a"))
    api.after_delete = lambda name: status(504, "Timeout")
    api.refuse_get = lambda name: status(503, "ServiceUnavailable")
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0], "kubectl create -f kept/team_a.json" in rows(told)["a"][1]) == (1, "failed", True)
    assert (tmp_path / "kept" / "team_a.json").stat().st_mode & 0o777 == 0o600


def test_a_job_whose_pods_do_not_go_is_not_said_to_be_released(release: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SUSPENDED_S", 0.5)
    owner = {"kind": "Job", "name": "job", "uid": "j", "apiVersion": "batch/v1", "controller": True}
    pods = Api(pending("a", ownerReferences=[owner]), pending("b", ownerReferences=[owner]))
    suspended: list[bool] = []

    def answer(method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Json]:
        if path.endswith("/jobs/job"):
            if method == "PATCH":
                suspended.append(body["spec"]["suspend"])
            return 200, {
                "metadata": {"name": "job", "namespace": "team", "uid": "j", "resourceVersion": "1"},
                "spec": {},
            }
        if path == PODS and "labelSelector" in query:
            return 200, {"items": [*pods.pods.values()]}
        return pods(method, path, query, body)

    code, told = release(answer, "--yes")
    assert (code, [row[0] for row in rows(told).values()]) == (1, ["failed", "failed"])
    assert suspended == [True, False]


def test_a_busy_api_server_is_asked_again(release: Run) -> None:
    api = Api(pending("a"))
    answers = iter((status(500, "InternalError"), status(429, "TooManyRequests"), None))
    api.refuse_create = lambda pod: next(answers)
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0], len(api.made)) == (0, "recreated", 1)


def test_what_would_not_be_taken_again_is_not_deleted(release: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(pending("a"))
    create = api._create

    def policed(body: Json, *, dry_run: bool) -> tuple[int, Json]:
        return status(403, "Forbidden", "violates PodSecurity") if dry_run else create(body, dry_run=dry_run)

    monkeypatch.setattr(api, "_create", policed)
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0]) == (1, "failed")
    assert "violates PodSecurity" in rows(told)["a"][1]
    assert api.pods["a"]["metadata"]["uid"] == "uid-a"


def test_a_namespace_that_is_still_ours_stops_everything_until_its_label_goes(release: Run) -> None:
    api = Api(pending("a"))
    api.label = "enabled"
    code, told = release(api, "--yes")
    assert (code, api.pods["a"]["metadata"]["uid"]) == (2, "uid-a")
    assert "new pods of namespace team still go to nodewise" in str(told)
    code, told = release(api, "--yes", "--remove-label", "--dry-run")
    assert (code, api.label, rows(told)["a"][1]) == (0, "enabled", "would be recreated for default-scheduler")
    code, told = release(api, "--yes", "--remove-label")
    assert (code, rows(told)["a"]) == (0, ("recreated", "now of default-scheduler"))
    assert api.label is None


@pytest.mark.parametrize("where", [(), ("-A",)])
def test_the_label_comes_off_also_where_no_pod_waits_and_a_dry_run_says_so(
    release: Run, where: tuple[str, ...]
) -> None:
    api = Api()
    api.label = "enabled"
    code, told = release(api, *where, "--remove-label")
    assert (code, "take the label nodewise.dev/scheduling off team: say --yes" in str(told), api.label) == (
        2, True, "enabled",
    )  # fmt: skip
    code, told = release(api, *where, "--remove-label", "--dry-run")
    assert isinstance(told, dict)
    assert (code, told["labels_removed"], api.label) == (0, ["team"], "enabled")
    code, told = release(api, *where, "--remove-label", "--yes")
    assert isinstance(told, dict)
    assert (code, told["rows"], told["labels_removed"]) == (0, [], ["team"])
    assert api.label is None


def test_a_label_that_sends_pods_to_another_nodewise_stays(release: Run) -> None:
    api = Api(pending("a"))
    api.label = "enabled"
    patch = """[JSONPatch{op: "add", path: "/spec/schedulerName", value: "first"}]"""
    api.policies = [{"metadata": {"name": "p"}, "spec": {"mutations": [{"jsonPatch": {"expression": patch}}]}}]
    api.send_to = "first"
    code, told = release(api, "-A", "--remove-label", "--yes")
    assert (code, api.label, rows(told)["a"][0]) == (0, "enabled", "recreated")


def test_pods_that_are_made_while_the_label_goes_are_released_too(release: Run) -> None:
    api = Api(pending("a"))
    api.label = "enabled"
    api.after_patch = lambda: api.pods.update(b=pending("b"))
    code, told = release(api, "--remove-label", "--yes")
    assert (code, {name: took for name, (took, _) in rows(told).items()}) == (0, {"a": "recreated", "b": "recreated"})


def test_a_namespace_that_is_not_there_is_bad_use(release: Run) -> None:
    code, told = release(Api(), "-n", "nowhere", "--yes")
    assert (code, "there is no namespace nowhere" in str(told)) == (2, True)


def test_a_pod_with_a_controller_is_deleted_unless_its_template_names_us(release: Run) -> None:
    owner = {"kind": "ReplicaSet", "name": "owner", "uid": "o", "apiVersion": "apps/v1", "controller": True}
    api = Api(pending("a", ownerReferences=[owner]))
    api.template = "nodewise"
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"][0]) == (0, "left")
    assert "the template of ReplicaSet owner names nodewise itself" in rows(told)["a"][1]
    api.template = ""
    code, told = release(api, "--yes")
    assert (code, rows(told)["a"], api.pods) == (0, ("deleted", "ReplicaSet owner makes another"), {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_waits_for_the_pod_that_is_being_recreated(release: Run, number: signal.Signals) -> None:
    api = Api(pending("a"), pending("b"))
    api.before_delete = lambda name: os.kill(os.getpid(), number)
    code, told = release(api, "--yes")
    assert code == 128 + number
    assert rows(told) == {"a": ("recreated", "now of default-scheduler"), "b": ("left", "interrupted before it")}
    assert api.pods["b"]["metadata"]["uid"] == "uid-b"


def test_what_a_job_bears_is_what_its_backoff_limit_leaves() -> None:
    def job(failed: int, **spec: Any) -> Json:
        return {"spec": spec, "status": {"failed": failed}}

    assert [jobs.bears(job(2), 4), jobs.bears(job(3), 4)] == [True, False]
    strict = (job(0, backoffLimit=0), job(0, backoffLimit=9, podFailurePolicy={"rules": [{}]}))
    assert [jobs.bears(one, 1) for one in strict] == [False, False]


def test_nothing_is_done_without_a_yes(release: Run) -> None:
    api = Api(pending("a"))
    code, told = release(api)
    assert (code, "say --yes" in str(told), api.pods["a"]["metadata"]["uid"]) == (2, True, "uid-a")
    assert release(Api())[0] == 0


def test_bad_use_is_told_in_a_sentence(release: Run) -> None:
    for words, says in (
        (("-n", "a", "-A"), "-n and -A exclude each other"),
        (("--to", "nodewise"), "--to nodewise is the scheduler that the pods wait for"),
    ):
        code, told = release(Api(), *words)
        assert (code, str(told).startswith(f"kubectl-nodewise: {says}")) == (2, True), told


def test_what_the_server_and_our_admission_added_goes_and_what_somebody_wrote_stays() -> None:
    token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    default = {
        "key": "node.kubernetes.io/not-ready",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }
    ours = {"key": "nodewise.dev/dedicated", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    written = [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
        {"operator": "Exists"},
    ]
    pod = pending("a", labels={"app": "a"}, annotations={"b": "c"}, generateName="a-", managedFields=[{}])
    pod["spec"] |= {
        "nodeName": "n", "priority": 7, "preemptionPolicy": "Never", "priorityClassName": "high", "serviceAccount": "s",
        "serviceAccountName": "s", "ephemeralContainers": [{}], "tolerations": [default, ours, *written],
        "nodeSelector": {"nodewise.dev/dedicated": "true", "disk": "ssd"},
        "volumes": [{"name": "kube-api-access-x", "projected": {}}, {"name": "data", "emptyDir": {}}],
        "initContainers": [{"name": "i", "volumeMounts": [token]}],
        "containers": [{"name": "c", "volumeMounts": [token, {"name": "data", "mountPath": "/d"}]}],
    }  # fmt: skip
    before = copy.deepcopy(pod)
    made = recreated(pod, "default-scheduler")
    assert pod == before
    assert made == {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "team", "generateName": "a-", "labels": {"app": "a"},
                     "annotations": {"b": "c"}},
        "spec": {
            "schedulerName": "default-scheduler", "priorityClassName": "high", "serviceAccountName": "s",
            "tolerations": written, "nodeSelector": {"disk": "ssd"},
            "volumes": [{"name": "data", "emptyDir": {}}], "initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}],
        },
    }  # fmt: skip
    assert "name" not in under_another_name(made)["metadata"]
    assert controller(pod) is None
    assert recreated(pod, "x", "pool")["spec"]["nodeSelector"] == pod["spec"]["nodeSelector"]
