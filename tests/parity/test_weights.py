"""Weighted objectives: what an extender does by a PlacementPolicy's weights is what the compiled engine plays."""

import numpy as np
import pytest

from nodewise.core import cost
from nodewise.core.types import ClusterView, CostRates, PodRequest, Rows, Scores, Weights
from nodewise.policies import DEFAULT
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import State, play_rule
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.scheduler import KubeScheduler

from .worlds import WORLDS, placed


class Weighted:
    """`economic` on the view that the extender makes of the one it has."""

    name, digest = "weighted", "test"

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        return DEFAULT.score(pod, cost.weighted(view, self.weights), rows)


@pytest.mark.parametrize("weights", [Weights(4.0, 0.5, 1.0, 1.0), Weights(0.25, 8.0, 16.0, 0.0)])
@pytest.mark.parametrize("name", ["busy", "odd"])
def test_both_engines_place_every_pod_alike_and_otherwise_than_without_weights(name: str, weights: Weights) -> None:
    made = WORLDS[name]()
    direct = Direct(made, Weighted(weights), DEFAULT)
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, np.random.default_rng(0))
    reference = Engine(made, scheduler, direct).run()
    flat = flatten(made, CostRates(weights=weights))
    state = State.start(flat)
    play_rule(flat, state)
    own = [o.node for o in state.outcomes([n.name for n in made.nodes])]
    assert own == [o.node for o in reference]
    plain = [o.node for o in placed(made, play_rule)[1]]
    assert sum(a != b for a, b in zip(own, plain, strict=True)) > 0.1 * len(plain)
