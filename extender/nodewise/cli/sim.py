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

ACTIONS = {
    "import": "what a file of `nodewise snapshot` holds as a scenario, and the command that plays it",
    "replay": "whether a policy says again what a journal of the extender recorded, and where it would differ",
    "stable": "the largest load that each policy keeps up with, as a share of what the cluster could do at best",
}

_SHOWN = 5
"""Decisions that are shown of those in which a policy differs."""


def command(
    action: Annotated[
        str | None, typer.Argument(metavar="[import|replay|stable]", help="Without it: the list.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="import, replay: of `nodewise snapshot`, or `nodewise extender --journal`."
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="replay: economic, learned, or the folder of a bundle as ./DIR.")
    ] = "economic",
    bundle: Annotated[Path | None, typer.Option(help="Folder that policy 'learned' loads.")] = None,
    scenario: Annotated[
        str,
        typer.Option(help="stable: NAME, or NAME@key=value,…, with a parameter load. Arrivals are Poisson unless set."),
    ] = "random-clusters",
    policies: Annotated[
        str, typer.Option(help="stable: names with commas between them.")
    ] = "kube-default,earliest-finish-time,economic",
    seed_list: Annotated[str, typer.Option("--seeds", help="stable: as in 1-10; one cluster each.")] = "1-10",
    step: Annotated[float, typer.Option(help="stable: how fine the loads are.")] = 0.02,
    jobs: Annotated[int, typer.Option(min=1, help="stable: processes that share the seeds.")] = 1,
    simulator: SimulatorOption = Simulator.AUTO,
    output: OutputOption = Format.TABLE,
) -> None:
    """Play what was recorded, a cluster as a scenario, or decisions; or find the largest stable loads."""
    if action is None:
        if output is Format.JSON:
            document([{"action": name, "says": says} for name, says in ACTIONS.items()])
            return
        for name, says in ACTIONS.items():
            console.print(f"nodewise sim {name:<7} {says}")
        return
    if action not in ACTIONS:
        raise UserError(f"there is no nodewise sim {action}; choose one of {', '.join(ACTIONS)}")
    if action == "stable":
        if file is not None:
            raise UserError(f"nodewise sim stable reads no file; leave {file} out, or name a --scenario")
        search = (scenario, names(policies, "--policies"), step)
        _stable(search, seeds(seed_list), bundle, simulator.value, jobs, output)
        return
    if file is None:
        made_by = "nodewise snapshot" if action == "import" else "nodewise extender --journal"
        raise UserError(f"nodewise sim {action} reads a file that `{made_by}` wrote: name it")
    if action == "import":
        _import(file, output)
    else:
        _replay(file, policy, bundle, output)


def _stable(
    search: tuple[str, tuple[str, ...], float], numbers: tuple[int, ...], bundle: Path | None, simulator: str,
    jobs: int, output: Format,
) -> None:  # fmt: skip
    from nodewise_simulator.stable import Search, stable_loads

    of = Search(*search, bundle=bundle, simulator=simulator)
    with progress() as tell:
        label = f"{len(of.policies)} policies on {of.scenario}"
        rows = stable_loads(of, numbers, jobs=jobs, progress=lambda done, total: tell(label, done, total, unit="seeds"))
    if output is Format.JSON:
        document(rows)
        return
    table(rows)
    console.print("the highest load whose backlog does not rise; at_limit: how often the search could go no further")


def _import(file: Path, output: Format) -> None:
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
