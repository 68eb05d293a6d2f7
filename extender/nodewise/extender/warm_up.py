"""A few decisions on a made-up cluster, so that the first real one is not the slowest."""

from __future__ import annotations

from nodewise.core.decide import decide
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import node_spec, pod_request
from nodewise.core.state import ClusterState
from nodewise.core.types import Policy

_SIZES = (1, 2, 100)


def warm_up(policy: Policy, rule: Policy) -> None:
    """Let `policy` and `rule` decide for clusters of several sizes; whatever they say or raise is of no interest."""
    for size in _SIZES:
        state = ClusterState(RunTimeEstimator())
        for k in range(size):
            labels = {"kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": f"type-{k % 4}"}
            room = {"cpu": "8", "memory": "32Gi"}
            state.put_node(
                node_spec({"metadata": {"name": f"node-{k}", "labels": labels}, "status": {"allocatable": room}})
            )
        containers = [{"name": "main", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]
        pod = {"metadata": {"uid": "warm-up", "name": "warm-up"}, "spec": {"containers": containers}}
        request, _ = pod_request(pod)
        decide(request, state.view(request, 0.0), state.rows(f"node-{k}" for k in range(size)), policy, rule)
