"""The store as Parquet (zstd), for notebooks and long keeping: FOLDER/TABLE/dt=YYYY-MM-DD/*.parquet, days in UTC.

duckdb reads and writes Parquet by itself; nothing is fetched. Imported when used: it takes tens of MB.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import BigInteger, Boolean, Column, Double, LargeBinary, Table

from nodewise.core.errors import UserError
from nodewise_operator.store.codec import Values
from nodewise_operator.store.disk import sync, sync_tree
from nodewise_operator.store.schema import DECISIONS, DOWNTIMES, NODES, OBSERVATIONS, PODS, VERSION

EXPORTED: dict[Table, str | None] = {
    PODS: "arrived_s", DECISIONS: "time_s", OBSERVATIONS: None, NODES: None, DOWNTIMES: "begin_s",
}  # fmt: skip
"""Table → the time by whose day it is parted; None: one file."""
FACTS = "nodewise.json"
"""Says what the folder is."""

_LISTS = {"candidates": "VARCHAR[]", "scores": "DOUBLE[]", "columns": "VARCHAR[]", "featured": "BIGINT[]"}
_ROWS = 5000
_FIRST_DAY_S, _LAST_DAY_S = 0.0, 253402300799.0


def export(rows: Callable[[Table], Iterable[Mapping[str, Any]]], folder: Path) -> dict[str, int]:
    """Write what `rows` gives of each table, as columns; how many rows were written.

    The folder is there as a whole or not at all. Raises UserError if there is something already, or no room.
    """
    import duckdb

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; name a folder that does not")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"the folder {folder.absolute().parent} does not exist; make it")
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
        try:
            written = {str(table.name): _write(table, rows(table), made, day) for table, day in EXPORTED.items()}
            facts = {"schema_version": VERSION, "exported_s": datetime.now(UTC).timestamp(), "rows": written}
            (made / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
            made.chmod(0o755)
            sync_tree(made)  # what was exported may be deleted from the store next
            made.rename(folder)
            sync(folder.absolute().parent)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except (OSError, duckdb.Error) as error:
        raise UserError(f"cannot export to {folder}: {' '.join(str(error).split())}") from error
    return written


def exports(folder: Path) -> list[Path]:
    """The folder, if it is an export, or those in it. Raises UserError if there is none."""
    found = [folder] if (folder / FACTS).is_file() else sorted(path.parent for path in folder.glob(f"*/{FACTS}"))
    if not found:
        raise UserError(
            f"{folder} is no export of a store: there is no {FACTS}; name a folder of `nodewise data export`"
        )
    return found


def read(folder: Path, table: Table, columns: Iterable[str] = ()) -> Iterator[Values]:
    """The rows of a table in an export (or in a folder of them), those of `columns` (default: all), as columns."""
    import duckdb

    files = [str(file) for one in exports(folder) for file in sorted((one / str(table.name)).rglob("*.parquet"))]
    if not files:
        return
    with duckdb.connect() as connection:
        wanted = ", ".join(columns) or "*"
        found = connection.execute(f"SELECT {wanted} FROM read_parquet(?, union_by_name = true)", [files])  # noqa: S608
        names = [column[0] for column in found.description]
        while some := found.fetchmany(_ROWS):
            for row in some:
                yield dict(zip(names, row, strict=True))


def _write(table: Table, rows: Iterable[Mapping[str, Any]], folder: Path, day: str | None) -> int:
    import duckdb

    target = folder / str(table.name)
    target.mkdir()
    target.chmod(0o755)
    columns = [column for column in table.c if column.name not in ("tick", "sum")]
    work = folder / "work.duckdb"
    written = 0
    with duckdb.connect(str(work)) as connection:
        connection.execute(f"SET temp_directory = {_quoted(folder / 'work.tmp')}")
        declared = ", ".join(f"{column.name} {_type(column)}" for column in columns)
        connection.execute(f"CREATE TABLE made ({declared}, dt VARCHAR)")
        each = iter(rows)
        while some := list(islice(each, _ROWS)):
            chunk = {column.name: _array(column, some) for column in columns}
            chunk["dt"] = np.array([_day(row[day]) if day else "" for row in some], object)
            connection.register("chunk", chunk)
            picked = ", ".join(f"{c.name}::JSON::{_LISTS[c.name]}" if c.name in _LISTS else c.name for c in columns)
            connection.execute(f"INSERT INTO made SELECT {picked}, dt FROM chunk")  # noqa: S608  names are ours
            written += len(some)
        names = ", ".join(column.name for column in columns)
        to, parted = (target, ", PARTITION_BY (dt)") if day else (target / f"{table.name}.parquet", "")
        picked = f"{names}, dt" if day else names
        if written:
            connection.execute(
                f"COPY (SELECT {picked} FROM made) TO {_quoted(to)} (FORMAT parquet, COMPRESSION zstd{parted})"  # noqa: S608
            )
    work.unlink()
    shutil.rmtree(folder / "work.tmp", ignore_errors=True)
    return written


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _type(column: Column[Any]) -> str:
    match column.type:
        case Double():
            return "DOUBLE"
        case BigInteger():
            return "BIGINT"
        case Boolean():
            return "BOOLEAN"
        case LargeBinary():
            return "BLOB"
    return _LISTS.get(column.name, "VARCHAR")


def _array(column: Column[Any], rows: list[Mapping[str, Any]]) -> Any:
    return np.array([row[column.name] for row in rows] + [None], object)[:-1]  # None keeps numpy from nesting


def _day(time_s: float | None) -> str:
    within = min(max(time_s or 0.0, _FIRST_DAY_S), _LAST_DAY_S)
    return datetime.fromtimestamp(int(within), UTC).strftime("%Y-%m-%d")
