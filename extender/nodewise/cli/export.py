"""`nodewise export`: a bundle from a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli.output import Format, OutputOption, console, document, progress


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `nodewise train`.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; it must not exist.")],
    name: Annotated[str, typer.Option(help="Name of the policy.")] = "ppo",
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the policy of a training run as a bundle: two ONNX graphs, their golden answers, a card."""
    from nodewise_training.ppo import export

    with progress() as tell:
        card = export(run, out, name, tell)
    if output is Format.JSON:
        document([], bundle=str(out), digest=card.digest)
        return
    console.print(f"{out}: policy {card.name}, digest {card.digest}")
    console.print(f"Next: nodewise compare --policies economic,learned --bundle {out}")
