"""The guard and its server as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodewise_simulator.controlplane.access import free_ports
from nodewise_simulator.fake_api import FakeApi

from .extender_objects import LIMIT_S, NODES, get, node

_RUN = """
import sys
from nodewise.core.errors import UserError
from nodewise.extender import guard
from nodewise.extender.settings import ExtenderSettings
try:
    sys.exit(guard.run(ExtenderSettings.model_validate_json(sys.argv[1])))
except UserError as error:
    sys.exit(f"said: {error}")
"""


def start(**given: object) -> subprocess.Popen[bytes]:
    from .extender_objects import settings

    argv = [sys.executable, "-c", _RUN, settings(**given).model_dump_json()]
    return subprocess.Popen(argv, stderr=subprocess.PIPE)


def until(holds: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ready(port: int) -> bool:
    try:
        return get(port, "/readyz")[0] == 200
    except OSError:
        return False


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        for name in NODES:
            server.put("nodes", node(name))
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stopped_server_is_killed_and_replaced_and_none_outlives_the_guard(api: FakeApi, tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    guard = start(port=port, admin_port=admin_port, kubeconfig=kubeconfig)
    try:
        until(lambda: ready(admin_port))
        (first,) = children(guard.pid)
        time.sleep(0.3)  # the guard is patient until it has heard that the lists are read
        os.kill(first, signal.SIGSTOP)
        until(lambda: children(guard.pid) not in ([first], []))
        until(lambda: ready(admin_port))
        (second,) = children(guard.pid)
        assert second != first
        guard.kill()  # without a chance to say anything
        guard.wait(LIMIT_S)
        until(lambda: not Path(f"/proc/{second}").exists() or "Z" in Path(f"/proc/{second}/stat").read_text())
    finally:
        guard.kill()
        guard.communicate()


def test_a_terminated_guard_ends_in_good_order_and_takes_the_server_along(api: FakeApi, tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    guard = start(port=port, admin_port=admin_port, kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"))
    try:
        until(lambda: ready(admin_port))
        guard.terminate()
        assert guard.wait(LIMIT_S) == 0
        assert not ready(admin_port)
    finally:
        guard.kill()
        guard.communicate()


def test_settings_that_cannot_work_are_told_by_the_guard_and_not_tried_again(tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    guard = start(port=port, admin_port=admin_port, kubeconfig=tmp_path / "none")
    said = guard.communicate(timeout=LIMIT_S)[1].decode()
    assert guard.returncode == 1
    assert "said: kubeconfig" in said
    assert "none does not exist" in said
    assert "Traceback" not in said
