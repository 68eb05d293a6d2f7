"""`nodewise train`: learn a policy in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli.output import Format, OutputOption, console, document, number, progress
from nodewise.core.errors import UserError

ALGORITHMS = {"ppo": "per-node scorer that begins as economic, proximal policy optimisation"}
_PARTS = 1000


def command(
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoint, log.jsonl, TensorBoard events.")],
    algorithm: Annotated[str, typer.Argument(metavar="[ppo]", help="How to learn.")] = "ppo",
    scenario: Annotated[
        list[str] | None, typer.Option(help="Worlds to learn in, NAME[@key=value,…]; give it again for several.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 1,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long.")] = None,
    decisions: Annotated[int | None, typer.Option(min=1, help="Stop after so many decisions: reproducible.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Learn a policy; the same seed, scenarios and --decisions give the same weights."""
    if algorithm not in ALGORITHMS:
        raise UserError(f"there is no algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}")
    from nodewise_training.ppo import train

    with progress() as tell:
        done = train(
            scenario or ["hetero@load=0.7", "hetero@load=0.85"], seed, out, decisions=decisions, minutes=minutes,
            resume=resume, progress=lambda share, note: tell(algorithm, int(share * _PARTS), _PARTS, note),
        )  # fmt: skip
    learned = int(done.learner["decisions"])
    if output is Format.JSON:
        document(done.validation, decisions=learned, seconds=done.seconds, folder=str(out))
        return
    console.print(f"{learned:,} decisions in {done.seconds / 60.0:.1f} min; the same weights again:")
    console.print(f"  {done.run.command(learned)} --out DIR", soft_wrap=True)
    for row in done.validation:
        console.print(
            f"{row['scenario']}: expected cost to economic {number(row['ratio'])} [{number(row['low'])}, "
            f"{number(row['high'])}] over {row['worlds']} worlds, other than its choice in {row['departed']:.0%} of "
            f"decisions, left to it in {row['refused']:.1%}"
        )
    console.print(f"Next: nodewise export {out} --out BUNDLE")
