"""How woken pods are tried again, as a parameter of every scenario that has kube-scheduler's queues."""

import pytest

from nodewise.core.errors import UserError
from nodewise_simulator import lab, scenarios
from nodewise_simulator.physics import AT_ONCE, BACK_OFF


def test_a_scenario_is_played_with_either_retry_and_the_list_says_so() -> None:
    text = "hetero@pods=3,warm=1"
    assert scenarios.make(text, 1).queueing.retry == AT_ONCE
    assert scenarios.make(f"{text},retry=back-off", 1).queueing.retry == BACK_OFF
    told = {each["scenario"]: each["parameters"].split(",") for each in lab.listed()}
    unlike = {name for name in scenarios.SCENARIOS if "retry=at-once" not in told[name]}
    assert unlike == {"S0q", "S2q"}  # queues at servers, not kube-scheduler's


def test_another_retry_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="at-once or back-off"):
        scenarios.make("hetero@retry=never", 1)
