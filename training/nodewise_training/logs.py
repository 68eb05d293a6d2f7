"""Curves of a run: a line of JSON for each iteration, and the same for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

LOG = "log.jsonl"


class Logs:
    """Appends to `log.jsonl` and an event file in a folder; what a killed run wrote beyond `iteration` is dropped."""

    def __init__(self, folder: Path, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        self._path = folder / LOG
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    kept += [line] if json.loads(line)["iteration"] <= iteration else []
                except (ValueError, KeyError):
                    break  # cut off in the middle
        made = folder / f".{LOG}.new"
        made.write_text("".join(f"{line}\n" for line in kept))
        made.replace(self._path)
        self._board = SummaryWriter(str(folder), purge_step=iteration + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        with self._path.open("a") as file:
            file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)
