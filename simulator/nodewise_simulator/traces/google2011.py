"""Google ClusterData 2011-2: machines that come, go and change, and tasks with priorities, classes and evictions.

Read are `machine_events` (the published CSV, which has no header) and `task_events` as parquet with the names of
`schema.csv`, hashed strings as integers. How they are read:

- Sizes are shares of the largest machine. 1.0 CPU is 64,000 milli and 1.0 memory 262,144 MiB: free choices, so keep
  their ratio. There are no GPUs.
- Time is in microseconds; the trace begins at 600 s, and 0 means "before it": those tasks are the initial state.
- A row of `Attempts` is a SCHEDULE and the next EVICT, FAIL, FINISH, KILL or LOST of the same task. An attempt that
  outlives the file has no end (nan); evicted and killed ones tell how long they ran, not how long they needed.
- Arrival is the SUBMIT before the SCHEDULE; `first_submit_s` is that of the first of the attempts that were evicted or
  lost one after the other before this one. Priority (0 to 11) and scheduling class (0 to 3, 3 most sensitive to
  latency) are the trace's own; the class is the SLA class.
- `different_machine` is the job's anti-affinity.
- Dropped, and counted: attempts without a request (rows that Google reconstructed), and events that are no part of an
  attempt (submitted and never scheduled, ended without a SCHEDULE in the file).
- The cell is over-committed: requests of running tasks reach 1.19 times its CPU. Scale demand or capacity before
  asking that requests fit.
- The node type is platform and capacity together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.traces.table import Array, Column, read_csv, read_parquet

CPU_MILLI, MEMORY_MIB = 64_000, 262_144
"""Of the largest machine."""
SUBMIT, SCHEDULE, EVICT, FAIL, FINISH, KILL, LOST = range(7)
ADD, REMOVE, UPDATE = range(3)
_US = 1e6

_MACHINES = (
    Column("time_us", int, low=0),
    Column("machine_id", int),
    Column("event", int, low=ADD, high=UPDATE),
    Column("platform", str, empty=""),
    Column("cpu", float, low=0, high=1, empty=np.nan),
    Column("memory", float, low=0, high=1, empty=np.nan),
)
_TASKS = (
    Column("time_us", int, low=0),
    Column("job_id", int),
    Column("task_index", int, low=0),
    Column("machine_id", int, empty=-1),
    Column("event_type", int, low=SUBMIT, high=8),
    Column("sched_class", int, low=0, high=3),
    Column("priority", int, low=0, high=11),
    Column("cpu", float, low=0, high=1, empty=np.nan),
    Column("mem", float, low=0, high=1, empty=np.nan),
    Column("diff_machine", int, low=0, high=1, empty=0),
)


@dataclass(frozen=True, slots=True)
class MachineEvents:
    """What happens to machines, in order of time."""

    time_s: Floats  # [E], 0: there from the start
    machine: Array  # [E] id
    event: Array  # [E] ADD, REMOVE or UPDATE
    node_type: Array  # [E] number, one for each platform and capacity
    cpu_milli: Floats  # [E], nan where a REMOVE does not say
    memory_mib: Floats  # [E]
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs of tasks, in order of their SCHEDULE."""

    job: Array  # [A] id
    task: Array  # [A] index in the job
    machine: Array  # [A] id that it ran on
    submit_s: Floats  # [A], nan: not in the file
    first_submit_s: Floats  # [A], its SCHEDULE if that is not in the file
    schedule_s: Floats  # [A], 0: running from the start
    end_s: Floats  # [A], nan: beyond the file
    ended: Array  # [A] EVICT, FAIL, FINISH, KILL, LOST, or -1: beyond the file
    priority: Array  # [A]
    sla_class: Array  # [A]
    cpu_milli: Floats  # [A]
    memory_mib: Floats  # [A]
    different_machine: Array  # [A] bool
    dropped: dict[str, int]


def load_machines(path: Path) -> MachineEvents:
    """Read machine events. Raises UserError for a bad file."""
    table = read_csv(path, _MACHINES, "a machine_events file of Google 2011", header=False)
    table.need_order("time_us")
    unsized = np.isnan(table["cpu"]) | np.isnan(table["memory"])
    keep = ~(unsized & (table["event"] != REMOVE))
    cpu, memory = table["cpu"][keep], table["memory"][keep]
    kinds = np.array([f"{p} {c} {m}" for p, c, m in zip(table["platform"][keep], cpu, memory, strict=True)])
    return MachineEvents(
        time_s=table["time_us"][keep] / _US,
        machine=table["machine_id"][keep],
        event=table["event"][keep],
        node_type=np.unique(kinds, return_inverse=True)[1],
        cpu_milli=cpu * CPU_MILLI,
        memory_mib=memory * MEMORY_MIB,
        dropped={"added or changed without a capacity": int((~keep).sum())},
    )


def load_attempts(path: Path) -> Attempts:
    """Read task events into attempts. Raises UserError for a bad file."""
    table = read_parquet(path, _TASKS, "a task_events file of Google 2011")
    table.need_order("time_us")
    order = np.lexsort((table["task_index"], table["job_id"]))  # stable, so by time within a task
    job, task, event = (table[name][order] for name in ("job_id", "task_index", "event_type"))
    starts = np.concatenate([[True], (np.diff(job) != 0) | (np.diff(task) != 0)])
    of_task = np.cumsum(starts)
    place = np.arange(len(order))
    submitted = _last(place, event == SUBMIT, of_task)
    ends = (event >= EVICT) & (event <= LOST)
    ended = len(order) - 1 - _last(place, ends[::-1], -of_task[::-1])[::-1]
    scheduled = np.flatnonzero(event == SCHEDULE)
    # A second SCHEDULE before any end would make two attempts of one: the later one counts.
    again = np.zeros(len(scheduled), bool)
    again[:-1] = (of_task[scheduled[1:]] == of_task[scheduled[:-1]]) & (ended[scheduled[:-1]] > scheduled[1:])
    cpu, memory = table["cpu"][order][scheduled], table["mem"][order][scheduled]
    unsized = np.isnan(cpu) | np.isnan(memory)
    keep = ~(unsized | again)
    at = scheduled[keep]
    time_s = table["time_us"][order] / _US
    first = _first(at, ended, event, of_task)
    by_time = np.argsort(order[at], kind="stable")
    at, first = at[by_time], first[by_time]
    inside = ended[at] < len(order)
    used_ends = np.zeros(len(order), bool)
    used_ends[ended[scheduled][ended[scheduled] < len(order)]] = True
    waiting = np.zeros(len(order), bool)
    waiting[np.flatnonzero(event == SUBMIT)] = True
    waiting[submitted[scheduled][submitted[scheduled] >= 0]] = False
    values = {name: table[name][order][at] for name in ("machine_id", "priority", "sched_class", "diff_machine")}
    return Attempts(
        job=job[at],
        task=task[at],
        machine=values["machine_id"],
        submit_s=np.where(submitted[at] >= 0, time_s[submitted[at]], np.nan),
        first_submit_s=time_s[np.where(submitted[first] >= 0, submitted[first], first)],
        schedule_s=time_s[at],
        end_s=np.where(inside, time_s[np.where(inside, ended[at], 0)], np.nan),
        ended=np.where(inside, event[np.where(inside, ended[at], 0)], -1),
        priority=values["priority"],
        sla_class=values["sched_class"],
        cpu_milli=table["cpu"][order][at] * CPU_MILLI,
        memory_mib=table["mem"][order][at] * MEMORY_MIB,
        different_machine=values["diff_machine"] == 1,
        dropped={
            "scheduled without a request": int((unsized & ~again).sum()),
            "scheduled twice without an end": int(again.sum()),
            "submitted and not scheduled in the file": int(waiting.sum()),
            "ended without a schedule in the file": int((ends & ~used_ends).sum()),
        },
    )


def _first(at: Array, ended: Array, event: Array, of_task: Array) -> Array:
    """For each attempt [A], in order of task and time, the first of those that were cut short just before it."""
    cut = np.isin(event[np.minimum(ended[at], len(event) - 1)], (EVICT, LOST)) & (ended[at] < len(event))
    goes_on = np.zeros(len(at), bool)
    goes_on[1:] = cut[:-1] & (of_task[at[1:]] == of_task[at[:-1]])
    found: Array = at[np.maximum.accumulate(np.where(goes_on, 0, np.arange(len(at))))] if len(at) else at
    return found


def _last(place: Array, marked: Array, of_task: Array) -> Array:
    """For each row the last marked row before it of the same task; -1: none."""
    last = np.maximum.accumulate(np.where(marked, place, -1))
    same = of_task[last] == of_task
    out: Array = np.where((last >= 0) & same, last, -1)
    return out
