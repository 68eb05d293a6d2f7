"""Results on disk, one line each, written as soon as they are there: what `--resume` goes on from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nodewise
import nodewise_simulator
from nodewise.commit import commit
from nodewise.core.errors import UserError
from nodewise_simulator import lab
from nodewise_simulator.baselines import BASELINES
from nodewise_simulator.metrics import Result
from nodewise_simulator.run import AUTO

if TYPE_CHECKING:
    from nodewise_simulator.compare.grid import Grid

NAME = "results.jsonl"
_BROKEN = (ValueError, KeyError, TypeError, AttributeError)
"""What reading a line that is not ours ends in."""


class Kept:
    """The file `results.jsonl` of a folder: a head that says what made it, then a line per run.

    Placements are left out: they are most of the bytes and nothing reads them again. The file is locked for as long as
    this object lives.
    """

    def __init__(self, folder: Path, command: str, *, resume: bool) -> None:
        """Raises UserError if the folder holds results and `resume` is not set, or those of other code."""
        self._path = folder / NAME
        self._held: dict[tuple[str, str, int], tuple[Result, str]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = self._path.read_bytes()
        except BlockingIOError as error:
            raise UserError(f"another nodewise compare writes to {self._path}; name another folder") from error
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}); name another folder") from error
        whole = data.rfind(b"\n") + 1  # a line that was cut by a kill is made again
        if whole and not resume:
            raise UserError(f"{self._path} holds results already; go on from them with --resume, or name another")
        if whole:
            self._read(data[:whole])
        if whole < len(data):
            os.truncate(self._path, whole)
        if not whole:
            self._write([{"command": command, "commit": commit(), "code": code()}])

    def take(self, grid: Grid) -> list[Result]:
        """Those of a grid that are there, made by the same policies on the same traces, by an engine it may have.

        Baselines choose their engine themselves.
        """
        engines = ("", grid.simulator)
        wanted = ((s, p, seed) for s in grid.scenarios for p in grid.of(s) for seed in grid.seeds)
        identity = {(s, p): lab.identity(s, p, grid.bundle) for s in grid.scenarios for p in grid.of(s)}
        found = [(key, self._held[key]) for key in wanted if key in self._held]
        return [
            result
            for key, (result, made_of) in found
            if made_of == identity[key[:2]]
            and (grid.simulator == AUTO or key[1] in BASELINES or result.simulator in engines)
        ]

    def add(self, results: Sequence[Result], bundle: Path | None) -> None:
        """Write results behind the others. Raises UserError if there is no room."""
        self._write(
            [asdict(r) | {"placements": (), "made_of": lab.identity(r.scenario, r.policy, bundle)} for r in results]
        )

    def _write(self, lines: Sequence[Any]) -> None:
        try:
            self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}); make room and --resume") from error

    def _read(self, data: bytes) -> None:
        head, *lines = data.removesuffix(b"\n").split(b"\n")
        try:
            about = json.loads(head)
            made_by, of_code = str(about["commit"]), about["code"]
        except _BROKEN as error:
            raise UserError(
                f"line 1 of {self._path}, which says what made the others, is not what nodewise compare writes; "
                "name another folder"
            ) from error
        if of_code != code():
            raise UserError(
                f"{self._path} was made by other code (commit {made_by}; this is {commit()}), and results of unlike "
                "code are not put together; name another folder, or check the other commit out"
            )
        for k, text in enumerate(lines, 2):
            try:
                line = json.loads(text)
                made_of = str(line.pop("made_of"))
                tuples = {key: tuple(line[key]) for key in ("placements", "completion_s")}
                result = Result(**{**line, **tuples})
                self._held[result.scenario, result.policy, result.seed] = result, made_of
            except _BROKEN as error:
                raise UserError(
                    f"line {k} of {self._path} is not what nodewise compare writes; delete that line, or name another "
                    "folder"
                ) from error


def code() -> str:
    """Digest of all our sources: a commit does not tell one set of uncommitted changes from another."""
    made = hashlib.sha256()
    for package in (nodewise, nodewise_simulator):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            made.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return made.hexdigest()[:32]
