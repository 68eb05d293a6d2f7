"""Fixtures that install into a real control plane, whose pods are real processes; see `PodRunner`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.install.network import available
from tests.install.plane import HOST_LABEL, Plane

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import program, programs, taint

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.controlplane)


def require(variable: str, missing: str) -> None:
    """Skip; or fail, where this machine was said to have it (CI): a skip would look green."""
    if os.environ.get(variable) == "1":
        pytest.fail(f"{variable}=1, but: {missing}")
    pytest.skip(missing)


@pytest.fixture(scope="session")
def able() -> None:
    """Here are the programs of a control plane, and namespaces for pods."""
    try:
        programs()
        for each in ("kube-controller-manager", "helm", "kubectl"):
            program(each)
    except UserError as missing:
        require("NODEWISE_REQUIRE_CONTROLPLANE", str(missing))
    if why := available():
        require("NODEWISE_REQUIRE_NAMESPACES", why)


@pytest.fixture(scope="module")
def plane(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A cluster of its own for each file of tests, with nothing installed.

    Nothing comes to the hosts that does not say so.
    """
    with Plane(tmp_path_factory.mktemp("plane")) as started:
        started.add_hosts(taints=[taint(HOST_LABEL, "true")])
        started.start_default_scheduler()
        yield started
