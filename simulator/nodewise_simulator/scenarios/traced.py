"""What scenarios of real traces share: where their files are, how a row becomes a pod, what was left out.

No trace here tells all that a pod needs. What is added is the same everywhere, and each scenario's docstring says which
of it it uses:

- Deadlines: 2.5 × the usual run time for production, 5.5 × for batch, none for best-effort: the middle of the ranges of
  `hetero`.
- SLA classes, where a trace has neither priority nor class: drawn with the shares of `hetero`'s mix `mixed`.
- Prices by part: 0.031611 USD a vCPU and 0.004237 a GiB and hour (OpenCost `configs/default.json`, Google's n1), GPUs
  as in `GPU_USD_PER_H`. Power by part: CPU generations of `nodewise.core.machines`, GPUs as in `GPU_WATTS`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats, SlaClass
from nodewise_simulator.scenarios.hetero import MIXES
from nodewise_simulator.world import SimPod, World, pod_manifest, quantised, sim_pod

GIB = 2.0**30
VCPU_USD_PER_H, GIB_USD_PER_H = 0.031611, 0.004237
GPU_USD_PER_H: Mapping[str, float] = {"K80": 0.45, "T4": 0.35, "P100": 1.46, "V100": 2.48, "A10": 0.95, "A100": 2.934}
"""Google Cloud, us-central1, on demand, 2024; the A10, which it does not have, at OpenCost's default."""
GPU_WATTS: Mapping[str, tuple[float, float]] = {
    "K80": (30.0, 150.0), "T4": (10.0, 70.0), "P100": (25.0, 250.0), "V100": (30.0, 300.0), "A10": (30.0, 150.0),
    "A100": (50.0, 400.0),
}  # fmt: skip
"""Idle and full, as in the PWR plugin (CCGrid 2025); the K80, which it does not have, at half of its board's 300 W."""

SLACK = {SlaClass.PRODUCTION: 2.5, SlaClass.BATCH: 5.5}
SLA_NAME = {SlaClass.PRODUCTION: "production", SlaClass.BATCH: "batch", SlaClass.BEST_EFFORT: "best-effort"}

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Traced:
    """A world, and the rows of its trace that could not become pods or nodes of it, by reason."""

    world: World
    left_out: dict[str, int]


def as_scenario(make: Callable[P, Traced]) -> Callable[P, World]:
    """The scenario without its counts, which `left_out` tells."""

    @functools.wraps(make)
    def only_world(*args: P.args, **options: P.kwargs) -> World:
        return make(*args, **options).world

    return only_world


def left_out(scenario: Callable[..., World], seed: int, **options: Any) -> dict[str, int]:
    """Rows that this world was made without, by reason; {} for a scenario of no trace. Raises UserError as it does."""
    made = inspect.unwrap(scenario)(seed, **options)
    return made.left_out if isinstance(made, Traced) else {}


RECIPE = "as nodewise_simulator/traces/README.md says"
"""How files are made that no one publishes in the form in which they are read."""


def folder(scenario: str, trace: str, inside: str, files: str, source: str) -> Path:
    """`trace`, or `inside` of the folder that NODEWISE_TRACES names; `files` are read there, and come from `source`.

    Raises UserError if nothing names a folder, and for what is none.
    """
    home = os.environ.get("NODEWISE_TRACES", "")
    how = f"with --trace PATH, or as {scenario}@trace=PATH"
    if not trace and not home:
        raise UserError(f"scenario {scenario} needs a trace: {files}, {source}; name the folder {how}")
    where = Path(trace) if trace else Path(home) / inside
    if where.is_file():
        raise UserError(f"{where} is a file; --trace wants the folder that holds {files}")
    if not where.is_dir():
        raise UserError(f"there is no folder {where}; name the one that holds {files}, {how}")
    return where


def file_of(where: Path, names: str, source: str) -> Path:
    """The first file of the folder, by name, that is called `names` (`*` stands for anything), gzipped or not.

    Raises UserError, which says where it comes from, if there is none.
    """
    found = sorted(p for ending in ("", ".gz") for p in where.glob(f"{names}{ending}"))
    if not found:
        raise UserError(f"{where}: there is no {names}; it is {source}")
    return found[0]


def kept(load: Callable[[Path], T], path: Path) -> T:
    """What `load` makes of a file; kept, as a comparison makes the same trace's worlds for many seeds."""
    try:
        found = path.stat()
    except OSError:
        return load(path)  # which says what is wrong
    made: T = _kept(load, path, found.st_mtime_ns, found.st_size)
    return made


@functools.lru_cache(maxsize=4)
def _kept(load: Callable[[Path], Any], path: Path, changed_ns: int, size: int) -> Any:
    del changed_ns, size  # part of the key
    return load(path)


def need(scenario: str, what: str, *, ok: bool) -> None:
    """Raise UserError unless the options make sense."""
    if not ok:
        raise UserError(f"scenario {scenario} needs {what}")


def drawn_sla(rng: np.random.Generator) -> SlaClass:
    """An SLA class for what has none in the trace."""
    return SlaClass(int(rng.choice(3, p=MIXES["mixed"])))


def requests(cpu_milli: float, memory_mib: float, gpus: int = 0) -> dict[str, str]:
    """Resources as a manifest has them."""
    asked = {"cpu": f"{cpu_milli:.0f}m", "memory": f"{memory_mib:.0f}Mi"}
    return asked | ({"nvidia.com/gpu": str(gpus)} if gpus else {})


def pod(
    name: str, created_s: float, workload: str, sla: SlaClass, run_s: Floats, asked: Mapping[str, str], *,
    deadline_s: float = 0.0, expected_s: float = 0.0, priority: int = 0, job: str = "",
    models: tuple[str, ...] = (), archs: tuple[str, ...] = (), **hidden: Any,
) -> SimPod:  # fmt: skip
    """One pod of a Job. `run_s` [C]; deadline and expected time are left out at 0.

    `models` are the GPUs that it may have, `archs` the architectures that it runs on (empty: it does not say).
    """
    told = {"nodewise.dev/sla-class": SLA_NAME[sla], "nodewise.dev/workload": workload}
    if deadline_s > 0.0:
        told["nodewise.dev/deadline-seconds"] = f"{deadline_s:.3f}"
    if expected_s > 0.0:
        told["nodewise.dev/expected-seconds"] = f"{expected_s:.3f}"
    spec: dict[str, Any] = {"priority": priority}
    both = {"nvidia.com/gpu.product": models, "kubernetes.io/arch": archs}
    allowed = {key: values for key, values in both.items() if values}
    if allowed:
        term = {"matchExpressions": [{"key": k, "operator": "In", "values": list(v)} for k, v in allowed.items()]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        spec["affinity"] = {"nodeAffinity": required}
    manifest = pod_manifest(name, quantised(created_s), told, dict(asked), **spec)
    owner = job or name
    controller = {"apiVersion": "batch/v1", "kind": "Job", "name": owner, "uid": f"{owner}-job", "controller": True}
    manifest["metadata"]["ownerReferences"] = [controller]
    return sim_pod(manifest, run_s, **hidden)


def deadline_of(sla: SlaClass, usual_s: float) -> float:
    """Time from creation after which a pod is late; 0: it cannot be."""
    return SLACK.get(sla, 0.0) * usual_s
