"""`nodewise data`: what the operator has recorded, whether it adds up, and how to take it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nodewise.cli.output import Format, OutputOption, console, document, number
from nodewise.core.errors import UserError

if TYPE_CHECKING:
    from nodewise_operator.store import Store

ACTIONS = {
    "inspect": "schema version, size, period, when nobody looked, what came from which extender",
    "stats": "pods by workload and node class: run times, deadlines met, cents; how pods ended",
    "check": "read every row, and see that decisions = outcomes + running + censored; exit status 1 if not",
    "export": "write everything as Parquet to a new folder",
    "prune": "say what was over for --older-than-days; with --yes, delete it",
}
FAILED = 1
DAY_S = 86400.0


def command(
    action: Annotated[
        str | None, typer.Argument(metavar="[inspect|stats|check|export|prune]", help="Without it: the list.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="[STORE]", help="SQLite file, postgresql://… URL, or (inspect, stats) an exported folder."
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="New folder of `export`.")] = None,
    older_than_days: Annotated[
        float | None, typer.Option(min=1.0, max=36_500.0, help="Of `prune`: pods that were over for so long.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Of `prune`: delete them; without it nothing is changed.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Look into the store of the operator, also while the operator writes it. Only `prune --yes` changes it."""
    if action is None:
        for name, says in ACTIONS.items():
            console.print(f"nodewise data {name:<8} {says}", markup=False)
        return
    if action not in ACTIONS:
        raise UserError(f"nothing can be done to a store by {action!r}; choose one of {', '.join(ACTIONS)}")
    if store is None:
        raise UserError(f"no store is named; write `nodewise data {action} FILE` or a postgresql:// URL")
    if (folder is None) is (action == "export"):
        raise UserError(
            f"`data {action}` reads one store; leave {folder} away"
            if folder is not None
            else f"no folder to export to is named; write `nodewise data export {store} DIR`"
        )
    if (older_than_days is None) is (action == "prune") or (yes and action != "prune"):
        raise UserError(
            f"how old is old? Write `nodewise data prune {store} --older-than-days 90`"
            if action == "prune"
            else f"--older-than-days and --yes are for `data prune`; leave them away from `data {action}`"
        )
    if Path(store).is_dir() and action in ("inspect", "stats"):
        {"inspect": _inspect_export, "stats": _stats_export}[action](Path(store), output)
        return
    if action == "prune":
        _prune(store, older_than_days or 0.0, yes, output)
        return
    with _opened(store) as opened:
        if action == "export":
            _export(opened, folder or Path(), output)
        else:
            {"inspect": _inspect, "stats": _stats, "check": _check}[action](opened, store, output)


@contextmanager
def _opened(url: str, *, to_write: bool = False) -> Iterator[Store]:
    try:
        from nodewise_operator.store import Store
    except ImportError as missing:
        raise UserError(
            f"the operator's packages are not installed ({missing}): run pip install '.[operator]' in a clone"
        ) from missing
    opened = Store.open(url, create=to_write, migrate=False)
    try:
        yield opened
    finally:
        opened.close()


def _inspect(store: Store, name: str, output: Format) -> None:
    meta = store.meta()
    facts = {
        "store": name if "://" not in name else store.where,
        "schema": meta["schema_version"],
        "bytes": store.size_bytes(),
        "from": _time(store.period()[0]),
        "to": _time(store.period()[1]),
        "last watched": _time(meta["seen_s"]),
        "held by": meta["holder"] or None,
        "generation": meta["generation"],
    }
    rows = [{"table": table, "rows": count} for table, count in meta["counts"].items() if table != "meta"]
    downtimes = [
        {"from": _time(d.begin_s), "to": _time(d.end_s), "seconds": d.end_s - d.begin_s, "why": d.why}
        for d in store.downtimes()
    ]
    extenders = [
        {
            "extender": row["extender"],
            "segments": row["contiguous"],
            "early": row["beyond"],
            "repeated": row["repeated"],
            "dropped": row["dropped"],
        }
        for row in store.segments()
    ]
    salvages = [
        {"time": _time(row["time_s"]), "copy": row["copy"], "saved": row["saved"], "lost": row["lost"]}
        for row in store.salvages()
    ]
    if output is Format.JSON:
        document(rows, facts=facts, downtimes=downtimes, extenders=extenders, salvages=salvages)
        return
    _grid(facts)
    for title, told in (("table", rows), ("downtime", downtimes), ("extender", extenders), ("damage", salvages)):
        _print(title, told)


def _inspect_export(folder: Path, output: Format) -> None:
    from nodewise_operator.store.export import FACTS, exports

    rows = []
    for one in exports(folder):
        told = json.loads((one / FACTS).read_text())
        rows.append(
            {"folder": one.name, "schema": told["schema_version"], "written": _time(told["exported_s"])} | told["rows"]
        )
    if output is Format.JSON:
        document(rows, folder=str(folder))
    else:
        _print("export", rows)


def _stats(store: Store, _name: str, output: Format) -> None:
    from nodewise_operator.store.schema import PODS

    _show_stats(store.columns(PODS), output)


def _stats_export(folder: Path, output: Format) -> None:
    from nodewise_operator.store.export import read
    from nodewise_operator.store.schema import PODS
    from nodewise_operator.store.stats import NEEDED

    _show_stats(read(folder, PODS, NEEDED), output)


def _show_stats(pods: Iterator[Mapping[str, Any]], output: Format) -> None:
    from nodewise_operator.store.stats import stats

    cells, endings = stats(pods)
    if output is Format.JSON:
        document(cells, endings=[asdict(ending) for ending in endings])
        return
    if not cells:
        console.print("no pod was recorded yet")
        return
    _print(
        "namespace",
        [
            {
                "namespace": cell.namespace, "workload": cell.workload, "node class": cell.node_class,
                "pods": cell.pods, "succeeded": cell.succeeded, "failed": cell.failed, "running": cell.running,
                "censored": cell.censored, "median run s": cell.median_run_s,
                "deadline met": f"{cell.met / cell.could_be_late:.1%}" if cell.could_be_late else None,
                "cents": cell.cents,
            }
            for cell in cells
        ],
    )  # fmt: skip
    _print("fate", [asdict(ending) for ending in endings])


def _check(store: Store, name: str, output: Format) -> None:
    bad = store.verify()
    found = store.conservation()
    said = [f"{sum(bad.values()):,} rows are not what was written ({_words(bad)})"] if bad else []
    said += [] if found.ok else [str(found)]
    if output is Format.JSON:
        counts = {f.name: getattr(found, f.name) for f in fields(found)}
        document([counts], ok=not said, damaged=bad, says="; ".join(said) or str(found))
    else:
        console.print(f"{found}" if not said else f"{name}: {'; '.join(said)}", markup=False, soft_wrap=True)
    if said:
        raise typer.Exit(FAILED)


def _export(store: Store, folder: Path, output: Format) -> None:
    written = store.export(folder)
    rows = [{"table": table, "rows": count} for table, count in written.items()]
    if output is Format.JSON:
        document(rows, folder=str(folder))
    else:
        _print("table", rows)
        console.print(f"written to {folder}", markup=False, soft_wrap=True)


def _prune(url: str, days: float, yes: bool, output: Format) -> None:
    with _opened(url) as opened:  # which makes no store where there is none
        gone = opened.old(days * DAY_S)
    if yes:
        from nodewise_operator.store import Fenced
        from nodewise_operator.store.engine import parse

        with _opened(url, to_write=True) as opened:
            # PostgreSQL has as many writers as it likes; SQLite's file may be salvaged by its only one.
            if parse(url).get_backend_name() == "sqlite" and (other := opened.rival()):
                raise UserError(
                    f"{other} has the store {url} open, and deletes what is old by itself (--retain-days of "
                    "`nodewise operator`): stop it first, or leave it to it"
                )
            try:
                gone = opened.prune(days * DAY_S)
            except Fenced as error:
                raise UserError(f"not all was deleted: {error}; say it again") from error
    rows = [{"table": table, "rows": count} for table, count in asdict(gone).items()]
    if output is Format.JSON:
        document(rows, deleted=yes)
        return
    _print("table", rows)
    said = "deleted" if yes else "nothing was changed; --yes deletes them"
    console.print(f"over for {days:g} days: {said}", markup=False, soft_wrap=True)


def _grid(facts: Mapping[str, Any]) -> None:
    made = Table.grid(padding=(0, 2))
    for label, value in facts.items():
        made.add_row(Text(label, "dim"), Text(_words(value)))
    console.print(made)


def _print(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    made = Table(show_edge=False)
    for key in rows[0]:
        figures = all(isinstance(row[key], int | float | None) for row in rows)
        made.add_column(
            title if key == next(iter(rows[0])) else key, justify="right" if figures else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(_words(value)) for value in row.values()))
    console.print()
    console.print(made)


def _time(time_s: float) -> str | None:
    """UTC to the second; None for what never was."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError):
        return None


def _words(value: Any) -> str:
    match value:
        case None:
            return "–"
        case str():
            return value or "–"
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case dict():
            return ", ".join(f"{name} {_words(held)}" for name, held in value.items() if held) or "–"
        case list():
            return ", ".join("–".join(map(str, held)) for held in value) or "–"
    return str(value)
