"""Train/serve skew: what a policy is shown is the same from a simulated cluster and from its Kubernetes JSON."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from nodewise.core.decide import decide
from nodewise.core.pods import node_spec, pod_state
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView
from nodewise.policies import DEFAULT
from nodewise_simulator import scenarios
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.kubejson import bound_pod
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, World

Json = dict[str, Any]


class Recorder(Direct):
    """Keeps the cluster's JSON beside the simulated state and compares both at some decisions."""

    def __init__(self, world: World) -> None:
        super().__init__(world, DEFAULT, DEFAULT)
        self.world = world
        self.objects: dict[str, Json] = {}
        self.compared = 0

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        if len(self.took_s) % 40 == 39:
            own = self.state.view(pod.request, now_s)
            rebuilt = self.rebuild()
            other = rebuilt.view(pod.request, now_s)
            assert_same(own, other)
            rows = self.state.rows(names)
            mine, theirs = (decide(pod.request, view, rows, DEFAULT, DEFAULT) for view in (own, other))
            assert mine.reply == theirs.reply
            np.testing.assert_array_equal(mine.scores, theirs.scores)
            self.compared += 1
        return super().prioritize(pod, names, now_s)

    def rebuild(self) -> ClusterState:
        """A state fed with JSON as a list would bring it: nodes by name, pods by namespace and name."""
        state = ClusterState(self.state.estimator)
        for manifest in self.world.node_manifests:
            state.put_node(node_spec(manifest))
        for _, manifest in sorted(self.objects.items()):
            seen = pod_state(manifest)
            if seen.node:
                state.place(seen.request, seen.node, seen.started_s)
            else:
                state.queue(seen.request)
        state.sequence = self.state.sequence
        return state

    def created(self, pod: SimPod) -> None:
        super().created(pod)
        self.objects[pod.request.name] = pod.manifest

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        super().bound(pod, node, now_s, started_s)
        self.objects[pod.request.name] = bound_pod(pod, node, started_s)

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        super().finished(pod, started_s, finished_s)
        del self.objects[pod.request.name]


def assert_same(own: ClusterView, other: ClusterView) -> None:
    for field in fields(own.nodes):
        mine, theirs = getattr(own.nodes, field.name), getattr(other.nodes, field.name)
        if field.name == "resident_owner":  # ids are given in order of appearance; only who shares one matters
            mine, theirs = (np.unique(x, return_inverse=True)[1] for x in (mine, theirs))
            assert len(mine) == len(theirs)
        elif isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
        else:
            assert mine == theirs, field.name
    np.testing.assert_array_equal(own.queued_by_sla, other.queued_by_sla)
    assert own.now_s == other.now_s
    assert own.belief_row == other.belief_row


def test_the_view_rebuilt_from_kubernetes_json_is_identical_and_so_is_the_decision() -> None:
    made = scenarios.make("hetero@pods=500,warm=100,load=0.9", 1)
    recorder = Recorder(made)
    rng = np.random.default_rng(0)
    Engine(made, KubeScheduler(made.nodes, recorder, recorder.state.view, rng), recorder).run()
    assert recorder.compared >= 10
