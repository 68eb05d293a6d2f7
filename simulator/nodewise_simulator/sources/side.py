"""`S3q-live` and `S3q-heavy`: the tasks of S3 with a CPU and four GPUs that each have a queue.

Ours, from the source's constants: in the source no task ever waits, so that its "oracle" knows no queue.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.checks import require_policy, require_seed, require_whole
from nodewise_simulator.sources.hybrid import GPUS, Ranges, Tasks, skewed_tasks
from nodewise_simulator.sources.servers import TRAINING_SEEDS, WEIGHTS, serve
from nodewise_simulator.studies import Study

_RANGES = {"S3q-live": Ranges((100, 5000), (10, 500)), "S3q-heavy": Ranges((100, 5000), (100, 10000))}

_POLICIES = {
    "hash-to-gpu": "as coded: GPU number = task id mod 4",
    "gpu-least-backlog": "ours: all on GPUs, on the one with the least work",
    "oracle-side": "as coded, made a dispatcher: the side that is faster without a queue, least work there",
    "earliest-finish-time": "ours: least wait + service",
    "tuned-index": "ours: least a × wait + service, a chosen on training seeds",
    "bound": "bound: the shorter service time of each task, as if nothing ever waited",
}
_UNITS = {"response_mean": "s", "response_p95": "s", "weight": "a of a × wait + service"}


def _services(tasks: Tasks) -> Floats:
    """[N, 1 + GPUS] seconds; server 0 is the CPU."""
    return np.column_stack([tasks.cpu_s, *[tasks.gpu_s] * GPUS])


def _key(policy: str, service_s: Floats) -> tuple[Floats, float]:
    """Key [N, S] and weight of a policy; see `servers`."""
    never = np.full_like(service_s, np.inf)
    task = np.arange(len(service_s))
    if policy == "hash-to-gpu":
        never[task, 1 + task % GPUS] = 0.0
    elif policy == "gpu-least-backlog":
        never[:, 1:] = 0.0
    elif policy == "oracle-side":
        gpu = service_s[:, 1] < service_s[:, 0]
        never[gpu, 1:] = 0.0
        never[~gpu, 0] = 0.0
    else:
        return service_s, 1.0
    return never, 1.0


@lru_cache(maxsize=32)
def tuned_weight(name: str, rate: float, tasks: int, warm: int) -> float:
    """The weight with the least mean response over the training seeds."""
    total = np.zeros(len(WEIGHTS))
    for seed in TRAINING_SEEDS:
        made = skewed_tasks(seed, tasks, _RANGES[name], rate)
        service_s = _services(made)
        total += serve(made.arrival_s, service_s, service_s, np.array(WEIGHTS)[:, None])[warm:].mean(axis=0)
    return WEIGHTS[int(total.argmin())]


def _play(
    name: str, policy: str, seed: int, rate: float = 30.0, tasks: int = 20000, warm: int = 2000, weight: float = 0.0
) -> dict[str, float]:
    require_policy(name, policy, _POLICIES)
    require_seed(name, seed)
    require_whole(name, "warm", warm, 0)
    require_whole(name, "tasks", tasks, warm + 1)
    if not rate > 0.0 or not weight >= 0.0:
        raise UserError(f"scenario {name} needs rate > 0 and weight > 0 (or 0: chosen on training seeds)")
    made = skewed_tasks(seed, tasks, _RANGES[name], rate)
    service_s = _services(made)
    if policy == "bound":
        response_s = service_s.min(axis=1)[warm:]
        return _measured(response_s, 0.0)
    key, a = _key(policy, service_s)
    if policy == "tuned-index":
        a = weight or tuned_weight(name, rate, tasks, warm)
    return _measured(serve(made.arrival_s, service_s, key, np.array([[a]]))[warm:, 0], a)


def _measured(response_s: Floats, weight: float) -> dict[str, float]:
    mean, p95 = float(response_s.mean()), float(np.percentile(response_s, 95))
    return {"response_mean": mean, "response_p95": p95, "weight": weight}


STUDIES = tuple(
    Study(
        name=name,
        says=f"a CPU and four GPUs with a queue each; {'live' if 'live' in name else 'heavy'} tasks, 30 a second",
        source="ours, on the constants of anurag2796/hybrid-ml-scheduler fae1b14",
        policies=_POLICIES,
        units=_UNITS,
        headline="response_mean",
        play=partial(_play, name),
    )
    for name in _RANGES
)
