"""The compiled replay against the reference replay: the same node for every pod."""

from dataclasses import replace

import numpy as np
import pytest

from nodewise.core.types import CostRates
from nodewise.policies.economic import ECONOMIC
from nodewise_simulator import scenarios
from nodewise_simulator.advise.check import record
from nodewise_simulator.advise.compiled import compiled
from nodewise_simulator.advise.record import recording
from nodewise_simulator.advise.replay import replayed
from nodewise_simulator.advise.truth import truth

RATES = CostRates(contention=0.2)


@pytest.mark.parametrize("seed", [5, 6])
def test_the_compiled_replay_places_every_pod_as_the_reference_does(seed: int) -> None:
    world = scenarios.make("hetero@load=0.9,pods=300,warm=200", seed)
    made = recording(record(world, until_s=world.pods[450].request.created_s)[0], RATES)
    assert sum(p.stays for p in made.pods) > 20
    about = truth(made, RATES)
    fast = compiled(about.world(0), made, RATES)
    assert fast is not None
    for draw in (1, 2):
        drawn = about.world(draw)
        own, other = fast.replayed(drawn), replayed(drawn, made, ECONOMIC, RATES, draw)
        assert [o.node for o in own] == [o.node for o in other]
        np.testing.assert_array_equal([o.finished_s for o in own], [o.finished_s for o in other])
    assert [o.node for o in fast.replayed(about.world(3))] != [o.node for o in own]


def test_what_the_compiled_engine_does_not_model_is_left_to_the_reference() -> None:
    world = scenarios.make("hetero@load=0.5,pods=30,warm=20", 1)
    anywhere = {**world.pods[-1].manifest, "spec": {**world.pods[-1].manifest["spec"], "affinity": {}}}
    world = replace(world, pods=(*world.pods[:-1], replace(world.pods[-1], manifest=anywhere)))
    made = recording(record(world)[0], RATES)
    assert compiled(truth(made, RATES).world(0), made, RATES) is None
