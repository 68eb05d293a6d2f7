"""A pod's resource requests as kube-scheduler counts them.

Source: `k8s.io/component-helpers/resource/helpers.go` (PodRequests, AggregateContainerRequests) and
`pkg/scheduler/util/pod_resources.go` (non-zero defaults) at 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nodewise.core.units import milli, whole

Json = Mapping[str, Any]

DEFAULT_CPU_MILLI = 100.0
DEFAULT_MEMORY_BYTES = 200.0 * 2**20
GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")


@dataclass(frozen=True, slots=True)
class Requests:
    """What a pod asks of a node; zero where it asks for none."""

    cpu_milli: float = 0.0
    memory_bytes: float = 0.0
    gpus_milli: float = 0.0

    def plus(self, other: Requests) -> Requests:
        """The sum of both."""
        return Requests(
            self.cpu_milli + other.cpu_milli,
            self.memory_bytes + other.memory_bytes,
            self.gpus_milli + other.gpus_milli,
        )

    def max(self, other: Requests) -> Requests:
        """The larger of both in each resource."""
        return Requests(
            max(self.cpu_milli, other.cpu_milli),
            max(self.memory_bytes, other.memory_bytes),
            max(self.gpus_milli, other.gpus_milli),
        )


def pod_requests(spec: Json, status: Json | None = None, *, nonzero: bool = False) -> Requests:
    """The room that the scheduler sets aside for a pod.

    Containers and native sidecars run together; ordinary init containers run one after the other beside the sidecars
    started before them, and the larger of the two phases counts. Pod-level resources replace the sum, overhead comes on
    top, and during an in-place resize the larger of wanted and allocated counts. With `nonzero`, a container without a
    request counts 100m and 200 MiB, as in the scores (never in the fit) of the in-tree plugins.
    """
    allocated = _allocated(status or {})
    running = _sum(_container(c, allocated, nonzero) for c in spec.get("containers") or ())
    sidecars, peak = Requests(), Requests()
    for container in spec.get("initContainers") or ():
        own = _container(container, allocated, nonzero)
        if container.get("restartPolicy") == "Always":
            sidecars = sidecars.plus(own)
            peak = peak.max(sidecars)
        else:
            peak = peak.max(sidecars.plus(own))
    total = running.plus(sidecars).max(peak)
    pod_level = (spec.get("resources") or {}).get("requests")
    if pod_level:
        total = Requests(
            milli(pod_level["cpu"]) if "cpu" in pod_level else total.cpu_milli,
            whole(pod_level["memory"]) if "memory" in pod_level else total.memory_bytes,
            total.gpus_milli,
        )
    return total.plus(_read(spec.get("overhead") or {}))


def _sum(parts: Iterable[Requests]) -> Requests:
    total = Requests()
    for part in parts:
        total = total.plus(part)
    return total


def _container(container: Json, allocated: Mapping[str, Json], nonzero: bool) -> Requests:
    resources = container.get("resources") or {}
    wanted = dict(resources.get("requests") or {})
    for name, amount in (resources.get("limits") or {}).items():
        wanted.setdefault(name, amount)  # the API server defaults requests to limits
    own = _read(wanted).max(_read(allocated.get(str(container.get("name")), {})))
    if nonzero:
        own = Requests(
            own.cpu_milli if "cpu" in wanted else DEFAULT_CPU_MILLI,
            own.memory_bytes if "memory" in wanted else DEFAULT_MEMORY_BYTES,
            own.gpus_milli,
        )
    return own


def _allocated(status: Json) -> dict[str, Json]:
    statuses = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return {str(s.get("name")): s["allocatedResources"] for s in statuses if s.get("allocatedResources")}


def _read(amounts: Json) -> Requests:
    return Requests(
        milli(amounts.get("cpu", 0)),
        whole(amounts.get("memory", 0)),
        sum(milli(amounts[name]) for name in GPU_RESOURCES if name in amounts),
    )
