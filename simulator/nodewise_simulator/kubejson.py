"""What an API server would hold at a moment of a simulated run: nodes and pods as Kubernetes JSON."""

from __future__ import annotations

import math

from nodewise.core.units import stamp
from nodewise_simulator.world import Json, SimPod


def bound_pod(pod: SimPod, node: str, started_s: float) -> Json:
    """The pod on its node, as its kubelet reports it: Running since `started_s`, or waiting there if that is nan."""
    state: Json = {"waiting": {"reason": "ContainerCreating"}}
    phase = "Pending"
    if not math.isnan(started_s):
        state, phase = {"running": {"startedAt": stamp(started_s)}}, "Running"
    return _with(pod, node, {"phase": phase, "containerStatuses": [{"name": "main", "state": state}]})


def finished_pod(pod: SimPod, node: str, started_s: float, finished_s: float) -> Json:
    """The pod after it succeeded."""
    over = {"exitCode": 0, "reason": "Completed", "startedAt": stamp(started_s), "finishedAt": stamp(finished_s)}
    status = {"phase": "Succeeded", "containerStatuses": [{"name": "main", "state": {"terminated": over}}]}
    return _with(pod, node, status)


def _with(pod: SimPod, node: str, status: Json) -> Json:
    return {**pod.manifest, "spec": {**pod.manifest["spec"], "nodeName": node}, "status": status}
