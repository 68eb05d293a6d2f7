"""`nodewise train`: learn a policy in the simulator."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodewise.cli.output import INTERRUPTED, Format, OutputOption, console, document, number, progress
from nodewise.core.errors import UserError

if TYPE_CHECKING:
    from nodewise_training.runs import Checkpoint

ALGORITHMS = {"ppo": "per-node scorer that begins as economic, proximal policy optimisation"}
SCENARIOS = ("hetero@load=0.7", "hetero@load=0.85")
"""Learned in if no other is given."""
BATCH = 25_600
"""Decisions of one iteration, at most; here because `nodewise_training` takes seconds to import."""
_TOLD_EVERY_S = 10.0


def command(
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoint, log.jsonl, TensorBoard events.")],
    algorithm: Annotated[str, typer.Argument(metavar="[ppo]", help="How to learn.")] = "ppo",
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="Worlds to learn in: NAME, or NAME@key=value,… to set its parameters; give it again for several.",
            show_default=" and ".join(SCENARIOS),
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 1,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long.")] = None,
    decisions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after so many decisions: reproducible. Iterations are whole, so at least one batch of up to "
            f"{BATCH:,} is learned from.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Learn a policy; the same seed, scenarios and --decisions give the same weights."""
    if algorithm not in ALGORITHMS:
        raise UserError(f"there is no algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}")
    from nodewise_simulator import scenarios

    for text in scenario or SCENARIOS:
        scenarios.parameters_of(text)  # before torch, which takes seconds to import
    from nodewise_training.ppo import train
    from nodewise_training.runs import CHECKPOINT

    done: Checkpoint | None = None
    try:
        with progress(_TOLD_EVERY_S) as tell:
            done = train(
                scenario or SCENARIOS, seed, out, decisions=decisions, minutes=minutes, resume=resume, progress=tell
            )
    except KeyboardInterrupt:
        typer.echo("stopping …", err=True)
    if done is None:
        _leave(out, out / CHECKPOINT)
    else:
        _show(done, out, output)


def _leave(out: Path, checkpoint: Path) -> None:
    """Leave at once. Threads in compiled code, or compiling it for half a minute, would be waited for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if checkpoint.exists():
        typer.echo(f"checkpoint kept in {out}; go on with --resume", err=True)
    gc.collect()  # locks shared with other processes are handed back
    os._exit(INTERRUPTED)


def _show(done: Checkpoint, out: Path, output: Format) -> None:
    learned = int(done.learner["decisions"])
    if output is Format.JSON:
        document(done.validation, decisions=learned, seconds=done.seconds, folder=str(out))
        return
    console.print(f"{learned:,} decisions in {done.seconds / 60.0:.1f} min; the same weights again:")
    console.print(f"  {done.run.command(learned)} --out DIR", soft_wrap=True)
    for row in done.validation:
        console.print(
            f"{row['scenario']}: expected cost to economic {number(row['ratio'])} [{number(row['low'])}, "
            f"{number(row['high'])}] over {row['worlds']} worlds; chose another node than economic in "
            f"{100.0 * row['departed']:.0f} % of decisions; economic decided {100.0 * row['refused']:.1f} % (outside "
            "the trained ranges)"
        )
    console.print(f"Next: nodewise export {out} --out BUNDLE")
