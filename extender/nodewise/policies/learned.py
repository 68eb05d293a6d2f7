"""A policy that was learned: any bundle, checked before it may decide, run by onnxruntime on one thread.

The model is two graphs: `encoder.onnx` gives each node's encoding [M, H] from the columns of scope node; `head.onnx`
gives the score [M] from it, the pair columns and those of the request (scopes pod and cluster), which have one value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.card import PolicyCard
from nodewise.core.columns import features_by_scope, split
from nodewise.core.decide import PolicyRefusalError
from nodewise.core.errors import UserError
from nodewise.core.types import ClusterView, Fallback, PodRequest, Rows, Scores
from nodewise.policies.bundle import ENCODER, ENCODING, HEAD, NODE, PAIR, REQUEST, SCORE, Passed, read_bundle
from nodewise.policies.checks import check_answers, check_graphs, check_signatures, check_sizes, first_line


class LearnedPolicy:
    """A loaded bundle; `load` makes it."""

    def __init__(self, card: PolicyCard, encoder: Any, head: Any) -> None:
        self.card = card
        self.name, self.digest = card.name, card.digest  # the digest is asked for at every decision
        self._encoder, self._head = encoder, head
        self._parts = tuple(np.array(part, np.intp) for part in split(card.column_names))
        low, high = card.bounds()
        self._ranges = [(low[part], high[part]) for part in self._parts]

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M], M >= 1.

        Raises PolicyRefusalError if a column lies outside the range that the card observed, widened by a twentieth.
        """
        seen = features_by_scope(self.card.column_names, pod, view, rows)
        for values, part, (low, high) in zip(seen, self._parts, self._ranges, strict=True):
            outside = (values < low) | (values > high)
            if outside.any():
                *row, k = np.argwhere(outside)[0]
                where = f" on {view.nodes.name[rows[row[0]]]}" if row else ""
                old = self.card.columns[part[k]]
                raise PolicyRefusalError(
                    Fallback.OUT_OF_RANGE,
                    f"{old.name} is {values[*row, k]:g}{where}; the policy was trained on {old.observed_low:g} to "
                    f"{old.observed_high:g}",
                )
        return self._scores(*seen)

    def run(self, seen: NDArray[np.float32]) -> Scores:
        """Scores [M] of a matrix of columns [M, K] in the card's order; its first row tells of the request."""
        node, pair, request = self._parts
        return self._scores(
            np.ascontiguousarray(seen[:, node]),
            np.ascontiguousarray(seen[:, pair]),
            np.ascontiguousarray(seen[0, request]),
        )

    def _scores(self, node: NDArray[np.float32], pair: NDArray[np.float32], request: NDArray[np.float32]) -> Scores:
        encoding = self._encoder.run([ENCODING], {NODE: node})[0]
        scores: Scores = self._head.run([SCORE], {ENCODING: encoding, PAIR: pair, REQUEST: request})[0]
        return scores


def load(path: Path, passed: Passed = lambda _: None) -> LearnedPolicy:
    """Load a bundle and show that it answers as it did when it was exported. Raises UserError naming what is wrong.

    `passed` is told of each check that was passed.
    """
    bundle = read_bundle(path, passed)
    check_graphs(bundle, passed)
    encoder, head = (_session(name, bundle.models[name]) for name in (ENCODER, HEAD))
    check_signatures(encoder, head, bundle.card, passed)
    policy = LearnedPolicy(bundle.card, encoder, head)
    check_answers(policy.run, bundle.golden, passed)
    check_sizes(policy.run, bundle.golden, passed)
    return policy


def _session(file: str, model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("a learned policy needs onnxruntime: run pip install '.[extender]' in a clone") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its complaints come back as the exception
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common base of their own
        raise UserError(f"onnxruntime refuses {file} ({first_line(error)}); export the bundle again") from error
