"""`nodewise compare`: policies side by side on the same worlds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli.output import Format, OutputOption, console, document, names, progress, seeds, table

_FEW = 5


def command(
    policies: Annotated[
        str,
        typer.Option(help="Names with commas between them (see `nodewise policies`), or folders of bundles as ./DIR."),
    ],
    scenario: Annotated[str, typer.Option(help="NAME, or NAME@key=value,… to set its parameters.")] = "hetero",
    seed_list: Annotated[str, typer.Option("--seeds", help="As in 1-20 or 1,3,7-9: one world each.")] = "1-20",
    baseline: Annotated[str, typer.Option(help="What cost_ratio is to.", show_default="the first policy")] = "",
    bundle: Annotated[Path | None, typer.Option(help="Folder that policy 'learned' loads.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the seeds.")] = 1,
    output: OutputOption = Format.TABLE,
) -> None:
    """Run policies side by side on the same worlds: mean and 95 % interval over seeds, ratios paired by seed."""
    chosen, numbers = names(policies, "--policies"), seeds(seed_list)
    from nodewise_simulator.compare import compare

    with progress() as tell:
        told = partial(tell, f"{len(chosen)} policies on {scenario}", unit="worlds")
        rows = compare(scenario, chosen, numbers, baseline=baseline, bundle=bundle, jobs=jobs, progress=told)
    note = _note(len(numbers))
    if output is Format.JSON:
        document(rows, **({"note": note} if note else {}))
        return
    table(rows)
    if note:
        console.print(note)


def _note(count: int) -> str:
    """What is to be said of intervals over so many seeds."""
    if count >= _FEW:
        return ""
    if count == 1:
        return "1 seed: no interval can be told from it; take 10 or more"
    return f"{count} seeds: intervals over so few seeds say little; take 10 or more"
