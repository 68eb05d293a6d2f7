"""The simulator's scheduler beside the real one: the same pods on the same nodes, and pods held by a filter."""

import pytest
from tests.controlplane.conftest import skip_or_fail

from nodewise.core.errors import UserError
from nodewise_simulator.bench.fidelity import OURS, STOCK, agreement
from nodewise_simulator.bench.mixes import MIXES
from nodewise_simulator.bench.retries import retries
from nodewise_simulator.controlplane import programs

pytestmark = pytest.mark.controlplane


@pytest.fixture(autouse=True)
def needed() -> None:
    try:
        programs()
    except UserError as error:
        skip_or_fail(error)


@pytest.mark.parametrize("profile", [STOCK, OURS])
def test_pods_with_preferences_go_where_the_simulator_sends_them(profile: str) -> None:
    found = agreement(MIXES["preferences"], profile, 40, seed=2)
    assert found.differed == []
    assert (found.tied_inside, found.tied + found.agreed) == (found.tied, 40)
    assert found.agreed >= (40 if profile == OURS else 1)


def test_pods_that_ask_about_others_go_where_the_simulator_sends_them_or_nowhere() -> None:
    found = agreement(MIXES["neighbours"], STOCK, 45, seed=6)
    assert found.differed == []
    assert (found.tied_inside, found.tied + found.agreed) == (found.tied, 45)
    assert found.agreed >= 10
    assert found.nowhere > 0


def test_a_pod_that_the_filter_held_is_tried_again_when_the_simulator_says() -> None:
    # `nodewise bench fidelity` counts those within 50 ms; here another test has the machine at the same time.
    found = retries()
    assert found.unmatched(tolerance_s=0.6) == []
    assert sum(map(len, found.simulated.values())) > 20
