"""A recorded cluster as a scenario, and decisions asked about again."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from nodewise.channel.messages import DecisionRow
from nodewise.cli.main import main
from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.extender.records import Record
from nodewise.extender.rows import columns_of, decision_row
from nodewise.kube.snapshot import Snapshot, SnapshotNode, SnapshotPod, write_snapshot
from nodewise.policies import POLICIES
from nodewise.policies.learned import load
from nodewise_simulator import scenarios
from nodewise_simulator.bench.served_policy import flags
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.journal import replay
from nodewise_simulator.run import simulate
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, World

WORLD = "hetero@load=0.7,pods=60,warm=40"


class Journaled(Direct):
    """Keeps what the extender's journal would."""

    def __init__(self, made: World, policy: Policy) -> None:
        super().__init__(made, policy, POLICIES["economic"])
        self.lines: list[bytes] = []
        self.columns = columns_of(policy)

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        view = self.state.view(pod.request, now_s)
        reply = super().prioritize(pod, names, now_s)
        assert self.last is not None
        record = Record(self.last, view, tuple(view.nodes.name), now_s, columns=self.columns)
        self.lines.append(msgspec.json.encode(decision_row(record, view)) + b"\n")
        return reply


def journal(path: Path, policy: Policy, made: World | None = None) -> Path:
    made = made or scenarios.make(WORLD, 2)
    kept = Journaled(made, policy)
    view = kept.state.view
    scheduler = KubeScheduler(made.nodes, kept, view, np.random.default_rng(1), fits_always=made.fifo)
    Engine(made, scheduler, kept).run()
    path.write_bytes(b"".join(kept.lines))
    return path


def test_a_policy_says_of_its_own_journal_what_it_said(tmp_path: Path) -> None:
    path = journal(tmp_path / "economic.jsonl", POLICIES["economic"])
    found = replay(path, "economic")
    assert found.rows == found.asked + sum(found.left_out.values()) > 90
    assert (found.own, found.same_scores, found.same_winner) == (found.asked,) * 3
    other = replay(path, "learned")
    assert other.own == 0
    assert other.asked + sum(n for why, n in other.left_out.items() if "more candidates" in why) == found.asked
    assert other.asked < 10  # those of pods that few nodes can take


def test_a_policy_that_looks_at_all_candidates_together_says_what_it_said_where_all_were_kept(tmp_path: Path) -> None:
    (_, bundle) = flags("learned", tmp_path)  # without its ranges, so that it decides on four nodes too
    made = scenarios.make("S0q@pods=60,warm=40", 2)
    path = journal(tmp_path / "learned.jsonl", load(Path(bundle)), made)
    found = replay(path, bundle)
    assert found.asked == found.own == found.same_scores == found.same_winner > 90
    assert found.differing == []
    assert replay(path, "learned").own == 0  # another digest


def test_scores_that_were_changed_since_are_found(tmp_path: Path) -> None:
    path = journal(tmp_path / "economic.jsonl", POLICIES["economic"])
    first, *rest = path.read_bytes().splitlines(keepends=True)
    row = msgspec.json.decode(first, type=DecisionRow)
    changed = msgspec.structs.replace(row, scores=[score * 1.01 for score in row.scores])
    path.write_bytes(b"".join([msgspec.json.encode(changed) + b"\n", *rest, b'{"uid": "cut']))
    found = replay(path, "economic")
    assert found.same_scores == found.own - 1
    assert found.rows == len(rest) + 1  # the last line was being written


@pytest.mark.parametrize(
    ("data", "policy", "says"),
    [
        (b"", "economic", "is empty"),
        (b'{"uid": 1}\n', "economic", "line 1 of"),
        (None, "economic", "cannot be read"),
        (b"", "round-robin", "looks at more than a journal keeps"),
        (b"", "nope", "there is no policy 'nope'; choose one of "),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_sentence(
    data: bytes | None, policy: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=says):
        replay(path, policy)


@pytest.mark.parametrize(
    "wrong", [{"features": b"abcd"}, {"scores": []}, {"featured": [99]}, {"columns": ["cpu_pressure"]}]
)
def test_a_row_whose_parts_do_not_fit_is_refused_by_its_line(wrong: dict[str, object], tmp_path: Path) -> None:
    path = journal(tmp_path / "economic.jsonl", POLICIES["economic"])
    first, second, *_ = path.read_bytes().splitlines(keepends=True)
    row = msgspec.structs.replace(msgspec.json.decode(second, type=DecisionRow), **wrong)
    path.write_bytes(first + msgspec.json.encode(row) + b"\n")
    with pytest.raises(UserError, match="line 2 of"):
        replay(path, "economic")


def test_a_policy_that_would_decide_otherwise_is_told_with_the_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = journal(tmp_path / "kube.jsonl", POLICIES["kube-default"])
    monkeypatch.setattr("sys.argv", ["nodewise", "sim", "replay", str(path), "-o", "json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    (told,) = json.loads(capsys.readouterr().out)["rows"]
    assert len(told["differing"]) == told["asked"] - told["same_winner"] > 10
    assert told["differing"][0]["winner"] != told["differing"][0]["best"]


def test_a_recorded_cluster_is_a_scenario_whose_old_pods_stay_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scenarios.make(WORLD, 2)
    result = simulate(WORLD, "kube-default", 2)
    pods = []
    for k, (pod, node) in enumerate(zip(made.pods, result.placements, strict=True)):
        begin_s = pod.request.created_s
        pods.append(
            SnapshotPod(
                manifest=pod.manifest, fate="succeeded", node=node, bound_s=begin_s, started_s=begin_s,
                finished_s=begin_s + 20.0 + k % 7,
            )
        )  # fmt: skip
    begin_s = made.pods[20].request.created_s + 1.0
    nodes = [SnapshotNode(manifest=n) for n in made.node_manifests]
    end_s = max(p.finished_s or 0.0 for p in pods) + 1.0
    kept = Snapshot(made_s=end_s, source="cluster", begin_s=begin_s, end_s=end_s, nodes=nodes, pods=pods)
    path = tmp_path / "kept.json.gz"
    write_snapshot(kept, path)
    monkeypatch.setattr("sys.argv", ["nodewise", "sim", "import", str(path), "-o", "json"])
    with pytest.raises(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"][0]["nodes"], told["rows"][0]["node_classes"]) == (60, 5)
    text = told["scenario"]
    world = scenarios.make(text, 1)
    old = [p.request.name for p in world.pods if p.request.created_s < 0.0]
    assert len(old) == told["rows"][0]["where_they_were"] > 0
    at = dict(zip((p.request.name for p in made.pods), result.placements, strict=True))
    played = simulate(text, "earliest-finish-time", 1).placements
    went = dict(zip((p.request.name for p in world.pods), played, strict=True))
    assert all(went[name] == at[name] for name in old)
    assert any(went[name] != at[name] for name in went if name not in old)
    assert simulate(text, "earliest-finish-time", 1).placements == played
    with pytest.raises(UserError, match="--trace"):
        scenarios.make("snapshot", 1)
