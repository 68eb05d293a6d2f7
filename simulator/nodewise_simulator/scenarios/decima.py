"""`decima`: TPC-H queries on Spark as DAG jobs, from the profiles that Decima (SIGCOMM'19) was trained on.

- A job is a query of a size (2g to 100g) drawn by seed; jobs arrive as a Poisson process that offers `load` of the CPU
  at the reference class's speed, as Decima's simulator lets them.
- A stage is at most `width` pods, its executors; each runs its share of the stage's tasks one after another. A task's
  time is drawn from what was measured at the nearest number of executors not above `width`: of a stage's first wave for
  the first task of each pod, of the later ones for the rest.
- A pod is one core and 1,408 MiB (Spark's executor of 1 GiB and its overhead of 384 MiB), as the profiles tell no size.
- Workload: the query, whatever its size. More in `dag_jobs`.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.scenarios.dag_jobs import CLASSES, Part, Speeds, arrivals, cluster, core_s, pods_of, split
from nodewise_simulator.scenarios.traced import RECIPE, Traced, as_scenario, file_of, folder, kept, need
from nodewise_simulator.traces import decima as trace_of
from nodewise_simulator.traces.decima import Query, Stage
from nodewise_simulator.world import SimPod, world

_CPU_MILLI, _MEMORY_MIB = 1000.0, 1408.0

_SOURCE = f"made of spark_env/tpch of github.com/hongzimao/decima-sim {RECIPE}"


@as_scenario
def decima(
    seed: int, trace: str = "", load: float = 0.7, pods: int = 2500, warm: int = 500, nodes: int = 8, width: int = 4,
    size: str = "all",
) -> Traced:  # fmt: skip
    """Jobs until at least `pods` are counted after `warm`. `trace` is the folder of `tpch_profiles.json[.gz]`.

    Raises UserError for bad files and a size that is not there.
    """
    need("decima", "0 < load < 2, pods >= 1, warm >= 0, width >= 1 and 4 to 60 nodes",
         ok=0.0 < load < 2.0 and pods >= 1 and warm >= 0 and width >= 1 and 4 <= nodes <= 60)  # fmt: skip
    where = folder("decima", trace, "decima-tpch", "tpch_profiles.json[.gz]", _SOURCE)
    queries = kept(trace_of.load, file_of(where, "tpch_profiles.json", _SOURCE))
    sizes = tuple(dict.fromkeys(q.name.partition("/")[0] for q in queries))
    need("decima", f"a size that is all or one of {', '.join(sizes)}", ok=size == "all" or size in sizes)
    measured = [q for q in queries if size in ("all", q.name.partition("/")[0])]
    usable = [q for q in measured if all(_times(stage, width) is not None for stage in q.stages)]
    need("decima", "queries with durations, and there are none", ok=len(usable) > 0)
    rng = np.random.default_rng([seed, 59])
    speeds = Speeds(np.random.default_rng([seed, 61]))
    manifests, milli = cluster(nodes)
    jobs: list[list[Part]] = []
    total = 0
    while total < warm + pods:
        jobs.append(_parts(usable[int(rng.integers(len(usable)))], width, rng))
        total += sum(len(part.run_s) for part in jobs[-1])
    at_s = arrivals([core_s(job) for job in jobs], rng.exponential(1.0, len(jobs)), load, milli)
    made: list[SimPod] = []
    for k, (job, at) in enumerate(zip(jobs, at_s, strict=True)):
        made += pods_of(k, float(at), job, len(made), speeds, rng)
    return Traced(
        world("decima", seed, manifests, CLASSES, made, warm=warm),
        {"queries with a stage that was not measured at so few executors": len(measured) - len(usable)},
    )


def _parts(query: Query, width: int, rng: np.random.Generator) -> list[Part]:
    name = query.name.rpartition("/")[2]
    return [
        Part(split(_drawn(stage, width, rng), width), f"tpch-{name}", _CPU_MILLI, _MEMORY_MIB, stage.parents)
        for stage in query.stages
    ]


def _drawn(stage: Stage, width: int, rng: np.random.Generator) -> Floats:
    """Run time of each task; the first `width` of them are the first wave."""
    times = _times(stage, width)
    assert times is not None
    first, rest = times
    begins = min(stage.tasks, width)
    return np.concatenate([rng.choice(first, begins), rng.choice(rest, stage.tasks - begins)])


def _times(stage: Stage, width: int) -> tuple[Floats, Floats] | None:
    """What was measured of tasks of the first wave and of later ones; each stands in for the other; None: nothing."""
    first, rest = _nearest(stage.first_s, width), _nearest(stage.rest_s, width)
    first = first if len(first) else _nearest(stage.fresh_s, width)
    if not len(first) and not len(rest):
        return None
    return first if len(first) else rest, rest if len(rest) else first


def _nearest(measured: dict[int, Floats], width: int) -> Floats:
    held = [executors for executors, times in measured.items() if len(times)]
    below = [executors for executors in held if executors <= width]
    if not held:
        return np.empty(0)
    return measured[max(below) if below else min(held)]
