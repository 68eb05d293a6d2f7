"""`nodewise advise`: what better placement would have been worth."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli.output import document, progress
from nodewise.core.errors import UserError
from nodewise.kube.snapshot import Snapshot, read_snapshot
from nodewise.policies import LEARNED, builtin

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class Shown(StrEnum):
    """How the advice is printed."""

    TEXT = "text"
    JSON = "json"


def command(
    snapshot: Annotated[
        Path | None, typer.Argument(metavar="[SNAPSHOT]", help="A file that `nodewise snapshot` wrote.")
    ] = None,
    store: Annotated[
        str, typer.Option(envvar="NODEWISE_OPERATOR_STORE", help="The operator's store, by URL or path, instead.")
    ] = "",
    policy: Annotated[
        str, typer.Option(help="Policy to try (see `nodewise policies`), or the folder of a bundle as ./DIR.")
    ] = LEARNED if builtin() else "economic",
    since: Annotated[
        str, typer.Option(help="Only pods created since then: 90m, 24h, 7d, or a time as 2026-01-31T12:00:00Z.")
    ] = "",
    baseline: Annotated[
        str, typer.Option(help="What gains are to: the placements as recorded, or a simulated kube-default.")
    ] = "recorded",
    draws: Annotated[int, typer.Option(min=3, max=1000, help="Times that everything is played again.")] = 20,
    picture: Annotated[Path | None, typer.Option(help="Also draw it, to a file .svg or .png.")] = None,
    output: Annotated[Shown, typer.Option("--output", "-o", help="text, or json for programs.")] = Shown.TEXT,
) -> None:
    """Say what better placement would have been worth, from what was recorded."""
    judge(
        partial(_recorded, snapshot, store), policy=policy, since=since, baseline=baseline, draws=draws,
        picture=picture, output=output,
    )  # fmt: skip


def judge(
    recorded: Callable[[], Snapshot], *, policy: str, since: str, baseline: str, draws: int, picture: Path | None,
    output: Shown, tell: Callable[..., None] = document,
) -> None:  # fmt: skip
    """Do it, for any command that has the recording; `tell` prints the JSON document."""
    from nodewise_simulator.advise import picture as drawing
    from nodewise_simulator.advise import words
    from nodewise_simulator.advise.advice import advise
    from nodewise_simulator.run import resolve

    if picture is not None:
        drawing.check_name(picture)
    found, oracle = resolve(policy)
    if oracle:
        raise UserError(
            f"{policy!r} would have to be told true run times, which nobody recorded: choose {found.name!r}"
        )
    made = recorded()
    from_s = since_s(since, made.end_s)
    with progress() as told:
        advice = advise(
            made, found, draws=draws, since_s=from_s, baseline=baseline,
            progress=partial(told, f"replays of {len(made.pods)} pods"),
        )  # fmt: skip
    if picture is not None:
        drawing.draw(advice, picture)
    if output is Shown.TEXT:
        print(words.text(advice, made.schedulers(from_s)))  # noqa: T201  it is the product
        return
    checked = advice.calibration
    tell(
        words.rows(advice),
        window={"begin_s": advice.recording.begin_s, "length_s": advice.recording.length_s},
        calibration={
            "recorded_minus_stock": {name: asdict(gain) for name, gain in checked.recorded.items()},
            "seen_s": checked.seen_s,
            "starting_s": checked.starting_s,
            "played_s": checked.played_s,
            "share_ruled": checked.ruled,
            "share_nodes_changed": checked.changed,
            "doubts": list(checked.doubts),
        },
        contention=dict(zip(("median", "low", "high"), advice.contention, strict=True)),
        draws=advice.draws,
        fallback={
            "decisions": sum(advice.decided.values()),
            "share": advice.fallback_share if advice.decided else None,
            "by_reason": {why: count for why, count in advice.decided.items() if why},
        },
    )  # fmt: skip


def _recorded(snapshot: Path | None, store: str) -> Snapshot:
    if snapshot is not None and store:
        raise UserError(f"{snapshot} and the store {store} are two recordings: name one of them")
    if snapshot is not None:
        return read_snapshot(snapshot)
    if store:
        from nodewise.cli.snapshot import of_store

        return of_store(store)
    raise UserError(
        "there is nothing to judge by: name a file that `nodewise snapshot` wrote, or the operator's store with --store"
    )


def since_s(text: str, now_s: float = 0.0) -> float | None:
    """Epoch seconds of a time, or of a span before `now_s` (0: before now); None if none is given."""
    from nodewise.core.units import epoch_s

    if not text:
        return None
    span = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if span:
        return (now_s or time.time()) - int(span[1]) * _UNITS[span[2]]
    try:
        return epoch_s(text.strip())
    except ValueError:
        raise UserError(f"--since {text!r} is no time: write 24h, 7d, or 2026-01-31T12:00:00Z") from None
