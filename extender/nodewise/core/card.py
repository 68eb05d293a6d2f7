"""The card of a learned policy: what it looks at, where it comes from, what its files are. Pure: text in, text out."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.core.types import Floats

FORMAT = 2
"""Version of the bundle's layout and of this card."""

_MARGIN = 0.05

T = TypeVar("T")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class CardColumn:
    """One input of the model: a column as it was at export, and the range that training saw."""

    name: str
    unit: str
    low: float
    high: float
    observed_low: float | None = None
    """With `observed_high`: what lies far outside is not judged by the model. None: no range is checked."""
    observed_high: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyCard:
    """Identity and provenance of a bundle; `digest` identifies exactly what scores.

    It holds no time and no path, so that the same code and seeds give the same digest.
    """

    name: str
    algorithm: str
    columns: tuple[CardColumn, ...]  # [K]; each input of the model has those of its scope, in this order
    opset: int
    """Version of the default ONNX operator set that both graphs import."""
    commit: str
    """Git commit of the code that trained it."""
    command: str
    """What was run to train it."""
    scenarios: tuple[str, ...]
    seeds: tuple[int, ...]
    results: Mapping[str, Any]
    """Figures of its evaluation, free in form."""
    files: Mapping[str, str]
    """sha256 of each other file of the bundle, in hexadecimal, by name."""
    format: int = FORMAT

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns in their order [K]."""
        return tuple(c.name for c in self.columns)

    def bounds(self) -> tuple[Floats, Floats]:
        """Least and greatest value of each column [K] that the model is asked about: what was observed, widened."""
        seen = [(c.observed_low, c.observed_high) for c in self.columns]
        low = np.array([-np.inf if a is None else a for a, _ in seen])
        high = np.array([np.inf if b is None else b for _, b in seen])
        return widened(low, high)

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of this card, and so, by `files`, of the whole bundle."""
        text = json.dumps(self._plain(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """As `card.json` holds it."""
        return json.dumps(self._plain(), sort_keys=True, indent=2, allow_nan=False) + "\n"

    def _plain(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return own | {"columns": [asdict(c) for c in self.columns]}

    @classmethod
    def from_json(cls, text: str) -> PolicyCard:
        """Read `card.json`. Raises UserError if it is not the card of a bundle that this version understands."""
        try:
            told = json.loads(text, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the card is not JSON ({error}); export the bundle again") from error
        told = _object(told, "the card")
        version = told.get("format")
        if version != FORMAT or isinstance(version, bool):
            fix = "export it again"
            if isinstance(version, int) and version > FORMAT:
                fix = "a newer Nodewise made it: run that one, or export it again by this one"
            raise UserError(f"the card is of format {version!r} and this version reads {FORMAT}; {fix}")
        _known(told, cls, "the card")
        columns = tuple(_column(c, k) for k, c in enumerate(_get(told, "columns", _list, "the card")))
        if not columns:
            raise UserError("the card names no columns; export the bundle again")
        names = [c.name for c in columns]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"the card names column {name!r} twice; export the bundle again")
        return cls(
            name=_get(told, "name", _name, "the card"),
            algorithm=_get(told, "algorithm", _text, "the card"),
            columns=columns,
            opset=_get(told, "opset", _integer, "the card"),
            commit=_get(told, "commit", _text, "the card"),
            command=_get(told, "command", _text, "the card"),
            scenarios=tuple(_text(s, "the card's scenarios") for s in _get(told, "scenarios", _list, "the card")),
            seeds=tuple(_integer(s, "the card's seeds") for s in _get(told, "seeds", _list, "the card")),
            results=_get(told, "results", _object, "the card"),
            files=_files(_get(told, "files", _object, "the card")),
        )


def check_spelling(name: str) -> None:
    """Refuse a policy's name that a table, a log or a label could not hold. Raises UserError."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"a policy cannot be called {_short(name)}: its name has up to 63 of a-z, 0-9, '.' and '-', the first a "
            "letter or a digit; export the bundle again with another --name"
        )


def widened(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Observed ranges [K] with a twentieth of their span added at both ends; an open end stays open."""
    with np.errstate(invalid="ignore"):
        margin = np.where(np.isfinite(high - low), _MARGIN * (high - low), 0.0)
    return low - margin, high + margin


def column_now(name: str, observed_low: float | None = None, observed_high: float | None = None) -> CardColumn:
    """The card's entry for a column as it is defined now. Raises KeyError if there is none."""
    c = COLUMNS[name]
    return CardColumn(name, c.unit, float(c.low), float(c.high), observed_low, observed_high)


def check_columns(card: PolicyCard) -> None:
    """Refuse a card whose columns this version computes otherwise; columns that the card does not name are harmless.

    Raises UserError naming the column.
    """
    for old in card.columns:
        if old.name not in COLUMNS:
            raise UserError(
                f"policy {card.name!r} looks at column {old.name!r}, which this version does not have; "
                f"train it again or run the version that exported it (commit {card.commit})"
            )
        now = column_now(old.name)
        for part in ("unit", "low", "high"):
            was, is_now = getattr(old, part), getattr(now, part)
            if was != is_now:
                raise UserError(
                    f"policy {card.name!r} was trained on column {old.name!r} with {part} {was!r}, which is "
                    f"{is_now!r} in this version; train it again or run commit {card.commit}"
                )


def _column(value: object, index: int) -> CardColumn:
    what = f"column {index} of the card"
    told = _object(value, what)
    _known(told, CardColumn, what)
    name = _get(told, "name", _text, what)
    what = f"the card's column {name!r}"
    low, high = _get(told, "low", _number, what), _get(told, "high", _number, what)
    seen = [None if told.get(k) is None else _get(told, k, _number, what) for k in ("observed_low", "observed_high")]
    observed_low, observed_high = seen
    if (observed_low is None) != (observed_high is None):
        raise UserError(f"{what} has only one end of its observed range; export the bundle again")
    for least, most in ((low, high), (observed_low or 0.0, observed_high or 0.0)):
        if least > most:
            raise UserError(f"{what} has a range from {least!r} to {most!r}, which is empty; export the bundle again")
    return CardColumn(name, _get(told, "unit", _text, what), low, high, observed_low, observed_high)


def _files(told: Mapping[str, Any]) -> Mapping[str, str]:
    for name, digest in told.items():
        if not _FILE.fullmatch(name):
            raise UserError(f"the card names a file {name!r}, which is not a plain file name; export the bundle again")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise UserError(f"the card's sha256 of file {name!r} is malformed; export the bundle again")
    return told


def _get(told: Mapping[str, Any], key: str, read: Callable[[object, str], T], what: str) -> T:
    if key not in told:
        raise UserError(f"{what} has no {key!r}; export the bundle again")
    return read(told[key], f"{key!r} of {what}")


def _known(told: Mapping[str, Any], kind: Any, what: str) -> None:
    for key in sorted(told.keys() - {f.name for f in fields(kind)}):
        raise UserError(f"{what} has an entry {key!r} that this version does not know; export the bundle again")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise _wrong(value, what, "an object")


def _list(value: object, what: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise _wrong(value, what, "a list")


def _text(value: object, what: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _wrong(value, what, "a text")


def _name(value: object, what: str) -> str:
    name = _text(value, what)
    check_spelling(name)
    return name


def _integer(value: object, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(value, what, "a whole number")


def _number(value: object, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise _wrong(value, what, "a number")


def _wrong(value: object, what: str, wanted: str) -> UserError:
    return UserError(f"{what} must be {wanted}, not {_short(value)}; export the bundle again")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
