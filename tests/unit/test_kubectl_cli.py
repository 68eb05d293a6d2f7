"""The plugin's command line against scripted API servers: what is found, what is missing, what is not allowed."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodewise.cli.kubectl import advise
from nodewise.cli.kubectl import main as plugin
from nodewise.cli.kubectl.cluster import Cluster, object_path
from nodewise_simulator import scenarios
from nodewise_simulator.advise.check import record

from .kubectl_objects import Json, Scripted, pending, run_plugin, status
from .test_kubectl_doctor import OPERATOR, SCHEDULER

SYSTEM = "/api/v1/namespaces/nodewise-system/pods"
DECISION = {
    "pod": "a", "namespace": "team", "winner": "n1", "bound": "n1", "policy": "economic", "words": "a goes to n1.",
    "candidates": [{"node": "n1", "score": -0.5, "believed_cents": 0.5, "cents": {}}],
}  # fmt: skip
RECORDED = {
    "uid": "u", "fate": "succeeded", "reason": "", "node": "n1", "created_s": 100.0, "bound_s": 101.5,
    "started_s": 102.0, "finished_s": 112.0, "cents": 0.25, "late": True,
    "decisions": [{"policy": "economic", "winner": "n2"}],
}  # fmt: skip
PROFILES = [
    {
        "metadata": {"name": "slow"}, "spec": {"nodeClass": "old"},
        "status": {"nodes": 3, "overall": {"speed": 0.5, "lower": 0.4, "upper": 0.6}, "referenceClass": "new",
                   "price": {"usdPerHour": 0.1}, "power": {"idleWatts": 50, "peakWatts": 250}, "sampleCount": 1200},
    },
    {"metadata": {"name": "fast"}, "spec": {"nodeClass": "new"}, "status": {"overall": {"speed": 1.0}}},
    {"metadata": {"name": "unknown"}, "spec": {"nodeClass": "gpu", "priceUsdPerHour": 3.0}},
]  # fmt: skip


class Api:
    """Two extenders and an operator behind pod proxies; `changes` replaces answers by path."""

    def __init__(self, **changes: tuple[int, Json]) -> None:
        self.changes = changes

    def __call__(self, _method: str, path: str, query: dict[str, str], _body: Any) -> tuple[int, Json]:
        second = copy.deepcopy(SCHEDULER)
        second["metadata"]["name"] = "scheduler-1"
        answers: dict[str, Json] = {
            "/api/v1/pods": {"items": [OPERATOR, SCHEDULER, second] if "labelSelector" in query else [pending("w")]},
            "/version": {"gitVersion": "v1.36.1"},
            "/api/v1/namespaces": {
                "items": [{"metadata": {"name": "team", "labels": {"nodewise.dev/scheduling": "enabled"}}}]
            },
            "/apis/nodewise.dev/v1alpha1/nodeprofiles": {"items": PROFILES},
            f"{SYSTEM}/scheduler-0:8889/proxy/explain/team/a": DECISION | {"time_s": 5.0},
            f"{SYSTEM}/scheduler-1:8889/proxy/explain/team/a": DECISION | {"time_s": 9.0, "words": "newer"},
            f"{SYSTEM}/operator-0:8890/proxy/pods": {"pods": [RECORDED]},
            **{f"{SYSTEM}/{name}/proxy/readyz": {"status": "ok"}
               for name in ("scheduler-0:8889", "scheduler-1:8889", "operator-0:8890")},
        }  # fmt: skip
        for ending, answer in self.changes.items():
            if path.endswith(ending):
                return answer
        return (200, answers[path]) if path in answers else status(404, "NotFound")


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    def run(api: Api, *words: str) -> tuple[int, str, str]:
        with Scripted(api) as server:
            kubeconfig = ("--kubeconfig", str(server.kubeconfig(tmp_path, "team")))
            return run_plugin(monkeypatch, capsys, *words, *kubeconfig)

    return run


def test_explain_asks_every_extender_and_takes_the_newest_decision(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli(Api(), "explain", "a", "-o", "json")
    told = json.loads(out)
    assert (code, told["decision"]["words"], told["decision"]["extender"]) == (
        0,
        "newer",
        "nodewise-system/scheduler-1",
    )
    assert (told["rows"], told["namespace"], told["now"]) == ([RECORDED], "team", None)
    _, out, _ = cli(Api(), "explain", "a")
    for word in ("newer", "succeeded", "1.500", "10.00", "missed"):
        assert word in out


def test_explain_tells_what_is_recorded_when_no_extender_remembers(cli: Callable[..., tuple[int, str, str]]) -> None:
    forgotten = (404, {"error": "nothing is known of it"})
    down = status(503, "ServiceUnavailable", "no endpoints")
    _, out, _ = cli(
        Api(**{"0:8889/proxy/explain/team/a": forgotten, "1:8889/proxy/explain/team/a": down}), "explain", "a"
    )
    assert "No extender remembers a decision on team/a" in out
    assert "economic would have chosen n2, not n1." in out
    assert "extender nodewise-system/scheduler-1 was not asked" in out
    changes = {"0:8889/proxy/explain/team/a": forgotten, "1:8889/proxy/explain/team/a": forgotten}
    code, _, err = cli(Api(**changes, **{"proxy/pods": (200, {"pods": []})}), "explain", "a")
    assert (code, "nothing is known of pod team/a" in err) == (2, True)
    assert "write POD, pod/POD or NAMESPACE/POD" in cli(Api(), "explain", "a/b/c")[2]


def test_explain_takes_a_pod_as_kubectl_names_it_and_no_two_namespaces(
    cli: Callable[..., tuple[int, str, str]],
) -> None:
    for words in (("pod/a",), ("pods/a", "-n", "team"), ("team/a",), ("team/a", "-n", "team")):
        code, out, err = cli(Api(), "explain", *words, "-o", "json")
        assert (code, json.loads(out or "{}").get("namespace")) == (0, "team"), err
    code, out, err = cli(Api(), "explain", "team/a", "-n", "other")
    assert (code, out, "team/a is in namespace team, and --namespace says other" in err) == (2, "", True)


def test_explain_says_when_nobody_could_be_asked_and_when_nobody_is_there(
    cli: Callable[..., tuple[int, str, str]],
) -> None:
    waits = {"team/pods/a": (200, pending("a")), "proxy/pods": (200, {"pods": []})}
    down = status(503, "ServiceUnavailable", "no endpoints")
    silent = {"0:8889/proxy/explain/team/a": down, "1:8889/proxy/explain/team/a": down}
    _, out, _ = cli(Api(**waits, **silent), "explain", "a")
    assert "no extender could be asked" in out
    assert "remembers" not in out
    assert "scheduler-1 was not asked" in out
    _, out, _ = cli(Api(**waits, **{"/api/v1/pods": (200, {"items": [OPERATOR]})}), "explain", "a")
    assert "a waits for nodewise, and no scheduler of Nodewise runs here" in out
    assert "kubectl nodewise release -n team --remove-label" in " ".join(out.split())
    placed = pending("a")
    placed["spec"]["nodeName"] = "n1"
    _, out, _ = cli(
        Api(**waits | {"team/pods/a": (200, placed), "/api/v1/pods": (200, {"items": [OPERATOR]})}), "explain", "a"
    )
    assert "No extender runs here" in out


def test_profiles_read_well_and_the_fastest_class_is_first(cli: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = cli(Api(), "profiles")
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[2:5]] == ["new", "old", "gpu"]
    assert " ".join(lines[3]).replace("│ ", "") == "old 3 0.50 0.40–0.60 1,200 0.10 50.00–250.0"
    assert "Speeds are relative to new" in out
    code, _, err = cli(Api(nodeprofiles=status(404, "NotFound")), "profiles")
    assert (code, "does not know the kind NodeProfile" in err, "helm upgrade the release" in err) == (2, True, True)


def elsewhere(part: Json, namespace: str = "tenant") -> Json:
    made = copy.deepcopy(part)
    made["metadata"]["namespace"] = namespace
    return made


def test_pods_of_a_tenant_with_our_labels_are_not_taken_for_parts(cli: Callable[..., tuple[int, str, str]]) -> None:
    fake = elsewhere(SCHEDULER)
    fake["spec"]["containers"][1]["env"] = [{"name": "NODEWISE_SCHEDULER_NAME", "value": "volcano"}]

    def api(*pods: Json) -> Api:
        return Api(**{"/api/v1/pods": (200, {"items": [*pods]}), "nodewise-system/pods": (200, {"items": [OPERATOR]})})

    for command in (("status",), ("doctor",), ("explain", "a"), ("advise",), ("release", "-A")):
        code, out, err = cli(api(OPERATOR, fake), *command)
        assert (code, "in the namespaces nodewise-system, tenant" in err, out) == (2, True, ""), command
        assert "--system-namespace" in err
    code, out, err = cli(api(OPERATOR, fake), "status", "-o", "json", "--system-namespace", "nodewise-system")
    assert [row["pod"] for row in json.loads(out)["rows"]] == ["nodewise-system/operator-0"], err
    code, out, err = cli(api(fake), "release", "-A", "--yes")
    assert (code, out, "say --system-namespace tenant, so that nobody else's pods" in err) == (2, "", True)


def test_whoever_may_list_only_his_own_pods_can_explain_and_release_them(
    cli: Callable[..., tuple[int, str, str]],
) -> None:
    no = status(403, "Forbidden")
    mine = pending("a")
    api = Api(**{
        "/api/v1/pods": no, "nodewise-system/pods": no, "team/pods/a": (200, mine), "team/pods": (200, {"items": []}),
        "v1/namespaces/team": no,
    })  # fmt: skip
    code, out, _ = cli(api, "explain", "a", "-o", "json")
    told = json.loads(out)
    assert (code, told["now"]["ours"], told["decision"]) == (0, True, None)
    assert "--system-namespace" in told["not_asked"][0]
    code, out, err = cli(api, "release", "--yes")
    assert (code, out.strip()) == (0, "No pod waits for nodewise in namespace team."), err
    assert "or the scheduler with --scheduler-name" in err
    code, _, err = cli(api, "status")
    assert (code, "you may not list pods in namespace nodewise-system" in err, "--system-namespace" in err) == (
        2, True, True,
    )  # fmt: skip


def test_what_the_api_server_says_is_printed_as_it_is(cli: Callable[..., tuple[int, str, str]]) -> None:
    odd = copy.deepcopy(SCHEDULER)
    odd["metadata"]["labels"]["app.kubernetes.io/version"] = "0.1 [/red] [bold]:boom:"
    code, out, err = cli(Api(**{"/api/v1/pods": (200, {"items": [odd]})}), "status")
    assert (code, "0.1 [/red] [bold]:boom:" in out) == (0, True), err


def test_a_name_stays_one_part_of_a_path(cli: Callable[..., tuple[int, str, str]]) -> None:
    for words in (("explain", ".."), ("explain", "./a"), ("explain", "a", "-n", "..")):
        code, _, err = cli(Api(), *words)
        assert (code, "is no name of an object in Kubernetes" in err) == (2, True), err
    assert object_path("pods", "a?b/c", "..x") == "/api/v1/namespaces/..x/pods/a%3Fb%2Fc"


def test_status_tells_what_it_may_not_read_and_goes_on(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli(Api(**{"v1/namespaces": status(403, "Forbidden")}), "status", "-o", "json")
    told = json.loads(out)
    assert (code, [row["says"] for row in told["rows"]]) == (0, ["ok", "ok", "ok"])
    assert "you may not list namespaces: ask for that right" in told["unknown"]
    assert told["namespaces"] == [{"namespace": "team", "opted_in": False, "bound": 0, "pending": 1, "over": 0}]
    assert told["placement_policies"] == []
    assert "nothing here tells the schedulers' Lease, so nor who leads" in told["unknown"]
    operator = copy.deepcopy(OPERATOR)
    lease = {"name": "NODEWISE_OPERATOR_SCHEDULER_LEASE", "value": "nodewise-system/nodewise-scheduler"}
    operator["spec"]["containers"][0]["env"] = [lease]

    class Elected(Api):
        def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Json]:
            if path == "/api/v1/pods" and "labelSelector" in query:
                return 200, {"items": [operator, SCHEDULER]}
            return super().__call__(method, path, query, body)

    _, out, _ = cli(Elected(), "status")
    assert all(word in out for word in ("operator-0", "Nobody leads", "team", "NodeProfiles: 3"))
    ahead = {"spec": {"holderIdentity": "s-0", "renewTime": "2099-01-01T00:00:00.000000Z", "leaseDurationSeconds": 10}}
    _, out, _ = cli(Elected(**{"leases/nodewise-scheduler": (200, ahead)}), "status")
    assert "s-0 leads, and renewed its lease 0 s ago." in out


def test_status_tells_what_is_left_after_an_uninstall(cli: Callable[..., tuple[int, str, str]]) -> None:
    ready = {"type": "Ready", "status": "True"}
    policy: Json = {"metadata": {"name": "p"}, "spec": {}, "status": {"conditions": [ready]}}
    changes: dict[str, tuple[int, Json]] = {
        "v1/pods": (200, {"items": []}), "placementpolicies": (200, {"items": [policy]}),
        "mutatingadmissionpolicybindings": (200, {"items": []}), "apps/v1/deployments": (200, {"items": []}),
    }  # fmt: skip
    gone = Api(**changes)
    code, out, err = cli(gone, "status")
    said = " ".join(out.split())
    assert code == 0, err
    assert "The label nodewise.dev/scheduling does nothing here" in said
    assert "No operator runs: this is what was true of the policies when one last did." in said
    told = json.loads(cli(gone, "status", "-o", "json")[1])
    assert (told["label_acts"], told["operator_runs"]) == (False, False)


def test_a_scheduler_that_is_scaled_to_0_is_installed_all_the_same(cli: Callable[..., tuple[int, str, str]]) -> None:
    deployment = {
        "metadata": {"name": "s", "namespace": "nodewise-system", "labels": SCHEDULER["metadata"]["labels"]},
        "spec": {"replicas": 0},
    }
    api = Api(**{
        "/api/v1/pods": (200, {"items": [OPERATOR]}), "nodewise-system/deployments": (200, {"items": [deployment]}),
    })  # fmt: skip
    _, out, _ = cli(api, "status")
    assert "The scheduler is scaled to 0 (nodewise-system/s)" in " ".join(out.split())
    code, out, _ = cli(api, "doctor", "-o", "json")
    (told,) = [row for row in json.loads(out)["rows"] if "scaled to 0" in row["says"]]
    assert (code, told["verdict"]) == (1, "fail")
    assert told["fix"] == "kubectl scale -n nodewise-system deployment/s --replicas 2"


def test_doctor_names_the_secrets_that_pods_of_ours_wait_for(cli: Callable[..., tuple[int, str, str]]) -> None:
    waits = copy.deepcopy(SCHEDULER)
    waits["status"] = {"phase": "Pending"}
    waits["spec"]["volumes"] = [
        {"secret": {"secretName": name, "items": [{"key": "ca.crt", "path": "ca.crt"}]}} for name in ("tls", "token")
    ]
    pods = {"/api/v1/pods": (200, {"items": [OPERATOR, waits]})}
    _, out, _ = cli(Api(**pods, **{"secrets/token": (200, {"metadata": {}})}), "doctor", "-o", "json")
    (told,) = [row for row in json.loads(out)["rows"] if row["says"].startswith("Secret")]
    assert told["says"] == "Secret nodewise-system/tls is not there, and pods of ours wait for it"
    assert "with the keys ca.crt" in told["fix"]
    _, out, _ = cli(
        Api(**pods, **{"secrets/tls": status(403, "Forbidden"), "secrets/token": (200, {})}), "doctor", "-o", "json"
    )
    assert "so whether nodewise-system/tls is there is unknown" in out


def test_advise_without_the_simulator_is_one_clear_sentence(
    cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advise, "find_spec", lambda name: None if name == "numba" else name)
    code, _, err = cli(Api(), "advise")
    assert code == 2
    assert "needs the simulator (numba is missing): run pip install '.[simulator]'" in err


def test_advice_names_the_command_that_makes_it_again(cli: Callable[..., tuple[int, str, str]]) -> None:
    recorded, _ = record(scenarios.make("hetero@load=0.8,pods=60,warm=30", 4))
    api = Api(**{"proxy/snapshot": (200, json.loads(msgspec.json.encode(recorded)))})
    code, out, err = cli(api, "advise", "--policy", "economic", "--draws", "3", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["command"].startswith("kubectl nodewise advise --policy economic")


def test_an_operator_that_has_recorded_nothing_is_told(cli: Callable[..., tuple[int, str, str]]) -> None:
    nothing = (503, {"error": "the store has seen no node yet"})
    code, _, err = cli(Api(**{"proxy/snapshot": nothing}), "advise")
    assert (code, "seen no node yet" in err) == (2, True)
    code, _, err = cli(Api(**{"v1/pods": (200, {"items": []})}), "advise")
    assert (code, "there is no operator to ask" in err) == (2, True)


@pytest.mark.parametrize("command", ["status", "doctor", "profiles", "release", "advise"])
def test_a_cluster_that_does_not_answer_is_told_with_status_2(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Scripted(Api()) as server:
        kubeconfig = server.kubeconfig(tmp_path)
    code, _, err = run_plugin(monkeypatch, capsys, command, "--kubeconfig", str(kubeconfig))
    assert (code, "the API server does not answer" in err) == (2, True)


def test_the_namespace_is_that_of_the_context_unless_it_is_named(tmp_path: Path) -> None:
    with Scripted(Api()) as server:
        kubeconfig = server.kubeconfig(tmp_path)
        for context, named, namespace in ((None, "", "default"), ("other", "", "elsewhere"), ("other", "x", "x")):
            with Cluster(kubeconfig, context, named) as cluster:
                assert cluster.namespace == namespace


def test_words_are_completed_as_kubectl_wants_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_KUBECTL_NODEWISE_COMPLETE", "_TYPER_COMPLETE_FISH_ACTION", "_TYPER_COMPLETE_ARGS"):
        monkeypatch.setenv(name, "")  # so that they go afterwards
    for words, first, directive in (
        (("re",), "release\t", ":4"), (("status", "--output", ""), "table", ":4"), (("explain", "it's "), "", ":0"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-nodewise", *words])
        plugin.complete()
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == directive
        assert lines[0].startswith(first)
