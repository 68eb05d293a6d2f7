"""Fixtures that start a real control plane; see `nodewise_simulator.controlplane`."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import ControlPlane, Scheduler, program, programs, scheduler_config

HERE = Path(__file__).parent
StartScheduler = Callable[..., Scheduler]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-goldens",
        action="store_true",
        help="write what the real kube-schedulers send to tests/contract/goldens (`pytest tests/controlplane` only)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.controlplane)


def skip_or_fail(missing: UserError) -> None:
    """Where the control plane must be there (CI), its absence is a failure: a skip would look green."""
    if os.environ.get("NODEWISE_REQUIRE_CONTROLPLANE") == "1":
        pytest.fail(f"NODEWISE_REQUIRE_CONTROLPLANE=1, but: {missing}")
    pytest.skip(str(missing))


@pytest.fixture(scope="session")
def shared_plane() -> Iterator[ControlPlane]:
    """One etcd and API server for all tests; use `plane`."""
    try:
        programs()
    except UserError as missing:
        skip_or_fail(missing)
    with ControlPlane() as started:
        yield started


@pytest.fixture
def plane(shared_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane without nodes and pods, before and after the test."""
    yield shared_plane
    for namespace in {pod["metadata"]["namespace"] for pod in shared_plane.list_pods()}:
        shared_plane.delete_pods(namespace)
    shared_plane.delete_nodes()


_numbers = itertools.count()


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    """A namespace of the test's own (one that is deleted never goes: there is no controller manager)."""
    name = f"test-{next(_numbers)}"
    plane.create_namespace(name)
    return name


@pytest.fixture
def start_scheduler(plane: ControlPlane) -> Iterator[StartScheduler]:
    """Starts a scheduler for the rest of the test; further arguments are those of `scheduler_config`."""
    with ExitStack() as started:

        def start(extender_url: str | None, binary: str = "kube-scheduler", **more: Any) -> Scheduler:
            try:
                program(binary)
            except UserError as missing:
                skip_or_fail(missing)
            scheduler = plane.start_scheduler(scheduler_config(plane.kubeconfig, extender_url, **more), binary)
            started.callback(scheduler.stop)
            return scheduler

        yield start
