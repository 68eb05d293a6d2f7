"""A policy that was learned: any bundle, checked before it may decide, run by onnxruntime on one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.card import PolicyCard
from nodewise.core.columns import features
from nodewise.core.decide import PolicyRefusalError
from nodewise.core.errors import UserError
from nodewise.core.types import ClusterView, Fallback, PodRequest, Rows, Scores
from nodewise.policies.bundle import MODEL, Golden, read_bundle
from nodewise.policies.onnx_file import inspect

INPUT, OUTPUT = "features", "score"
"""Names of the model's input [M, K] and output [M], both float32."""

_TOLERANCE = 1e-5
_MARGIN = 0.05
"""Part of a column's observed span by which a value may lie outside before the model is not asked."""
_WARM_UP = (1, 100, 1000)


class LearnedPolicy:
    """A loaded bundle; `load` makes it."""

    def __init__(self, card: PolicyCard, session: Any) -> None:
        self.card = card
        self._session = session
        told = [(c.observed_low, c.observed_high) for c in card.columns]
        low = np.array([-np.inf if a is None else a for a, _ in told])  # [K]
        high = np.array([np.inf if b is None else b for _, b in told])
        margin = np.array([0.0 if a is None or b is None else _MARGIN * (b - a) for a, b in told])
        self._low, self._high = low - margin, high + margin

    @property
    def name(self) -> str:
        """The name that its card gives it."""
        return self.card.name

    @property
    def digest(self) -> str:
        """sha256 of the card and so of the bundle."""
        return self.card.digest

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M].

        Raises PolicyRefusalError if a column lies outside the range that the card observed, widened by a twentieth.
        """
        seen = features(self.card.column_names, pod, view, rows)
        outside = (seen < self._low) | (seen > self._high)
        if outside.any():
            row, k = np.argwhere(outside)[0]
            old = self.card.columns[k]
            raise PolicyRefusalError(
                Fallback.OUT_OF_RANGE,
                f"{old.name} is {seen[row, k]:g} on {view.nodes.name[rows[row]]}; the policy was trained on "
                f"{old.observed_low:g} to {old.observed_high:g}",
            )
        return self.run(seen)

    def run(self, seen: NDArray[np.float32]) -> Scores:
        """Scores [M] of a matrix of columns [M, K], in the card's order."""
        scores: Scores = self._session.run([OUTPUT], {INPUT: seen})[0]
        return scores


def load(path: Path) -> LearnedPolicy:
    """Load a bundle and show that it answers as it did when it was exported. Raises UserError naming what is wrong."""
    bundle = read_bundle(path)
    card = bundle.card
    found = inspect(bundle.model)
    if found.opset != card.opset:
        raise UserError(f"{MODEL} imports operator set {found.opset} but its card says {card.opset}; export it again")
    for name in found.external:
        raise UserError(f"weight {name!r} of {MODEL} lies in another file, which no digest covers; export it in one")
    for name in found.nans:
        raise UserError(f"weight {name!r} of {MODEL} holds a nan; train it again")
    policy = LearnedPolicy(card, _session(bundle.model))
    _check_signature(policy, len(card.columns))
    _check_answers(policy, bundle.golden)
    return policy


def _session(model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("a learned policy needs onnxruntime; install it with: pip install 'nodewise[extender]'") from (
            error
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its complaints come back as the exception
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common base of their own
        raise UserError(f"onnxruntime refuses {MODEL} ({_first_line(error)}); export the bundle again") from error


def _check_signature(policy: LearnedPolicy, columns: int) -> None:
    """Exactly one input and one output, by name, type and shape."""
    for what, slots, name, shape in (
        ("input", policy._session.get_inputs(), INPUT, [None, columns]),
        ("output", policy._session.get_outputs(), OUTPUT, [None]),
    ):
        wanted = f"float32 {name!r} {_shape(shape)}"
        got = ", ".join(f"{s.type} {s.name!r} {_shape(s.shape)}" for s in slots)
        fits = len(slots) == 1 and slots[0].name == name and slots[0].type == "tensor(float)"
        if not fits or [d if isinstance(d, int) else None for d in slots[0].shape] != shape:
            raise UserError(f"the {what} of {MODEL} must be {wanted}, not {got}; export the bundle again")


def _shape(shape: list[Any]) -> str:
    return "[" + ", ".join(str(d) if isinstance(d, int) else "M" for d in shape) + "]"


def _check_answers(policy: LearnedPolicy, golden: Golden) -> None:
    """Recompute the golden scores, then run at several sizes so that the first request is not the slowest."""
    for k, (seen, expected) in enumerate(golden):
        scores = _run(policy, seen, f"features_{k}")
        if not np.isfinite(scores).all():
            raise UserError(f"{MODEL} gives scores that are not finite for features_{k}; train it again")
        if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise UserError(f"{MODEL} does not give scores_{k} for features_{k} again; export the bundle again")
    rows = np.concatenate([seen for seen, _ in golden])
    for size in _WARM_UP:
        scores = _run(policy, np.resize(rows, (size, rows.shape[1])), f"{size} candidates")
        if scores.shape != (size,) or not np.isfinite(scores).all():
            raise UserError(f"{MODEL} does not give one finite score for each of {size} candidates; train it again")


def _run(policy: LearnedPolicy, seen: NDArray[np.float32], what: str) -> Scores:
    try:
        return policy.run(seen)
    except Exception as error:  # as in _session
        raise UserError(f"{MODEL} fails on {what} ({_first_line(error)}); export the bundle again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
