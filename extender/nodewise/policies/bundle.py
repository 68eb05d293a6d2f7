"""A bundle on disk: a folder of `policy.onnx`, `golden.npz` and `card.json`, whose digest covers the other two."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.card import PolicyCard, check_columns
from nodewise.core.errors import UserError

MODEL, CARD, GOLDEN = "policy.onnx", "card.json", "golden.npz"

Golden = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""(features [M, K], scores [M]) at several M: what the model must give again wherever it is loaded."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are those that its card names and whose columns are still computed alike."""

    card: PolicyCard
    model: bytes
    golden: Golden


def write_bundle(path: Path, model: bytes, card: PolicyCard, golden: Golden) -> PolicyCard:
    """Write a bundle to a folder that must not exist, in one step; returns the card with the digests of the files.

    Raises UserError if the folder exists or cannot be made.
    """
    if path.exists():
        raise UserError(f"{path} exists already; a bundle is never changed, so choose a new folder")
    packed = io.BytesIO()
    named: dict[str, Any] = {}
    for k, (features, scores) in enumerate(golden):
        named |= {f"features_{k}": np.asarray(features, np.float32), f"scores_{k}": np.asarray(scores, np.float32)}
    np.savez(packed, **named)
    files = {MODEL: model, GOLDEN: packed.getvalue()}
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


def read_bundle(path: Path) -> Bundle:
    """Read and check a bundle: card, columns, sha256 of every file. Raises UserError naming what is wrong.

    A runtime is no integrity check: most flipped bits of a model load without a word and change what it answers.
    """
    card = PolicyCard.from_json(_decoded(_read(path, CARD)))
    check_columns(card)
    for name in (MODEL, GOLDEN):
        if name not in card.files:
            raise UserError(f"the card in {path} gives no sha256 for {name}; export the bundle again")
    data = {name: _read(path, name) for name in card.files}
    for name, content in data.items():
        if hashlib.sha256(content).hexdigest() != card.files[name]:
            raise UserError(f"{path / name} is not the file that the card was written for; copy the bundle again")
    return Bundle(card, data[MODEL], _golden(data[GOLDEN], len(card.columns)))


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


def _golden(data: bytes, columns: int) -> Golden:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays: Mapping[str, NDArray[Any]] = dict(stored)
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{GOLDEN} is not an archive of arrays ({error}); export the bundle again") from error
    pairs = []
    for k in range((len(arrays) + 1) // 2):
        features, scores = arrays.get(f"features_{k}"), arrays.get(f"scores_{k}")
        if features is None or scores is None:
            raise UserError(f"{GOLDEN} lacks features_{k} or scores_{k}; export the bundle again")
        if scores.ndim != 1 or not scores.size or features.shape != (scores.size, columns):
            raise UserError(
                f"features_{k} {features.shape} and scores_{k} {scores.shape} of {GOLDEN} do not match the card's "
                f"{columns} columns; export the bundle again"
            )
        if features.dtype != np.float32 or scores.dtype != np.float32:
            raise UserError(f"features_{k} and scores_{k} of {GOLDEN} must be float32; export the bundle again")
        pairs.append((features, scores))
    if not pairs:
        raise UserError(f"{GOLDEN} is empty, so nothing shows that the model answers as it did; export it again")
    return pairs
