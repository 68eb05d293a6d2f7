"""The whole story of advice on a real control plane: watch, advise, do it, and compare with what was promised.

The operator watches a stock kube-scheduler place pods on nodes whose speeds only the kubelet knows. From what it
recorded it is asked what Nodewise would have gained. Then the same pods arrive again at the same moments, Nodewise
decides, and the gain that is seen is held against the one that was predicted.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import CostRates
from nodewise.kube.snapshot import Snapshot, read_snapshot
from nodewise.policies import LEARNED
from nodewise_simulator import scenarios
from nodewise_simulator.advise.advice import Advice, advise
from nodewise_simulator.advise.outcomes import METRICS, measured
from nodewise_simulator.cluster_demo import create_priority_classes, fresh
from nodewise_simulator.controlplane import ControlPlane, Kubelet, program, scheduler_config
from nodewise_simulator.engine import Outcome
from nodewise_simulator.processes import ExtenderProcess, OperatorProcess
from nodewise_simulator.run import resolve
from nodewise_simulator.world import Json, World

Progress = Callable[[str, int, int], None]

OPERATOR, EXTENDER = "nodewise-operator", "nodewise-extender"
"""Users of the API server, so that its audit log tells who wrote what."""
_STOCK, _OURS = "default-scheduler", "nodewise"
_PATIENCE_S = 300.0
_ENOUGH = 0.98
"""Share of the pods that must have ended before a run is over; the longest ones would hold it up for minutes."""
_HALF = 0.5
"""Share of the pods after which NodeProfiles are looked at."""


@dataclass(frozen=True, slots=True)
class ClassSpeed:
    """How fast a node class is relative to another, as it was learned and as it is."""

    node_class: str
    reference: str
    learned: float
    low: float
    high: float
    hidden: float
    samples: int


@dataclass(frozen=True, slots=True)
class CellTime:
    """What is believed of the run time of a workload on a node class, and what it is: in s, or per expected second."""

    workload: str
    node_class: str
    observations: float
    believed: float
    hidden: float
    """Median of the hidden run times of its pods."""

    @property
    def error(self) -> float:
        """Of the belief, as a share."""
        return self.believed / self.hidden - 1.0


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric: what was predicted to be gained, and what was."""

    metric: str
    before: float
    predicted: float
    low: float
    high: float
    achieved: float

    @property
    def inside(self) -> bool:
        """Whether the achieved gain lies in the predicted interval."""
        return self.low <= self.achieved <= self.high


@dataclass(frozen=True, slots=True)
class AdviseDemo:
    """What the demo showed."""

    advice: Advice
    speeds: tuple[ClassSpeed, ...]
    cells: tuple[CellTime, ...]
    compared: tuple[Compared, ...]
    conserved: Json
    """What `nodewise data check` says after both runs."""
    writes: Mapping[str, int]
    """Writes to Pods and Nodes in the API server's audit log, by user."""


@dataclass(slots=True)
class _Run:
    """What the kubelet did in one of the two runs."""

    begin_s: float = 0.0
    started: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    """Name → node, start (epoch seconds), run time."""


def advise_demo(
    seed: int = 1, *, pods: int = 600, pace: float = 6.0, progress: Progress = lambda *_: None
) -> AdviseDemo:
    """Run the story once. Raises UserError if the control-plane programs are missing or a run does not end."""
    made = scenarios.make(f"hetero@classes=4,size=0.5,load=0.6,pods={pods},warm=0,pace={pace}", seed)
    truth = {p.request.name: p for p in made.pods}
    column = {n.name: made.class_of[n.node_class] for n in made.nodes}
    run = _Run()

    def run_s(pod: Json, node: str) -> float:
        name = pod["metadata"]["name"]
        taken_s = float(truth[name].true_run_s[column[node]])
        run.started[name] = (node, time.time(), taken_s)
        return taken_s

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodewise-demo-")))
        plane = stack.enter_context(ControlPlane(users=(OPERATOR, EXTENDER), audit=True))
        plane.create_nodes(made.node_manifests)
        create_priority_classes(plane)
        _apply(plane, _command("crds"))
        _grant(plane)
        store = folder / "store.db"
        operator = stack.enter_context(
            OperatorProcess(plane.user_kubeconfig(OPERATOR), folder, "--store", str(store), "--channel-unauthenticated")
        )
        kubelet = stack.enter_context(Kubelet(plane.url, plane.token, run_s))
        stock = scheduler_config(plane.kubeconfig, None, scheduler_name=_STOCK, stock=True)
        plane.start_scheduler(stock)

        profiles = _Profiles(plane, _HALF * pods)

        def watched(ended: int) -> None:
            progress("stock kube-scheduler", ended, pods)
            profiles.look()

        before = _play(made, plane, kubelet, run, _STOCK, watched)
        _settle(store, pods)
        speeds = tuple(_speed(name, status, made) for name, status in profiles.wait().items())
        snapshot = _snapshot(store, folder)
        advice = advise(
            snapshot, resolve(LEARNED)[0], baseline="recorded", progress=lambda k, n: progress("replays", k, n)
        )
        cells = _cells(advice, made)

        plane.delete_pods("default")
        run.started.clear()
        flags = ("--operator-url", f"http://127.0.0.1:{operator.port}", "--policy", LEARNED)
        extender = stack.enter_context(ExtenderProcess(plane.user_kubeconfig(EXTENDER), folder, *flags))
        plane.start_scheduler(scheduler_config(plane.kubeconfig, f"http://127.0.0.1:{extender.port}"))
        after = _play(made, plane, kubelet, run, _OURS, lambda k: progress("Nodewise decides", k, pods))
        _settle(store, 2 * pods)
        conserved = json.loads(_command("data", "check", str(store), "--output", "json"))
        writes = {user: _writes(plane, user) for user in (OPERATOR, EXTENDER)}
    gains = before.mean(axis=0) - after.mean(axis=0)
    compared = []
    for k, metric in enumerate(METRICS):
        told = advice.total.gains[metric]
        times = 1.0 if metric == "completion" else float(pods)
        compared.append(
            Compared(metric, before[:, k].mean() * times, told.mean, told.low, told.high, float(gains[k]) * times)
        )
    return AdviseDemo(advice, speeds, cells, tuple(compared), conserved, writes)


def _play(
    made: World, plane: ControlPlane, kubelet: Kubelet, run: _Run, scheduler: str, progress: Callable[[int], None]
) -> np.ndarray[Any, Any]:
    """Create each pod at its moment, and wait until all run and nearly all have ended; outcomes [P, metrics].

    Nothing slows a pod here, so those that still run end when the kubelet says.
    """
    first = len(kubelet.finished)
    run.begin_s = time.time() - made.pods[0].request.created_s + 0.5
    created = 0
    deadline_s = time.time() + made.pods[-1].request.created_s + _PATIENCE_S
    while (ended := len(kubelet.finished) - first) < _ENOUGH * len(made.pods) or len(run.started) < len(made.pods):
        now_s = time.time() - run.begin_s
        due = [p for p in made.pods[created : created + 200] if p.request.created_s <= now_s]
        plane.create_pods([_for_scheduler(fresh(p), scheduler) for p in due])
        created += len(due)
        progress(ended)
        if time.time() > deadline_s:
            raise UserError(
                f"only {ended} of {len(made.pods)} pods ended in time; the machine is too slow: fewer --pods"
            )
        time.sleep(0.05)
    progress(ended)
    outcomes = []
    for index, pod in enumerate(made.pods):
        node, at_s, taken_s = run.started[pod.request.name]
        at_s -= run.begin_s
        outcomes.append(Outcome(index, node, at_s, at_s, at_s + taken_s))
    return measured(made, outcomes, range(len(made.pods)), CostRates())


def _grant(plane: ControlPlane) -> None:
    """Give both users the rights that they need, and no others."""
    watch, ours = ["get", "list", "watch"], "nodewise.dev"
    rights = {
        OPERATOR: [
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": watch},
            {
                "apiGroups": [ours],
                "resources": ["nodeprofiles", "placementpolicies"],
                "verbs": [*watch, "patch", "create"],
            },
            {"apiGroups": [ours], "resources": ["nodeprofiles/status", "placementpolicies/status"], "verbs": ["patch"]},
        ],
        EXTENDER: [
            {"apiGroups": [""], "resources": ["pods", "nodes", "namespaces"], "verbs": watch},
            {"apiGroups": [ours], "resources": ["placementpolicies", "nodeprofiles"], "verbs": watch},
        ],
    }
    group = "rbac.authorization.k8s.io"
    for user, rules in rights.items():
        plane.call("POST", f"/apis/{group}/v1/clusterroles", {"metadata": {"name": user}, "rules": rules})
        subject = {"kind": "User", "name": user, "apiGroup": group}
        role = {"kind": "ClusterRole", "name": user, "apiGroup": group}
        body = {"metadata": {"name": user}, "subjects": [subject], "roleRef": role}
        plane.call("POST", f"/apis/{group}/v1/clusterrolebindings", body)


def _writes(plane: ControlPlane, user: str) -> int:
    """Requests of a user that would change a Pod or a Node."""
    read = ("get", "list", "watch")
    return sum(
        event["verb"] not in read and event.get("objectRef", {}).get("resource") in ("pods", "nodes")
        for event in plane.audited(user)
    )


def _for_scheduler(manifest: Json, name: str) -> Json:
    return {**manifest, "spec": {**manifest["spec"], "schedulerName": name}}


def _settle(store: Path, pods: int) -> None:
    """Wait until the operator has written what the cluster shows: that many pods, and most of their ends."""
    for _ in range(60):
        told = json.loads(_command("data", "check", str(store), "--output", "json"))["rows"][0]
        if told["decided"] >= pods and told["running"] <= (1.0 - _ENOUGH) * pods:
            return
        time.sleep(0.5)
    raise UserError(f"the operator did not write the fates of {pods} pods within 30 s: {told}")


def _snapshot(store: Path, folder: Path) -> Snapshot:
    path = folder / "snapshot.json"
    path.write_text(_command("snapshot", "--store", str(store)))
    return read_snapshot(path)


class _Profiles:
    """The NodeProfiles as the operator first wrote them from at least so many finished pods, by class."""

    def __init__(self, plane: ControlPlane, pods: float) -> None:
        self._plane, self._pods = plane, pods
        self._looked_s = 0.0
        self.found: dict[str, Json] = {}

    def look(self) -> None:
        """See whether they are there; does nothing more often than once in two seconds."""
        if self.found or time.monotonic() - self._looked_s < 2.0:
            return
        self._looked_s = time.monotonic()
        items = self._plane.call("GET", "/apis/nodewise.dev/v1alpha1/nodeprofiles")["items"]
        learned = {p["spec"]["nodeClass"]: p["status"] for p in items if (p.get("status") or {}).get("overall")}
        if sum(status.get("sampleCount", 0) for status in learned.values()) >= self._pods:
            self.found = dict(sorted(learned.items()))

    def wait(self) -> dict[str, Json]:
        """Look until they are there. Raises UserError if they do not come."""
        for _ in range(60):
            self.look()
            if self.found:
                return self.found
            time.sleep(1.0)
        raise UserError("the operator did not write its NodeProfiles within 60 s")


def _speed(node_class: str, status: Json, made: World) -> ClassSpeed:
    """The hidden speed is the mean over the same workloads, in logs, as the learned one is."""
    told = status["overall"]
    reference = status["referenceClass"]
    here, there = made.class_of[node_class], made.class_of[reference]
    names = [w["workload"] for w in status["workloads"]]
    logs = []
    for name in names:
        runs = next(p.true_run_s for p in made.pods if p.request.workload == name)
        logs.append(np.log(runs[there] / runs[here]))
    return ClassSpeed(
        node_class, reference, told["speed"], told["lower"], told["upper"], float(np.exp(np.mean(logs))),
        status["sampleCount"],
    )  # fmt: skip


def _cells(advice: Advice, made: World) -> tuple[CellTime, ...]:
    """The cells that were seen, those with fewest observations first."""
    estimator = advice.recording.estimator
    known = estimator.posterior()
    cells = []
    for w, (workload, described) in enumerate(estimator.workloads):
        pods = [p for p in made.pods if p.request.workload == workload]
        per = np.array([p.request.expected_run_s if described else 1.0 for p in pods])
        for c, name in enumerate(estimator.node_classes):
            if pods and known.observations[w, c] > 0.0:
                hidden = np.array([p.true_run_s[made.class_of[name]] for p in pods]) / per
                believed = float(np.exp(known.log_mean[w, c]))
                cells.append(
                    CellTime(workload, name, float(known.observations[w, c]), believed, float(np.median(hidden)))
                )
    return tuple(sorted(cells, key=lambda cell: cell.observations))


def _command(*words: str) -> str:
    """What `nodewise WORDS` prints. Raises UserError with what it complains of."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "nodewise.cli.main", *words], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise UserError(f"nodewise {' '.join(words)} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _apply(plane: ControlPlane, manifests: str) -> None:
    """`kubectl apply`, and wait until the custom resources are served."""
    kubectl = [str(program("kubectl")), "--kubeconfig", str(plane.kubeconfig)]
    apply = [*kubectl, "apply", "--server-side", "-f", "-"]
    subprocess.run(apply, input=manifests, text=True, check=True, capture_output=True)  # noqa: S603
    wait = [*kubectl, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]
    subprocess.run(wait, check=True, capture_output=True)  # noqa: S603
