"""`nodewise bundle`: what a learned policy is made of and comes from, and whether it would be served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nodewise.cli.output import Format, OutputOption, console, document, number
from nodewise.core.errors import UserError

if TYPE_CHECKING:
    from nodewise.core.card import PolicyCard

ACTIONS = {
    "inspect": "the card: identity, origin, columns with their ranges, results, files; exit status 2 if one is another",
    "verify": "every check that serving makes, a line each; exit status 2 if one is not passed",
}

_MARKS = {True: "yes", False: "NO"}


def command(
    action: Annotated[str | None, typer.Argument(metavar="[inspect|verify]", help="Without it: the list.")] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of the bundle. Without it: the one built in.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what a bundle holds, or check that it would be served."""
    if action is None:
        for name, says in ACTIONS.items():
            console.print(f"nodewise bundle {name:<8} {says}")
        return
    if action not in ACTIONS:
        raise UserError(f"nothing can be done to a bundle by {action!r}; choose one of {', '.join(ACTIONS)}")
    from nodewise.policies import builtin

    found = folder or builtin()
    if found is None:
        raise UserError(f"no bundle is built in: name the folder of one, as in `nodewise bundle {action} DIR`")
    (_inspect if action == "inspect" else _verify)(found, output)


def _inspect(folder: Path, output: Format) -> None:
    from nodewise.policies.bundle import CARD, read_card

    card = read_card(folder)
    told = json.loads(card.to_json())
    files = [_file(folder / name, card.files.get(name)) for name in (*card.files, CARD)]
    columns = _columns(card)
    if output is Format.JSON:
        document(columns, folder=str(folder), digest=card.digest, card=told, files=files)
    else:
        _print_card(card, told, columns, files)
    wrong = [str(folder / file["file"]) for file in files if file["matches"] is False]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: not what the card was written for; copy the bundle again")


def _print_card(
    card: PolicyCard, told: Mapping[str, Any], columns: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, Any]]
) -> None:
    facts = Table.grid(padding=(0, 2))
    shown = {"name": card.name, "digest": card.digest, "format": card.format, "opset": card.opset}
    shown |= {key: told[key] for key in ("algorithm", "commit", "command", "scenarios")}
    shown["seeds"] = ", ".join(map(str, card.seeds)) or "–"
    for label, value in shown.items():
        facts.add_row(Text(label, "dim"), Text(_words(value)))
    console.print(facts)
    console.print(_table("column", columns, _range))
    for label, value in card.results.items():
        rows = _results(value)
        console.print(Text.assemble("\n", (f"results: {label}", "bold"), "" if rows else f"  {_words(value)}"))
        if rows:
            console.print(rows)
    console.print()
    console.print(_table("file", files, lambda held: _MARKS[held] if isinstance(held, bool) else _words(held)))


def _verify(folder: Path, output: Format) -> None:
    from nodewise.policies.learned import load

    checks: list[dict[str, str]] = []

    def passed(said: str) -> None:
        checks.append({"passed": said})
        if output is Format.TABLE:
            console.print(Text.assemble(("passed  ", "green"), said), soft_wrap=True)

    policy = load(folder, passed)
    if output is Format.JSON:
        document(checks, folder=str(folder), name=policy.name, digest=policy.digest)
    else:
        console.print(f"{policy.name} of digest {policy.digest} would be served", markup=False)


def _columns(card: PolicyCard) -> list[dict[str, Any]]:
    from nodewise.core.columns import COLUMNS

    return [
        {
            "column": c.name,
            "scope": COLUMNS[c.name].scope if c.name in COLUMNS else None,
            "unit": c.unit,
            "range": [c.low, c.high],
            "observed": None if c.observed_low is None else [c.observed_low, c.observed_high],
        }
        for c in card.columns
    ]


def _table(title: str, rows: Sequence[Mapping[str, Any]], told: Callable[[Any], str]) -> Table:
    made = Table(title, show_edge=False)
    for key in list(rows[0])[1:]:
        made.add_column(key, justify="left" if key in ("scope", "unit", "sha256") else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(told(value)) for value in row.values()))
    return made


def _results(value: Any) -> Table | None:
    """A table of rows of the same shape, texts first; None for anything else: results are free in form."""
    rows = value if isinstance(value, list) else []
    if not rows or not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return None
    texts = [key for key in rows[0] if isinstance(rows[0][key], str)]
    order = [*texts, *(key for key in rows[0] if key not in texts)]
    made = Table(show_edge=False)
    for key in order:
        made.add_column(Text(key), justify="left" if key in texts else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_words(row[key])) for key in order))
    return made


def _file(path: Path, sha256: str | None) -> dict[str, Any]:
    """`matches`: whether it is what the card was written for; None for the card itself. `bytes`: None if not there."""
    try:
        data = path.read_bytes()
    except OSError:
        return {"file": path.name, "bytes": None, "matches": None if sha256 is None else False, "sha256": sha256}
    matches = None if sha256 is None else hashlib.sha256(data).hexdigest() == sha256
    return {"file": path.name, "bytes": len(data), "matches": matches, "sha256": sha256}


def _range(value: Any) -> str:
    return f"{number(value[0])} to {number(value[1])}" if isinstance(value, list) else _words(value)


def _words(value: Any) -> str:
    match value:
        case None:
            return "–"
        case str():
            return value
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case list() if all(isinstance(held, str | int | float) for held in value):
            return ", ".join(map(_words, value)) or "–"
        case dict():
            return ", ".join(f"{key} {_words(held)}" for key, held in value.items())
    return json.dumps(value, ensure_ascii=False)
