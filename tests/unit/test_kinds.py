"""One rule per kind of pod: a test for each row of the table, and for how a pod is told to be of a kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nodewise.core.decide import decide
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.kinds import SYSTEM_PRIORITY, TREATMENTS, is_pinned, kind_of
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import Decision, Kind, PodRequest
from nodewise.policies import DEFAULT

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
Json = dict[str, Any]

EACH = pytest.mark.parametrize("kind", list(Kind))


@pytest.fixture
def state(node_of: NodeOf) -> ClusterState:
    """An x86 node and an ARM node."""
    made = ClusterState(RunTimeEstimator())
    made.put_node(node_of("x86", arch="amd64"))
    made.put_node(node_of("arm", arch="arm64"))
    return made


def decided(state: ClusterState, pod: PodRequest, *names: str) -> Decision:
    return decide(pod, state.view(pod, 10.0), state.rows(names or ("x86", "arm")), DEFAULT, DEFAULT)


# --- the rows ---


def test_the_table_has_a_row_and_a_reason_for_every_kind() -> None:
    assert set(TREATMENTS) == set(Kind)
    assert all(t.why for t in TREATMENTS.values())


def check_teaches(state: ClusterState, pod: PodRequest, teaches: bool) -> None:
    state.place(pod, "x86", 0.0)
    state.finish(pod.uid, 0.0, 100.0, succeeded=True)
    assert state.estimator.beliefs().observations.sum() == teaches


def test_a_job_ends_may_wait_and_teaches(state: ClusterState, pod_of: PodOf) -> None:
    job = pod_of(kind=Kind.JOB)
    assert TREATMENTS[Kind.JOB].deferrable
    assert TREATMENTS[Kind.JOB].ends
    assert decided(state, job).winner >= 0
    check_teaches(state, job, True)


def test_an_indexed_job_is_scored_but_never_deferred_and_does_not_teach(state: ClusterState, pod_of: PodOf) -> None:
    member = pod_of(kind=Kind.INDEXED)
    assert not TREATMENTS[Kind.INDEXED].deferrable
    assert decided(state, member).winner >= 0
    check_teaches(state, member, False)


def test_a_bare_pod_teaches_but_never_waits(state: ClusterState, pod_of: PodOf) -> None:
    bare = pod_of(kind=Kind.BARE)
    assert not TREATMENTS[Kind.BARE].deferrable
    assert decided(state, bare).winner >= 0
    check_teaches(state, bare, True)


def test_a_service_has_no_run_time(state: ClusterState, pod_of: PodOf) -> None:
    service = pod_of(kind=Kind.SERVICE)
    assert decided(state, service).winner >= 0
    state.place(service, "x86", 0.0)
    table = state.view(pod_of("q"), 10.0).nodes
    assert table.work_remaining_s[0] == 0.0
    assert table.longest_remaining_s[0] == state.rates.service_horizon_s
    check_teaches(state, service, False)


@pytest.mark.parametrize("kind", [Kind.DAEMON, Kind.STATIC, Kind.SYSTEM])
def test_pods_that_are_none_of_our_business_get_a_neutral_answer(
    state: ClusterState, pod_of: PodOf, kind: Kind
) -> None:
    said = decided(state, pod_of(kind=kind))
    assert (said.reply, said.winner, said.neutral) == ((), -1, f"kind:{kind.value}")
    check_teaches(state, pod_of(kind=kind), False)


def test_a_pod_that_would_pin_a_volume_or_device_gets_a_neutral_answer(state: ClusterState, pod_of: PodOf) -> None:
    assert decided(state, pod_of(pinned=True)).neutral == "pins-a-volume-or-device"


def test_an_image_goes_only_where_its_architecture_has_run(state: ClusterState, pod_of: PodOf) -> None:
    silent = {"archs": (), "workload": "image"}
    assert decided(state, pod_of(**silent)).neutral == "architecture-unknown"
    state.place(pod_of("bound", **silent), "arm")  # bound, but not yet started: says nothing
    assert decided(state, pod_of(**silent)).neutral == "architecture-unknown"
    state.started("bound", 5.0)  # an image of another architecture starts too, and fails
    assert decided(state, pod_of(**silent)).neutral == "architecture-unknown"
    state.ran("bound")
    said = decided(state, pod_of(**silent))
    assert said.reply == (("arm", 10),)
    np.testing.assert_array_equal(said.candidates, state.rows(["arm"]))
    assert decided(state, pod_of(archs=(), workload="other")).neutral == "architecture-unknown"


def test_among_nodes_of_one_architecture_an_image_need_not_have_run(
    state: ClusterState, pod_of: PodOf, node_of: NodeOf
) -> None:
    state.put_node(node_of("x86-2", arch="amd64"))
    assert decided(state, pod_of(archs=()), "x86", "x86-2").winner >= 0


def test_a_pod_that_names_its_architectures_is_taken_at_its_word(state: ClusterState, pod_of: PodOf) -> None:
    assert len(decided(state, pod_of(archs=("amd64", "arm64"))).candidates) == 2


def test_without_a_known_candidate_the_answer_is_neutral(state: ClusterState, pod_of: PodOf) -> None:
    assert decided(state, pod_of(), "gone").neutral == "no-known-candidate"


# --- which kind a pod is ---


def owned(kind: str, **meta: Any) -> Json:
    return {
        "ownerReferences": [{"kind": "ConfigMap", "name": "x"}, {"kind": kind, "name": "o", "controller": True}]
    } | meta


@pytest.mark.parametrize(
    ("meta", "spec", "kind"),
    [
        (owned("Job"), {}, Kind.JOB),
        (owned("Job", annotations={"batch.kubernetes.io/job-completion-index": "0"}), {}, Kind.INDEXED),
        (owned("Job", labels={"jobset.sigs.k8s.io/jobset-name": "s"}), {}, Kind.INDEXED),
        (owned("Job"), {"schedulingGroup": {"podGroupName": "g"}}, Kind.INDEXED),
        (owned("PyTorchJob", labels={"pod-group.scheduling.sigs.k8s.io/name": "g"}), {}, Kind.INDEXED),
        (owned("ReplicaSet"), {}, Kind.SERVICE),
        (owned("StatefulSet", labels={"volcano.sh/job-name": "g"}), {}, Kind.SERVICE),
        (owned("ReplicationController"), {}, Kind.SERVICE),
        (owned("Deployment"), {}, Kind.SERVICE),
        (owned("DaemonSet"), {"priority": SYSTEM_PRIORITY}, Kind.DAEMON),
        (owned("Node"), {}, Kind.STATIC),
        (owned("Job", annotations={"kubernetes.io/config.mirror": "h"}), {}, Kind.STATIC),
        (owned("ReplicaSet"), {"priority": SYSTEM_PRIORITY}, Kind.SYSTEM),
        ({}, {"priority": SYSTEM_PRIORITY - 1, "restartPolicy": "Never"}, Kind.BARE),
        ({}, {"restartPolicy": "OnFailure"}, Kind.BARE),
        ({}, {"restartPolicy": "Always"}, Kind.SERVICE),
        ({}, {}, Kind.SERVICE),
        (owned("Workflow"), {"restartPolicy": "Never"}, Kind.BARE),
        (owned("RayCluster"), {"restartPolicy": "Always"}, Kind.SERVICE),
        ({"ownerReferences": [{"kind": "Job", "name": "o"}]}, {"restartPolicy": "Never"}, Kind.BARE),
    ],
)
def test_the_kind_of_a_pod(meta: Json, spec: Json, kind: Kind) -> None:
    assert kind_of({"metadata": meta, "spec": spec}) is kind


def test_claims_that_a_pod_makes_itself_pin_it() -> None:
    assert is_pinned({"resourceClaims": [{"name": "gpu"}]})
    assert is_pinned({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "ephemeral": {}}]})
    assert not is_pinned({"volumes": [{"name": "a", "emptyDir": {}}]})
    assert not is_pinned({})
