"""kube-scheduler's queues: who is tried when, by hand."""

import math
from dataclasses import replace

import pytest

from nodewise_simulator.physics import BACK_OFF, TRIED, Queueing
from nodewise_simulator.world import World

from .engine_worlds import Hold, made, one_class, pod, run, times


def held_and_two() -> World:
    # a is bound at 1 and ends at 4, b is bound at 2 and ends at 32: four events while `held` waits
    return made([pod("held", 0, 5), pod("a", 1, 3), pod("b", 2, 30)])


@pytest.mark.parametrize(
    ("queueing", "until_s", "asked"),
    [
        (Queueing(), 7.25, [0, 1, 2, 4, 7.25]),
        # Tried at 0, 1, 3 and 7: what comes in between waits for a back-off of 1, 2, 4 and 8 s.
        (Queueing(retry=BACK_OFF), 7.25, [0, 1, 3, 7, 15]),
        (Queueing(retry=BACK_OFF, max_backoff_s=1.0), 7.25, [0, 1, 2, 4, 7.25]),
        (Queueing(retry=BACK_OFF, initial_backoff_s=4.0), 9.0, [0, 4, 12]),
    ],
    ids=["at once", "back-off", "back-off of one second", "long back-off"],
)
def test_a_held_pod_is_tried_at_each_event_and_at_its_own_patch_but_not_in_back_off(
    queueing: Queueing, until_s: float, asked: list[float]
) -> None:
    hold = Hold(held=until_s)
    engine = run(replace(held_and_two(), queueing=queueing), hold)
    assert hold.asked == asked
    assert times(engine)[0] == (asked[-1], asked[-1] + 5)
    assert engine.log.held == len(asked) - 1


def test_a_held_pod_that_nothing_wakes_is_flushed_after_five_minutes_and_given_up_in_the_end() -> None:
    hold = Hold(held=math.inf)
    engine = run(made([pod("held", 0, 5)]), hold)
    assert hold.asked[:4] == [0, 330, 660, 990]  # looked for every 30 s, longer than 300 s ago
    assert math.isnan(engine.outcomes[0].bound_s)


def test_a_woken_pod_goes_after_those_that_are_active() -> None:
    # Three at one instant: c is bound first and wakes the held pod, of higher priority, which still goes last.
    pods = [pod("held", 0, 9, spec={"priority": 9})]
    pods += [pod(name, 5, 9, cpu="2") for name in ("c", "d")]
    engine = run(made(pods, one_class(1, 4500)), Hold(held=5.0))
    assert [o.bound_s for o in engine.outcomes] == [5, 5, 14]  # it is woken by its patch, before the others come
    engine = run(made(pods, one_class(1, 4500)), Hold(held=4.0 + 60.0))
    assert [o.bound_s for o in engine.outcomes] == [64, 5, 5]


def test_who_was_tried_longer_ago_goes_first_if_age_is_counted_as_kube_scheduler_does() -> None:
    # `young` fits nowhere at 1. `old` is held at 0.5, fits nowhere at 1.5, and is held at 2.5, when `event` is over.
    pods = [
        pod("running", 0, 3), pod("old", 0.5, 1, cpu="700m"), pod("young", 1, 1, cpu="1100m"),
        pod("event", 1.5, 1, cpu="500m"),
    ]  # fmt: skip
    aged = made(pods, one_class(1, 1700), queueing=Queueing(age=TRIED))
    assert [o.started_s for o in run(aged, Hold(old=3.0)).outcomes] == [0, 4, 3, 1.5]
    assert [o.started_s for o in run(replace(aged, queueing=Queueing()), Hold(old=3.0)).outcomes] == [0, 3, 4, 1.5]
