"""Microsoft Philly (2017): arrival, GPUs and duration of deep-learning jobs; no CPU, memory, machine or priority.

Read is the job list of `siasosp23/artifacts:sia-simulator/traces/philly.csv`. How it is read:

- Arrival is the submission in local time, counted from the first one; the file is not sorted, the columns are.
- Duration is wall time, queueing not in it. The median is 19 minutes and the 99th percentile 3 days: clip the tail
  where one job would outlast the run.
- Jobs with more than 8 GPUs need several nodes at once (gangs). They are kept: whoever cannot place gangs leaves them
  out and says how many.
- Nothing is known of CPU and memory; a user of these rows chooses both per GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.traces.table import Array, Column, read_csv, refuse

_COLUMNS = (
    Column("timestamp", str),
    Column("duration", float, low=0),
    Column("num_gpus", int, low=1),
    Column("cluster", str),
)


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs in order of arrival."""

    arrival_s: Floats  # [J] from the first
    run_s: Floats  # [J]
    gpus: Array  # [J]
    cluster: Array  # [J] virtual cluster
    dropped: dict[str, int]


def load(path: Path) -> Jobs:
    """Read the job list. Raises UserError for a bad file."""
    table = read_csv(path, _COLUMNS, "a job list of Philly")
    submitted = np.empty(len(table))
    for at, text in enumerate(table["timestamp"]):
        try:
            # Local time of a zone that is not told: what counts is how far apart they are.
            submitted[at] = datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp()
        except ValueError:
            refuse(path, f"timestamp {str(text)!r} is no time; write it as 2017-10-09 07:01:55", at + table.first_row)
    ran = table["duration"] > 0
    order = np.argsort(submitted, kind="stable")
    order = order[ran[order]]
    if not len(order):
        refuse(path, "no job ran for any time; give durations in seconds")
    arrival_s = submitted[order] - submitted[order[0]]
    dropped = {"ran for 0 s": int((~ran).sum())}
    return Jobs(arrival_s, table["duration"][order], table["num_gpus"][order], table["cluster"][order], dropped)
