"""The folder of a training run: what determines it, and the state from which it goes on or is exported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nodewise.core.errors import UserError

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Run:
    """What determines every number of a run, but for where it stops."""

    algorithm: str
    scenarios: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]

    def command(self, decisions: int) -> str:
        """The line that makes the same policy again."""
        given = "".join(f" --scenario {text}" for text in self.scenarios)
        return f"nodewise train {self.algorithm}{given} --seed {self.seed} --decisions {decisions}"

    def plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "algorithm": self.algorithm, "scenarios": list(self.scenarios), "seed": self.seed,
            "settings": dict(self.settings),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run as it stood after an iteration."""

    run: Run
    learner: dict[str, Any]
    seconds: float
    """Time spent so far."""
    validation: Sequence[Mapping[str, Any]]
    """Of the exported weights as they stood when they were last validated, a row for each scenario."""
    commit: str
    """Of the code that began the run; with those that went on with it, if they were others."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint in one step: a kill at any instant leaves this one or the one before."""
    made = folder / f".{CHECKPOINT}.new"
    told = {
        "run": checkpoint.run.plain(), "learner": checkpoint.learner, "seconds": checkpoint.seconds,
        "validation": [dict(row) for row in checkpoint.validation], "commit": checkpoint.commit,
    }  # fmt: skip
    torch.save(told, made)
    os.replace(made, folder / CHECKPOINT)  # noqa: PTH105  Path.replace would do the same


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The folder's checkpoint, if it has one. Raises UserError if it cannot be read."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        told = torch.load(path, weights_only=True)
        run = told["run"]
        return Checkpoint(
            Run(run["algorithm"], tuple(run["scenarios"]), run["seed"], run["settings"]),
            told["learner"], told["seconds"], told["validation"], told["commit"],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # torch.load has no exception of its own, and says a page about trust
        raise UserError(f"{path} is damaged or not a checkpoint of this version; train into another folder") from error


def stopped(folder: Path, run: Run, *, resume: bool) -> Checkpoint | None:
    """Where the run in a folder stopped; None for one that begins there.

    Raises UserError if another run is there, or none that could be gone on with.
    """
    found = load_checkpoint(folder)
    if found is None:
        if resume:
            raise UserError(f"{folder} holds no run to resume; name the folder of one, or leave --resume out to begin")
        return None
    if not resume:
        raise UserError(f"{folder} holds a run already; add --resume to go on with it, or choose another with --out")
    mine, theirs = dict(_flat(run.plain())), dict(_flat(found.run.plain()))
    for name in theirs | mine:
        if mine.get(name) != theirs.get(name):
            raise UserError(
                f"the run in {folder} has {name} {theirs.get(name)!r} and not {mine.get(name)!r}; resume it as it was "
                "begun, or choose another folder with --out"
            )
    return found


def make_folder(folder: Path) -> None:
    """Raises UserError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another folder with --out") from error


def _flat(told: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{of}{name} ")
        else:
            yield f"{of}{name}", value
