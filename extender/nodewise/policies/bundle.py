"""A bundle on disk: a folder of two graphs, `golden.npz`, and `card.json`, whose digest covers the others.

`encoder.onnx` looks at what depends on nodes alone, `head.onnx` at its answer and at the rest; see `learned`.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.card import PolicyCard, check_columns, check_spelling
from nodewise.core.columns import split
from nodewise.core.errors import UserError
from nodewise.policies import LEARNED, ORACLE, POLICIES

ENCODER, HEAD, CARD, GOLDEN = "encoder.onnx", "head.onnx", "card.json", "golden.npz"
MODELS = (ENCODER, HEAD)

NODE, PAIR, REQUEST, ENCODING, SCORE = "node", "pair", "request", "encoding", "score"
"""Inputs and outputs of the graphs, all float32, with the columns that `core.columns.split` assigns to them.

Encoder: `node` [M, Kn] to `encoding` [M, H]. Head: `encoding` [M, H], `pair` [M, Kr], `request` [Kp] to `score` [M].
"""

Golden = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""(features [M, K] in the card's order, scores [M]) at several M: what must come out again wherever it is loaded."""

Passed = Callable[[str], None]
"""Told of each check that was passed, in a clause."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are those that its card names and whose columns are still computed alike."""

    card: PolicyCard
    models: Mapping[str, bytes]
    """The graphs by file name: `ENCODER` and `HEAD`."""
    golden: Golden


def write_bundle(path: Path, models: Mapping[str, bytes], card: PolicyCard, golden: Golden) -> PolicyCard:
    """Write a bundle to a folder that must not exist, in one step; returns the card with the digests of the files.

    `models` are the graphs by file name: `ENCODER` and `HEAD`. The same arguments give the same bytes. Raises UserError
    if the folder exists or cannot be made, or the card's name is none for a policy.
    """
    check_name(card.name)
    if path.exists():
        raise UserError(f"{path} exists already; a bundle is never changed, so choose a new folder")
    packed = io.BytesIO()
    named: dict[str, Any] = {}
    for k, (features, scores) in enumerate(golden):
        named |= {f"features_{k}": np.asarray(features, np.float32), f"scores_{k}": np.asarray(scores, np.float32)}
    np.savez(packed, **named)
    files = {name: models[name] for name in MODELS} | {GOLDEN: packed.getvalue()}
    card = replace(card, files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    files[CARD] = card.to_json().encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    try:
        for name, data in files.items():
            (made / name).write_bytes(data)
        made.chmod(0o755)  # mkdtemp's folder is private, but another user may serve it
        os.rename(made, path)  # noqa: PTH104  Path.rename would do the same
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return card


def check_name(name: str) -> None:
    """Refuse a name that no card may have, or that means another policy already. Raises UserError."""
    check_spelling(name)
    if name == LEARNED or name.removesuffix(ORACLE) in POLICIES:
        raise UserError(
            f"a learned policy cannot be called {name!r}, for that is another policy's name; export the bundle again "
            "with another --name"
        )


def read_card(path: Path) -> PolicyCard:
    """The card of the bundle in a folder, of which nothing else is read. Raises UserError."""
    text = _read(path, CARD)
    try:
        card = PolicyCard.from_json(_decoded(text))
    except UserError as error:
        raise UserError(f"{error} ({path / CARD})") from None
    check_name(card.name)
    return card


def read_bundle(path: Path, passed: Passed = lambda _: None) -> Bundle:
    """Read and check a bundle: card, columns, sha256 of every file. Raises UserError naming what is wrong.

    A runtime is no integrity check: most flipped bits of a model load without a word and change what it answers.
    """
    card = read_card(path)
    passed(f"the card is of format {card.format} and whole")
    check_columns(card)
    passed(f"this version computes its {len(card.columns)} columns as the one that trained it")
    for name in (*MODELS, GOLDEN):
        if name not in card.files:
            raise UserError(f"the card in {path} gives no sha256 for {name}; export the bundle again")
    data = {name: _read(path, name) for name in card.files}
    for name, content in data.items():
        if hashlib.sha256(content).hexdigest() != card.files[name]:
            raise UserError(f"{path / name} is not the file that the card was written for; copy the bundle again")
    passed(f"{', '.join(sorted(data))} are the files that the card was written for, by sha256")
    return Bundle(card, {name: data[name] for name in MODELS}, _golden(data[GOLDEN], card.column_names))


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise UserError(f"{path} is not a whole bundle: {name} cannot be read ({error.strerror})") from error


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the card is not UTF-8 ({error.reason}); export the bundle again") from error


def _golden(data: bytes, columns: Sequence[str]) -> Golden:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays: Mapping[str, NDArray[Any]] = dict(stored)
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{GOLDEN} is not an archive of arrays ({error}); export the bundle again") from error
    pairs = []
    request = split(columns)[2]
    for k in range((len(arrays) + 1) // 2):
        features, scores = arrays.get(f"features_{k}"), arrays.get(f"scores_{k}")
        if features is None or scores is None:
            raise UserError(f"{GOLDEN} lacks features_{k} or scores_{k}; export the bundle again")
        if scores.ndim != 1 or not scores.size or features.shape != (scores.size, len(columns)):
            raise UserError(
                f"features_{k} {features.shape} and scores_{k} {scores.shape} of {GOLDEN} do not match the card's "
                f"{len(columns)} columns; export the bundle again"
            )
        if features.dtype != np.float32 or scores.dtype != np.float32:
            raise UserError(f"features_{k} and scores_{k} of {GOLDEN} must be float32; export the bundle again")
        for column in request:
            if (features[:, column] != features[0, column]).any():
                raise UserError(
                    f"features_{k} of {GOLDEN} holds several values of column {columns[column]!r}, which has one for a "
                    "whole request; export the bundle again"
                )
        pairs.append((features, scores))
    if not pairs:
        raise UserError(f"{GOLDEN} is empty, so nothing shows that the model answers as it did; export it again")
    return pairs
