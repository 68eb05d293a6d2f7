"""`nodewise simulate`: one policy, one scenario, one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli.compare import Simulator, SimulatorOption, TraceOption, played_by, with_trace
from nodewise.cli.output import Format, OutputOption, console, document, table
from nodewise.core.errors import UserError


def command(
    scenario: Annotated[str, typer.Option(help="NAME, or NAME@key=value,… to set its parameters.")] = "hetero",
    policy: Annotated[
        str | None,
        typer.Option(
            help="Name of a policy (see `nodewise policies`).",
            show_default="economic; the first of a study that does not know it",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pods, nodes and hidden speeds.")] = 1,
    bundle: Annotated[Path | None, typer.Option(help="Folder that policy 'learned' loads.")] = None,
    trace: TraceOption = None,
    simulator: SimulatorOption = Simulator.AUTO,
    output: OutputOption = Format.TABLE,
) -> None:
    """Run one policy through one scenario."""
    from nodewise_simulator import lab
    from nodewise_simulator.compare import Grid, run, simulators

    known = lab.policies_of(scenario)
    if policy is None:
        policy = "economic" if "economic" in known else known[0]
    if policy == "all":
        raise UserError(f"nodewise simulate runs one policy; all of {scenario}: nodewise compare --policies all")
    grid = Grid(with_trace((scenario,), trace), (policy,), (seed,), bundle=bundle, simulator=simulator.value)
    results = run(grid)
    rows = [row for row in grid.rows(results) if not row.metric.endswith("_ratio")]
    if output is Format.JSON:
        document(rows, simulators=simulators(results))
        return
    table(rows)
    if told := played_by(simulators(results)):
        console.print(told)
