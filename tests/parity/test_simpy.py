"""The SimPy model that `nodewise bench simulator` compares with does the same work."""

import pytest

from nodewise_simulator.bench.common_model import common
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.run import simulate

simpy_model = pytest.importorskip("nodewise_simulator.bench.simpy_model", reason="simpy is not installed")


@pytest.mark.parametrize("rule", ["kube-default", "best-fit"])
def test_it_places_every_pod_as_the_compiled_engine_does(rule: str) -> None:
    made = common(12, 400, 5)
    names = [n.name for n in made.nodes]
    model = simpy_model.Model(made, rule)
    state = simulate(made, rule)
    assert model.run() == [o.node for o in state.outcomes(names)]
    assert model.asked == state.number[kn.ASKED] > 300
