"""What a snapshot keeps of pods and nodes is what placing them again reads, and nothing that is nobody's business."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewise.core import kinds
from nodewise.core.errors import UserError
from nodewise.core.feasible import static_key
from nodewise.core.pods import node_spec, pod_request
from nodewise.kube.cache import without_claims
from nodewise.kube.snapshot import (
    Snapshot,
    SnapshotNode,
    SnapshotPod,
    encoded,
    read_snapshot,
    trimmed_node,
    trimmed_pod,
    write_snapshot,
)
from nodewise_simulator.scenarios.hetero import hetero

Json = dict[str, Any]

_words = st.sampled_from(["", "a", "web-5d9", "ingest-28391234", "nodewise", "Always", "amd64"])
_amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.sampled_from(["1", "250m", "1Gi"]), max_size=3
)
_resources = st.fixed_dictionaries({}, optional={"requests": _amounts, "limits": _amounts})
_images = st.sampled_from(["", "nginx", "nginx:1.27", "r.example:5000/a/b@sha256:00", "r.example/a:b:c", "x@y@z"])
_containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b"]), "image": _images, "env": st.just([{"name": "K", "value": "hush"}])},
        optional={"resources": _resources, "restartPolicy": st.just("Always"), "args": st.just(["--hush"])},
    ),
    max_size=3,
)
_preferred = {
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": []}, "podAffinityTerm": {"topologyKey": "zone"}}
    ]
}
_pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"uid": _words},
            optional={
                "name": _words,
                "namespace": _words,
                "generateName": _words,
                "creationTimestamp": st.just("2026-01-01T00:00:00.5Z"),
                "annotations": st.dictionaries(
                    st.sampled_from(
                        ["nodewise.dev/workload", "nodewise.dev/sla-class", "nodewise.dev/deadline-seconds",
                         "nodewise.dev/expected-seconds", kinds._INDEX, "kubernetes.io/config.mirror", "note"]
                    ),
                    st.sampled_from(["batch", "12.5", "hush", " ", "x" * 300]),
                ),
                "labels": st.dictionaries(st.sampled_from([*kinds.GANG_LABELS, "app"]), st.just("x")),
                "ownerReferences": st.lists(
                    st.fixed_dictionaries(
                        {"kind": st.sampled_from(["Job", "ReplicaSet", "DaemonSet", "Node", "Ray"]), "name": _words},
                        optional={"controller": st.booleans()},
                    ),
                    max_size=2,
                ),
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": _containers},
            optional={
                "initContainers": _containers,
                "nodeName": st.just("n1"),
                "schedulerName": _words,
                "priority": st.sampled_from([-1, 0, 7, 2_000_000_000]),
                "restartPolicy": st.sampled_from(["Always", "Never"]),
                "nodeSelector": st.just({"kubernetes.io/arch": "arm64", "nvidia.com/gpu.product": "T4"}),
                "affinity": st.sampled_from([{"nodeAffinity": _preferred}, {"podAffinity": _preferred}]),
                "tolerations": st.just([{"key": "k", "operator": "Exists"}]),
                "topologySpreadConstraints": st.just([{"topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]),
                "overhead": _amounts,
                "resources": _resources,
                "resourceClaims": st.just([{"name": "c", "resourceClaimTemplateName": "hush"}]),
                "schedulingGroup": st.just({"podGroupName": "g"}),
                "volumes": st.sampled_from(
                    [[{"name": "v", "secret": {"secretName": "hush"}}], [{"name": "v", "ephemeral": {"a": "hush"}}],
                     [{"name": "v", "persistentVolumeClaim": {"claimName": "hush"}}]]
                ),
            },
        ),
        "status": st.fixed_dictionaries(
            {},
            optional={
                "containerStatuses": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.sampled_from(["a", "b"])},
                        optional={"allocatedResources": _amounts, "resources": _resources},
                    ),
                    max_size=2,
                ),
                "conditions": st.just([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]),
            },
        ),
    }
)  # fmt: skip


@given(_pods)
def test_a_trimmed_pod_is_read_as_the_pod_was_and_holds_no_secret(pod: Json) -> None:
    kept = trimmed_pod(pod)
    # repr, because a time that nobody told is nan
    assert repr(pod_request(kept)) == repr(pod_request(pod))
    assert static_key(kept["spec"]) == static_key(pod["spec"])
    assert repr(without_claims(pod_request(kept)[0], kept["spec"])) == repr(
        without_claims(pod_request(pod)[0], pod["spec"])
    )
    ours = {k: v for k, v in (pod["metadata"].get("annotations") or {}).items() if v == "hush"}
    assert json.dumps(kept).count("hush") <= len(ours)
    assert trimmed_pod(kept) == kept


def test_a_trimmed_node_is_read_as_the_node_was() -> None:
    for node in hetero(1, pods=1, warm=0).node_manifests:
        node = json.loads(json.dumps(node))
        node["spec"]["unschedulable"] = True
        node["status"]["nodeInfo"] = {"architecture": "arm64", "machineID": "private"}
        node["metadata"]["annotations"]["other"] = "private"
        kept = trimmed_node(node)
        assert node_spec(kept) == node_spec(node)
        assert "private" not in json.dumps(kept)


def test_a_pods_fate_changes_nothing_in_its_trimmed_form() -> None:
    pod = hetero(1, pods=1, warm=0).pods[0].manifest
    running = {**pod, "status": {"phase": "Running", "containerStatuses": [{"name": "main", "restartCount": 2}]}}
    assert trimmed_pod(running) == trimmed_pod(pod)


def _small() -> Snapshot:
    world = hetero(1, pods=2, warm=0)
    return Snapshot(
        made_s=3.0, source="store", begin_s=1.0, end_s=2.0,
        nodes=[SnapshotNode(manifest=trimmed_node(n)) for n in world.node_manifests],
        pods=[SnapshotPod(manifest=trimmed_pod(p.manifest), fate="running", node="n", bound_s=0.5) for p in world.pods],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["s.json", "s.json.gz"])
def test_a_snapshot_comes_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    write_snapshot(_small(), tmp_path / name)
    assert read_snapshot(tmp_path / name) == _small()
    assert ((tmp_path / name).read_bytes()[:1] == b"{") == (not name.endswith(".gz"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not one of ours"),
        (b"\xff\xfe", "not one of ours"),
        (b'{"v": 99}', "version 99"),
        (b'{"v": 1, "pods": []}', "not one of ours"),
        (encoded(_small())[:-20], "not one of ours"),
        (gzip.compress(encoded(_small()))[:-20], "cut short"),
        (gzip.compress(encoded(_small()))[:50] + b"\x00" * 99, "cannot be read"),
    ],
)
def test_what_is_no_snapshot_is_refused_in_one_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as refused:
        read_snapshot(path)
    assert "\n" not in str(refused.value)
    assert "make one with" in str(refused.value)


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json cannot be read"):
        read_snapshot(tmp_path / "gone.json")
