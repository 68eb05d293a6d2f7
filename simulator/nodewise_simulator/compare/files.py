"""A comparison as files: numbers for programs (JSON, CSV, Parquet), plots, and a report for people."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator.compare.grid import Grid, simulators
from nodewise_simulator.compare.plots import PICTURES, pictures
from nodewise_simulator.compare.report import report
from nodewise_simulator.compare.rows import Row
from nodewise_simulator.metrics import Result

ROWS, RUNS, REPORT = "rows", "runs.parquet", "report.html"


def write(folder: Path, grid: Grid, results: Sequence[Result], rows: Sequence[Row], about: Mapping[str, str]) -> None:
    """Write all of them; `about` says what made them: {command, commit}.

    rows.json and rows.csv hold the numbers with their intervals, runs.parquet one row per scenario, policy, seed and
    metric, with the engine that played it. Raises UserError if a file cannot be written.
    """
    played_by = simulators(results)
    whole = {
        **about,
        "seeds": grid.seeds,
        "simulators": played_by,
        "rows": [_finite(row.as_dict()) for row in rows],
    }
    _text(folder / f"{ROWS}.json", json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    table = io.StringIO(newline="")
    lines = csv.DictWriter(table, list(Row.__dataclass_fields__))
    lines.writeheader()
    lines.writerows(row.as_dict() for row in rows)
    _text(folder / f"{ROWS}.csv", table.getvalue())
    _parquet(folder / RUNS, results, about)
    drawn = pictures(grid, results, rows)
    for name, svg in drawn.items():
        _text(folder / f"{name}.svg", svg)
    _text(folder / REPORT, report(grid, rows, drawn, about, played_by))


def check(folder: Path) -> None:
    """Refuse a folder whose files could not be written in the end. Raises UserError."""
    for name in (f"{ROWS}.json", f"{ROWS}.csv", RUNS, REPORT, *(f"{name}.svg" for name in PICTURES)):
        path = folder / name
        if path.exists() and not path.is_file():
            raise UserError(f"{path} would be written, and is no file; take it away, or name another folder")


def _text(path: Path, text: str) -> None:
    try:
        with path.open("w", newline="") as out:
            out.write(text)
    except OSError as error:  # which names no file if it was open already, as on a full disk
        raise _unwritten(path, error.strerror) from error


def _unwritten(path: Path, why: str | None) -> UserError:
    return UserError(f"{path} cannot be written ({why or 'no reason was given'}); name another folder")


def _parquet(path: Path, results: Sequence[Result], about: Mapping[str, str]) -> None:
    import duckdb

    rows = [
        (r.scenario, r.policy, r.seed, metric, value, about["commit"], about["command"], r.simulator)
        for r in results for metric, value in r.metrics.items()
    ]  # fmt: skip
    try:
        path.unlink(missing_ok=True)
        with duckdb.connect() as db:
            db.execute(
                "CREATE TABLE runs (scenario VARCHAR, policy VARCHAR, seed BIGINT, metric VARCHAR, value DOUBLE, "
                "commit VARCHAR, command VARCHAR, simulator VARCHAR)"
            )
            db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute(f"COPY (SELECT * FROM runs ORDER BY ALL) TO '{str(path).replace(chr(39), chr(39) * 2)}'")  # noqa: S608
    except OSError as error:
        raise _unwritten(path, error.strerror) from error
    except duckdb.IOException as error:  # an error while it writes is told as JSON
        number = re.search(r'"errno":"(\d+)"', str(error))
        raise _unwritten(path, os.strerror(int(number[1])) if number else str(error).rpartition(": ")[2]) from error


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
