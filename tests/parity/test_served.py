"""The extender process, over HTTP and its own watch, decides as the simulator does: pod for pod."""

from pathlib import Path

import pytest
from tests.unit.bundles import written

from nodewise.policies.economic import TERMS
from nodewise_simulator import scenarios
from nodewise_simulator.run import play, resolve
from nodewise_simulator.served import play_served

WORLD = "hetero@pods=120,warm=80"


def bundle(path: Path) -> Path:
    """A model whose score is minus the sum of the terms of `economic`, and a little of a node's and a pod's columns."""
    names = ("cpu_requested_share", *TERMS, "log_cpu")
    weights = (-0.01, *[-1.0] * len(TERMS), 0.1)
    return written(path, weights, names, "sum-of-terms")


def test_a_rule_places_every_pod_alike_through_http_and_without() -> None:
    made = scenarios.make(WORLD, 3)
    served = play_served(made, "economic", explain=made.pods[-1].request.name)
    assert served.asked > 150
    assert served.decided == {"economic": served.asked}
    assert served.result.placements == play(made, resolve("economic")[0])[0].placements
    assert served.explained["bound"] == served.explained["winner"] == served.result.placements[-1]


def test_a_learned_bundle_places_every_pod_alike_through_http_and_without(tmp_path: Path) -> None:
    made, folder = scenarios.make(WORLD, 3), bundle(tmp_path / "bundle")
    served = play_served(made, "learned", "--bundle", str(folder), explain=made.pods[-1].request.name)
    assert served.result.placements == play(made, resolve("learned", folder)[0])[0].placements
    told = served.explained
    assert (told["policy"], told["fallback"]) == ("sum-of-terms", None)
    for candidate in told["candidates"]:
        seen = candidate["columns"]
        added = 0.1 * seen["log_cpu"] - 0.01 * seen["cpu_requested_share"]
        assert candidate["correction_cents"] == pytest.approx(added, abs=1e-4)


def test_the_built_in_bundle_places_5000_pods_alike_through_http_and_without() -> None:
    made, (policy, _) = scenarios.make("hetero", 3), resolve("learned")
    served = play_served(made, "learned")
    print(f"\nasked about {served.asked} of {len(made.pods)} pods; decided: {dict(served.decided)}")
    assert len(made.pods) == 5000
    assert served.asked == sum(served.decided.values()) >= 4900
    assert served.result.placements == play(made, policy)[0].placements
    # all but those at the cold start, in a cluster emptier and less known than training saw
    assert served.decided[policy.name] >= 0.8 * served.asked
