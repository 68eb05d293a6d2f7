"""Requests as kube-scheduler counts them, by hand from the Kubernetes documentation."""

from typing import Any

import pytest

from nodewise.core.requests import Requests, pod_requests

Json = dict[str, Any]

MIB = 2.0**20


def container(cpu: str = "", memory: str = "", name: str = "c", **more: Any) -> Json:
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    return {"name": name, "resources": {"requests": requests}, **more}


def sidecar(cpu: str = "", memory: str = "") -> Json:
    return container(cpu, memory, restartPolicy="Always")


def spec(*containers: Json, init: tuple[Json, ...] = (), **more: Any) -> Json:
    return {"containers": list(containers), "initContainers": list(init), **more}


def limits(**amounts: str) -> Json:
    return {"name": "c", "resources": {"limits": {k.replace("__", "/"): v for k, v in amounts.items()}}}


@pytest.mark.parametrize(
    ("pod", "cpu_milli", "memory_mib"),
    [
        pytest.param(spec(container("1", "64Mi"), container("250m", "64Mi")), 1250, 128, id="containers add up"),
        pytest.param(spec(container("0.1", "1M")), 100, 1e6 / MIB, id="decimal and binary quantities"),
        pytest.param(
            spec(container("1", "100Mi"), init=(container("3", "50Mi"), container("2", "200Mi"))), 3000, 200,
            id="init containers run one after the other: the largest of each resource",
        ),
        pytest.param(
            spec(container("1", "100Mi"), init=(sidecar("500m", "50Mi"),)), 1500, 150, id="a sidecar runs beside"
        ),
        pytest.param(
            spec(container("1"), init=(container("2"), sidecar("500m"), container("1200m"))), 2000, 0,
            id="an init container counts with the sidecars before it only: max(2, 0.5 + 1.2, 1 + 0.5)",
        ),
        pytest.param(
            spec(container("1"), init=(sidecar("500m"), container("2"))), 2500, 0, id="the sidecar started first"
        ),
        pytest.param(
            spec(container("100m"), init=(sidecar("1"), sidecar("2"))), 3100, 0, id="sidecars run together"
        ),
        pytest.param(
            spec(container("1", "100Mi"), overhead={"cpu": "250m", "memory": "120Mi"}), 1250, 220, id="overhead on top"
        ),
        pytest.param(
            spec(container("1"), init=(container("2"),), overhead={"cpu": "250m"}), 2250, 0, id="on top of the peak too"
        ),
        pytest.param(
            spec(container("1", "100Mi"), resources={"requests": {"cpu": "3"}}, overhead={"cpu": "1"}), 4000, 100,
            id="pod-level cpu replaces the sum, memory is still summed, overhead comes on top",
        ),
        pytest.param(
            spec(container("1", "1Gi"), resources={"requests": {"cpu": "2", "memory": "512Mi"}}), 2000, 512,
            id="both pod-level",
        ),
        pytest.param(
            spec(container("1", "1Gi"), resources={"limits": {"cpu": "2"}}), 1000, 1024, id="no pod-level requests"
        ),
        pytest.param(spec(limits(cpu="2", memory="1Gi")), 2000, 1024, id="requests default to limits"),
        pytest.param(
            spec({"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Mi"}}}),
            1000, 1, id="each of them",
        ),
        pytest.param(spec(container()), 0, 0, id="nothing asked"),
        pytest.param({}, 0, 0, id="an empty spec"),
    ],
)  # fmt: skip
def test_requests_that_must_fit(pod: Json, cpu_milli: float, memory_mib: float) -> None:
    assert pod_requests(pod) == Requests(cpu_milli, memory_mib * MIB, 0.0)


@pytest.mark.parametrize(
    ("pod", "cpu_milli", "memory_mib"),
    [
        pytest.param(spec(container()), 100, 200, id="100m and 200 MiB for a container that asks for nothing"),
        pytest.param(spec(container(), container("1")), 1100, 400, id="for each container and resource"),
        pytest.param(spec(container("0", "0")), 0, 0, id="a zero that is written down stays"),
        pytest.param(spec(container("1", "1Gi"), init=(sidecar(),)), 1100, 1224, id="sidecars too"),
        pytest.param(spec(container("50m", "1Mi"), init=(container(),)), 100, 200, id="init containers too"),
        pytest.param(spec(limits(cpu="2")), 2000, 200, id="limits are requests"),
        pytest.param(
            spec(container(), resources={"requests": {"cpu": "3"}}), 3000, 200, id="pod-level replaces the default"
        ),
    ],
)
def test_requests_that_are_scored(pod: Json, cpu_milli: float, memory_mib: float) -> None:
    assert pod_requests(pod, nonzero=True) == Requests(cpu_milli, memory_mib * MIB, 0.0)


def resizing(allocated: Json | None = None, actual: Json | None = None, reason: str = "") -> Json:
    status: Json = {"name": "c"}
    if allocated is not None:
        status["allocatedResources"] = allocated
    if actual is not None:
        status["resources"] = {"requests": actual}
    conditions = [{"type": "PodResizePending", "status": "True", "reason": reason}] if reason else []
    return {"containerStatuses": [status], "conditions": conditions}


@pytest.mark.parametrize(
    ("status", "cpu_milli"),
    [
        pytest.param(resizing(), 1000, id="no resize"),
        pytest.param(resizing({"cpu": "2"}), 2000, id="shrinking: what is allocated still counts"),
        pytest.param(resizing({"cpu": "500m"}), 1000, id="growing: what is wanted counts already"),
        pytest.param(resizing({"cpu": "500m"}, {"cpu": "3"}), 3000, id="what the container really has counts"),
        pytest.param(resizing(None, {"cpu": "3"}), 3000, id="also alone"),
        pytest.param(resizing({"cpu": "500m"}, {"cpu": "500m"}, "Deferred"), 1000, id="deferred is still wanted"),
        pytest.param(resizing({"cpu": "500m"}, {"cpu": "500m"}, "Infeasible"), 500, id="infeasible is not"),
        pytest.param(resizing(reason="Infeasible"), 1000, id="nothing allocated yet"),
    ],
)
def test_during_an_in_place_resize_the_largest_counts(status: Json, cpu_milli: float) -> None:
    assert pod_requests(spec(container("1")), status).cpu_milli == cpu_milli


def test_sidecars_resize_too() -> None:
    status = {"initContainerStatuses": [{"name": "c", "allocatedResources": {"cpu": "2"}}]}
    assert pod_requests(spec(init=(sidecar("1"),)), status).cpu_milli == 2000


def test_gpus_of_any_vendor_are_whole_devices_in_thousandths() -> None:
    both = spec(limits(**{"nvidia.com__gpu": "2"}), limits(**{"amd.com__gpu": "1"}))
    assert pod_requests(both).gpus_milli == 3000
    assert pod_requests(both | {"resources": {"requests": {"cpu": "1"}}}).gpus_milli == 3000
