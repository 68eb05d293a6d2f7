"""An intake on a store of its own, and what it is given."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise import policies
from nodewise.channel.messages import DecisionRow
from nodewise.core.state import ClusterState
from nodewise_operator.intake import Intake, node_item, pod_item
from nodewise_operator.observed import Observer
from nodewise_operator.predictor import Predictor
from nodewise_operator.store import Store
from nodewise_operator.store.rows import PodRow
from nodewise_simulator.controlplane import node, pod

Json = dict[str, Any]
GIB = 1 << 30
_version = iter(range(1, 1 << 30))


def versioned(made: Json, uid: str) -> Json:
    made = copy.deepcopy(made)
    made["metadata"] |= {
        "uid": uid,
        "resourceVersion": str(next(_version)),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return made


def a_node(name: str, **more: Any) -> Json:
    return versioned(
        node(name, cpu_milli=4000, memory_bytes=16 * GIB, instance_type=f"type-{name}", **more), f"node-{name}"
    )


def a_pod(uid: str, on: str = "", phase: str = "Pending", **more: Any) -> Json:
    made = versioned(pod(f"pod-{uid}", cpu_milli=1000, memory_bytes=GIB, scheduler_name="any", **more), uid)
    made["status"] = {"phase": phase, "conditions": []}
    if on:
        made["spec"]["nodeName"] = on
        when = "2026-01-01T00:00:02Z"
        made["status"]["conditions"].append({"type": "PodScheduled", "status": "True", "lastTransitionTime": when})
    ended = {"exitCode": 0, "startedAt": "2026-01-01T00:00:03Z", "finishedAt": "2026-01-01T00:00:13Z"}
    state = {"running": {"startedAt": ended["startedAt"]}} if phase == "Running" else {"terminated": ended}
    if phase in ("Running", "Succeeded"):
        made["status"]["containerStatuses"] = [{"name": "main", "restartCount": 0, "state": state}]
    return made


class Operated:
    """An intake on a store of its own, run in this thread until it has taken in all that it was given."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.store = Store.open(str(path))
        self.store.take_over("test")
        saves: list[Any] = []
        predictor = Predictor(save=lambda revision, state: saves[0](revision, state))
        predictor.restore(self.store)
        state = ClusterState(predictor.estimator)
        self.intake = Intake(self.store, predictor, Observer(policies.DEFAULT, policies.DEFAULT), state, **more)
        saves.append(self.intake.save_estimator)

    def begin(self, *pods: Json) -> "Operated":
        self.intake.replaced("nodes", [node_item(a_node(name)) for name in ("n1", "n2", "n3")])
        self.intake.replaced("pods", [pod_item(made) for made in pods])
        return self

    def event(self, kind: str, made: Json) -> None:
        self.intake.event("pods", kind, pod_item(made))

    def end(self) -> "Operated":
        self.intake.stop()
        self.intake.run()
        if self.intake.failed is not None:
            raise self.intake.failed
        return self

    def until(self, done: Callable[[], bool]) -> None:
        """Run it in a thread until then."""
        thread = threading.Thread(target=self.intake.run, daemon=True)
        thread.start()
        give_up_s = time.monotonic() + 20.0
        while not done() and thread.is_alive() and time.monotonic() < give_up_s:
            time.sleep(0.05)
        self.intake.stop()
        thread.join(10.0)
        if self.intake.failed is not None:
            raise self.intake.failed

    def idle(self) -> bool:
        return not self.intake.waiting and not self.intake.unwritten and self.intake.counts.events > 0

    def rows(self) -> dict[str, PodRow]:
        return {row.uid: row for row in self.store.pods()}

    def decisions(self) -> dict[str, list[DecisionRow]]:
        made: dict[str, list[DecisionRow]] = {}
        for decision in self.store.decisions():
            made.setdefault(decision.uid, []).append(decision)
        return made


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Callable[..., Operated]]:
    made: list[Operated] = []

    def make(**more: Any) -> Operated:
        if made:
            made[-1].store.close()
        made.append(Operated(tmp_path / "store.db", **more))
        return made[-1]

    yield make
    made[-1].store.close()


def lived(uid: str, on: str = "n1") -> list[tuple[str, Json]]:
    return [
        ("ADDED", a_pod(uid)),
        ("MODIFIED", a_pod(uid, on)),
        ("MODIFIED", a_pod(uid, on, "Running")),
        ("MODIFIED", a_pod(uid, on, "Succeeded")),
    ]


def told(uid: str, policy: str = "p") -> DecisionRow:
    return DecisionRow(
        uid=uid, namespace="default", pod=f"pod-{uid}", time_s=1.0, source="extender", mode="shadow", policy=policy,
        digest="d",
    )  # fmt: skip
