"""`nodewise sim`: a recorded cluster as a scenario, and a journal of decisions decided again."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document, number
from nodewise.core.errors import UserError

ACTIONS = {
    "import": "what a file of `nodewise snapshot` holds as a scenario, and the command that plays it",
    "replay": "whether a policy says again what a journal of the extender recorded, and where it would differ",
}

_SHOWN = 5
"""Decisions that are shown of those in which a policy differs."""


def command(
    action: Annotated[str | None, typer.Argument(metavar="[import|replay]", help="Without it: the list.")] = None,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Of `nodewise snapshot`, or `nodewise extender --journal`.")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="replay: economic, learned, or the folder of a bundle as ./DIR.")
    ] = "economic",
    bundle: Annotated[Path | None, typer.Option(help="replay: folder that policy 'learned' loads.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Play what was recorded: a cluster as a scenario, or decisions."""
    if action is None:
        if output is Format.JSON:
            document([{"action": name, "says": says} for name, says in ACTIONS.items()])
            return
        for name, says in ACTIONS.items():
            console.print(f"nodewise sim {name:<7} {says}")
        return
    if action not in ACTIONS:
        raise UserError(f"there is no nodewise sim {action}; choose one of {', '.join(ACTIONS)}")
    if file is None:
        made_by = "nodewise snapshot" if action == "import" else "nodewise extender --journal"
        raise UserError(f"nodewise sim {action} reads a file that `{made_by}` wrote: name it")
    if action == "import":
        _import(file, output)
    else:
        _replay(file, policy, bundle, output)


def _import(file: Path, output: Format) -> None:
    from nodewise_simulator.scenarios.snapshot import of_file, summary

    found = of_file(str(file)).recording
    told = summary(found)
    if "," in str(file):
        raise UserError(f"{file} has a comma in its name, which separates the parameters of a scenario; rename it")
    quoted = shlex.quote(str(file))
    line = (
        f"nodewise compare --scenario snapshot --trace {quoted} --policies kube-default,economic,learned --seeds 1-20"
    )
    if output is Format.JSON:
        document([told], scenario=f"snapshot@trace={file}", compare=line)
        return
    facts = Table.grid(padding=(0, 2))
    for name, value in told.items():
        facts.add_row(name.replace("_", " "), number(value))
    console.print(facts)
    console.print(f"Each seed draws anew what was not seen. Policies side by side on it:\n  {line}", soft_wrap=True)


def _replay(file: Path, policy: str, bundle: Path | None, output: Format) -> None:
    from nodewise_simulator.journal import replay, words

    made = replay(file, policy, bundle)
    if output is Format.JSON:
        document([asdict(made)])
        return
    console.print(f"{made.rows:,} decisions; {made.policy} could be asked about {made.asked:,} of them")
    if made.left_out:
        console.print(f"left out: {', '.join(words(made.left_out))}")
    if made.own:
        console.print(f"its own: {made.own:,}, of which {made.same_scores:,} have the recorded scores again")
    if made.asked:
        console.print(
            f"the recorded winner is its best of the candidates that were kept in {made.same_winner:,} "
            f"({made.same_winner / made.asked:.1%}); it would decide otherwise in {len(made.differing):,} at least"
        )
    for each in made.differing[:_SHOWN]:
        console.print(f"  {each.pod}: {each.winner} was taken, {each.best} is its best")
    if len(made.differing) > _SHOWN:
        console.print(f"  and {len(made.differing) - _SHOWN:,} more; -o json has them all")
