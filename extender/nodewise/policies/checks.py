"""What a bundle's model must be before it may decide: its graphs, their inputs and outputs, and what it answers.

Each check raises UserError naming what is wrong, or tells `passed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.card import PolicyCard
from nodewise.core.columns import split
from nodewise.core.errors import UserError
from nodewise.core.types import Scores
from nodewise.policies.bundle import (
    ENCODER,
    ENCODING,
    HEAD,
    NODE,
    PAIR,
    REQUEST,
    SCORE,
    Bundle,
    Golden,
    Passed,
)
from nodewise.policies.onnx_file import inspect

Run = Callable[[NDArray[np.float32]], Scores]
"""The model: columns [M, K] in the card's order to scores [M]."""

TOLERANCE = 1e-5
"""How far two runtimes may lie `apart`."""

_SIZES = (1, 100, 1000)


def apart(scores: Scores, expected: Scores) -> float:
    """The largest difference of two answers to one request, relative to the largest score or, below that, one cent.

    Not to each score itself: where a large correction cancels a large cost, float32 leaves few digits of what remains.
    """
    return float(np.max(np.abs(scores - expected)) / max(1.0, np.max(np.abs(expected))))


def check_graphs(bundle: Bundle, passed: Passed) -> None:
    """Both graphs import the card's operator set, hold no nan and have all their weights with them."""
    opset = bundle.card.opset
    for file, model in bundle.models.items():
        found = inspect(model, file)
        if found.opset != opset:
            raise UserError(f"{file} imports operator set {found.opset} but its card says {opset}; export it again")
        for name in found.external:
            raise UserError(f"weight {name!r} of {file} lies in another file, which no digest covers; export it in one")
        for name in found.nans:
            raise UserError(f"weight {name!r} of {file} holds a nan; train it again")
    passed(f"both graphs import operator set {opset}, hold no nan and refer to no other file")


def check_signatures(encoder: Any, head: Any, card: PolicyCard, passed: Passed) -> None:
    """The runtime's two sessions have exactly these inputs and outputs, by name, type and shape."""
    node, pair, request = map(len, split(card.column_names))
    for part, columns in ((NODE, node), (PAIR, pair), (REQUEST, request)):
        if not columns:  # MatMul of onnxruntime 1.31 then gives what it finds in memory
            raise UserError(f"the card names no column for input {part!r}, which must not be empty; train it with one")
    encoded = [d for slot in encoder.get_outputs() for d in slot.shape[1:]]
    width = encoded[0] if len(encoded) == 1 and isinstance(encoded[0], int) else "H"
    inputs: Mapping[str, list[Any]] = {ENCODING: ["M", width], PAIR: ["M", pair], REQUEST: [request]}
    _check_slots("input", ENCODER, encoder.get_inputs(), {NODE: ["M", node]})
    _check_slots("output", ENCODER, encoder.get_outputs(), {ENCODING: ["M", width]})
    _check_slots("inputs", HEAD, head.get_inputs(), inputs)
    _check_slots("output", HEAD, head.get_outputs(), {SCORE: ["M"]})
    passed("onnxruntime loads both, and their inputs and outputs are those of a policy")


def check_answers(run: Run, golden: Golden, passed: Passed) -> None:
    """The golden scores come out again."""
    for k, (seen, expected) in enumerate(golden):
        scores = _answer(run, seen, f"features_{k}")
        if not np.isfinite(scores).all():
            raise UserError(f"the model gives scores that are not finite for features_{k}; train it again")
        if scores.shape != expected.shape or not apart(scores, expected) <= TOLERANCE:
            raise UserError(f"the model does not give scores_{k} for features_{k} again; export the bundle again")
    passed(f"all {len(golden)} golden answers come out again, within {TOLERANCE:g}")


def check_sizes(run: Run, golden: Golden, passed: Passed) -> None:
    """The model answers for few and many candidates; its first request is then not the slowest either."""
    rows = np.concatenate([seen for seen, _ in golden])
    for size in _SIZES:
        scores = _answer(run, np.resize(rows, (size, rows.shape[1])), f"{size} candidates")
        if scores.shape != (size,) or not np.isfinite(scores).all():
            raise UserError(f"the model does not give one finite score for each of {size} candidates; train it again")
    passed(f"{', '.join(map(str, _SIZES[:-1]))} and {_SIZES[-1]} candidates get one finite score each")


def first_line(error: Exception) -> str:
    """What a runtime's exception says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_slots(what: str, file: str, slots: Sequence[Any], wanted: Mapping[str, list[Any]]) -> None:
    got = {slot.name: [d if isinstance(d, int) else "M" for d in slot.shape] for slot in slots}
    if got == wanted and all(slot.type == "tensor(float)" for slot in slots):
        return
    must = ", ".join(f"tensor(float) {name!r} {_shape(shape)}" for name, shape in wanted.items())
    found = ", ".join(f"{slot.type} {slot.name!r} {_shape(got[slot.name])}" for slot in slots)
    raise UserError(f"the {what} of {file} must be {must}, not {found}; export the bundle again")


def _shape(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _answer(run: Run, seen: NDArray[np.float32], what: str) -> Scores:
    try:
        return run(seen)
    except Exception as error:  # the runtime's exceptions have no common base of their own
        raise UserError(f"the model fails on {what} ({first_line(error)}); export the bundle again") from error
