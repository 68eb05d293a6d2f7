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
    top. During an in-place resize the largest of wanted, allocated and actual counts, container by container (never
    less than what the scheduler sets aside); what the node has refused for good is not wanted any more. With `nonzero`,
    a container without a request counts 100m and 200 MiB, as in the scores (never in the fit) of the in-tree plugins.
    """
    held, refused = _held(status or {}), _refused(status or {})
    running = _sum(_container(c, held, refused, nonzero) for c in spec.get("containers") or ())
    sidecars, peak = Requests(), Requests()
    for container in spec.get("initContainers") or ():
        own = _container(container, held, refused, nonzero)
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


def asks_for_all(spec: Json) -> bool:
    """Whether every container asks for CPU and memory, so that `nonzero` makes no difference."""
    return all(
        name in (resources.get("requests") or {}) or name in (resources.get("limits") or {})
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for resources in (container.get("resources") or {},)
        for name in ("cpu", "memory")
    )


def _sum(parts: Iterable[Requests]) -> Requests:
    total = Requests()
    for part in parts:
        total = total.plus(part)
    return total


def _container(container: Json, held: Mapping[str, Requests], refused: bool, nonzero: bool) -> Requests:
    resources = container.get("resources") or {}
    wanted = dict(resources.get("requests") or {})
    for name, amount in (resources.get("limits") or {}).items():
        wanted.setdefault(name, amount)  # the API server defaults requests to limits
    already = held.get(str(container.get("name")))
    own = _read(wanted) if already is None else already if refused else already.max(_read(wanted))
    if nonzero:
        own = Requests(
            own.cpu_milli if "cpu" in wanted else DEFAULT_CPU_MILLI,
            own.memory_bytes if "memory" in wanted else DEFAULT_MEMORY_BYTES,
            own.gpus_milli,
        )
    return own


def _held(status: Json) -> dict[str, Requests]:
    """What each container holds by the kubelet's account: the larger of allocated and actual."""
    held = {}
    for s in [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]:
        actual = (s.get("resources") or {}).get("requests") or {}
        if s.get("allocatedResources") or actual:
            held[str(s.get("name"))] = _read(s.get("allocatedResources") or {}).max(_read(actual))
    return held


def _refused(status: Json) -> bool:
    pending = (c for c in status.get("conditions") or () if c.get("type") == "PodResizePending")
    return any(c.get("reason") == "Infeasible" for c in pending)


def _read(amounts: Json) -> Requests:
    return Requests(
        milli(amounts.get("cpu", 0)),
        whole(amounts.get("memory", 0)),
        sum(milli(amounts[name]) for name in GPU_RESOURCES if name in amounts),
    )
