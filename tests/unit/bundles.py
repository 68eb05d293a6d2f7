"""Small bundles made by hand: the score is a weighted sum of the card's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nodewise.core.card import PolicyCard, column_now
from nodewise.core.columns import split
from nodewise.policies.bundle import ENCODER, HEAD, write_bundle

F32 = NDArray[np.float32]

OPSET = 18
NAMES = ("delay_cents", "cpu_requested_share", "log_cpu", "room_cents", "log_queued")
"""Of every scope, and mixed: pair, node, pod, pair, cluster."""
WEIGHTS = (-1.0, -2.0, 0.5, -1.0, 0.25)
Slots = Mapping[str, Sequence[Any]]


def card_of(names: Sequence[str] = NAMES, name: str = "linear") -> PolicyCard:
    return PolicyCard(
        name=name, algorithm="by hand", columns=tuple(column_now(n) for n in names), opset=OPSET, commit="abc",
        command="none", scenarios=(), seeds=(), results={}, files={},
    )  # fmt: skip


def model(
    nodes: Sequence[Any], inputs: Slots, outputs: Slots, weights: Mapping[str, Any], *, opset: int = OPSET,
    kind: int = TensorProto.FLOAT,
) -> bytes:  # fmt: skip
    """An ONNX file, with inputs, outputs and weights all of one type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.array(value, dtype), name) for name, value in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


def encoder(
    weights: Sequence[float] = (-2.0,), *, node: str = "node", encoding: str = "encoding",
    shape: Sequence[Any] = ("M", 1), columns: Sequence[Any] = (), **more: Any,
) -> bytes:  # fmt: skip
    """encoding [M, 1] = node [M, Kn] @ weights; `columns`, if given, stand for the weights as a matrix."""
    matrix = columns or np.reshape(weights, (-1, 1))
    nodes = [helper.make_node("MatMul", [node, "weights"], [encoding])]
    return model(nodes, {node: ["M", len(matrix)]}, {encoding: shape}, {"weights": matrix}, **more)


def head(
    pair: Sequence[float] = (-1.0, -1.0), request: Sequence[float] = (0.5, 0.25), *, names: Sequence[str] = (),
    score: str = "score", shape: Sequence[Any] = ("M",), extra: Sequence[Any] = (), **more: Any,
) -> bytes:  # fmt: skip
    """score [M] = encoding [M, 1] @ 1 + pair [M, Kr] @ weights + request [Kp] @ weights."""
    e, p, r = names or ("encoding", "pair", "request")
    nodes = [
        *extra,
        helper.make_node("MatMul", [e, "of_encoding"], ["a"]),
        helper.make_node("MatMul", [p, "of_pair"], ["b"]),
        helper.make_node("MatMul", [r, "of_request"], ["c"]),
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "c"], [score]),
    ]
    weights = {"of_encoding": [1.0], "of_pair": list(pair), "of_request": list(request)}
    return model(nodes, {e: ["M", 1], p: ["M", len(pair)], r: [len(request)]}, {score: shape}, weights, **more)


def models(weights: Sequence[float] = WEIGHTS, names: Sequence[str] = NAMES) -> dict[str, bytes]:
    """The two graphs of score = columns @ weights."""
    node, pair, request = ([weights[k] for k in part] for part in split(names))
    return {ENCODER: encoder(node), HEAD: head(pair, request)}


def golden(weights: Sequence[float] = WEIGHTS, names: Sequence[str] = NAMES) -> list[tuple[F32, F32]]:
    """What that gives for 1, 3 and 40 candidates."""
    rng = np.random.default_rng(0)
    pairs = []
    for m in (1, 3, 40):
        seen = rng.random((m, len(names))).astype(np.float32)
        seen[:, split(names)[2]] = seen[0, split(names)[2]]
        pairs.append((seen, (seen @ np.array(weights, np.float32)).astype(np.float32)))
    return pairs


def written(path: Path, weights: Sequence[float] = WEIGHTS, names: Sequence[str] = NAMES, name: str = "linear") -> Path:
    """A good bundle in a new folder."""
    write_bundle(path, models(weights, names), card_of(names, name), golden(weights, names))
    return path
