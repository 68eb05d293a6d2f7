"""Decima's TPC-H profiles (SIGCOMM'19): Spark queries as stages whose tasks take longer or shorter with more executors.

Read is `tpch_profiles.json[.gz]`: `hongzimao/decima-sim:spark_env/tpch` with its arrays in one JSON file. It is read as
Decima's own job generator reads it:

- A stage has as many tasks as its first wave and its later waves hold together at its first number of executors.
- Durations are lists of measured milliseconds by number of executors: of a task on a new executor (`fresh`, its start
  is in it), of the first of the stage on an executor (`first`), of later ones (`rest`). The source's generator takes
  the tasks that `fresh` holds out of `first` (each once), and where none is left takes those of the next smaller number
  of executors; so does this loader.
- `adj[i][j] = 1`: stage i must be over before j starts.
- One slot an executor; there is no memory demand and no arrival: draw both.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.traces.table import read_bytes, refuse

_WAVES = ("fresh_durations", "first_wave", "rest_wave")


@dataclass(frozen=True, slots=True)
class Stage:
    """Tasks that may run side by side, and what was measured of them, s, by number of executors."""

    tasks: int
    parents: tuple[int, ...]
    fresh_s: dict[int, Floats]
    first_s: dict[int, Floats]
    rest_s: dict[int, Floats]


@dataclass(frozen=True, slots=True)
class Query:
    """One query at one size, stages by number; parents come in any order, never in a circle."""

    name: str
    stages: tuple[Stage, ...]


def load(path: Path) -> tuple[Query, ...]:
    """Read all queries. Raises UserError for a bad file."""
    try:
        told: Any = json.loads(read_bytes(path, "Decima's TPC-H profiles"))
    except ValueError as e:
        refuse(path, f"this is no JSON ({e}); fetch it again")
    if not isinstance(told, dict) or not all(
        isinstance(q, dict) and {"adj", "stages"} <= set(q) for q in told.values()
    ):
        refuse(path, "these are not Decima's TPC-H profiles; give {query: {adj: ..., stages: ...}}")
    if not told:
        refuse(path, "there are 0 queries; give profiles with at least one")
    return tuple(_query(path, name, query["adj"], query["stages"]) for name, query in told.items())


def _query(path: Path, name: str, adjacent: Any, stages: Any) -> Query:
    count = len(stages)
    try:
        after = np.array(adjacent, dtype=float)
    except ValueError:
        after = np.empty(0)
    if after.shape != (count, count) or set(stages) != {str(at) for at in range(count)}:
        refuse(path, f"{name}: adj is not the {count} x {count} matrix of its stages 0 to {count - 1}; correct it")
    if (np.linalg.matrix_power((after != 0).astype(float), count) != 0).any():
        refuse(path, f"{name}: stages wait for one another in a circle; correct adj")
    return Query(
        name,
        tuple(
            _stage(path, f"{name}, stage {at}", stages[str(at)], tuple(np.flatnonzero(after[:, at]).tolist()))
            for at in range(count)
        ),
    )


def _stage(path: Path, where: str, told: Any, parents: tuple[int, ...]) -> Stage:
    waves: list[dict[int, Floats]] = []
    for wave in _WAVES:
        if not isinstance(told, dict) or not isinstance(told.get(wave), dict):
            refuse(path, f"{where}: {wave} is missing; give all of {', '.join(_WAVES)}")
        waves.append({})
        for executors, found in sorted(told[wave].items(), key=lambda entry: int(entry[0])):
            durations = np.array(found, dtype=float) / 1000.0
            if not (np.isfinite(durations).all() and (durations >= 0).all()):
                refuse(path, f"{where}, {wave}, {executors} executors: a duration is negative or NaN; remove it")
            waves[-1][int(executors)] = durations
    fresh, first, rest = waves
    if not first:
        refuse(path, f"{where}: no duration was measured; leave the query out")
    # The first number of executors is the file's, which is not sorted.
    least = int(next(iter(told["first_wave"])))
    tasks = len(first[least]) + len(rest.get(least, ()))
    if tasks == 0:
        refuse(path, f"{where}: there are 0 tasks; leave the query out")
    clean: dict[int, Floats] = {}
    last = np.empty(0)
    for executors, durations in first.items():
        left = _without(durations, fresh.get(executors, np.empty(0)))
        clean[executors] = last = left if len(left) else last
    return Stage(tasks, parents, fresh, clean, rest)


def _without(first: Floats, fresh: Floats) -> Floats:
    out = Counter(fresh.tolist())
    kept = []
    for duration in first.tolist():
        if out[duration] > 0:
            out[duration] -= 1
        else:
            kept.append(duration)
    return np.array(kept, dtype=float)
