"""`nodewise snapshot` and `nodewise advise`, from a file, a store and a cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewise.core.decide import PolicyRefusalError
from nodewise.core.pods import pod_request
from nodewise.core.types import ClusterView, CostRates, Fallback, PodRequest, Rows, Scores
from nodewise.core.units import epoch_s, stamp
from nodewise.kube.snapshot import Snapshot, read_snapshot, trimmed_node, write_snapshot
from nodewise.policies.economic import ECONOMIC
from nodewise.policies.timed import INDEX
from nodewise_operator.outcomes import pod_row
from nodewise_operator.store import Store
from nodewise_operator.store.rows import Batch, Downtime, NodeRow
from nodewise_simulator import scenarios
from nodewise_simulator.advise import words
from nodewise_simulator.advise.advice import advise
from nodewise_simulator.advise.check import record
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.world import Json, World

Run = Callable[..., tuple[int, str, str]]
BEGIN_S = 1_790_000_000.0


@pytest.fixture(scope="module")
def world() -> World:
    return scenarios.make("hetero@load=0.7,pods=120,warm=60", 2)


@pytest.fixture(scope="module")
def kept(world: World) -> Snapshot:
    return record(world)[0]


@pytest.fixture
def file(kept: Snapshot, tmp_path: Path) -> Path:
    write_snapshot(kept, tmp_path / "kept.json.gz")
    return tmp_path / "kept.json.gz"


def in_cluster(world: World, kept: Snapshot) -> list[Json]:
    """The pods as an API server would hold them at the end, times moved to our days and cut to whole seconds."""
    made = []
    for pod, seen in zip(world.pods, kept.pods, strict=True):

        def at(time_s: float | None) -> str:
            return stamp(math.floor(BEGIN_S + (time_s or 0.0)))

        over = {
            "exitCode": 0,
            "reason": "Completed",
            "startedAt": at(seen.started_s),
            "finishedAt": at(seen.finished_s),
        }
        made.append(
            {
                **pod.manifest,
                "metadata": {**pod.manifest["metadata"], "creationTimestamp": at(pod.request.created_s)},
                "spec": {**pod.manifest["spec"], "nodeName": seen.node},
                "status": {
                    "phase": "Succeeded",
                    "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(seen.bound_s)}],
                    "containerStatuses": [{"name": "main", "restartCount": 0, "state": {"terminated": over}}],
                },
            }
        )
    return made


def test_advice_in_text_answers_in_its_second_paragraph(file: Path, run: Run) -> None:
    status, out, err = run("advise", str(file), "--policy", "economic", "--draws", "3")
    assert status == 0
    what, answer, *_ = out.split("\n\n")
    assert "120 pods that end by themselves came to 60 nodes of 5 kinds" in what.replace("\n", " ")
    assert answer.startswith(("economic would have gained: pods", "Too little is known to say"))
    assert max(map(len, out.splitlines())) <= 140
    assert "replays of 180 pods" in err  # progress is told, and not on stdout


def test_the_schedulers_of_a_snapshot_are_counted_from_when_it_is_judged(kept: Snapshot) -> None:
    created_s = sorted(epoch_s(p.manifest["metadata"]["creationTimestamp"]) for p in kept.pods)
    counted = [s for s in created_s if s >= kept.begin_s]
    assert 10 < len(counted) < len(created_s)
    assert kept.schedulers() == {"nodewise": len(counted)}
    assert kept.schedulers(counted[10]) == {"nodewise": len(counted) - 10}


def test_advice_in_json_has_a_row_for_each_group_and_metric(file: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "advice.svg"
    words = ["advise", str(file), "--policy", "economic", "--draws", "3", "-o", "json", "--picture", str(picture)]
    status, out, _ = run(*words)
    assert status == 0
    told = json.loads(out)
    total = {row["metric"]: row for row in told["rows"] if row["scope"] == "total"}
    assert set(total) == {"completion_gain", "sla_misses_gain", "energy_gain", "cost_gain"}
    assert all(row["low"] <= row["mean"] <= row["high"] for row in told["rows"])
    assert sum(row["decisions"] for row in told["rows"] if row["scope"] == "workload") == 4 * 120
    assert told["calibration"]["seen_s"] == pytest.approx(told["calibration"]["played_s"], rel=0.01)
    assert picture.read_text().startswith("<?xml")


class Picky:
    """A policy that refuses every third pod."""

    name, digest = "picky", "0"

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        if sum(pod.uid.encode()) % 3 == 0:
            raise PolicyRefusalError(Fallback.OUT_OF_RANGE, "never seen")
        return ECONOMIC.score(pod, view, rows)


def test_the_share_that_the_rule_decided_instead_of_the_policy_is_told(kept: Snapshot, file: Path, run: Run) -> None:
    advice = advise(kept, Picky(), draws=2)
    assert 0.2 < advice.fallback_share < 0.5
    refused, asked = advice.decided["features-out-of-range"], sum(advice.decided.values())
    assert asked >= 2 * 120
    told = words.text(advice, kept.schedulers()).replace("\n", " ")
    assert (
        f"In {refused / asked:.1%} of the {asked:,} decisions that were replayed picky did not decide, and the rule "
        f"economic stood in (features-out-of-range {refused:,})"
    ) in told
    alone = advise(kept, INDEX, draws=2)
    assert "index itself took all of the" in words.text(alone, kept.schedulers())
    status, out, _ = run("advise", str(file), "--policy", "index", "--draws", "3", "-o", "json")
    fallback = json.loads(out)["fallback"]
    assert (status, fallback["share"], fallback["by_reason"]) == (0, 0.0, {})
    assert fallback["decisions"] >= 3 * 120


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("advise", "name a file that `nodewise snapshot` wrote"),
        ("advise no/such/file", "no/such/file"),
        ("advise --store no/such/store.db", "no/such"),
        ("advise {file} --store kept.db", "are two recordings: name one of them"),
        ("advise {file} --policy nope", "nope"),
        ("advise {file} --policy economic-oracle", "true run times"),
        ("advise {file} --baseline nope", "nope"),
        ("advise {file} --since yesterday", "yesterday"),
        ("advise {file} --since 2099-01-01T00:00:00Z", "earlier --since"),
        ("advise {file} --picture a.pdf", "a.pdf"),
        ("advise {file} --picture no/such/a.svg", "no/such/a.svg"),
        ("snapshot --kubeconfig no/such/file", "no/such/file"),
        ("snapshot --store a.db --kubeconfig b", "choose one"),
    ],
)
def test_bad_use_is_one_sentence(line: str, named: str, file: Path, run: Run) -> None:
    status, out, err = run(*line.format(file=file).split())
    assert status == 2
    assert out == ""
    assert named in err
    assert err.startswith("nodewise: ")
    assert err.count("\n") == 1


def test_a_snapshot_of_a_cluster_is_what_it_still_remembers(
    world: World, kept: Snapshot, run: Run, tmp_path: Path
) -> None:
    with FakeApi() as api:
        for node in world.node_manifests:
            api.put("nodes", node)
        for pod in in_cluster(world, kept):
            api.put("pods", pod)
        api.put(
            "pods", {"metadata": {"uid": "broken", "name": "b", "namespace": "x"}, "spec": {"overhead": {"cpu": "?"}}}
        )
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        target = tmp_path / "made.json"
        status, out, err = run("snapshot", "--kubeconfig", str(kubeconfig), "--file", str(target))
        assert (status, out) == (0, ""), err
        made = read_snapshot(target)
        lists = [r for r in api.requests if "pods" in r]
        assert len(lists) == 1  # one paged list, and no watch
        assert "limit=500" in lists[0]
    assert (made.source, len(made.nodes), len(made.pods)) == ("cluster", 60, 180)
    assert {p.fate for p in made.pods} == {"succeeded"}
    assert [pod_request(p.manifest)[0].cpu_milli for p in made.pods] == [p.request.cpu_milli for p in world.pods]
    status, out, err = run("advise", str(target), "--policy", "economic", "--draws", "3")
    assert status == 0, err
    assert "180 pods" in out
    assert "what the cluster itself still remembers" in out.replace("\n", " ")


def test_an_api_server_that_refuses_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    with FakeApi() as api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    status, _, err = run("snapshot", "--kubeconfig", str(kubeconfig), "--file", str(tmp_path / "made.json"))
    assert status == 2
    assert err.splitlines()[-1].startswith("nodewise: the API server does not answer")


@pytest.fixture
def store(world: World, kept: Snapshot, tmp_path: Path) -> Path:
    """What the operator would have written of the same."""
    path = tmp_path / "nodewise.db"
    opened = Store.open(str(path))
    opened.take_over("test")
    specs = {n.name: n for n in world.nodes}
    end_s = BEGIN_S + kept.end_s + 5.0
    rows = [
        pod_row(pod, None, end_s, specs[pod["spec"]["nodeName"]], 1.1, CostRates()) for pod in in_cluster(world, kept)
    ]
    first_s = BEGIN_S + world.pods[20].request.created_s  # the operator came when some were there already
    nodes = [
        NodeRow(n["metadata"]["uid"], n["metadata"]["name"], "", trimmed_node(n), first_s, math.inf)
        for n in world.node_manifests
    ]
    gap = Downtime(first_s + 10.0, first_s + 25.0, "restart")
    opened.write(Batch(pods=tuple(rows), nodes=tuple(nodes), downtimes=(gap,), seen_s=end_s))
    opened.close()
    return path


def test_a_store_is_judged_from_when_its_operator_came(store: Path, world: World, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "made.json.gz"
    assert run("snapshot", "--store", str(store), "--file", str(target))[0] == 0
    made = read_snapshot(target)
    status, out, _ = run("snapshot", "--store", str(store))
    assert (status, len(json.loads(out)["pods"])) == (0, 180)
    assert made.begin_s == BEGIN_S + world.pods[20].request.created_s
    assert (len(made.pods), made.source) == (180, "store")
    status, out, err = run("advise", "--store", str(store), "--policy", "economic", "--draws", "3")
    assert status == 0, err
    assert "of it nobody watched" in out.replace("\n", " ")
    assert "For 15 s" in out.replace("\n", " ")
