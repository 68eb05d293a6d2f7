"""`google2011`: a sample of jobs and machines of Google's Borg cell of May 2011, with priorities and machine events.

- Machines: the share `share` of the ids, drawn by seed (2 %: about 250). A REMOVE takes the node away, with what ran
  there, an ADD brings it back, at the trace's times. An UPDATE of a capacity is left out: nodes keep their first size.
- Jobs: the same share of the ids. What ran or waited at the start of the window are the warm pods, all at once, with
  the time that they had left; then arrivals at the trace's times, the first `pods` of them. `part` says where the
  window begins: `train` 0–12 h, `validate` 12–19 h (the instant is drawn by seed), or `start`: at 0, the trace's own
  initial state.
- A pod is an attempt that came to its own end (FINISH, FAIL, KILL). Attempts that the cell's scheduler or a machine cut
  short (EVICT, LOST) are left out, for the engine evicts where its own nodes change, and, with `preempt`, for more
  important pods, as kube-scheduler does: 93 % of the trace's evictions come with the SCHEDULE of a task of higher
  priority on the same machine in the same second, 0.7 % with a machine's removal. Such a pod comes when the first of
  the attempts was submitted that were cut short before it; without `preempt`, when it was submitted itself. An
  attempt that outlives the file is taken to end with it.
- Requests: one factor on all, CPU and memory alike, makes the most of the scarcer one that the window's tasks held at
  once, when the cell ran them, `load` of the machines: the cell is over-committed (1.19 × its CPU), which strict
  requests are not; and a large job that comes at once must not be the end of the sample.
- Priority is the trace's (0 to 11). Scheduling class 0 is best-effort, 1 batch, 2 and 3 production.
- Workload: the job, for its tasks are alike. No expected time is told.
- A run takes as long everywhere: nothing tells how fast a platform is; contention is in the durations already.
- Price and power by part, all Sandy Bridge; 1.0 CPU is 64 cores, as in the loader.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats, SlaClass
from nodewise_simulator.physics import Change, NodeChange
from nodewise_simulator.scenarios.traced import (
    GIB_USD_PER_H,
    RECIPE,
    VCPU_USD_PER_H,
    Traced,
    as_scenario,
    deadline_of,
    file_of,
    folder,
    kept,
    need,
    pod,
    requests,
)
from nodewise_simulator.traces import google2011 as trace_of
from nodewise_simulator.traces.google2011 import ADD, EVICT, LOST, UPDATE, Attempts, MachineEvents
from nodewise_simulator.traces.table import Array
from nodewise_simulator.world import Json, SimPod, node_manifest, quantised, world

_PARTS = {"train": (0.0, 12 * 3600.0), "validate": (12 * 3600.0, 19 * 3600.0), "start": (0.0, 0.0)}
_WATTS = (2.2122, 8.6309)
"""Per core, idle and full: Sandy Bridge (Cloud Carbon Footprint)."""
_SLA = (SlaClass.BEST_EFFORT, SlaClass.BATCH, SlaClass.PRODUCTION, SlaClass.PRODUCTION)

_MACHINES = "machine_events_part-00000-of-00001.csv"
_SOURCE = f"made of the clusterdata-2011-2 of github.com/google/cluster-data {RECIPE}"


@as_scenario
def google2011(
    seed: int,
    trace: str = "",
    load: float = 0.95,
    pods: int = 2000,
    share: float = 0.02,
    part: str = "train",
    preempt: int = 1,
) -> Traced:
    """`pods` counted; what runs as the window begins comes before them. `trace` is the folder of the two files.

    Raises UserError for bad files and an unknown part.
    """
    need("google2011", "0 < load < 2, pods >= 1 and 0 < share <= 1",
         ok=0.0 < load < 2.0 and pods >= 1 and 0.0 < share <= 1.0)  # fmt: skip
    need("google2011", "preempt 0 or 1", ok=preempt in (0, 1))
    need("google2011", f"a part that is one of {', '.join(_PARTS)}", ok=part in _PARTS)
    where = folder("google2011", trace, "google2011", f"{_MACHINES}[.gz] and task_events*.parquet", _SOURCE)
    events = kept(trace_of.load_machines, file_of(where, _MACHINES, _SOURCE))
    told = file_of(where, "task_events*.parquet", _SOURCE)
    tasks = kept(trace_of.load_attempts, told)
    rng = np.random.default_rng([seed, 43])
    begin_s = float(rng.uniform(*_PARTS[part]))
    machines = _some(events.machine, share, rng)
    of_job = np.isin(tasks.job, _some(tasks.job, share, rng))

    last_s = float(np.nanmax(np.concatenate([tasks.end_s, tasks.schedule_s])))
    end_s = np.where(np.isnan(tasks.end_s), last_s, tasks.end_s)
    cut = (tasks.ended == EVICT) | (tasks.ended == LOST)
    ran = (end_s > tasks.schedule_s) & of_job & ~cut
    # A task that was running from the start of the file was submitted before it.
    submit_s = np.where(np.isnan(tasks.submit_s), tasks.schedule_s, tasks.submit_s)
    if preempt:
        submit_s = tasks.first_submit_s  # what became of it until then is the engine's to play
    there = np.flatnonzero(ran & (submit_s <= begin_s) & (end_s > begin_s))
    later = np.flatnonzero(ran & (submit_s > begin_s))
    later = later[np.argsort(submit_s[later], kind="stable")][:pods]
    if len(later) == 0:
        raise UserError(f"{told}: no task of the sample arrives after {begin_s:g} s; raise share or choose a part")

    rows = np.concatenate([there, later])
    nodes, changes, absent = _cluster(events, machines, begin_s, until_s=float(end_s[rows].max()))
    if not nodes:
        raise UserError(f"{where}: no machine of the sample is there at {begin_s:g} s; raise share")
    arrival_s = np.maximum(submit_s[rows], begin_s) - begin_s
    run_s = end_s[rows] - np.maximum(tasks.schedule_s[rows], begin_s)
    room = np.array([[n[1], n[2]] for n in nodes.values()])
    factor = _factor(tasks, rows, end_s, begin_s, load, room)
    asked = factor * np.stack([tasks.cpu_milli[rows], tasks.memory_mib[rows]], axis=1)
    # The machine with the most CPU need not have the most memory.
    fits = np.zeros(len(rows), bool)
    for size in np.unique(room, axis=0):
        fits |= (asked <= size).all(axis=1)
    names = tuple(dict.fromkeys(n[0] for n in nodes.values()))
    made = [
        _pod(tasks, int(row), float(at), float(run), want, len(names))
        for row, at, run, want in zip(rows[fits], arrival_s[fits], run_s[fits], asked[fits], strict=True)
    ]
    warm = int(fits[: len(there)].sum())
    if warm == len(made):
        raise UserError(f"{told}: no pod of the window fits a machine; lower load")
    resized = np.isin(events.machine, machines) & (events.event == UPDATE)
    left_out = {
        **{f"task events: {reason}": count for reason, count in tasks.dropped.items()},
        **{f"machine events: {reason}": count for reason, count in events.dropped.items()},
        "attempts of the sampled jobs that the cell evicted or lost": int((of_job & cut).sum()),
        "attempts that took no time": int((of_job & ~cut & (end_s <= tasks.schedule_s)).sum()),
        "pods of the window that outlive the file (cut there, kept)": int(np.isnan(tasks.end_s[rows]).sum()),
        "pods of the window that no machine is large enough for": int((~fits).sum()),
        "sampled machines that are not there in the window": absent,
        "changes of a sampled machine's capacity": int(resized.sum()),
    }  # fmt: skip
    manifests = [_node(name, *what) for name, what in nodes.items()]
    return Traced(
        world("google2011", seed, manifests, names, made, warm=warm, changes=changes, preempts=bool(preempt)), left_out
    )


def _some(ids: Array, share: float, rng: np.random.Generator) -> Array:
    known = np.unique(ids)
    return np.asarray(rng.choice(known, max(round(share * len(known)), 1), replace=False))


def _cluster(
    events: MachineEvents, machines: Array, begin_s: float, until_s: float
) -> tuple[dict[str, tuple[str, float, float]], tuple[NodeChange, ...], int]:
    """Type, CPU milli and MiB of each node by name; what happens to them in the window; how many never are there."""
    nodes: dict[str, tuple[str, float, float]] = {}
    changes: list[NodeChange] = []
    absent = 0
    mine = np.isin(events.machine, machines) & (events.event != UPDATE) & (events.time_s <= until_s)
    rows_of: dict[int, list[int]] = {}
    for row in np.flatnonzero(mine).tolist():
        rows_of.setdefault(int(events.machine[row]), []).append(row)
    for machine in sorted(int(m) for m in machines):
        rows = rows_of.get(machine, [])
        up = False
        for row in rows:
            if events.time_s[row] <= begin_s:
                up = bool(events.event[row] == ADD)
        later = [row for row in rows if events.time_s[row] > begin_s]
        first = next((row for row in rows if events.event[row] == ADD), None)
        if first is None or not (up or any(events.event[row] == ADD for row in later)):
            absent += 1
            continue
        name = f"machine-{machine}"
        cpu, memory = float(events.cpu_milli[first]), float(events.memory_mib[first])
        nodes[name] = (f"type-{events.node_type[first]}", cpu, memory)
        for row in later:
            comes = bool(events.event[row] == ADD)
            if comes != up:  # the trace may tell a state twice
                at_s = quantised(float(events.time_s[row]) - begin_s)
                changes.append(NodeChange(at_s, Change.ADD if comes else Change.REMOVE, name))
                up = comes
    return nodes, tuple(sorted(changes, key=lambda c: c.at_s)), absent


def _factor(tasks: Attempts, rows: Array, end_s: Floats, begin_s: float, load: float, room: Floats) -> float:
    """What all requests are multiplied by so that the most that was held at once of the scarcer resource is `load`."""
    starts_s = np.maximum(tasks.schedule_s[rows], begin_s)
    wants = np.stack([tasks.cpu_milli[rows], tasks.memory_mib[rows]], axis=1)
    at_s = np.concatenate([end_s[rows], starts_s])  # at one instant room is given back first
    held = np.concatenate([-wants, wants])[np.argsort(at_s, kind="stable")].cumsum(axis=0)
    share = float((held.max(axis=0) / room.sum(axis=0)).max())
    return load / share if share > 0.0 else 1.0


def _node(name: str, kind: str, cpu_milli: float, memory_mib: float) -> Json:
    cores = cpu_milli / 1000.0
    return node_manifest(
        name, cpu_milli=cpu_milli, memory_bytes=memory_mib * 2.0**20, instance_type=kind,
        price_usd_per_h=cores * VCPU_USD_PER_H + memory_mib / 1024.0 * GIB_USD_PER_H,
        idle_w=cores * _WATTS[0], peak_w=cores * _WATTS[1], pods=10**4,
    )  # fmt: skip


def _pod(tasks: Attempts, row: int, at_s: float, run_s: float, asked: Floats, classes: int) -> SimPod:
    sla, job = _SLA[int(tasks.sla_class[row])], f"job-{tasks.job[row]}"
    return pod(
        f"{job}-{tasks.task[row]}-{row}", at_s, job, sla, np.full(classes, run_s), requests(asked[0], asked[1]),
        deadline_s=deadline_of(sla, run_s), priority=int(tasks.priority[row]), job=job,
    )  # fmt: skip
