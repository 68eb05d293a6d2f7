"""Gavel (OSDI'20): training jobs with real arrivals, and how fast 26 kinds of them are on three GPU generations.

Read are `msr_seed*.csv[.gz]`, which is `stanford-futuredata/gavel:scheduler/traces/msr` with its virtual clusters in
one file, and `simulation_throughputs.json[.gz]` as it is there. How they are read:

- A job is work, not time: on GPU g it runs for `total_steps / steps_per_s[g, kind]`, alone on its GPUs.
- Rows are in order of arrival within each virtual cluster (`vc`), which is asked for, and merged by arrival here.
- A throughput of 0 means that the job does not fit there or was not measured: it becomes nan, never "for ever".
- The table knows 26 kinds with 1 GPU and 19 of them with 2, 4 and 8; `known` marks the jobs that it has a row for.
  Nothing is dropped: whether 16 GPUs may be counted as twice 8 is for who replays it.
- `*_unconsolidated` are the same GPUs with the job's workers spread over servers.
- No CPU and memory demand, no priority.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.traces.table import Array, Column, Mask, read_bytes, read_csv, refuse

_KIND = re.compile(r"\('(.+)', (\d+)\)")
_COLUMNS = (
    Column("vc", str),
    Column("job_type", str),
    Column("total_steps", float, low=1),
    Column("arrival_time", float, low=0),
    Column("scale_factor", int, low=1),
)

Kind = tuple[str, int]
"""Type of job, as `ResNet-50 (batch size 16)`, and its number of GPUs."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs in order of arrival."""

    arrival_s: Floats  # [J]
    job_type: Array  # [J]
    gpus: Array  # [J]
    steps: Floats  # [J]
    cluster: Array  # [J] virtual cluster
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Throughputs:
    """Steps a second of each kind of job; nan: not known, or does not fit."""

    gpus: tuple[str, ...]
    kinds: tuple[Kind, ...]
    steps_per_s: Floats  # [G, K] alone
    shared_steps_per_s: Floats  # [G, K, K] of the first kind while the second is on the same GPUs

    def run_s(self, jobs: Jobs) -> Floats:
        """Run time of each job alone on each GPU [J, G]; nan: not known."""
        place = {kind: at for at, kind in enumerate(self.kinds)}
        of_job = np.array([place.get((str(t), int(n)), -1) for t, n in zip(jobs.job_type, jobs.gpus, strict=True)])
        speed = np.where(of_job[:, None] >= 0, self.steps_per_s.T[of_job], np.nan)
        run_s: Floats = jobs.steps[:, None] / speed
        return run_s

    def known(self, jobs: Jobs) -> Mask:
        """Which jobs run on at least one GPU [J]."""
        known: Mask = np.isfinite(self.run_s(jobs)).max(axis=1)
        return known


def load_jobs(path: Path) -> Jobs:
    """Read a job list. Raises UserError for a bad file."""
    table = read_csv(path, _COLUMNS, "a job list of Gavel")
    arrival, cluster = table["arrival_time"], table["vc"]
    late = np.zeros(len(table), bool)
    for name in np.unique(cluster):
        rows = np.flatnonzero(cluster == name)
        late[rows[1:]] = np.diff(arrival[rows]) < 0
    table.refuse(
        late,
        lambda at: f"arrival_time {arrival[at]:g} is before the job above it of vc {cluster[at]}; sort by arrival_time",
    )
    order = np.argsort(arrival, kind="stable")
    names = ("arrival_time", "job_type", "scale_factor", "total_steps", "vc")
    arrival_s, job_type, gpus, steps, vc = (table[name][order] for name in names)
    return Jobs(arrival_s, job_type, gpus, steps, vc, {})


def load_throughputs(path: Path) -> Throughputs:
    """Read the throughput table. Raises UserError for a bad file."""
    what = "a throughput table of Gavel"
    try:
        told: Any = json.loads(read_bytes(path, what))
    except ValueError as e:
        refuse(path, f"this is no JSON ({e}); fetch it again")
    if not (isinstance(told, dict) and told and all(isinstance(rows, dict) and rows for rows in told.values())):
        refuse(path, f"this is not {what}; give {{gpu: {{kind: {{'null': steps a second, ...}}}}}}")
    kinds = tuple(sorted({_kind(path, text) for rows in told.values() for text in rows}))
    place = {kind: at for at, kind in enumerate(kinds)}
    alone = np.full((len(told), len(kinds)), np.nan)
    shared = np.full((len(told), len(kinds), len(kinds)), np.nan)
    for g, (gpu, rows) in enumerate(told.items()):
        for text, row in rows.items():
            k = place[_kind(path, text)]
            if not isinstance(row, dict) or "null" not in row:
                refuse(path, f"{gpu}, {text}: the rate alone ('null') is missing; add it")
            alone[g, k] = _rate(path, f"{gpu}, {text}", row["null"])
            for other, rates in row.items():
                if other == "null":
                    continue
                if not isinstance(rates, list) or len(rates) != 2:
                    refuse(path, f"{gpu}, {text} with {other}: {rates!r} are not two rates; correct it")
                if (beside := _kind(path, other)) in place:
                    shared[g, k, place[beside]] = _rate(path, f"{gpu}, {text} with {other}", rates[0])
    return Throughputs(tuple(told), kinds, alone, shared)


def _kind(path: Path, text: str) -> Kind:
    found = _KIND.fullmatch(text)
    if not found:
        refuse(path, f"{text!r} is no kind of job; write ('type', GPUs)")
    return found[1], int(found[2])


def _rate(path: Path, where: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < np.inf:
        refuse(path, f"{where}: {value!r} is no rate; write steps a second, 0 where it does not fit")
    return float(value) or np.nan
