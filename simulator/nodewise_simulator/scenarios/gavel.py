"""`gavel`: training jobs with Philly's arrivals on K80, P100 and V100 servers that each kind of job likes differently.

- Nodes: `servers` of each GPU type (Gavel's heterogeneous cluster has as many of each), 8 GPUs, 64 vCPU and 488 GiB;
  a node class is a GPU type. Prices and power by part, Broadwell CPUs.
- A pod is a job: its GPUs are whole and on one server, so its speed is Gavel's consolidated throughput alone; it runs
  for total_steps ÷ throughput. Where a throughput is not known the job may not go (node affinity). No space sharing.
- Arrivals: consecutive jobs from an instant drawn by seed, their times stretched by one factor so that the window
  offers `load` of the GPUs, at run times averaged over the types a job may use. Run times have a tail of weeks: jobs
  that would take more than `longest` days on the fastest type are left out, or a few of them would be the load.
- Workload: the kind of job (type and GPUs), so that a kind's speed on a type can be learned; `expected-seconds` is its
  run time on a V100 (where it fits none, its fastest), which Gavel's scheduler is told too.
- 7 vCPU and 48 GiB a GPU, which the trace does not tell: GPUs are what runs out. SLA classes are drawn; deadlines by
  the run time on a V100. No priorities.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.scenarios.traced import (
    GIB_USD_PER_H,
    GPU_USD_PER_H,
    GPU_WATTS,
    RECIPE,
    VCPU_USD_PER_H,
    Traced,
    as_scenario,
    deadline_of,
    drawn_sla,
    file_of,
    folder,
    kept,
    need,
    pod,
    requests,
)
from nodewise_simulator.traces import gavel as trace_of
from nodewise_simulator.world import Json, SimPod, node_manifest, world

TYPES = ("k80", "p100", "v100")
GPUS = 8
_VCPU, _GIB = 64.0, 488.0
_WATTS = (0.7128, 3.6853)
"""Per vCPU, idle and full: Broadwell (Cloud Carbon Footprint)."""

_SOURCE = f"made of scheduler/ of github.com/stanford-futuredata/gavel {RECIPE}"


@as_scenario
def gavel(
    seed: int, trace: str = "", load: float = 0.7, pods: int = 2000, warm: int = 500, servers: int = 8,
    longest: float = 2.0,
) -> Traced:  # fmt: skip
    """`pods` counted after `warm`. `trace`: the folder of `msr_seed*.csv` and `simulation_throughputs.json` (or `.gz`).

    Raises UserError for bad files, and for more pods than the trace has.
    """
    need("gavel", "0 < load < 2, pods >= 1, warm >= 0, servers >= 1 and longest > 0",
         ok=0.0 < load < 2.0 and pods >= 1 and warm >= 0 and servers >= 1 and longest > 0.0)  # fmt: skip
    where = folder("gavel", trace, "gavel", "msr_seed*.csv[.gz] and simulation_throughputs.json[.gz]", _SOURCE)
    jobs = kept(trace_of.load_jobs, file_of(where, "msr_seed*.csv", _SOURCE))
    told = file_of(where, "simulation_throughputs.json", _SOURCE)
    rates = kept(trace_of.load_throughputs, told)
    need("gavel", f"throughputs of {', '.join(TYPES)}, and {told} lacks one",
         ok=set(TYPES) <= set(rates.gpus))  # fmt: skip
    run_s = rates.run_s(jobs)[:, [rates.gpus.index(g) for g in TYPES]]
    runs = np.isfinite(run_s)
    large, known = jobs.gpus > GPUS, runs.any(axis=1)
    fastest_s = np.where(runs, run_s, np.inf).min(axis=1)
    long = fastest_s > longest * 86_400.0
    usable = np.flatnonzero(~large & known & ~long)
    total = warm + pods
    need("gavel", f"warm + pods of {len(usable)} at most: the trace has no more jobs", ok=total <= len(usable))
    rng = np.random.default_rng([seed, 47])
    first = int(rng.integers(0, len(usable) - total + 1))
    rows = usable[first : first + total]
    usual_s = np.array([np.mean(run_s[row][runs[row]]) for row in rows])
    offered_s = float((usual_s * jobs.gpus[rows]).sum()) / (load * GPUS * servers * len(TYPES))
    arrival_s = jobs.arrival_s[rows] - jobs.arrival_s[rows[0]]
    span_s = float(arrival_s[-1])
    arrival_s = arrival_s * (offered_s / span_s) if span_s > 0.0 else arrival_s
    manifests = [_node(gpu, k) for gpu in TYPES for k in range(servers)]
    classes = tuple(f"{gpu}-server/{gpu.upper()}" for gpu in TYPES)
    made = [
        _pod(k, float(at), str(jobs.job_type[row]), int(jobs.gpus[row]), run_s[row], rng)
        for k, (row, at) in enumerate(zip(rows, arrival_s, strict=True))
    ]
    left_out = {
        "jobs with more GPUs than a server has": int(large.sum()),
        "jobs of a kind without a throughput": int((~large & ~known).sum()),
        f"jobs that take more than {longest:g} days": int((~large & known & long).sum()),
    }
    return Traced(world("gavel", seed, manifests, classes, made, warm=warm), left_out)


def _node(gpu: str, index: int) -> Json:
    usd, (idle_w, full_w) = GPU_USD_PER_H[gpu.upper()], GPU_WATTS[gpu.upper()]
    return node_manifest(
        f"{gpu}-{index:02d}", cpu_milli=_VCPU * 1000, memory_bytes=_GIB * 2.0**30, instance_type=f"{gpu}-server",
        gpus=GPUS, gpu_product=gpu.upper(), price_usd_per_h=_VCPU * VCPU_USD_PER_H + _GIB * GIB_USD_PER_H + GPUS * usd,
        idle_w=_VCPU * _WATTS[0] + GPUS * idle_w, peak_w=_VCPU * _WATTS[1] + GPUS * full_w,
    )  # fmt: skip


def _pod(index: int, at_s: float, kind: str, gpus: int, run_s: Floats, rng: np.random.Generator) -> SimPod:
    runs, sla = np.isfinite(run_s), drawn_sla(rng)
    told_s = float(run_s[-1] if runs[-1] else run_s[runs].min())
    return pod(
        f"job-{index:05d}", at_s, f"{kind} x{gpus}", sla,
        np.where(runs, run_s, run_s[runs].max()),  # where it may not go anyway
        requests(7000.0 * gpus, 48.0 * 1024 * gpus, gpus),
        deadline_s=deadline_of(sla, told_s), expected_s=told_s,
        models=() if runs.all() else tuple(g.upper() for g, ok in zip(TYPES, runs, strict=True) if ok),
    )  # fmt: skip
