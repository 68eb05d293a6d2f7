"""`nodewise scenarios`: what can be simulated by name."""

from __future__ import annotations

from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document


def command(output: OutputOption = Format.TABLE) -> None:
    """List the scenarios, with their parameters."""
    from nodewise_simulator import lab

    rows = lab.listed()
    if output is Format.JSON:
        document(rows)
        return
    made = Table("scenario", "what it is", "parameters", show_edge=False)
    for row in rows:
        made.add_row(row["scenario"], row["says"], row["parameters"].replace(",", ", "))
    console.print(made)
    console.print(
        "\nNAME@key=value,… sets parameters. Policies of a scenario, all at once: "
        "nodewise compare --scenario NAME --policies all"
    )
