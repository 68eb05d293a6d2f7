"""PlacementPolicies on the real API server and kube-scheduler: what a mode does to placements, and how soon."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import node_spec, pod_request
from nodewise.core.state import ClusterState
from nodewise.policies.kube import in_tree
from nodewise_simulator import scenarios
from nodewise_simulator.cluster_demo import fresh
from nodewise_simulator.controlplane import ApiError, ControlPlane, program
from nodewise_simulator.processes import ExtenderProcess
from nodewise_simulator.world import node_manifest

Json = dict[str, Any]
StartScheduler = Callable[..., Any]

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = f"{CRDS}/placementpolicies.nodewise.dev"
POLICIES = "/apis/nodewise.dev/v1alpha1/placementpolicies"
MANIFEST = Path(__file__).parents[2] / "manifests" / "crds" / "nodewise.dev_placementpolicies.yaml"
MOST_S = 5.0
"""A change of mode takes effect within this."""


class Extender:
    """An extender process with its journal, and the policies that it has read."""

    def __init__(self, process: ExtenderProcess, journal: Path) -> None:
        self.process, self.journal = process, journal
        self.url = f"http://127.0.0.1:{process.port}"

    def tell(self, path: str) -> Json:
        return self.process.get(path) or {}

    def journaled(self) -> list[Json]:
        time.sleep(0.5)  # it is written behind the replies
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def wait_until(self, holds: Callable[[], object], timeout_s: float = 20.0) -> float:
        begin_s = time.monotonic()
        while not holds():
            assert time.monotonic() - begin_s < timeout_s, self.tell("/policy")
            time.sleep(0.01)
        return time.monotonic() - begin_s

    def wait_for_nodes(self, count: int) -> None:
        line = f"nodewise_extender_nodes {float(count)}"
        self.wait_until(lambda: line in (self.process.get("/metrics") or "").splitlines())

    def report(self, name: str) -> Json:
        return next((p for p in self.tell("/policy").get("placement_policies", ()) if p["name"] == name), {})


@pytest.fixture
def installed(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the kind and none of its objects, before and after the test."""
    install(plane)
    plane.call("DELETE", POLICIES)
    yield plane
    install(plane)
    plane.call("DELETE", POLICIES)


def install(plane: ControlPlane) -> None:
    crd = yaml.safe_load(MANIFEST.read_text())
    deadline_s = time.monotonic() + 20.0
    while True:
        try:
            held = plane.call("GET", CRD)
            if "deletionTimestamp" not in held["metadata"] and served(plane):
                return
        except ApiError:
            plane.call("POST", CRDS, crd)
        assert time.monotonic() < deadline_s, "the kind is not served"
        time.sleep(0.05)


def served(plane: ControlPlane) -> bool:
    try:
        plane.call("GET", POLICIES)
    except ApiError:
        return False
    return True


def create_policy(plane: ControlPlane, name: str, mode: str, **spec: Any) -> None:
    body = {
        "apiVersion": "nodewise.dev/v1alpha1", "kind": "PlacementPolicy", "metadata": {"name": name},
        "spec": {"mode": mode, **spec},
    }  # fmt: skip
    plane.call("POST", POLICIES, body)


def kubectl_patch(plane: ControlPlane, name: str, **spec: Any) -> "subprocess.Popen[str]":
    """Patch as a user does; kubectl runs on."""
    kubectl = [str(program("kubectl")), "--kubeconfig", str(plane.kubeconfig)]
    patch = [*kubectl, "patch", "placementpolicy", name, "--type", "merge", "-p", json.dumps({"spec": spec})]
    home = {**os.environ, "HOME": str(plane.folder)}
    return subprocess.Popen(patch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=home)


@pytest.fixture
def start_extender(plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[..., Extender]]:
    """Starts an extender for the rest of the test."""
    started: list[ExtenderProcess] = []

    def start(*flags: str) -> Extender:
        journal = tmp_path / "decisions.journal"
        process = ExtenderProcess(plane.kubeconfig, tmp_path, "--journal", str(journal), "--policy", "economic", *flags)
        started.append(process.__enter__())
        return Extender(process, journal)

    yield start
    for process in started:
        process.__exit__(None, None, None)


def machine(name: str, cpu: int, memory_gib: int, price_usd_per_h: float) -> Json:
    return node_manifest(
        name, cpu_milli=cpu * 1000, memory_bytes=memory_gib * 2**30, instance_type=name, idle_w=10.0, peak_w=10.0,
        price_usd_per_h=price_usd_per_h,
    )  # fmt: skip


def service_pod(name: str, namespace: str, cpu_milli: int = 500, memory_mib: int = 1024) -> Json:
    resources = {"requests": {"cpu": f"{cpu_milli}m", "memory": f"{memory_mib}Mi"}}
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-5d9f7c6b8", "uid": f"uid-of-{name}"}
    return {
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner | {"controller": True}]},
        "spec": {
            "schedulerName": "nodewise", "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "containers": [{"name": "main", "image": "web", "resources": resources}],
        },
    }  # fmt: skip


BIG, CHEAP = "big-and-dear", "small-and-cheap"
TWO_NODES = [machine(BIG, 64, 256, 20.0), machine(CHEAP, 8, 32, 0.01)]
"""In-tree scores favour the emptier node, the big one; ours the one whose hour costs a 250th for each core."""


def place_one(plane: ControlPlane, namespace: str, name: str) -> str:
    """Where a pod is placed that leaves again at once."""
    plane.create_pods([service_pod(name, namespace)])
    (node,) = plane.wait_bound(1, namespace).values()
    plane.delete_pods(namespace)
    return node


def test_a_patch_of_the_mode_changes_placements_within_five_seconds(
    installed: ControlPlane, namespace: str, start_scheduler: StartScheduler, start_extender: Callable[..., Extender]
) -> None:
    plane = installed
    create_policy(plane, "demo", "Shadow", namespaces=[namespace])
    plane.create_nodes(TWO_NODES)
    extender = start_extender()
    extender.wait_for_nodes(2)
    start_scheduler(extender.url)
    assert {place_one(plane, namespace, f"before-{k}") for k in range(5)} == {BIG}
    took_s: dict[str, list[float]] = {}
    modes = ["Active", "Off", "Active", "Shadow"] * 3
    for cycle, mode in enumerate(modes):
        expected = CHEAP if mode == "Active" else BIG
        begin_s = time.monotonic()
        kubectl = kubectl_patch(plane, "demo", mode=mode)
        for k in range(1000):
            created_s = time.monotonic()
            if place_one(plane, namespace, f"p-{cycle}-{k}") == expected:
                break
            assert created_s - begin_s < MOST_S, f"{mode} had no effect"
        took_s.setdefault(mode, []).append(created_s - begin_s)
        said, _ = kubectl.communicate(timeout=60)
        assert kubectl.returncode == 0, said
        assert {place_one(plane, namespace, f"after-{cycle}-{k}") for k in range(5)} == {expected}
    for mode, each in took_s.items():
        print(
            f"\nfrom kubectl's start to the first pod placed as {mode}: " + ", ".join(f"{s:.3f}" for s in each) + " s"
        )
    assert max(max(each) for each in took_s.values()) < MOST_S
    lines = extender.journaled()
    assert {line["mode"] for line in lines} == {"shadow", "active"}  # off is not decided at all
    assert all(line["winner"] == CHEAP and line["placement_policy"] == "demo" for line in lines)


def test_in_active_the_bound_node_is_our_winner_and_other_namespaces_are_left_alone(
    installed: ControlPlane, namespace: str, start_scheduler: StartScheduler, start_extender: Callable[..., Extender]
) -> None:
    plane = installed
    plane.create_namespace(other := f"{namespace}-other")
    plane.call("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"nodewise": "yes"}}},
               "application/merge-patch+json")  # fmt: skip
    create_policy(plane, "labelled", "Active", namespaceSelector={"matchLabels": {"nodewise": "yes"}})
    made = scenarios.make("hetero@pods=220,warm=0", 1)
    pods = [fresh(p) for p in made.pods]
    for k, pod in enumerate(pods):
        pod["spec"].pop("priorityClassName", None)
        pod["metadata"]["namespace"] = namespace if k < 200 else other
    plane.create_nodes(made.node_manifests)
    extender = start_extender("--default-mode", "off")
    extender.wait_for_nodes(60)
    start_scheduler(extender.url)
    plane.create_pods(pods)
    plane.wait_bound(200, namespace)
    plane.wait_bound(20, other)
    winner = {line["uid"]: line["winner"] for line in extender.journaled()}
    bound = {p["metadata"]["uid"]: p["spec"]["nodeName"] for p in plane.list_pods(namespace)}
    asked = [uid for uid in bound if winner.get(uid)]
    agreed = sum(winner[uid] == bound[uid] for uid in asked)
    print(f"\nasked about {len(asked)} of 200 pods; {agreed} bound to the winner")
    assert len(asked) >= 190  # those with one feasible node are bound without asking
    assert agreed >= 0.99 * len(asked)
    assert set(winner) <= set(bound)  # nothing was decided in the other namespace
    extender.wait_until(lambda: extender.report("labelled")["bound_winner"] == agreed)
    told = extender.report("labelled")
    assert (told["mode"], told["decisions"], told["bound_other"]) == ("active", len(asked), len(asked) - agreed)


def pods_without_ties(nodes: list[Json], count: int, namespace: str) -> tuple[list[Json], list[str]]:
    """Pods for which one node is best by in-tree scores alone, one after the other, and those nodes."""
    rng, state = np.random.default_rng(5), ClusterState(RunTimeEstimator())
    for node in nodes:
        state.put_node(node_spec(node))
    rows = np.arange(len(nodes))
    pods: list[Json] = []
    best: list[str] = []
    while len(pods) < count:
        cpu, memory = (int(n) for n in rng.integers(2, 40, 2) * 100)
        pod = service_pod(f"pod-{len(pods)}", namespace, cpu, memory)
        request, _ = pod_request({**pod, "metadata": {**pod["metadata"], "uid": f"uid-{len(pods)}"}})
        scores = in_tree(request, state.view(request, 0.0), rows)
        top = rows[scores == scores.max()]
        if len(top) == 1:
            pods.append(pod)
            best.append(nodes[int(top[0])]["metadata"]["name"])
            state.place(request, best[-1])
    return pods, best


def test_in_shadow_placements_are_those_of_a_run_without_us(
    installed: ControlPlane, namespace: str, start_scheduler: StartScheduler, start_extender: Callable[..., Extender]
) -> None:
    plane = installed
    sizes = [(64, 200, 9.0), (48, 256, 5.0), (40, 160, 3.0), (32, 96, 2.0), (24, 120, 0.7), (16, 64, 0.02)]
    nodes = [machine(f"node-{k}", *size) for k, size in enumerate(sizes)]
    pods, best = pods_without_ties(nodes, 40, namespace)
    create_policy(plane, "all", "Shadow")
    plane.create_nodes(nodes)

    def placed(url: str | None) -> list[str]:
        scheduler = start_scheduler(url)
        for k, pod in enumerate(pods):
            plane.create_pods([pod])
            plane.wait_bound(k + 1, namespace)
        on = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in plane.list_pods(namespace)}
        scheduler.stop()
        plane.delete_pods(namespace)
        return [on[pod["metadata"]["name"]] for pod in pods]

    without = placed(None)
    assert without == best  # no tie, so a second run has no choice
    extender = start_extender()
    extender.wait_for_nodes(len(nodes))
    with_us = placed(extender.url)
    wanted = {line["pod"]: line["winner"] for line in extender.journaled()}
    other = sum(wanted[pod["metadata"]["name"]] != node for pod, node in zip(pods, with_us, strict=True))
    same = sum(a == b for a, b in zip(without, with_us, strict=True))
    print(f"\n{same} of 40 as without us; we wanted {other} elsewhere")
    assert with_us == without
    assert other >= 20


def test_the_extender_goes_on_as_its_flags_say_when_the_kind_is_taken_away(
    installed: ControlPlane, namespace: str, start_scheduler: StartScheduler, start_extender: Callable[..., Extender]
) -> None:
    plane = installed
    create_policy(plane, "demo", "Off")
    plane.create_nodes(TWO_NODES)
    extender = start_extender()
    extender.wait_for_nodes(2)
    start_scheduler(extender.url)
    assert place_one(plane, namespace, "off") == BIG
    plane.call("DELETE", CRD)
    extender.wait_until(lambda: extender.tell("/readyz").get("placement_policies") == "not installed")
    assert [place_one(plane, namespace, f"gone-{k}") for k in range(5)] == [CHEAP] * 5
    assert extender.tell("/readyz")["status"] == "ok"
    install(plane)
    create_policy(plane, "demo", "Off")
    took_s = extender.wait_until(lambda: extender.report("demo"), timeout_s=45.0)
    print(f"\nthe kind was seen again {took_s:.1f} s after it was installed again")
    assert place_one(plane, namespace, "off-again") == BIG
