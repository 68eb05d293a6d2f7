"""A trained network as a bundle: its two graphs, its golden answers and its card.

Nothing is written before torch, onnxruntime and the compiled scorer were seen to answer alike.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from nodewise.core.card import PolicyCard, column_now
from nodewise.core.errors import UserError
from nodewise.policies.bundle import ENCODER, ENCODING, HEAD, NODE, PAIR, REQUEST, SCORE, write_bundle
from nodewise.policies.checks import TOLERANCE, apart
from nodewise_simulator.scorer import score, weights_of
from nodewise_training.nets import Scorer

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]

OPSET = 18

_GOLDEN_SIZES = (1, 3, 60, 200)
_PARITY_SIZES = (1, 2, 17, 60, 1000)


def export(scorer: Scorer) -> dict[str, bytes]:
    """The graphs by file name; the same weights give the same bytes, which tell nothing of this machine."""
    m = torch.export.Dim("M", min=1)
    example = 7  # any number of candidates but one, which torch would take for a constant
    node, pair, request = (torch.zeros(example, p.size) for p in scorer.places.values())
    encoding = torch.zeros(example, scorer.hidden)
    each = {0: m}
    return {
        ENCODER: _graph(scorer.encoder(), {NODE: node}, ENCODING, (each,)),
        HEAD: _graph(
            scorer.head(), {ENCODING: encoding, PAIR: pair, REQUEST: request[0]}, SCORE, (each, each, None)
        ),
    }  # fmt: skip


def golden(scorer: Scorer, recorded: Sequence[F32]) -> list[tuple[F32, F32]]:
    """(features [M, K], scores [M] of torch in float32) at several M; see `_samples`."""
    return [(seen, scores_of(scorer, seen)) for seen in _samples(scorer, recorded, _GOLDEN_SIZES)]


def observed(recorded: Sequence[F32]) -> tuple[F32, F32]:
    """The least and the greatest value of each column [K] in the features [M, K] of many decisions."""
    return np.min([seen.min(axis=0) for seen in recorded], axis=0), np.max([s.max(axis=0) for s in recorded], axis=0)


def scores_of(scorer: Scorer, seen: F32) -> F32:
    """Scores [M] by torch of the features of one decision [M, K]."""
    with torch.no_grad():
        scores: F32 = scorer(*map(torch.from_numpy, scorer.split(seen))).numpy()
    return scores


def check_parity(scorer: Scorer, models: Mapping[str, bytes], recorded: Sequence[F32]) -> None:
    """Compare torch, onnxruntime and the compiled scorer on features like those recorded, for few and many candidates.

    Raises UserError if scores lie more than `TOLERANCE` apart.
    """
    sessions = {name: _session(model) for name, model in models.items()}
    weights, sizes = weights_of(scorer.arrays())
    for seen in _samples(scorer, recorded, _PARITY_SIZES):
        node, pair, request = scorer.split(seen)
        expected = scores_of(scorer, seen)
        encoding = sessions[ENCODER].run([ENCODING], {NODE: node})[0]
        compiled = np.empty(len(seen), np.float32)
        score(weights, sizes, node, pair, request, compiled)
        others = {
            "onnxruntime": sessions[HEAD].run([SCORE], {ENCODING: encoding, PAIR: pair, REQUEST: request})[0],
            "the compiled scorer": compiled,
        }
        for name, scores in others.items():
            _compare(name, scores, expected)


def check_new(path: Path) -> None:
    """Refuse a folder that `write` would refuse, before anything was computed for it. Raises UserError."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; a bundle is never changed, so choose a new folder")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {above} is no folder that you may write in")


def write(
    path: Path,
    scorer: Scorer,
    recorded: Sequence[F32],
    *,
    name: str,
    algorithm: str,
    ranges: tuple[NDArray[Any], NDArray[Any]],
    command: str,
    commit: str,
    scenarios: Sequence[str],
    seeds: Sequence[int],
    results: Mapping[str, Any],
) -> PolicyCard:
    """Export, check and write a bundle to a folder that must not exist; returns its card.

    `recorded` are features [M, K] of a sample of decisions, from which golden answers are made; `ranges` the least and
    the greatest value of each column [K] in all of training. Raises UserError if the runtimes disagree.
    """
    models = export(scorer)
    check_parity(scorer, models, recorded)
    low, high = ranges
    columns = tuple(column_now(c, float(low[k]), float(high[k])) for k, c in enumerate(scorer.columns))
    card = PolicyCard(
        name=name, algorithm=algorithm, columns=columns, opset=OPSET, commit=commit, command=command,
        scenarios=tuple(scenarios), seeds=tuple(seeds), results=results, files={},
    )  # fmt: skip
    return write_bundle(path, models, card, golden(scorer, recorded))


def _samples(scorer: Scorer, recorded: Sequence[F32], sizes: Sequence[int]) -> Iterator[F32]:
    """Features of as many candidates as each size says, drawn from all decisions as if of one.

    Then two pairs of candidates, of which one has the least and one the greatest value of every column.
    """
    request = scorer.places[REQUEST]
    rows, random = np.concatenate(recorded), np.random.default_rng(0)
    low, high = observed(recorded)
    drawn = [rows[random.integers(len(rows), size=size)] for size in sizes]
    for seen in (*drawn, np.stack([low, high]), np.stack([high, low])):
        seen[:, request] = seen[0, request]  # one decision has one request
        yield seen


def _compare(name: str, scores: F32, expected: F32) -> None:
    found = apart(scores, expected)
    if not found <= TOLERANCE:  # nan too
        raise UserError(
            f"{name} and torch score {expected.size} candidates up to {found:.1e} apart, and {TOLERANCE:g} is allowed; "
            "train again with a smaller learning rate, or report it if weights are of ordinary size"
        )


def _graph(module: nn.Module, inputs: Mapping[str, torch.Tensor], output: str, shapes: tuple[Any, ...]) -> bytes:
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module, tuple(inputs.values()), dynamo=True, external_data=False, opset_version=OPSET,
            input_names=list(inputs), output_names=[output], dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for told in _told(model):
        told.ClearField("doc_string")
        if "metadata_props" in told.DESCRIPTOR.fields_by_name:
            told.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _told(model: onnx.ModelProto) -> Iterator[Any]:
    """Every part of a model that holds what its maker wished to tell: here, stack traces with paths."""
    graph = model.graph
    yield from (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what is not installed and of its own deprecations; its errors are exceptions."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
