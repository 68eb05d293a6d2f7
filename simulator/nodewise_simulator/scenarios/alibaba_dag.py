"""`alibaba-dag`: batch jobs of Alibaba's trace of 2018 as DAGs of pods with parents.

- Jobs: consecutive ones of the sample, from an instant drawn by seed; their times are stretched by one factor so that
  they offer `load` of the CPU at the reference class's speed.
- `sample` names the file: `dag_5to7_tasks` (jobs of 5 to 7 tasks, two minutes the median: the default, as its tasks
  last longer than a pod takes to start) or `random_6600_jobs` (the mix, three seconds the median).
- A task of n instances is at most `width` pods, each of which runs its share one after another, for the task's mean
  time each. Jobs with a task of more than `instances` instances are left out: one of them would be the window's load.
- CPU is the instance's; memory is its share of a machine, taken as 96 GiB, which with the 96 cores of most machines of
  the trace gives 1 GiB a core.
- Workload: nothing tells which jobs recur, so jobs are dealt to ten workloads by seed. More in `dag_jobs`.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.scenarios.dag_jobs import (
    CLASSES,
    ROOM_MIB,
    ROOM_MILLI,
    Part,
    Speeds,
    arrivals,
    cluster,
    core_s,
    pods_of,
    split,
)
from nodewise_simulator.scenarios.traced import Traced, as_scenario, folder, kept, need
from nodewise_simulator.traces import alibaba_dag as trace_of
from nodewise_simulator.traces.alibaba_dag import Tasks
from nodewise_simulator.world import SimPod, world

_MACHINE_MIB = 96 * 1024.0
_WORKLOADS = 10


@as_scenario
def alibaba_dag(
    seed: int, trace: str = "", load: float = 0.7, pods: int = 2500, warm: int = 500, nodes: int = 8, width: int = 4,
    sample: str = "dag_5to7_tasks", instances: int = 1000,
) -> Traced:  # fmt: skip
    """Jobs until at least `pods` are counted after `warm`. `trace` is the folder of the parquet files.

    Raises UserError for bad files, and for more pods than the sample has.
    """
    fine = 0.0 < load < 2.0 and pods >= 1 and warm >= 0 and min(width, instances) >= 1 and 4 <= nodes <= 60
    need("alibaba-dag", "0 < load < 2, pods >= 1, warm >= 0, width and instances >= 1 and 4 to 60 nodes", ok=fine)
    where = folder(
        "alibaba-dag", trace, "alibaba2018-dag",
        f"{sample}*.parquet", "to fetch from github.com/erdos-project/erdos-scheduling-simulator",
    )  # fmt: skip
    found = sorted(where.glob(f"{sample}*.parquet"))
    if not found:
        raise UserError(f"{where}: there is no {sample}*.parquet; name the beginning of a file there with sample=NAME")
    tasks = kept(trace_of.load, found[0])
    manifests, milli = cluster(nodes)
    most = np.maximum.reduceat(tasks.instances, tasks.offsets[:-1])
    too_big = np.logical_or.reduceat(
        (tasks.cpu_milli > ROOM_MILLI) | (tasks.memory_share * _MACHINE_MIB > ROOM_MIB), tasks.offsets[:-1]
    )
    usable = np.flatnonzero((most <= instances) & ~too_big)
    counts = np.add.reduceat(np.minimum(tasks.instances, width), tasks.offsets[:-1])[usable]
    total = warm + pods
    need("alibaba-dag", f"warm + pods of {counts.sum()} at most: the sample has no more", ok=total <= counts.sum())
    rng = np.random.default_rng([seed, 67])
    latest = int(np.searchsorted(np.cumsum(counts[::-1]), total))  # jobs from the end that are just enough, less one
    first = int(rng.integers(0, len(usable) - latest))
    jobs = usable[first : first + int(np.searchsorted(np.cumsum(counts[first:]), total)) + 1]
    speeds = Speeds(np.random.default_rng([seed, 71]))
    parts = [_parts(tasks, int(job), width, f"batch-{rng.integers(_WORKLOADS)}") for job in jobs]
    gaps = np.diff(tasks.arrival_s[jobs], prepend=tasks.arrival_s[jobs[0]])
    at_s = arrivals([core_s(job) for job in parts], gaps, load, milli)
    made: list[SimPod] = []
    for k, (job, at) in enumerate(zip(parts, at_s, strict=True)):
        made += pods_of(k, float(at), job, len(made), speeds, rng)
    left_out = {
        **tasks.dropped,
        f"jobs with a task of more than {instances} instances": int((most > instances).sum()),
        "jobs with an instance that no node is large enough for": int(((most <= instances) & too_big).sum()),
    }
    return Traced(world("alibaba-dag", seed, manifests, CLASSES, made, warm=warm), left_out)


def _parts(tasks: Tasks, job: int, width: int, workload: str) -> list[Part]:
    begin, end = int(tasks.offsets[job]), int(tasks.offsets[job + 1])
    return [
        Part(
            split(np.full(int(tasks.instances[row]), tasks.run_s[row]), width), workload, float(tasks.cpu_milli[row]),
            float(tasks.memory_share[row] * _MACHINE_MIB), tuple(parent - begin for parent in tasks.parents[row]),
        )
        for row in range(begin, end)
    ]  # fmt: skip
