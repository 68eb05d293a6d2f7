"""Two schedulers on one cluster: what one's preemption made room for, and whether the other takes it.

Neither sees what the other one promises. Dedicated nodes keep them apart; on shared ones the extender can only say
where our pods should rather go.
"""

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise_simulator.controlplane import ApiError, ControlPlane, Kubelet, Scheduler, pod, taint
from nodewise_simulator.processes import ExtenderProcess
from nodewise_simulator.world import node_manifest

Json = dict[str, Any]
StartScheduler = Callable[..., Scheduler]

GIB = 1 << 30
DEDICATED = "nodewise.dev/dedicated"
URGENT, IDLE = ("urgent", 1000), ("idle", -10)
MERGE = "application/merge-patch+json"
QUIET_S = 6.0
"""A preemptor that is not bound so long after the others has lost its room: it was tried again several times."""


@pytest.fixture(autouse=True)
def priorities(plane: ControlPlane) -> None:
    for name, value in (URGENT, IDLE):
        with contextlib.suppress(ApiError):  # they outlive a test
            plane.call(
                "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": name}, "value": value}
            )


class Extender:
    """A running extender."""

    def __init__(self, process: ExtenderProcess) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{process.port}"

    def sees(self, nominated: int) -> bool:
        """Whether it charges so many pods to the nodes that they are nominated to."""
        return f"nodewise_extender_pods_nominated {float(nominated)}" in (self.process.get("/metrics") or "")


@pytest.fixture
def extender(plane: ControlPlane, tmp_path: Path) -> Iterator[Extender]:
    with ExtenderProcess(plane.kubeconfig, tmp_path) as process:
        yield Extender(process)


def machine(name: str, price_usd_per_h: float, *, dedicated: bool = False) -> Json:
    """Four cores; the cheaper, the more our policy wants it."""
    made = node_manifest(
        name, cpu_milli=4000, memory_bytes=16 * GIB, instance_type=name.partition("-")[0],
        price_usd_per_h=price_usd_per_h, idle_w=10, peak_w=100, taints=(taint(DEDICATED, "true"),) if dedicated else (),
    )  # fmt: skip
    made["metadata"]["labels"][DEDICATED] = str(dedicated).lower()
    return made


def theirs(name: str, namespace: str, cpu_milli: int, priority: tuple[str, int]) -> Json:
    """A pod of the default scheduler; one that is deleted goes when its kubelet says so."""
    made = pod(
        name, cpu_milli=cpu_milli, memory_bytes=GIB // 4, namespace=namespace, scheduler_name="default-scheduler"
    )
    made["spec"] |= {"priorityClassName": priority[0], "terminationGracePeriodSeconds": 30}
    return made


def ours(name: str, namespace: str, *, dedicated: bool = False, priority: str = "") -> Json:
    """A batch pod of one core, as the opt-in policy leaves it."""
    tolerated = {"key": DEDICATED, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": "work", "uid": "1", "controller": True}
    made = pod(
        name, cpu_milli=1000, memory_bytes=GIB // 4, namespace=namespace, owner=job,
        annotations={"nodewise.dev/expected-seconds": "600"}, tolerations=[tolerated] if dedicated else [],
    )  # fmt: skip
    made["spec"]["nodeSelector"] = {"kubernetes.io/arch": "amd64"} | ({DEDICATED: "true"} if dedicated else {})
    if priority:
        made["spec"]["priorityClassName"] = priority
    return made


def bound(plane: ControlPlane, namespace: str, name: str) -> dict[str, str]:
    """Node by name of the pods that begin with `name` and have one."""
    pods = plane.list_pods(namespace)
    return {
        p["metadata"]["name"]: p["spec"]["nodeName"]
        for p in pods
        if p["metadata"]["name"].startswith(name) and "nodeName" in p["spec"]
    }


def wait(reached: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    limit_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < limit_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def duel(
    plane: ControlPlane, namespace: str, start: StartScheduler, our_nodes: list[Json], our_pods: list[Json],
    extender: Extender | None = None, *, lost: int = 0,
) -> tuple[int, Counter[str], str]:  # fmt: skip
    """Three preemptors get a node each; our pods come when the rooms are free, before the preemptors are tried again.

    At most `lost` preemptors may be left. Returns how many were bound, our pods by kind of node, and what a preemptor
    that was not bound is told.
    """
    plane.create_nodes([*(machine(f"room-{k}", 0.05) for k in range(3)), *our_nodes])
    default = start(None, scheduler_name="default-scheduler", stock=True)
    victims = [theirs(f"victim-{k}", namespace, 1000, IDLE) for k in range(12)]
    preemptors = [theirs(f"preemptor-{k}", namespace, 4000, URGENT) for k in range(3)]
    for each in (*victims, *preemptors):
        each["spec"]["nodeSelector"] = {"node.kubernetes.io/instance-type": "room"}
    plane.create_pods(victims)
    plane.wait_bound(12, namespace)
    plane.create_pods(preemptors)

    def nominated() -> set[str]:
        return {p["status"].get("nominatedNodeName", "") for p in plane.list_pods(namespace)} - {""}

    def evicted() -> int:
        return sum("deletionTimestamp" in p["metadata"] for p in plane.list_pods(namespace))

    wait(lambda: len(nominated()) == 3 and evicted() == 12, "three nodes are nominated and their pods told to go")
    if extender:
        wait(lambda: extender.sees(3), "the extender sees three nominations")
    start(extender.url if extender else None)
    default.process.signal(signal.SIGSTOP)  # as it does in its back-off, but for as long as we like
    for victim in victims:
        path = f"/api/v1/namespaces/{namespace}/pods/{victim['metadata']['name']}"
        plane.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
    plane.create_pods(our_pods)
    wait(lambda: len(bound(plane, namespace, "ours")) == len(our_pods), "our pods are bound")
    default.process.signal(signal.SIGCONT)
    wait(lambda: len(bound(plane, namespace, "preemptor")) >= 3 - lost, f"all preemptors but {lost} are bound")
    time.sleep(QUIET_S if lost else 0.0)
    done = bound(plane, namespace, "preemptor")
    left = [
        p for p in plane.list_pods(namespace) if p["metadata"]["name"].startswith("pre") and "nodeName" not in p["spec"]
    ]
    why = left[0]["status"]["conditions"][0]["message"] if left else ""
    where = Counter(node.partition("-")[0] for node in bound(plane, namespace, "ours").values())
    print(f"\n{len(done)} of 3 preemptors bound; our pods: {dict(where)}; {why}")
    return len(done), where, why


def test_with_dedicated_nodes_every_preemptor_gets_the_room_it_made(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Extender
) -> None:
    nodes = [machine(f"own-{k}", 1.0, dedicated=True) for k in range(2)]
    pods = [ours(f"ours-{k}", namespace, dedicated=True, priority="urgent") for k in range(6)]
    done, where, _ = duel(plane, namespace, start_scheduler, nodes, pods, extender)
    assert (done, where) == (3, {"own": 6})


def test_with_shared_nodes_and_no_extender_preemptors_lose_their_room_and_stay_pending(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    """The control of the other tests, and what kube-scheduler does to any other kube-scheduler."""
    nodes = [machine(f"shared-{k}", 1.0) for k in range(2)]
    pods = [ours(f"ours-{k}", namespace, priority="urgent") for k in range(6)]
    done, where, why = duel(plane, namespace, start_scheduler, nodes, pods, lost=3)
    assert done < 3
    assert where["room"] >= 1
    assert "Insufficient cpu" in why


def test_with_shared_nodes_the_extender_keeps_our_pods_out_of_room_that_a_preemption_made(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Extender
) -> None:
    nodes = [machine(f"shared-{k}", 1.0) for k in range(2)]  # twenty times the price
    pods = [ours(f"ours-{k}", namespace, priority="urgent") for k in range(6)]
    done, where, _ = duel(plane, namespace, start_scheduler, nodes, pods, extender)
    assert (done, where) == (3, {"shared": 6})


def test_with_shared_nodes_that_are_full_the_extender_cannot_help_and_a_preemptor_stays_pending(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Extender
) -> None:
    """It says which node is better; that none is good enough only a filter could say."""
    nodes = [machine("shared-0", 1.0)]
    pods = [ours(f"ours-{k}", namespace, priority="urgent") for k in range(5)]
    done, where, why = duel(plane, namespace, start_scheduler, nodes, pods, extender, lost=1)
    assert (done, where) == (2, {"shared": 4, "room": 1})
    assert "Insufficient cpu" in why


def test_a_nomination_weighs_no_more_than_its_pod(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler, extender: Extender
) -> None:
    """Our pods stay away from the cheap node while a pod is nominated to it that matters as much, and no longer."""
    plane.create_nodes([machine("room-0", 0.05), machine("shared-0", 1.0)])
    start_scheduler(extender.url)
    path = f"/api/v1/namespaces/{namespace}/pods/preemptor"
    plane.create_pods([theirs("preemptor", namespace, 4000, ("", 0))])
    plane.call("PATCH", f"{path}/status", {"status": {"nominatedNodeName": "room-0"}}, MERGE)
    wait(lambda: extender.sees(1), "the extender sees the nomination")

    def place(name: str, priority: str = "") -> str:
        plane.create_pods([ours(name, namespace, priority=priority)])
        wait(lambda: name in bound(plane, namespace, "ours"), f"{name} is bound")
        return bound(plane, namespace, name)[name]

    assert place("ours-a") == "shared-0"
    assert place("ours-urgent", "urgent") == "room-0"
    assert place("ours-b") == "shared-0"
    plane.call("PATCH", f"{path}/status", {"status": {"nominatedNodeName": None}}, MERGE)
    wait(lambda: extender.sees(0), "the extender sees its end")
    assert place("ours-c") == "room-0"


def test_preemptors_are_bound_while_pods_of_ours_keep_coming(
    plane: ControlPlane, namespace: str, start_scheduler: StartScheduler
) -> None:
    """Both schedulers run throughout, and more of our pods wait than there is room for."""
    plane.create_nodes([machine(f"room-{k}", 0.05) for k in range(4)])
    plane.create_nodes([machine(f"own-{k}", 1.0, dedicated=True) for k in range(4)])
    with Kubelet(plane.url, plane.token, lambda *_: None):
        start_scheduler(None, scheduler_name="default-scheduler", stock=True)
        start_scheduler(None)
        plane.create_pods([theirs(f"victim-{k}", namespace, 1000, IDLE) for k in range(16)])
        plane.create_pods([ours(f"ours-{k}", namespace, dedicated=True, priority="urgent") for k in range(40)])
        plane.wait_bound(32, namespace)
        plane.create_pods([theirs(f"preemptor-{k}", namespace, 2000, URGENT) for k in range(8)])
        begin_s, more = time.monotonic(), 40
        while len(bound(plane, namespace, "preemptor")) < 8:
            assert time.monotonic() < begin_s + 30, "a preemptor stays pending"
            plane.create_pods(
                [ours(f"ours-{more + k}", namespace, dedicated=True, priority="urgent") for k in range(6)]
            )
            more += 6
            time.sleep(0.1)
    print(f"\n8 of 8 preemptors bound after {time.monotonic() - begin_s:.1f} s; {more - 16} pods of ours wait")
    assert {node.partition("-")[0] for node in bound(plane, namespace, "preemptor").values()} == {"room"}
    assert {node.partition("-")[0] for node in bound(plane, namespace, "ours").values()} == {"own"}
