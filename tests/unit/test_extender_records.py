"""What is kept for explanations is bounded in bytes, whatever makes views large."""

from dataclasses import replace

import numpy as np

from nodewise.core.decide import decide
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import pod_request
from nodewise.core.state import ClusterState
from nodewise.extender.records import Record, Records
from nodewise.policies import DEFAULT
from nodewise_simulator import scenarios


def test_views_are_dropped_by_the_beliefs_they_hold_alone() -> None:
    made = scenarios.make("hetero@pods=1,warm=0", 1)
    state = ClusterState(RunTimeEstimator())
    for node in made.nodes:
        state.put_node(node)
    request = pod_request(made.pods[0].manifest)[0]
    view = state.view(request, 0.0)
    decision = decide(request, view, state.rows(view.nodes.name), DEFAULT, DEFAULT)
    records = Records(view_bytes=1 << 20)
    for _ in range(20):  # as if a pod had finished between any two decisions, in a cluster of many workloads
        big = replace(view.beliefs, run_mean=np.ones((3000, 5)))  # 120 kB
        records.add(Record(decision, replace(view, beliefs=big), view.nodes.name, 0.0))
    held = sum(record.view is not None for record in records._ring)
    assert 0 < held <= 8
