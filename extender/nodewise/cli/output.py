"""The rows of a command, printed once: as a table, or as the JSON document that other programs read.

A number is a row {scenario, policy, metric, unit, mean, low, high, seeds}; [low, high] is its 95 % interval over seeds.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nodewise.commit import commit
from nodewise.core.errors import UserError
from nodewise.core.units import number as number  # every command prints numbers alike

USAGE_ERROR = 2
"""Exit status after bad use."""
INTERRUPTED = 130
"""Exit status after Ctrl-C."""
MOST_SEEDS = 10_000

# A pipe has no width of its own; it gets one that holds our tables. And text is text: what an API server, a file or a
# user wrote may hold [brackets] and :words:, in cells of tables as well.
console = Console(
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120, highlight=False, markup=False, emoji=False
)


class Format(StrEnum):
    """How a command prints its rows."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="table, or json for programs.")]


def document(rows: Sequence[Any], **more: Any) -> None:
    """Print one JSON document {command, commit, rows} on stdout; `command` is the line that makes it again.

    Rows are mappings or dataclasses. A number that is not finite becomes null.
    """
    made = {"command": shlex.join(["nodewise", *sys.argv[1:]]), "commit": commit(), "rows": [*map(_dict, rows)], **more}
    print(json.dumps(_finite(made), indent=2, ensure_ascii=False, allow_nan=False))  # noqa: T201  it is the product


def table(rows: Sequence[Any], *, metrics: Sequence[str] = ()) -> None:
    """Print rows of numbers: per scenario, metrics by policies, the fewer of the two across.

    A cell is the mean over its interval. `metrics`: those that are shown, in this order (default: all).
    """
    made = [row for row in map(_dict, rows) if not metrics or row["metric"] in metrics]
    made.sort(key=lambda row: metrics.index(row["metric"]) if metrics else 0)
    for scenario in dict.fromkeys(row["scenario"] for row in made):
        console.print(_table([row for row in made if row["scenario"] == scenario], scenario))


def seeds(text: str) -> tuple[int, ...]:
    """The seeds of `1-20` or `1,3,7-9`, in the order written. Raises UserError for anything else."""
    found: list[int] = []
    for part in map(str.strip, text.split(",")):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if match is None:
            raise UserError(f"{part!r} in --seeds {text!r} is neither a seed nor a range; write 1-20 or 1,3,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"the range {part} in --seeds runs backwards; write {last}-{first}")
        if len(found) + last - first >= MOST_SEEDS:
            raise UserError(f"--seeds {text!r} names more than {MOST_SEEDS:,} seeds; name fewer")
        found.extend(range(first, last + 1))
    seen: set[int] = set()
    for seed in found:
        if seed in seen:
            raise UserError(f"--seeds {text!r} names seed {seed} twice; name each once")
        seen.add(seed)
    return tuple(found)


def names(text: str, flag: str) -> tuple[str, ...]:
    """The names of `a,b,c`. Raises UserError if there is none."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise UserError(f"{flag} names nothing; write names with commas between them")
    return found


@contextmanager
def progress(every_s: float = 0.0) -> Iterator[Callable[..., None]]:
    """Bars on stderr, one for each label that (label, done, total) is told of; lines where that is no terminal.

    A fourth argument is a note on how it goes, shown behind the label; `unit`, a plural, says what is counted, and
    `kept` how many more of them need not be done. Where there are lines, a new note gets one after `every_s` at the
    earliest, and at the end.
    """
    where = Console(stderr=True)
    counted = TextColumn("{task.fields[counted]}")
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    notes: dict[str, tuple[str, float]] = {}  # with the time when it was told
    with Progress(*columns, console=where, transient=True, disable=not where.is_terminal) as bars:

        def tell(label: str, done: int, total: int, note: str = "", unit: str = "", kept: int = 0) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total, counted="")
                if not where.is_terminal and not note:
                    counts = f"{total:,} {unit.removesuffix('s') if total == 1 else unit}".strip()
                    where.print(
                        f"{label}: {counts} to do{f', {kept:,} kept' if kept else ''}", highlight=False, soft_wrap=True
                    )
            last, told_s = notes.get(label, ("", -math.inf))
            due = time.monotonic() - told_s >= every_s or done >= total
            if note and note != last and due and not where.is_terminal:
                where.print(f"{label}: {note} ({done / max(total, 1):.0%} done)", highlight=False)
                notes[label] = note, time.monotonic()
            shown = f"{label}: {note}" if note else label
            counted = f"{done:,}/{total:,} {unit}".strip()
            bars.update(tasks[label], completed=done, total=total, description=shown, counted=counted)

        yield tell


def _table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    units = {row["metric"]: row["unit"] for row in rows}
    cells = {(row["policy"], row["metric"]): row for row in rows}
    intervals = any(row["seeds"] > 1 for row in rows)
    made = Table(title=title, title_justify="left", show_lines=intervals)
    if len(policies) <= len(units):
        made.add_column("", no_wrap=True)
        for policy in policies:
            made.add_column(_heading(policy), justify="right")
        for metric, unit in units.items():
            label = Text.assemble(metric, "\n" if intervals else "  ", (unit, "dim"))
            made.add_row(label, *(_cell(cells.get((policy, metric))) for policy in policies))
    else:
        made.add_column("policy", no_wrap=True)
        for metric, unit in units.items():
            made.add_column(Text.assemble(metric, "\n", (unit, "dim")), justify="right", overflow="fold")
        for policy in policies:
            made.add_row(policy, *(_cell(cells.get((policy, metric))) for metric in units))
    return made


def _heading(policy: str) -> str:
    """Its name in lines no longer than an interval, or five policies would not fit."""
    return textwrap.fill(policy, 16, break_long_words=False)


def _cell(row: Mapping[str, Any] | None) -> Text:
    if row is None:
        return Text("–", "dim")
    mean = number(row["mean"])
    if row["seeds"] <= 1:
        return Text(mean)
    return Text.assemble(mean, "\n", (f"[{number(row['low'])}, {number(row['high'])}]", "dim"))


def _dict(row: Any) -> dict[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
