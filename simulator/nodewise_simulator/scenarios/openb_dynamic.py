"""`openb-dynamic`: Alibaba's GPU pods of 2023 as a stream, on a tenth of its GPU nodes; shared GPUs by device.

Sizes, run times and QoS are the trace's; arrivals are not, since its natural load is 1 % of the cluster.

- Nodes: `share` of the nodes of each shape (CPU, memory, GPUs, model), largest remainders; a node class is a shape.
- Pods: drawn with replacement from those that ran; Poisson arrivals at `load` of all GPUs; run times clipped at a day.
- A pod below one GPU takes `gpu_milli` of one device beside others, else whole devices. `gpu_spec` is node affinity.
- QoS: LS and Guaranteed are production and priority 2000, Burstable batch and 1000, BE best-effort and 0.
- Workload: shape and QoS together, as nothing in the trace says what recurs. No expected time is told.
- Run times are the same on all models, which Alibaba does not disclose (G1 to G3): nothing to gain by speed.
- Price and power by part; G2 as A10 and G3 as A100, Broadwell CPUs (as PWR assumes for this cluster).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nodewise.core.types import SlaClass
from nodewise_simulator.scenarios.traced import (
    GIB_USD_PER_H,
    GPU_USD_PER_H,
    GPU_WATTS,
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
from nodewise_simulator.traces import openb
from nodewise_simulator.traces.table import Array, Mask
from nodewise_simulator.world import Json, SimPod, node_manifest, world

LONGEST_S = 86_400.0
_LIKE = {"G2": "A10", "G3": "A100", "V100M16": "V100", "V100M32": "V100"}
_SOCKET_W = (15.0 / 32.0, 120.0 / 32.0)
"""Per vCPU: a socket of PWR's E5-2682 v4 has 16 cores, 32 vCPU."""
_SLA = {2: SlaClass.PRODUCTION, 1: SlaClass.BATCH, 0: SlaClass.BEST_EFFORT}

_SOURCE = "to fetch from cluster-trace-gpu-v2023/csv of github.com/alibaba/clusterdata"


@as_scenario
def openb_dynamic(
    seed: int, trace: str = "", load: float = 0.85, pods: int = 3000, warm: int = 2000, share: float = 0.1,
    list: str = "default",  # noqa: A002  the user's word
) -> Traced:  # fmt: skip
    """`pods` counted after `warm`. `trace` is the folder of openb's files, `list` the pod list's name.

    Raises UserError for bad files, and for a list without times.
    """
    need("openb-dynamic", "0 < load < 2, pods >= 1, warm >= 0 and 0 < share <= 1",
         ok=0.0 < load < 2.0 and pods >= 1 and warm >= 0 and 0.0 < share <= 1.0)  # fmt: skip
    node_list = openb.node_list(Path()).name
    where = folder("openb-dynamic", trace, "openb", f"{node_list} and openb_pod_list_{list}.csv[.gz]", _SOURCE)
    nodes = kept(openb.load_nodes, file_of(where, node_list, _SOURCE))
    listed = kept(openb.load_pods, openb.pod_list(where, list))
    nodes_kept, node_class = sampled(nodes, share)
    names = tuple(f"shape-{k:02d}" for k in range(int(node_class.max()) + 1))
    rng = np.random.default_rng([seed, 41])
    ran = ~np.isnan(listed.run_s) & (listed.run_s > 0.0)
    fits = _fits(listed, nodes, nodes_kept)
    usable = np.flatnonzero(ran & fits)
    need("openb-dynamic", f"pods with run times, and list {list!r} has none", ok=len(usable) > 0)
    run_s = np.minimum(listed.run_s, LONGEST_S)
    gpu_s = float((listed.gpus * listed.gpu_milli * run_s)[usable].mean()) / 1000.0
    need("openb-dynamic", f"pods that want GPUs, and list {list!r} has none", ok=gpu_s > 0.0)
    rate = load * float(nodes.gpus[nodes_kept].sum()) / gpu_s
    arrival_s = np.cumsum(rng.exponential(1.0 / rate, warm + pods))
    manifests = [_node(nodes, int(k), names[c]) for k, c in zip(nodes_kept, node_class, strict=True)]
    classes = tuple(
        dict.fromkeys(
            f"{names[c]}/{nodes.model[k]}" if nodes.gpus[k] else names[c]
            for k, c in zip(nodes_kept, node_class, strict=True)
        )
    )
    made = [
        _pod(k, float(at), listed, int(row), float(run_s[row]), len(classes))
        for k, (at, row) in enumerate(zip(arrival_s, rng.choice(usable, warm + pods), strict=True))
    ]
    left_out = {
        "pods that never ran": int((~ran).sum()),
        "pods that no node is large enough for": int((ran & ~fits).sum()),
        "pods whose run time was clipped at a day (kept)": int((listed.run_s[usable] > LONGEST_S).sum()),
    }
    return Traced(world("openb-dynamic", seed, manifests, classes, made, warm=warm), left_out)


def sampled(nodes: openb.Nodes, share: float) -> tuple[Array, Array]:
    """Rows of the nodes that are kept, and the number of the shape of each."""
    columns = (nodes.cpu_milli, nodes.memory_mib, nodes.gpus, nodes.model)
    shapes: dict[tuple[int, int, int, str], list[int]] = {}
    for row, (cpu, memory, gpus, model) in enumerate(zip(*columns, strict=True)):
        shapes.setdefault((int(cpu), int(memory), int(gpus), str(model)), []).append(row)
    due = np.array([share * len(rows) for rows in shapes.values()])
    counts = np.floor(due).astype(int)
    for at in np.argsort(counts - due, kind="stable")[: round(due.sum()) - counts.sum()]:
        counts[at] += 1
    rows = [row for found, count in zip(shapes.values(), counts, strict=True) for row in found[:count]]
    return np.array(rows), np.repeat(np.arange((counts > 0).sum()), counts[counts > 0])


def _fits(listed: openb.Pods, nodes: openb.Nodes, rows: Array) -> Mask:
    out = np.zeros(len(listed.name), bool)
    for cpu, memory, gpus, model in {
        (int(nodes.cpu_milli[k]), int(nodes.memory_mib[k]), int(nodes.gpus[k]), str(nodes.model[k])) for k in rows
    }:
        allowed = np.array([spec == "" or model in spec.split("|") for spec in listed.gpu_spec])
        out |= (listed.cpu_milli <= cpu) & (listed.memory_mib <= memory) & (listed.gpus <= gpus) & allowed
    return out


def _node(nodes: openb.Nodes, row: int, shape: str) -> Json:
    cpu, memory_mib, gpus = float(nodes.cpu_milli[row]), float(nodes.memory_mib[row]), int(nodes.gpus[row])
    model = str(nodes.model[row])
    like = _LIKE.get(model, model)
    usd, (idle_w, full_w) = (GPU_USD_PER_H[like], GPU_WATTS[like]) if gpus else (0.0, (0.0, 0.0))
    return node_manifest(
        str(nodes.name[row]), cpu_milli=cpu, memory_bytes=memory_mib * 2.0**20, instance_type=shape, gpus=gpus,
        gpu_product=model, price_usd_per_h=cpu / 1000 * VCPU_USD_PER_H + memory_mib / 1024 * GIB_USD_PER_H + gpus * usd,
        idle_w=cpu / 1000 * _SOCKET_W[0] + gpus * idle_w, peak_w=cpu / 1000 * _SOCKET_W[1] + gpus * full_w,
    )  # fmt: skip


def _pod(index: int, at_s: float, listed: openb.Pods, row: int, run_s: float, classes: int) -> SimPod:
    gpus, milli = int(listed.gpus[row]), int(listed.gpu_milli[row])
    shared = milli if 0 < milli < 1000 else 0
    sla, spec = _SLA[int(listed.priority[row])], str(listed.gpu_spec[row])
    cpu, memory = int(listed.cpu_milli[row]), int(listed.memory_mib[row])
    return pod(
        f"pod-{index:05d}", at_s, f"{listed.qos[row]}-{cpu}m-{memory}Mi-{gpus}x{milli}", sla, np.full(classes, run_s),
        requests(cpu, memory, 0 if shared else gpus), deadline_s=deadline_of(sla, run_s),
        priority=1000 * int(listed.priority[row]), models=tuple(spec.split("|")) if spec else (),
        device_milli=float(shared),
    )  # fmt: skip
