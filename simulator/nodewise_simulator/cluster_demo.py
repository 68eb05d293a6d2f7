"""The demo through a real control plane: etcd, kube-apiserver and kube-scheduler, and a kubelet that knows the truth.

`hetero` in real time, its run times shortened: the same pods arrive at the same moments for every policy, the real
kube-scheduler asks the extender process and binds, and the kubelet lets each pod run for its hidden time on the class
of its node. Contention is not played: a kubelet that fakes containers cannot slow them down. `kube-default` is the
stock scheduler without any extender.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator import scenarios
from nodewise_simulator.compare import Row, rows_of
from nodewise_simulator.controlplane import ControlPlane, Kubelet, scheduler_config
from nodewise_simulator.demo import POLICIES, Progress, worth_explaining
from nodewise_simulator.engine import Outcome
from nodewise_simulator.metrics import Result, measure
from nodewise_simulator.processes import ExtenderProcess
from nodewise_simulator.scenarios.hetero import PRIORITY_CLASSES
from nodewise_simulator.world import Json, SimPod, World

_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Started:
    node: str
    at_s: float
    run_s: float


def cluster_demo(
    seed: int = 1, *, pods: int = 600, warm: int = 300, pace: float = 8.0, progress: Progress = lambda *_: None
) -> tuple[list[Row], Any]:
    """Each policy in turn on a control plane of its own; the rows (one seed: no intervals) and one explanation.

    Raises UserError if the control-plane programs are missing or a run does not end.
    """
    made = scenarios.make(f"hetero@pods={pods},warm={warm},pace={pace}", seed)
    results, explained = [], None
    for name in POLICIES:
        label = f"{name} on a real cluster"
        result, told = _run(made, name, lambda k, label=label: progress(label, k, len(made.pods)))  # type: ignore[misc]
        results.append(result)
        explained = told or explained
    return rows_of(f"hetero@pace={pace:g} on kube-scheduler", POLICIES, [results], POLICIES[0]), explained


def _run(made: World, policy: str, progress: Callable[[int], None]) -> tuple[Result, Any]:
    truth = {p.request.name: p for p in made.pods}
    node_class = {n.name: made.class_of[n.node_class] for n in made.nodes}
    started: dict[str, _Started] = {}

    def run_s(pod: Json, node: str) -> float:
        name = pod["metadata"]["name"]
        taken_s = float(truth[name].true_run_s[node_class[node]])
        started[name] = _Started(node, time.time(), taken_s)
        return taken_s

    flags = () if policy == "kube-default" else ("--policy", policy)
    with real_cluster(made, flags) as (plane, extender), Kubelet(plane.url, plane.token, run_s):
        begin_s = _play(made, plane, started, progress)
        last = worth_explaining(made)
        told = extender.get(f"/explain/default/{last}") if extender and policy == POLICIES[-1] else None
        return _result(made, policy, started, begin_s), told


def _play(made: World, plane: ControlPlane, started: Mapping[str, _Started], progress: Callable[[int], None]) -> float:
    """Create each pod at its moment and wait for the last to start; the time at which the trace's clock stood at 0."""
    begin_s = time.time() - made.pods[0].request.created_s + 0.5
    created = 0
    patience_s = math.inf
    while len(started) < len(made.pods):
        now_s = time.time() - begin_s
        due = [p for p in made.pods[created : created + 200] if p.request.created_s <= now_s]
        plane.create_pods([fresh(p) for p in due])
        created += len(due)
        progress(len(started))
        if created == len(made.pods):
            patience_s = min(patience_s, now_s + _PATIENCE_S)
        if now_s > patience_s:
            raise UserError(
                f"only {len(started)} of {created} pods started within {_PATIENCE_S:g} s of the last arrival; "
                "the machine is too slow for this pace, take a smaller --pods"
            )
        time.sleep(0.05)
    progress(created)
    return begin_s


def _result(made: World, policy: str, started: Mapping[str, _Started], begin_s: float) -> Result:
    """Pods that still run are not waited for: nothing slows them, so they end when their run time is over."""
    outcomes = []
    for index, pod in enumerate(made.pods):
        own = started[pod.request.name]
        at_s = own.at_s - begin_s
        outcomes.append(Outcome(index, own.node, at_s, at_s, at_s + own.run_s))
    metrics = {k: v for k, v in measure(made, outcomes).items() if k != "energy_idle"}
    return Result(made.scenario, policy, made.seed, metrics, tuple(o.node for o in outcomes))


@contextmanager
def real_cluster(
    made: World, flags: Sequence[str], *, objects: Sequence[tuple[str, Json]] = (), **more: Any
) -> Iterator[tuple[ControlPlane, ExtenderProcess | None]]:
    """A control plane with the nodes of a world and a kube-scheduler, which asks an extender that has these flags.

    Without flags it is the stock scheduler, and nobody is asked. `objects` are made before it starts, each POSTed to
    its path; further arguments are those of `scheduler_config`. Raises UserError if a program is missing.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodewise-cluster-")))
        plane = stack.enter_context(ControlPlane())
        plane.create_nodes(made.node_manifests)
        create_priority_classes(plane)
        for path, body in objects:
            plane.call("POST", path, body)
        extender = stack.enter_context(ExtenderProcess(plane.kubeconfig, folder, *flags)) if flags else None
        url = f"http://127.0.0.1:{extender.port}" if extender else None
        plane.start_scheduler(scheduler_config(plane.kubeconfig, url, stock=extender is None, **more))
        yield plane, extender


def fresh(pod: SimPod) -> Json:
    """The manifest as a user would create it: what the API server sets itself is left out."""
    meta, spec = pod.manifest["metadata"], pod.manifest["spec"]
    kept = {k: v for k, v in meta.items() if k in ("name", "namespace", "annotations", "ownerReferences")}
    sla = meta["annotations"]["nodewise.dev/sla-class"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": kept,
        "spec": {k: v for k, v in spec.items() if k != "priority"} | {"priorityClassName": sla},
    }


def create_priority_classes(plane: ControlPlane) -> None:
    """The PriorityClasses that the pods of `hetero` name."""
    for name, value in PRIORITY_CLASSES.items():
        body = {"metadata": {"name": name}, "value": value, "preemptionPolicy": "Never"}
        plane.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
