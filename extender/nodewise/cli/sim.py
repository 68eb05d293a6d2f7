"""`nodewise sim`: a recorded cluster as a scenario, a journal of decisions decided again, and largest stable loads."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nodewise.cli.compare import Simulator, SimulatorOption
from nodewise.cli.output import Format, OutputOption, console, document, names, number, progress, seeds, table
from nodewise.core.errors import UserError

_SHOWN = 5
"""Decisions that are shown of those in which a policy differs."""


def import_(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Of `nodewise snapshot`.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """What a file of `nodewise snapshot` holds as a scenario, and the command that plays it."""
    file = _named(file, "import", "nodewise snapshot")
    from nodewise_simulator.scenarios.snapshot import NEVER_RECORDED, not_simulated, of_file, summary

    found = of_file(str(file)).recording
    told = summary(found)
    if "," in str(file):
        raise UserError(f"{file} has a comma in its name, which separates the parameters of a scenario; rename it")
    quoted = shlex.quote(str(file))
    line = (
        f"nodewise compare --scenario snapshot --trace {quoted} --policies kube-default,economic,learned --seeds 1-20"
    )
    if output is Format.JSON:
        never = {"not_simulated": not_simulated(found), "not_recorded": NEVER_RECORDED}
        document([told], scenario=f"snapshot@trace={file}", compare=line, **never)
        return
    facts = Table.grid(padding=(0, 2))
    for name, value in told.items():
        facts.add_row(name.replace("_", " "), number(value))
    console.print(facts)
    missing = [f"{what} ({pods:,} pods)" for what, pods in not_simulated(found).items()]
    console.print(f"Not simulated: {', '.join([*missing, *NEVER_RECORDED])}.", soft_wrap=True)
    console.print(f"Each seed draws anew what was not seen. Policies side by side on it:\n  {line}", soft_wrap=True)


def replay(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Of `nodewise extender --journal`.")] = None,
    policy: Annotated[str, typer.Option(help="economic, learned, or the folder of a bundle as ./DIR.")] = "economic",
    bundle: Annotated[Path | None, typer.Option(help="Folder that policy 'learned' loads.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Whether a policy says again what a journal of the extender recorded, and where it would differ."""
    file = _named(file, "replay", "nodewise extender --journal")
    from nodewise_simulator import journal

    made = journal.replay(file, policy, bundle)
    if output is Format.JSON:
        document([asdict(made)])
        return
    console.print(f"{made.rows:,} decisions; {made.policy} could be asked about {made.asked:,} of them")
    if made.left_out:
        console.print(f"left out: {', '.join(journal.words(made.left_out))}")
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


def stable(
    scenario: Annotated[
        str, typer.Option(help="NAME, or NAME@key=value,…, with a parameter load. Arrivals are Poisson unless set.")
    ] = "random-clusters",
    policies: Annotated[
        str, typer.Option(help="Names with commas between them, or `all` that the compiled engine plays.")
    ] = "kube-default,earliest-finish-time,economic",
    bundle: Annotated[Path | None, typer.Option(help="Folder that policy 'learned' loads.")] = None,
    seed_list: Annotated[str, typer.Option("--seeds", help="As in 1-10; one cluster each.")] = "1-10",
    step: Annotated[float, typer.Option(help="How fine the loads are.")] = 0.02,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the seeds.")] = 1,
    simulator: SimulatorOption = Simulator.AUTO,
    output: OutputOption = Format.TABLE,
) -> None:
    """The largest load that each policy keeps up with, as a share of what the cluster could do at best."""
    asked, numbers = names(policies, "--policies"), seeds(seed_list)
    from nodewise_simulator.stable import SLOW, Search, chosen, stable_loads

    search = Search(scenario, asked, step, bundle=bundle, simulator=simulator.value)
    of, left_out = chosen(search, numbers[0])
    with progress() as tell:
        label = f"{len(of.policies)} policies on {of.scenario}"
        rows = stable_loads(of, numbers, jobs=jobs, progress=lambda done, total: tell(label, done, total, unit="seeds"))
    if output is Format.JSON:
        document(rows, left_out=list(left_out))
        return
    table(rows)
    if left_out:
        console.print(f"left out, as {SLOW} them: {', '.join(left_out)}", soft_wrap=True)
    console.print("the highest load whose backlog does not rise; at_limit: how often the search could go no further")


def _named(file: Path | None, verb: str, made_by: str) -> Path:
    if file is None:
        raise UserError(f"nodewise sim {verb} reads a file that `{made_by}` wrote: name it")
    return file


VERBS = {"import": import_, "replay": replay, "stable": stable}
