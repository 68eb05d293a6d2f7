"""Recorded pods with rules on other pods."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.engine_worlds import one_class, pod
from tests.unit.test_neighbours import HOST, apart, app, even, near, term

from nodewise.core.units import stamp
from nodewise.kube.snapshot import Snapshot, SnapshotNode, SnapshotPod, trimmed_pod, write_snapshot
from nodewise_simulator import scenarios
from nodewise_simulator.run import simulate
from nodewise_simulator.scenarios.snapshot import not_simulated, of_file, summary
from nodewise_simulator.world import SimPod

BEGIN_S = 1000.0


def recorded(*pods: tuple[SimPod, str]) -> Snapshot:
    """Pods that were created at their time and ran there for 10 s from then on."""
    kept = []
    for each, node in pods:
        at_s = BEGIN_S + each.request.created_s
        manifest = trimmed_pod(each.manifest)
        manifest["metadata"]["creationTimestamp"] = stamp(at_s)
        kept.append(
            SnapshotPod(
                manifest=manifest, fate="succeeded", node=node, bound_s=at_s, started_s=at_s, finished_s=at_s + 10.0
            )
        )
    nodes = [SnapshotNode(manifest=n) for n in one_class(2)]
    return Snapshot(made_s=1e4, source="cluster", begin_s=BEGIN_S, end_s=2000.0, nodes=nodes, pods=kept)


def played(snapshot: Snapshot, folder: Path) -> tuple[dict[str, Any], dict[str, int], dict[str, str]]:
    """Its summary, what of it is not simulated, and where each pod goes."""
    path = folder / "kept.json"
    write_snapshot(snapshot, path)
    found = of_file(str(path)).recording
    text = f"snapshot@trace={path}"
    names = [p.request.name for p in scenarios.make(text, 1).pods]
    return summary(found), not_simulated(found), dict(zip(names, simulate(text, "economic", 1).placements, strict=True))


def test_rules_on_recorded_pods_hold_and_those_on_others_are_told_and_left_out(tmp_path: Path) -> None:
    first = app("first", "app=a", 1.0)
    pods = [
        (first, "n1"),
        (app("shy", "app=b", 2.0, affinity=apart(term("app=a"))), "n0"),
        (app("fond", "app=c", 3.0, affinity=near(term("app=a"))), "n1"),
        (app("lost", "app=d", 4.0, affinity=near(term("app=nobody"))), "n1"),
        (app("even", "app=a", 5.0, topologySpreadConstraints=[even("app=a", HOST)]), "n0"),
    ]
    told, missing, went = played(recorded(*pods), tmp_path)
    assert told["rules_on_others"] == 3
    assert missing == {"affinity to pods that were not recorded": 1}
    assert went["fond"] == went["first"] == went["even"] != went["shy"]
    assert went["lost"] in ("n0", "n1")


def test_a_recording_without_labels_of_pods_plays_no_rules_and_says_so(tmp_path: Path) -> None:
    whole = recorded((app("a", "app=a", 1.0), "n0"), (app("b", "app=b", 2.0, affinity=apart(term("app=a"))), "n1"))
    bare = []
    for each in whole.pods:
        metadata = {k: v for k, v in each.manifest["metadata"].items() if k != "labels"}
        bare.append(msgspec.structs.replace(each, manifest={**each.manifest, "metadata": metadata}))
    told, missing, _ = played(msgspec.structs.replace(whole, pods=bare), tmp_path)
    assert (told["rules_on_others"], missing) == (0, {"affinity to pods that were not recorded": 1})


def test_pods_that_were_there_before_keep_others_away_and_go_back_whatever_they_wanted(tmp_path: Path) -> None:
    old = app("old", "app=a", -5.0, affinity={**apart(term("app=b")), **near(term("app=later"))})
    later = [(app("later", "app=later", 1.0), "n1"), (app("b", "app=b", 2.0), "n1")]
    _, _, went = played(recorded((old, "n0"), *later), tmp_path)
    assert (went["old"], went["b"]) == ("n0", "n1")


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"schedulingGates": [{"name": "g"}]}, "scheduling gates"),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, "volumes and devices by claim"),
    ],
)
def test_what_no_scheduler_of_ours_looks_at_is_counted(spec: dict[str, Any], what: str, tmp_path: Path) -> None:
    plain = pod("plain", 1.0, 10.0)
    _, missing, _ = played(recorded((plain, "n0"), (app("odd", "", 2.0, **spec), "n0")), tmp_path)
    assert missing == {what: 1}
