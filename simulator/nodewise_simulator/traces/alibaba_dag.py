"""Alibaba cluster-trace-v2018: batch jobs whose tasks wait for one another, with counts of instances.

Read are parquet tables of tasks with the columns of `erdos-project/erdos-scheduling-simulator`'s samples. How they are
read:

- Who waits for whom is in the names: `R4_2_3` is task 4 and starts when 2 and 3 are over; the letters say nothing. A
  name of another form is a task that waits for nobody.
- A pod is an instance: 10 milli of CPU for each per cent (`cpu_req_pct` 100 is a core); memory is per cent of a
  machine that Alibaba does not tell, `memory_share` here. No gangs.
- A job arrives with its first task. Its instances run for the task's mean: how they spread is not known.
- Counts of instances have a long tail (up to 97,890) and half of the tasks are shorter than a pod takes to start:
  bundle instances or leave such jobs out, and say how many.
- Dropped, and counted, are whole jobs, for a DAG with a hole is another DAG: jobs with a task that did not terminate,
  tells no instances or no request, or ends before it starts; and jobs whose tasks wait in a circle. Waiting for a
  number that is not among the job's tasks is dropped as such: the task starts without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.traces.table import Array, Column, read_parquet, refuse

_NAME = re.compile(r"[A-Za-z]+(\d+)((?:_\d+)*)")
_COLUMNS = (
    Column("task_name", str),
    Column("job_name", str),
    Column("instances", float, low=1, empty=np.nan),
    Column("status", str),
    Column("start_time", float, low=0),
    Column("end_time", float, low=0),
    Column("mean_instance_duration", float, low=0),
    Column("cpu_req_pct", float, low=0, empty=np.nan),
    Column("mem_req_norm", float, low=0, high=100, empty=np.nan),
)


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks job by job in order of arrival; those of job j are rows `offsets[j]` to `offsets[j + 1]`."""

    job: Array  # [J] name
    arrival_s: Floats  # [J] from the start of the trace
    offsets: Array  # [J + 1]
    instances: Array  # [T]
    run_s: Floats  # [T] of one instance
    cpu_milli: Floats  # [T] of one instance
    memory_share: Floats  # [T] of one instance, of a machine
    parents: tuple[tuple[int, ...], ...]  # [T] rows that must be over first
    dropped: dict[str, int]


def load(path: Path) -> Tasks:
    """Read a table of tasks. Raises UserError for a bad file, or if no job of it is left."""
    table = read_parquet(path, _COLUMNS, "a table of Alibaba's batch tasks of 2018")
    names, job_of = np.unique(table["job_name"], return_inverse=True)
    reasons = {
        "job with a task that did not terminate": table["status"] != "Terminated",
        "job with a task without instances or a request": np.isnan(
            table["instances"] + table["cpu_req_pct"] + table["mem_req_norm"]
        ),
        "job with a task that ends before it starts": table["end_time"] < table["start_time"],
    }
    left = np.ones(len(names), bool)
    dropped = {}
    for reason, bad in reasons.items():
        hit = np.zeros(len(names), bool)
        hit[job_of[bad]] = True
        dropped[reason] = int((hit & left).sum())
        left &= ~hit
    arrival = np.full(len(names), np.inf)
    np.minimum.at(arrival, job_of, table["start_time"])
    rows_of: list[list[int]] = [[] for _ in names]
    for row, job in enumerate(job_of):
        rows_of[job].append(row)

    order: list[int] = []
    parents, kept = [], []
    circles = unknown = 0
    for job in np.argsort(arrival, kind="stable"):
        if not left[job]:
            continue
        waits, strangers = _waits([str(table["task_name"][row]) for row in rows_of[job]])
        if _in_circle(waits):
            circles += 1
            continue
        unknown += strangers
        parents += [tuple(len(order) + parent for parent in found) for found in waits]
        order += rows_of[job]
        kept.append(job)
    if not kept:
        refuse(path, "no job of it can be used: none has only terminated tasks with requests; give another sample")
    return Tasks(
        job=names[kept],
        arrival_s=arrival[kept],
        offsets=np.concatenate([[0], np.cumsum([len(rows_of[job]) for job in kept])]),
        instances=table["instances"][order].astype(np.int64),
        run_s=table["mean_instance_duration"][order],
        cpu_milli=table["cpu_req_pct"][order] * 10.0,
        memory_share=table["mem_req_norm"][order] / 100.0,
        parents=tuple(parents),
        dropped={
            **dropped,
            "job whose tasks wait in a circle": circles,
            "waiting for a task that is not there": unknown,
        },
    )


def _waits(names: list[str]) -> tuple[list[list[int]], int]:
    """Of each task of a job the tasks it waits for, and how many it names that are not there."""
    found = [_NAME.fullmatch(name) for name in names]
    place = {int(match[1]): at for at, match in enumerate(found) if match}
    wanted = [[int(n) for n in match[2].split("_") if n] if match else [] for match in found]
    known = [sorted({place[n] for n in numbers if n in place}) for numbers in wanted]
    return known, sum(n not in place for numbers in wanted for n in numbers)


def _in_circle(waits: list[list[int]]) -> bool:
    over: set[int] = set()
    while len(over) < len(waits):
        ready = {at for at, parents in enumerate(waits) if at not in over and over.issuperset(parents)}
        if not ready:
            return True
        over |= ready
    return False
