"""`nodewise compare`: policies side by side on the same worlds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli.output import (
    INTERRUPTED,
    Format,
    OutputOption,
    console,
    document,
    names,
    progress,
    seeds,
    table,
)
from nodewise.commit import commit
from nodewise.core.errors import UserError

_FEW = 5


class Simulator(StrEnum):
    """Which engine plays worlds."""

    AUTO = "auto"
    COMPILED = "compiled"
    REFERENCE = "reference"


SimulatorOption = Annotated[
    Simulator,
    typer.Option(
        help="Who plays: the compiled engine, the reference engine, or auto: the compiled one where it models the "
        "scenario and the policy. Both give the same figures. NAME-oracle and learned policies are played by the "
        "reference engine, and take about 100 times as long; baselines (lp-routing, rollout-oracle, …) choose theirs, "
        "whatever is set. Kernels of the compiled one (plain rules; everything else; learners) are compiled once each, "
        "for half a minute to two minutes, and kept in $XDG_CACHE_HOME/nodewise/kernels; reference avoids that."
    ),
]


TraceOption = Annotated[
    Path | None, typer.Option(help="File or folder that scenarios of traces read. Without it: $NODEWISE_TRACES.")
]


class Engine(StrEnum):
    """What runs the grid."""

    LOCAL = "local"
    RAY = "ray"


def command(
    policies: Annotated[
        str,
        typer.Option(
            help="Names with commas between them (see `nodewise policies`), folders of bundles as ./DIR, or `all` that "
            "the scenario has."
        ),
    ],
    scenarios: Annotated[
        list[str],
        typer.Option("--scenario", help="NAME, or NAME@key=value,… to set its parameters; may be given again."),
    ] = ["hetero"],  # noqa: B006  typer reads it once
    seed_list: Annotated[str, typer.Option("--seeds", help="As in 1-20 or 1,3,7-9: one world each.")] = "1-20",
    baseline: Annotated[str, typer.Option(help="What ratios are to.", show_default="the first policy")] = "",
    bundle: Annotated[Path | None, typer.Option(help="Folder that policy 'learned' loads.")] = None,
    trace: TraceOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the seeds.")] = 1,
    engine: Annotated[Engine, typer.Option(help="local, or ray for the cluster of $RAY_ADDRESS.")] = Engine.LOCAL,
    simulator: SimulatorOption = Simulator.AUTO,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for rows.json, rows.csv, runs.parquet, plots and report.html; runs are kept there."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the runs that --out holds already.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Run policies side by side on the same worlds: mean and 95 % interval over seeds, ratios paired by seed."""
    chosen, numbers = names(policies, "--policies"), seeds(seed_list)
    if resume and out is None:
        raise UserError("--resume goes on from the runs of a folder; name it with --out")
    from nodewise_simulator.compare import Grid, Kept, check, run, simulators, write

    asked = with_trace(scenarios, trace)
    grid = Grid(asked, chosen, numbers, baseline, bundle, simulator.value)
    grid.check()
    line = shlex.join(["nodewise", *sys.argv[1:]])
    if out is not None:
        check(out)
    kept = None if out is None else Kept(out, line, resume=resume)
    so_far: tuple[int, int] | None = None  # worlds that are done, and all
    try:
        with progress() as tell:
            counts = "/".join(dict.fromkeys(str(len(grid.of(scenario))) for scenario in asked))
            label = f"{counts} {'policy' if counts == '1' else 'policies'} on {', '.join(asked)}"

            def told(done: int, total: int, before: int) -> None:
                nonlocal so_far
                so_far = before + done, before + total
                tell(label, done, total, unit="worlds", kept=before)

            results = run(grid, jobs=jobs, engine=engine.value, kept=kept, progress=told)
        rows = grid.rows(results)
        if out is not None:
            write(out, grid, results, rows, {"command": line, "commit": commit()})
    except KeyboardInterrupt:
        if so_far is None:
            raise
        typer.echo(_interrupted(out, *so_far), err=True)
        raise typer.Exit(INTERRUPTED) from None
    note = _note(len(numbers))
    if output is Format.JSON:
        document(rows, simulators=simulators(results), **({"note": note} if note else {}))
        return
    table(rows)
    if engines := played_by(simulators(results)):
        console.print(engines)
    if note:
        console.print(note)
    if out is not None:
        console.print(f"{out / 'report.html'} holds these numbers with plots; beside it rows.csv and runs.parquet")


def played_by(simulators: Sequence[Mapping[str, str]]) -> str:
    """Which engine played what: a line, or one per scenario if a policy had not the same in all; empty for nothing."""
    if not simulators:
        return ""
    if len({(each["policy"], each["simulator"]) for each in simulators}) == len({e["policy"] for e in simulators}):
        return f"engine: {_by_engine(simulators)}"
    return "\n".join(
        f"engine in {scenario}: {_by_engine([each for each in simulators if each['scenario'] == scenario])}"
        for scenario in dict.fromkeys(each["scenario"] for each in simulators)
    )


def _by_engine(simulators: Sequence[Mapping[str, str]]) -> str:
    by: dict[str, dict[str, None]] = {}
    for each in simulators:
        by.setdefault(each["simulator"], {})[each["policy"]] = None
    return "; ".join(f"{simulator} for {', '.join(policies)}" for simulator, policies in by.items())


def with_trace(scenarios: Sequence[str], trace: Path | None) -> tuple[str, ...]:
    """The scenarios, with the path for those that read one. Raises UserError if none does."""
    from nodewise_simulator import lab

    if trace is None:
        return tuple(scenarios)
    if "," in str(trace):
        raise UserError(f"--trace {trace} has a comma in it, which separates parameters; name a path without")
    made = [f"{s}{',' if '@' in s else '@'}trace={trace}" if lab.takes_trace(s) else s for s in scenarios]
    if made == list(scenarios):
        raise UserError(f"--trace {trace} is for scenarios that read a trace, and none of these does; leave it out")
    return tuple(made)


def _interrupted(out: Path | None, done: int, total: int) -> str:
    """What is to be said after Ctrl-C, with so many worlds done."""
    if out is None:
        return "interrupted; nothing was kept, --out FOLDER keeps what is done"
    return f"interrupted: {done} of {total} worlds {'is' if done == 1 else 'are'} kept in {out}; go on with --resume"


def _note(count: int) -> str:
    """What is to be said of intervals over so many seeds."""
    if count >= _FEW:
        return ""
    if count == 1:
        return "1 seed: no interval can be told from it; take 10 or more"
    return f"{count} seeds: intervals over so few seeds say little; take 10 or more"
