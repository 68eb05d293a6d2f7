"""The extender process, over HTTP and its own watch, decides as the simulator does: pod for pod."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nodewise.core.card import PolicyCard, column_now
from nodewise.policies.bundle import write_bundle
from nodewise.policies.economic import TERMS
from nodewise_simulator import scenarios
from nodewise_simulator.run import play, resolve
from nodewise_simulator.served import play_served

WORLD = "hetero@pods=120,warm=80"


def bundle(path: Path) -> Path:
    """A model whose score is minus the sum of the terms of `economic`."""
    weights = -np.ones(len(TERMS), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["score"])], "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["M", len(TERMS)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["M"])],
        [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    seen = np.random.default_rng(0).uniform(0, 5, (60, len(TERMS))).astype(np.float32)
    card = PolicyCard(
        name="sum-of-terms", algorithm="by hand", columns=tuple(column_now(n) for n in TERMS), opset=17, commit="abc",
        command="none", scenarios=(), seeds=(), results={}, created="2026-11-21T00:00:00Z", files={},
    )  # fmt: skip
    write_bundle(path, model.SerializeToString(), card, [(seen, seen @ weights)])
    return path


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
