"""The stock kube-scheduler places pods by our extender: winners are bound, failures cost nothing, preferences win."""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import node_spec, pod_request
from nodewise.core.state import ClusterState
from nodewise.policies import DEFAULT, builtin
from nodewise.policies.bundle import read_card
from nodewise.policies.kube import in_tree
from nodewise_simulator import scenarios
from nodewise_simulator.cluster_demo import create_priority_classes, fresh
from nodewise_simulator.controlplane import ApiError, ControlPlane, Kubelet
from nodewise_simulator.direct import Direct
from nodewise_simulator.processes import ExtenderProcess
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, node_manifest, world

Json = dict[str, Any]
StartScheduler = Callable[..., Any]


class Running:
    """An extender process on the control plane, with its journal."""

    def __init__(self, process: ExtenderProcess, journal: Path) -> None:
        self.process, self.journal = process, journal
        self.url = f"http://127.0.0.1:{process.port}"

    def serving_pid(self) -> int:
        """The process that serves: the guard's child."""
        for _ in range(200):
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                children = (task / "children").read_text().split()
                if children:
                    return int(children[0])
            time.sleep(0.05)
        raise AssertionError("the guard has no child")

    def decisions(self) -> dict[str, Json]:
        """The last journaled decision of each pod, by uid, in order of decision."""
        time.sleep(0.5)  # the journal is written behind the replies
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return {line["uid"]: line for line in lines if line["winner"]}


@pytest.fixture
def extender(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """As it is started without flags, or with the policy that `BY_ECONOMIC` asks for."""
    journal = tmp_path / "decisions.journal"
    flags = ("--policy", request.param) if hasattr(request, "param") else ()
    with ExtenderProcess(plane.kubeconfig, tmp_path, "--journal", str(journal), *flags) as process:
        yield Running(process, journal)


BY_ECONOMIC = pytest.mark.parametrize("extender", ["economic"], indirect=True)


@pytest.fixture(scope="session")
def priorities(shared_plane: ControlPlane) -> None:
    with contextlib.suppress(ApiError):  # they outlive a test
        create_priority_classes(shared_plane)


def hetero_pods(count: int, namespace: str, seed: int = 1) -> tuple[tuple[Json, ...], list[Json]]:
    """The 60 nodes of `hetero`, and pods as a user creates them."""
    made = scenarios.make(f"hetero@pods={count},warm=0", seed)
    pods = [fresh(p) for p in made.pods]
    for pod in pods:
        pod["metadata"]["namespace"] = namespace
    return made.node_manifests, pods


def bound_nodes(plane: ControlPlane, namespace: str) -> dict[str, str]:
    return {p["metadata"]["uid"]: p["spec"].get("nodeName", "") for p in plane.list_pods(namespace)}


def wait_for_nodes(extender: Running, count: int) -> None:
    """Until the extender's watch has seen the nodes."""
    for _ in range(400):
        metrics = extender.process.get("/metrics") or ""
        if any(
            line.startswith("nodewise_extender_nodes ") and float(line.split()[1]) >= count
            for line in metrics.splitlines()
        ):
            return
        time.sleep(0.05)
    raise AssertionError("the extender did not see the nodes")


@BY_ECONOMIC
@pytest.mark.usefixtures("priorities")
def test_the_bound_node_is_our_winner_for_200_annotated_pods_on_60_nodes(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    nodes, pods = hetero_pods(200, namespace)
    plane.create_nodes(nodes)
    wait_for_nodes(extender, 60)
    start_scheduler(extender.url)
    plane.create_pods(pods)
    plane.wait_bound(200, namespace)
    decided, bound = extender.decisions(), bound_nodes(plane, namespace)
    asked = [uid for uid in bound if uid in decided]
    assert len(asked) >= 190  # those with one feasible node are bound without asking
    agreed = sum(decided[uid]["winner"] == bound[uid] for uid in asked)
    print(f"\nasked about {len(asked)} of 200 pods; {agreed} bound to the winner")
    assert agreed >= 0.99 * len(asked)
    assert not any(line["fallback"] or line["neutral"] for line in decided.values())


@pytest.mark.usefixtures("priorities")
def test_the_built_in_bundle_decides_after_the_cold_start_and_its_winners_are_bound(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    """600 pods of `hetero` as they arrive, eight times as fast, each of which runs as long as it does on that class."""
    made = scenarios.make("hetero@pods=600,warm=0,pace=8", 1)
    truth = {p.request.name: p.true_run_s for p in made.pods}
    node_class = {n.name: made.class_of[n.node_class] for n in made.nodes}

    def run_s(pod: Json, node: str) -> float:
        return float(truth[pod["metadata"]["name"]][node_class[node]])

    plane.create_nodes(made.node_manifests)
    wait_for_nodes(extender, 60)
    start_scheduler(extender.url)
    with Kubelet(plane.url, plane.token, run_s):
        begin_s = time.monotonic() - made.pods[0].request.created_s
        for pod in made.pods:
            manifest = fresh(pod)
            manifest["metadata"]["namespace"] = namespace
            time.sleep(max(0.0, begin_s + pod.request.created_s - time.monotonic()))
            plane.create_pods([manifest])
        plane.wait_bound(600, namespace)
    decided, bound = extender.decisions(), bound_nodes(plane, namespace)
    asked = [uid for uid in bound if uid in decided]
    own = [uid for uid in asked if not decided[uid]["fallback"]]
    agreed = [uid for uid in asked if decided[uid]["winner"] == bound[uid]]
    print(f"\nasked about {len(asked)} of 600 pods; the bundle decided {len(own)}; {len(agreed)} bound to the winner")
    folder = builtin()
    assert folder is not None
    assert {decided[uid]["digest"] for uid in own} == {read_card(folder).digest}
    assert len(asked) >= 570  # those with one feasible node are bound without asking
    assert len(own) >= 0.5 * len(asked)
    assert len(agreed) >= 0.99 * len(asked)
    assert len(set(agreed) & set(own)) >= 0.99 * len(own)


@pytest.mark.usefixtures("priorities")
def test_no_pod_is_left_while_the_extender_is_killed_five_times(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    nodes, pods = hetero_pods(250, namespace)
    plane.create_nodes(nodes)
    wait_for_nodes(extender, 60)
    start_scheduler(extender.url)
    killed = set()
    for k in range(5):
        plane.create_pods(pods[50 * k : 50 * k + 25])
        pid = extender.serving_pid()
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        plane.create_pods(pods[50 * k + 25 : 50 * k + 50])
        for _ in range(400):
            with contextlib.suppress(AssertionError):
                if extender.serving_pid() != pid:
                    break
            time.sleep(0.05)
    plane.wait_bound(250, namespace, timeout_s=30)
    assert len(killed) == 5


@pytest.mark.usefixtures("priorities")
def test_a_stopped_extender_is_killed_and_pods_are_bound_throughout(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    nodes, pods = hetero_pods(200, namespace)
    plane.create_nodes(nodes)
    wait_for_nodes(extender, 60)
    start_scheduler(extender.url)
    plane.create_pods(pods[:50])
    plane.wait_bound(50, namespace)
    pid = extender.serving_pid()
    os.kill(pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    plane.create_pods(pods[50:])
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() - stopped_s < 10.0, "the guard did not kill a stopped server"  # 1 s, if not busy
        time.sleep(0.01)
    gone_s = time.monotonic() - stopped_s
    plane.wait_bound(200, namespace, timeout_s=30)
    took_s = time.monotonic() - stopped_s
    print(f"\nstopped server gone after {gone_s:.2f} s; 150 pods bound in {took_s:.2f} s: {150 / took_s:.0f} pods/s")


def service_pod(name: str, namespace: str, **spec: Any) -> Json:
    return {
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": "web"},
            "annotations": {"nodewise.dev/sla-class": "production"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9f7c6b8",
                                 "uid": "11111111-1111-1111-1111-111111111111", "controller": True}],
        },
        "spec": {
            "schedulerName": "nodewise",
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "containers": [{"name": "main", "image": "web", "resources": {"requests": {"cpu": "250m"}}}],
            **spec,
        },
    }  # fmt: skip


def pool_nodes(count: int, **more: Any) -> list[Json]:
    """Nodes of four zones; the even ones are cheap and so the extender's choice, the odd ones of pool b are dear."""
    made = []
    for k in range(count):
        cheap = k % 2 == 0
        extra = {} if cheap else more
        manifest = node_manifest(
            f"node-{k:02d}", cpu_milli=16000, memory_bytes=2**35, instance_type="cheap" if cheap else "dear",
            zone=f"zone-{k // 2 % 4}", price_usd_per_h=(0.4 if cheap else 1.2) + 0.001 * k, idle_w=10, peak_w=100,
            **extra,
        )  # fmt: skip
        manifest["metadata"]["labels"]["pool"] = "a" if cheap else "b"
        made.append(manifest)
    return made


def test_ten_replicas_of_a_production_deployment_are_spread(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    plane.create_nodes(pool_nodes(12))
    wait_for_nodes(extender, 12)
    start_scheduler(extender.url)
    plane.create_pods([service_pod(f"web-{k}", namespace) for k in range(10)])
    on = Counter(plane.wait_bound(10, namespace).values())
    print(f"\nreplicas by node: {sorted(on.values(), reverse=True)}")
    assert max(on.values()) <= 3


def affinity(**parts: Any) -> Json:
    return {"affinity": parts}


PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
MATCH_WEB = {"matchLabels": {"app": "web"}}


def place_40(
    plane: ControlPlane, namespace: str, start: StartScheduler, extender: Running, nodes: list[Json], spec: Json
) -> list[tuple[str, dict[str, float]]]:
    """(bound node, our score by node) of 40 pods in order of decision, created one after the other."""
    plane.create_nodes(nodes)
    wait_for_nodes(extender, len(nodes))
    start(extender.url)
    for k in range(40):
        plane.create_pods([service_pod(f"web-{k}", namespace, **spec)])
        plane.wait_bound(k + 1, namespace)
    decided, bound = extender.decisions(), bound_nodes(plane, namespace)
    assert set(decided) == set(bound)
    return [(bound[uid], dict(zip(line["candidates"], line["scores"], strict=True))) for uid, line in decided.items()]


def test_preferred_node_affinity_is_honoured_and_our_best_of_the_preferred_wins(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    prefer = {"weight": 1, "preference": {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["b"]}]}}
    nodes = pool_nodes(24)
    preferred = {n["metadata"]["name"] for n in nodes if n["metadata"]["labels"]["pool"] == "b"}
    spec = affinity(nodeAffinity={PREFERRED: [prefer]})
    placed = place_40(plane, namespace, start_scheduler, extender, nodes, spec)
    assert sum(node in preferred for node, _ in placed) == 40
    assert sum(scores[node] == max(scores[n] for n in preferred) for node, scores in placed) == 40


def test_prefer_no_schedule_is_honoured_and_our_best_of_the_untainted_wins(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    nodes = pool_nodes(24)
    for node in nodes[::2]:  # the cheap ones, which we would choose
        node["spec"] = {"taints": [{"key": "keep", "value": "off", "effect": "PreferNoSchedule"}]}
    free = {n["metadata"]["name"] for n in nodes[1::2]}
    placed = place_40(plane, namespace, start_scheduler, extender, nodes, {})
    assert sum(node in free for node, _ in placed) == 40
    assert sum(scores[node] == max(scores[n] for n in free) for node, scores in placed) == 40


def test_preferred_anti_affinity_is_honoured_and_our_best_of_the_free_nodes_wins(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    term = {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": MATCH_WEB}}
    spec = affinity(podAntiAffinity={PREFERRED: [term]})
    placed = place_40(plane, namespace, start_scheduler, extender, pool_nodes(60), spec)
    assert len({node for node, _ in placed}) == 40
    taken: set[str] = set()
    best = 0
    for node, scores in placed:
        best += scores[node] == max(score for name, score in scores.items() if name not in taken)
        taken.add(node)
    assert best == 40


def test_schedule_anyway_spread_is_honoured_and_our_best_of_the_zone_wins(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    constraint = {
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": MATCH_WEB,
    }  # fmt: skip
    nodes = pool_nodes(24)
    zone = {n["metadata"]["name"]: n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in nodes}
    spec = {"topologySpreadConstraints": [constraint]}
    placed = place_40(plane, namespace, start_scheduler, extender, nodes, spec)
    assert sorted(Counter(zone[node] for node, _ in placed).values()) == [10, 10, 10, 10]
    held: Counter[str] = Counter(dict.fromkeys(zone.values(), 0))
    best = 0
    for node, scores in placed:
        fewest = {name for name in scores if held[zone[name]] == min(held.values())}
        best += scores[node] == max(scores[name] for name in fewest)
        held[zone[node]] += 1
    assert best == 40


def test_a_pod_of_another_scheduler_never_reaches_the_extender(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    plane.create_nodes(pool_nodes(6))
    wait_for_nodes(extender, 6)
    start_scheduler(extender.url)
    start_scheduler(None, scheduler_name="default-scheduler", stock=True)
    others = [service_pod(f"other-{k}", namespace, schedulerName="default-scheduler") for k in range(5)]
    ours = [service_pod(f"ours-{k}", namespace) for k in range(5)]
    plane.create_pods(others + ours)
    plane.wait_bound(10, namespace)
    asked = {line["pod"] for line in extender.decisions().values()}
    assert asked == {f"ours-{k}" for k in range(5)}


def read_pods(plane: ControlPlane, namespace: str) -> dict[str, Json]:
    return {p["metadata"]["uid"]: p for p in plane.list_pods(namespace)}


@BY_ECONOMIC
@pytest.mark.usefixtures("priorities")
def test_the_simulated_scheduler_binds_100_pods_to_the_same_nodes_as_the_real_one(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Running
) -> None:
    nodes, pods = hetero_pods(100, namespace)
    plane.create_nodes(nodes)
    wait_for_nodes(extender, 60)
    start_scheduler(extender.url)
    order = []
    for k, pod in enumerate(pods):
        order.append(plane.create_pods([pod])[0]["metadata"]["uid"])
        plane.wait_bound(k + 1, namespace)
    decided, seen = extender.decisions(), read_pods(plane, namespace)
    made = world("real", 0, list(nodes), (), [], warm=0)
    direct = Direct(made, DEFAULT, DEFAULT)
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, np.random.default_rng(0))
    differ = []
    for uid in order:
        manifest = seen[uid]
        real = manifest["spec"].pop("nodeName")
        simulated = SimPod(manifest, pod_request(manifest)[0], np.ones(5), 0.0)
        chosen = scheduler.schedule(simulated, decided[uid]["time_s"] if uid in decided else 0.0)
        direct.state.place(simulated.request, chosen or "")
        if chosen != real:
            differ.append((simulated.request.name, chosen, real))
    assert differ == []


@pytest.mark.usefixtures("priorities")
def test_kube_default_scores_as_the_stock_scheduler_does(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    """Without any extender the node bound is among those that our port of the in-tree scores puts on top."""
    nodes, pods = hetero_pods(100, namespace, seed=2)
    plane.create_nodes(nodes)
    start_scheduler(None, stock=True)
    state = ClusterState(RunTimeEstimator())
    for node in nodes:
        state.put_node(node_spec(node))
    made = world("real", 0, list(nodes), (), [], warm=0)
    feasible = KubeScheduler(made.nodes, Direct(made, DEFAULT, DEFAULT), state.view, np.random.default_rng(0))
    ties = 0
    for k, pod in enumerate(pods):
        uid = plane.create_pods([pod])[0]["metadata"]["uid"]
        plane.wait_bound(k + 1, namespace)
        manifest = read_pods(plane, namespace)[uid]
        real = manifest["spec"].pop("nodeName")
        request = pod_request(manifest)[0]
        passes = feasible.feasible(SimPod(manifest, request, np.ones(5), 0.0))
        scores = in_tree(request, state.view(request, 0.0), passes)
        top = passes[scores == scores.max()]
        assert state.rows([real])[0] in top, (request.name, real)
        ties += len(top) > 1
        feasible.assume(request, real)
        state.place(request, real)
    print(f"\n{ties} of 100 decided by a random tie")
