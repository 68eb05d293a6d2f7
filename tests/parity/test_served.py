"""The extender process, over HTTP and its own watch, decides as the simulator does: pod for pod."""

from pathlib import Path

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
    served, told, asked = play_served(made, "economic", explain=made.pods[-1].request.name)
    assert asked > 150
    assert served.placements == play(made, resolve("economic")[0])[0].placements
    assert told["bound"] == told["winner"] == served.placements[-1]


def test_a_learned_bundle_places_every_pod_alike_through_http_and_without(tmp_path: Path) -> None:
    made, folder = scenarios.make(WORLD, 3), bundle(tmp_path / "bundle")
    served, told, _ = play_served(made, "learned", "--bundle", str(folder), explain=made.pods[-1].request.name)
    assert served.placements == play(made, resolve("learned", folder)[0])[0].placements
    assert (told["policy"], told["fallback"]) == ("sum-of-terms", None)
