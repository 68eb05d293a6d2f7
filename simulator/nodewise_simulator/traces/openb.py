"""Alibaba GPU v2023 (`openb`): nodes with GPUs that can be shared, and pods with sizes, QoS and times.

Files and their order of columns are those of `alibaba/clusterdata:cluster-trace-gpu-v2023/csv`. How they are read:

- Priority: LS and Guaranteed are high, Burstable in the middle, BE low (the trace knows no priority).
- Arrival is `creation_time`; run time is `deletion_time - scheduled_time`. A pod that was never scheduled has no run
  time (nan); nothing is dropped for it, for its size is what most uses need. Run times have a tail of months (95 %
  are under 5 h): whoever replays them in time should clip it.
- Nothing says how much GPU memory is asked for. `gpu_milli` is per GPU, and below 1000 only for pods with one GPU.
- `multigpu*` lists have no QoS, times or `gpu_spec`: such pods are Burstable, have no times and take any model.
- Most variants (`cpu*`, `gpushare*`) are published out of order of time, so order is not asked for.
- The natural load is 1 % of the cluster: arrivals of a replay in time must be drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.traces.table import Array, Column, read_csv

MOST_GPUS = 8
PRIORITIES = {"LS": 2, "Guaranteed": 2, "Burstable": 1, "BE": 0}
"""Priority of each QoS: 2 is the highest."""

_NODES = (
    Column("sn", str),
    Column("cpu_milli", int, low=0),
    Column("memory_mib", int, low=0),
    Column("gpu", int, low=0, high=MOST_GPUS),
    Column("model", str, empty=""),
)
_PODS = (
    Column("name", str),
    Column("cpu_milli", int, low=0),
    Column("memory_mib", int, low=0),
    Column("num_gpu", int, low=0, high=MOST_GPUS),
    Column("gpu_milli", int, low=0, high=1000),
    Column("gpu_spec", str, empty="", required=False),
    Column("qos", str, required=False),
    Column("pod_phase", str, required=False),
    Column("creation_time", float, low=0, required=False),
    Column("deletion_time", float, low=0, empty=np.nan, required=False),
    Column("scheduled_time", float, low=0, empty=np.nan, required=False),
)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes in the order of their names."""

    name: Array  # [N]
    cpu_milli: Array  # [N]
    memory_mib: Array  # [N]
    gpus: Array  # [N], 0 to 8
    model: Array  # [N], empty without GPUs
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods in the order of the file."""

    name: Array  # [P]
    cpu_milli: Array  # [P]
    memory_mib: Array  # [P]
    gpus: Array  # [P], 0 to 8
    gpu_milli: Array  # [P], of each GPU
    gpu_spec: Array  # [P], allowed models as "A|B", empty: any
    qos: Array  # [P]
    priority: Array  # [P], 0 to 2
    phase: Array  # [P]
    arrival_s: Floats  # [P], nan: the list has no times
    wait_s: Floats  # [P], nan: never scheduled
    run_s: Floats  # [P], nan: never scheduled
    dropped: dict[str, int]


def load_nodes(path: Path) -> Nodes:
    """Read a node list. Raises UserError for a bad file."""
    table = read_csv(path, _NODES, "a node list of openb")
    table.need_new("sn")
    table.refuse(
        (table["gpu"] > 0) & (table["model"] == ""), lambda _: "a node with GPUs has no model; write one, as T4"
    )
    table.refuse(table["cpu_milli"] == 0, lambda _: "a node has no CPU; remove the row")
    order = np.argsort(table["sn"])
    name, cpu, memory, gpus, model = (table[column.name][order] for column in _NODES)
    return Nodes(name, cpu, memory, gpus, model, {})


def load_pods(path: Path) -> Pods:
    """Read a pod list, gzipped or not. Raises UserError for a bad file."""
    table = read_csv(path, _PODS, "a pod list of openb")
    gpus, milli = table["num_gpu"], table["gpu_milli"]
    table.need_new("name")
    table.refuse(
        (gpus > 0) & (milli == 0), lambda at: f"{gpus[at]} GPUs of 0 milli are asked for; write 1000 for whole GPUs"
    )
    table.refuse(
        (gpus > 1) & (milli != 1000), lambda at: f"{gpus[at]} shared GPUs are asked for; only one GPU can be shared"
    )
    table.refuse((gpus == 0) & (milli != 0), lambda _: "GPU milli without a GPU; write 1 in num_gpu or 0 in gpu_milli")
    rows = len(table)
    unknown = np.full(rows, np.nan)
    qos = table.get("qos", np.full(rows, "Burstable"))
    table.refuse(
        ~np.isin(qos, list(PRIORITIES)),
        lambda at: f"QoS {str(qos[at])!r} is not one of {', '.join(PRIORITIES)}; correct it",
    )
    created, deleted, scheduled = (
        table.get(name, unknown) for name in ("creation_time", "deletion_time", "scheduled_time")
    )
    run_s, wait_s = deleted - scheduled, scheduled - created
    table.refuse(run_s < 0, lambda _: "deletion_time is before scheduled_time; correct or remove the row")
    table.refuse(wait_s < 0, lambda _: "scheduled_time is before creation_time; correct or remove the row")
    return Pods(
        name=table["name"],
        cpu_milli=table["cpu_milli"],
        memory_mib=table["memory_mib"],
        gpus=gpus,
        gpu_milli=milli,
        gpu_spec=table.get("gpu_spec", np.full(rows, "")),
        qos=qos,
        priority=np.array([PRIORITIES[one] for one in qos]),
        phase=table.get("pod_phase", np.full(rows, "")),
        arrival_s=created,
        wait_s=wait_s,
        run_s=run_s,
        dropped={},
    )


def node_list(folder: Path, which: str = "gpu_node") -> Path:
    """Where the node list is: `gpu_node` (1,213 nodes with GPUs, as published) or `all_node` (1,523)."""
    return folder / f"openb_node_list_{which}.csv"


def pod_list(folder: Path, which: str) -> Path:
    """Where the pod list `which` is, as `default`, gzipped or not. Raises UserError if there is none."""
    for ending in (".csv", ".csv.gz"):
        path = folder / f"openb_pod_list_{which}{ending}"
        if path.is_file():
            return path
    known = sorted(path.name.split(".")[0].removeprefix("openb_pod_list_") for path in folder.glob("openb_pod_list_*"))
    there = f"the lists there are {', '.join(known)}" if known else "give the folder of openb's files"
    raise UserError(f"{folder}: there is no pod list {which!r}; {there}")
