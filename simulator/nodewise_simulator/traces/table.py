"""Tables on disk, read into columns that have been checked; what is wrong is told by file, row and fix.

Rows are numbered as an editor shows them: the header of a CSV file is row 1. Rows of a parquet file count from 1.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of a file must hold."""

    name: str
    kind: type[str | int | float] = float
    low: float = -np.inf
    high: float = np.inf
    empty: str | float | None = None
    """What an empty cell means; None: a cell must not be empty."""
    required: bool = True
    """An optional column that is not there is not in the table either."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one file, all of the same length and at least one row long."""

    path: Path
    columns: dict[str, Array]
    first_row: int
    """The number of the row that is at index 0."""

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def get(self, name: str, otherwise: Array) -> Array:
        """An optional column, or what stands for it."""
        return self.columns.get(name, otherwise)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def refuse(self, where: Mask, why: Callable[[int], str]) -> None:
        """Raise UserError for the first row that is marked; `why(index)` says what is wrong and the fix."""
        if where.any():
            at = int(np.argmax(where))
            refuse(self.path, why(at), self.first_row + at)

    def need_order(self, name: str) -> None:
        """Raise UserError unless the column never falls."""
        falls = np.concatenate([[False], np.diff(self[name]) < 0])
        self.refuse(
            falls,
            lambda at: (
                f"{name} {self[name][at]:g} comes after {self[name][at - 1]:g}; sort the file by {name}, smallest first"
            ),
        )

    def need_new(self, name: str) -> None:
        """Raise UserError if a value comes twice."""
        first = np.zeros(len(self), bool)
        first[np.unique(self[name], return_index=True)[1]] = True
        self.refuse(~first, lambda at: f"{name} {self[name][at]} is there twice; give each row a {name} of its own")


def refuse(path: Path, why: str, row: int | None = None) -> NoReturn:
    """Raise the one sentence in which a bad file is told."""
    where = f"{path}" if row is None else f"{path}, row {row}"
    raise UserError(f"{where}: {why}")


def need_file(path: Path, what: str) -> Path:
    """The path, if there is a file; UserError if not. `what` says what the file should be."""
    if not path.is_file():
        refuse(path, f"there is no such file; give the path of {what}")
    return path


def read_csv(path: Path, columns: Sequence[Column], what: str, header: bool = True) -> Table:
    """The named columns of a CSV file, which may be gzipped (`.gz`).

    Without a header the columns are the file's, in order. Raises UserError if the file is absent, cut short, of another
    schema or empty, or if a cell is not what its column says.
    """
    need_file(path, what)
    cells: list[list[str]] = []
    at = 0
    with _told(path, lambda: at + 1), _opened(path) as lines:
        rows = csv.reader(lines)
        found = next(rows, []) if header else [column.name for column in columns]
        at = int(header)
        taken = _columns_found(path, found, columns, what, row=1 if header else None)
        places = [found.index(column.name) for column in taken]
        blank = 0
        for cut in rows:
            at += 1
            if not cut:  # fine at the end
                blank = blank or at
                continue
            if blank:
                refuse(path, "the row is empty; remove it", blank)
            if len(cut) != len(found):
                refuse(path, f"{len(cut)} cells where {len(found)} are due; was the line cut? Fetch the file again", at)
            cells.append([cut[place] for place in places])
    if not cells:
        refuse(path, f"there are 0 rows; give {what} with at least one")
    texts = dict(zip((column.name for column in taken), zip(*cells, strict=True), strict=True))
    first = 1 + int(header)
    values = {column.name: _checked(path, column, _parsed(path, column, texts[column.name], first), first)
              for column in taken}  # fmt: skip
    return Table(path, values, first)


def read_parquet(path: Path, columns: Sequence[Column], what: str) -> Table:
    """As `read_csv`, for parquet."""
    need_file(path, what)
    try:
        import duckdb
    except ModuleNotFoundError as e:
        raise UserError(
            f"{path}: reading parquet needs duckdb; install it with pip install 'nodewise[simulator]'"
        ) from e
    try:
        with duckdb.connect() as db:
            relation = db.read_parquet(str(path))
            taken = _columns_found(path, relation.columns, columns, what, row=None)
            picked = relation.project(", ".join(f'"{column.name}"' for column in taken)).fetchnumpy()
    except duckdb.Error as e:
        refuse(path, f"this is no whole parquet file ({str(e).splitlines()[0].rstrip('.')}); fetch it again")
    if len(picked[taken[0].name]) == 0:
        refuse(path, f"there are 0 rows; give {what} with at least one")
    return Table(path, {column.name: _checked(path, column, _filled(path, column, picked[column.name]), 1)
                        for column in taken}, 1)  # fmt: skip


def read_bytes(path: Path, what: str) -> bytes:
    """A whole file, unpacked if its name ends in `.gz`; UserError if it is absent or cut short."""
    need_file(path, what)
    with _told(path, lambda: None):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def read_lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers, from 1; UserError if it is absent or cut short."""
    need_file(path, what)
    at = 0
    with _told(path, lambda: at + 1), _opened(path) as lines:
        for line in lines:
            at += 1
            yield at, line.rstrip("\n")
    if at == 0:
        refuse(path, f"there are 0 rows; give {what} with at least one")


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            yield lines
    else:
        with path.open(encoding="utf-8", newline="") as lines:
            yield lines


@contextmanager
def _told(path: Path, row: Callable[[], int | None]) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise UserError(_sentence(path, row(), "the gzip file ends early or is damaged; fetch it again")) from e
    except UnicodeDecodeError as e:
        raise UserError(_sentence(path, row(), "this is no UTF-8 text; give the file as it was published")) from e
    except csv.Error as e:
        raise UserError(_sentence(path, row(), f"this is no CSV ({e}); give the file as it was published")) from e


def _sentence(path: Path, row: int | None, why: str) -> str:
    return f"{path}: {why}" if row is None else f"{path}, row {row}: {why}"


def _columns_found(
    path: Path, found: Sequence[str], columns: Sequence[Column], what: str, row: int | None
) -> list[Column]:
    due = [column.name for column in columns if column.required]
    missing = [name for name in due if name not in found]
    if len(missing) == len(due):
        held = ", ".join(found[:6]) or "nothing"
        refuse(path, f"this is not {what}: it holds {held}, not {', '.join(due)}; give a file of that schema", row)
    if missing:
        refuse(path, f"column {missing[0]} is missing; {what} has the columns {', '.join(due)}", row)
    return [column for column in columns if column.name in found]


def _parsed(path: Path, column: Column, texts: Sequence[str], first_row: int) -> Array:
    if column.kind is str:
        return np.array([text or (column.empty or "") for text in texts], dtype=np.str_)
    if column.empty is not None:
        texts = [text or str(column.empty) for text in texts]
    try:
        return np.array(texts, dtype=np.str_).astype(np.float64)
    except ValueError:
        for at, text in enumerate(texts):
            try:
                float(text)
            except ValueError:
                shown = f"{text!r} is not a number" if text else "the cell is empty"
                refuse(path, f"column {column.name}: {shown}; correct or remove the row", first_row + at)
        raise


def _filled(path: Path, column: Column, values: Any) -> Array:
    gaps = np.ma.getmaskarray(values)
    if gaps.any() and column.empty is None and column.kind is not float:
        refuse(path, f"column {column.name}: the cell is empty; correct or remove the row", int(np.argmax(gaps)) + 1)
    if column.kind is str:
        return np.ma.filled(values, column.empty or "").astype(np.str_)
    data = np.ma.getdata(values)
    if data.dtype.kind not in "iufb":
        refuse(path, f"column {column.name} holds {data.dtype}, not numbers; give a file of the published schema")
    out: Array = data.astype(np.float64)
    out[gaps] = np.nan if column.empty is None else column.empty
    return out


def _checked(path: Path, column: Column, values: Array, first_row: int) -> Array:
    """Numbers inside the column's bounds; whole ones as int64."""
    if column.kind is str:
        return values
    numbers: Floats = values
    name = column.name

    def stop(where: Mask, why: Callable[[float], str]) -> None:
        if where.any():
            at = int(np.argmax(where))
            refuse(path, f"column {name}: {why(numbers[at])}; correct or remove the row", first_row + at)

    missing = np.isnan(numbers)
    if not (isinstance(column.empty, float) and np.isnan(column.empty)):
        stop(missing, lambda _: "NaN is no size")
    stop(np.isinf(numbers), lambda value: f"{value} is no size")
    stop(numbers < column.low, lambda value: f"{value:g} is below {column.low:g}")
    stop(numbers > column.high, lambda value: f"{value:g} is above {column.high:g}")
    if column.kind is float:
        return numbers
    stop(numbers != np.floor(numbers), lambda value: f"{value:g} is no whole number")
    return numbers.astype(np.int64)
