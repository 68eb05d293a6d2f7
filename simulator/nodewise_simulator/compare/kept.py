"""Results on disk, one line each, written as soon as they are there: what `--resume` goes on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodewise.commit import commit
from nodewise.core.errors import UserError
from nodewise_simulator.metrics import Result

if TYPE_CHECKING:
    from nodewise_simulator.compare.grid import Grid

NAME = "results.jsonl"


class Kept:
    """The file `results.jsonl` of a folder: a head that says what made it, then a line per run.

    Placements are left out: they are most of the bytes and nothing reads them again.
    """

    def __init__(self, folder: Path, command: str, *, resume: bool) -> None:
        """Raises UserError if the folder holds results and `resume` is not set, or those of other code."""
        self._path = folder / NAME
        self._head = {"command": command, "commit": commit()}
        self._held: list[Result] = []
        if self._path.exists():
            if not resume:
                raise UserError(f"{self._path} holds results already; go on from them with --resume, or name another")
            self._read()
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._head) + "\n")
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}); name another folder") from error

    def take(self, grid: Grid) -> list[Result]:
        """Those of a grid that are there."""
        wanted = {(s, p, seed) for s in grid.scenarios for p in grid.of(s) for seed in grid.seeds}
        return [r for r in self._held if (r.scenario, r.policy, r.seed) in wanted]

    def add(self, results: Sequence[Result]) -> None:
        """Write results behind the others."""
        with self._path.open("a") as out:
            for result in results:
                out.write(json.dumps(asdict(result) | {"placements": ()}) + "\n")

    def _read(self) -> None:
        head, *lines = self._path.read_text().splitlines() or [""]
        try:
            made_by: Any = json.loads(head)["commit"]
            # A line that was cut by a kill is made again.
            whole = [line for line in lines if line.endswith("}")]
            for line in whole:
                held = json.loads(line)
                tuples = {key: tuple(held[key]) for key in ("placements", "completion_s")}
                self._held.append(Result(**{**held, **tuples}))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._path} is not what nodewise compare writes ({error!r}); name another") from error
        if made_by != self._head["commit"]:
            raise UserError(
                f"{self._path} was made by commit {made_by[:12]}, and this is {self._head['commit'][:12]}: results of "
                "unlike code are not put together; name another folder, or check the other commit out"
            )
        if len(whole) < len(lines):
            self._path.write_text("\n".join([head, *whole]) + "\n")
