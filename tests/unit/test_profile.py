"""`nodewise profile`: which nodes are measured, the Jobs that do it, what their pods say, and the command's answers."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nodewise.core.kinds import TREATMENTS, kind_of
from nodewise.core.labels import matches_term
from nodewise.core.pods import pod_request
from nodewise_operator.benchmark import (
    Ask,
    NodeClass,
    Outcome,
    benchmark,
    job,
    merged,
    node_classes,
    on_the_way,
    outcome,
)
from nodewise_operator.workloads import Measured
from nodewise_simulator.controlplane import node, taint

Json = dict[str, Any]
Run = Callable[..., tuple[int, str, str]]
ASK = Ask("registry.example/nodewise:1", "bench", "abc", ("primes",), 0.0, 3, 59.5)
TYPE = NodeClass("m5", ("n1",), ({"matchExpressions": []},), ())
RESULT = Measured("primes", 0.0, 240_000, 0.2, (0.1, 0.2, 0.3), "21221")


def a_node(name: str, kind: str, *, ready: bool = True, cordoned: bool = False, **more: Any) -> Json:
    made: Json = node(name, cpu_milli=4000, memory_bytes=2**33, instance_type=kind, **more)
    made["status"]["conditions"][0]["status"] = str(ready)
    made["spec"]["unschedulable"] = cordoned
    return made


def test_classes_are_what_jobs_can_be_bound_to() -> None:
    dedicated = taint("dedicated", "ml")
    nodes = [
        a_node("a2", "a"), a_node("a1", "a"), a_node("a3", "a", ready=False),
        a_node("b1", "b", cordoned=True), a_node("c1", "c", ready=False),
        a_node("d1", "d", taints=[dedicated, taint("soft", effect="PreferNoSchedule")]),
    ]  # fmt: skip
    found, refused = node_classes(nodes, tolerate=False)
    assert [(each.name, each.nodes, each.tolerations) for each in found] == [("a", ("a1", "a2"), ())]
    assert refused == {
        "b": "b1 is cordoned",
        "c": "c1 is not ready",
        "d": "d1 has the taint dedicated: --tolerate runs there all the same",
    }
    found, refused = node_classes(nodes, tolerate=True)
    assert [each.name for each in found] == ["a", "d"]
    assert found[1].tolerations == ({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"},)
    assert refused.keys() == {"b", "c"}


def test_a_job_goes_to_nodes_of_its_class_only() -> None:
    gpu = a_node("a2", "a", labels={"nvidia.com/gpu.product": "T4"})
    spot = a_node("a3", "a", labels={"karpenter.sh/capacity-type": "spot"})
    nodes = [a_node("a1", "a"), gpu, spot]
    found, _ = node_classes(nodes, tolerate=False)
    for of in found:
        spec = job(ASK, of, "primes", "j")["spec"]["template"]["spec"]
        required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        open_to = [
            n["metadata"]["name"] for n in nodes
            if any(matches_term(n["metadata"]["labels"], "", term) for term in required["nodeSelectorTerms"])
        ]  # fmt: skip
        assert open_to == [*of.nodes]
    assert [of.nodes for of in found] == [("a1", "a3"), ("a2",)]


def test_a_job_is_small_and_ends_by_itself() -> None:
    made = job(ASK, TYPE, "primes", "j")
    spec, pod = made["spec"], made["spec"]["template"]["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (0, 120, 300)
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)
    (container,) = pod["containers"]
    assert container["command"][-2:] == ["--to", container["terminationMessagePath"]]
    assert container["resources"]["requests"]["cpu"] == "100m"
    large = [job(replace(ASK, p=1.0), TYPE, name, "j")["spec"]["template"]["spec"] for name in ("sort", "matmul")]
    sorting, product = (int(each["containers"][0]["resources"]["requests"]["memory"]) for each in large)
    assert sorting > 10_000_000 * (8 + 24)  # a list and its numbers
    assert product > 3 * 8 * 5000**2


@pytest.mark.parametrize("teach", [False, True])
def test_the_estimator_learns_from_benchmarks_only_if_that_was_asked_for(teach: bool) -> None:
    made = job(replace(ASK, teach=teach), TYPE, "primes", "j")
    meta = {**made["spec"]["template"]["metadata"], "uid": "u", "name": "p", "namespace": "bench"}
    meta["ownerReferences"] = [{"kind": "Job", "name": "j", "controller": True}]
    if made["spec"]["completionMode"] == "Indexed":  # what the Job controller adds to its pods
        meta["annotations"] = {**meta["annotations"], "batch.kubernetes.io/job-completion-index": "0"}
    pod = {"metadata": meta, "spec": made["spec"]["template"]["spec"]}
    assert TREATMENTS[kind_of(pod)].teaches_speed is teach
    assert pod_request(pod)[0].workload == "nodewise-profile/primes-240000"


def pod(
    phase: str = "Running", *, spec: Json | None = None, conditions: list[Json] | None = None, **state: Json
) -> Json:
    status: Json = {"phase": phase, "conditions": conditions or []}
    if state:
        status["containerStatuses"] = [{"name": "workload", "state": state}]
    return {"spec": {"nodeName": "n1"} if spec is None else spec, "status": status}


def ended(message: str, code: int = 0) -> Json:
    return {"exitCode": code, "message": message, "finishedAt": "1970-01-01T00:01:40Z"}


SAID = '{"workload": "primes", "p": 0, "size": 240000, "seconds": 0.2, "runs": [0.1, 0.2, 0.3], "checksum": "21221"}'


def test_a_result_is_what_the_termination_message_says() -> None:
    assert outcome(pod("Succeeded", terminated=ended(SAID)), "m5", "primes") == Outcome(
        "m5", "primes", "n1", RESULT, 100.0, ""
    )


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (pod("Succeeded", terminated=ended("")), "its termination message is no result"),
        (pod("Succeeded", terminated=ended("[1]")), "its termination message is no result"),
        (pod("Failed", terminated=ended("a\nb", 1)), "Error, exit code 1: b"),
        (pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), "OOMKilled, exit code 137"),
        (pod("Pending", waiting={"reason": "ErrImagePull", "message": "no such image"}), "ErrImagePull: no such image"),
        ({"spec": {}, "status": {"phase": "Failed", "reason": "Evicted", "message": "no room"}}, "Evicted: no room"),
    ],
)
def test_what_is_no_result_has_a_reason(told: Json, why: str) -> None:
    found = outcome(told, "m5", "primes")
    assert found is not None
    assert found.measured is None
    assert found.why.startswith(why)
    with pytest.raises(ValueError, match="has no result"):
        benchmark(found)


@pytest.mark.parametrize(
    ("told", "waits_for"),
    [
        ({"spec": {}, "status": {}}, "pending"),
        (pod("Pending", waiting={"reason": "ContainerCreating"}), "containercreating"),
        (pod("Running", running={"startedAt": "1970-01-01T00:01:40Z"}), "running"),
        (
            pod("Pending", spec={}, conditions=[{"reason": "Unschedulable", "message": "0/3 nodes are available"}]),
            "no node takes it (0/3 nodes are available)",
        ),
    ],
)
def test_a_pod_on_its_way_says_what_it_waits_for(told: Json, waits_for: str) -> None:
    assert outcome(told, "m5", "primes") is None
    assert on_the_way(told) == waits_for


def test_an_interval_needs_six_runs() -> None:
    few = benchmark(Outcome("m5", "primes", "n1", RESULT, 100.0, ""))
    assert (few.name, few.seconds, few.runs, few.lower, few.upper) == ("primes-240000", 0.2, 3, None, None)
    runs = (0.5, 0.1, 0.2, 0.2, 0.3, 0.2)
    many = benchmark(Outcome("m5", "primes", "", Measured("primes", 0.0, 240_000, 0.2, runs, ""), 100.0, ""))
    assert (many.runs, many.lower, many.upper, many.node) == (6, 0.1, 0.5, None)


def at(name: str, second: int) -> Json:
    return {"name": name, "seconds": 1.0, "runs": 1, "measuredAt": f"1970-01-01T00:00:{second:02d}Z"}


def test_new_benchmarks_replace_their_own_and_the_oldest_go() -> None:
    new = benchmark(Outcome("m5", "primes", "n1", RESULT, 100.0, ""))
    held = merged([at("primes-240000", 1), at("sort-1", 2)], [new])
    assert [(each["name"], each["seconds"]) for each in held] == [("primes-240000", 0.2), ("sort-1", 1.0)]
    many = merged([at(f"x-{k:02d}", k) for k in range(40)], [new])
    assert len(many) == 32
    assert {each["name"] for each in many} == {"primes-240000", *(f"x-{k:02d}" for k in range(9, 40))}
    assert all(math.isfinite(each["seconds"]) for each in many)


def test_this_machine_is_measured_without_a_cluster(run: Run) -> None:
    status, said, told = run(
        "profile", "--local", "--size", "0.1", "--runs", "2", "--workloads", "primes", "-o", "json"
    )
    (row,) = json.loads(said)["rows"]
    assert (status, row["node_class"], row["size"]) == (0, "this machine", 696_000)
    assert len(row["runs"]) == 2
    assert row["speed"] == pytest.approx(1.392 / row["seconds"])
    assert "primes" in told  # how it goes
    status, said, _ = run("profile", "--local", "--size", "0.1", "--runs", "1", "--workloads", "primes,sort")
    assert status == 0
    for word in ("primes", "696,000 numbers", "sort", "1,450,000 items", "speed"):
        assert word in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "say --local to measure this machine, or --image IMAGE"),
        (("--local", "--image", "x"), "say --local to measure this machine, or --image IMAGE"),
        (("--local", "--size", "0"), "--size 0 is too small: "),
        (("--local", "--workloads", "fft"), "there is no workload 'fft'; choose among matmul, primes, sort, file-io"),
        (("--image", "x", "--kubeconfig", "/nowhere"), "kubeconfig /nowhere does not exist"),
    ],
)
def test_bad_use_is_a_sentence(words: tuple[str, ...], says: str, run: Run) -> None:
    status, said, told = run("profile", *words)
    assert (status, said) == (2, "")
    assert says in told
