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
from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import typer
from rich.cells import cell_len
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

    A cell is the mean over its interval. `metrics`: those that are shown, in this order (default: all). What is wider
    than the terminal comes in several tables, one under the other.
    """
    made = [row for row in map(_dict, rows) if not metrics or row["metric"] in metrics]
    made.sort(key=lambda row: metrics.index(row["metric"]) if metrics else 0)
    for scenario in dict.fromkeys(row["scenario"] for row in made):
        for block in _tables([row for row in made if row["scenario"] == scenario], scenario):
            console.print(block)


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


def _tables(rows: Sequence[Mapping[str, Any]], title: str) -> Iterator[Table]:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    kinds = list(dict.fromkeys((row["metric"], row["unit"]) for row in rows))  # a ratio may be to several others
    cells = {(row["policy"], row["metric"], row["unit"]): row for row in rows}
    intervals = any(row["seeds"] > 1 for row in rows)
    if len(policies) <= len(kinds):
        between = "\n" if intervals else "  "
        labels = _Column(Text(), [Text.assemble(metric, between, (unit, "dim")) for metric, unit in kinds])
        columns = [
            _Column(Text(_heading(policy)), [_cell(cells.get((policy, *kind))) for kind in kinds])
            for policy in policies
        ]
    else:
        labels = _Column(Text("policy"), [Text(policy) for policy in policies])
        columns = [
            _Column(Text.assemble(metric, "\n", (unit, "dim")), [_cell(cells.get((p, metric, unit))) for p in policies])
            for metric, unit in kinds
        ]
    yield from _blocks(labels, columns, title, console.width, lines=intervals)


@dataclass(frozen=True, slots=True)
class _Column:
    head: Text
    cells: Sequence[Text]

    def natural(self) -> int:
        """Characters it takes with its head unbroken."""
        return max(cell_len(line) for text in (self.head, *self.cells) for line in (*text.plain.split("\n"), ""))

    def narrow(self) -> int:
        """Characters it takes with its head in words, and every cell whole."""
        words = (cell_len(word) for word in self.head.plain.split())
        return max(*words, 0, *(cell_len(line) for cell in self.cells for line in cell.plain.split("\n")))


_AROUND = 3
"""Characters of a column that are its border and padding; the table has one more border."""


def _blocks(labels: _Column, columns: Sequence[_Column], title: str, width: int, *, lines: bool) -> Iterator[Table]:
    """The columns in as few tables of `width` characters as hold them uncut, each with the labels."""

    def made(shown: Sequence[tuple[_Column, int | None]], title: str) -> Table:
        table = Table(title=title, title_justify="left", show_lines=lines)
        for column, width in shown:
            justify: Literal["left", "right"] = "left" if column is labels else "right"
            table.add_column(column.head, justify=justify, overflow="fold", width=width)
        for row in zip(*(column.cells for column, _ in shown), strict=True):
            table.add_row(*row)
        return table

    if sum(column.natural() + _AROUND for column in (labels, *columns)) + 1 <= width:
        yield made([(column, None) for column in (labels, *columns)], title)
        return
    widest = max(column.narrow() for column in columns)
    room = width - 1 - _AROUND
    label = min(labels.natural(), max(room - widest - _AROUND, room // 3, 1))
    room -= label
    blocks: list[list[tuple[_Column, int | None]]] = []
    left = 0
    for column in columns:
        takes = max(min(column.narrow(), room - _AROUND), 1)
        if not blocks or takes + _AROUND > left:
            blocks.append([(labels, label)])
            left = room
        blocks[-1].append((column, takes))
        left -= takes + _AROUND
    for k, block in enumerate(blocks, 1):
        yield made(block, f"{title} ({k} of {len(blocks)})" if len(blocks) > 1 else title)


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
