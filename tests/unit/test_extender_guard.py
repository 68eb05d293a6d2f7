"""The guard and its server as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise_simulator.controlplane.access import free_ports
from nodewise_simulator.fake_api import FakeApi

from .bundles import written
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
def test_a_stopped_server_is_killed_and_replaced_each_time_later_and_none_outlives_the_guard(
    api: FakeApi, tmp_path: Path
) -> None:
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
        time.sleep(0.3)
        os.kill(second, signal.SIGSTOP)
        until(lambda: children(guard.pid) not in ([second], []))
        until(lambda: ready(admin_port))
        (third,) = children(guard.pid)
        guard.kill()  # without a chance to say anything
        guard.wait(LIMIT_S)
        until(lambda: not Path(f"/proc/{third}").exists() or "Z" in Path(f"/proc/{third}/stat").read_text())
    finally:
        guard.kill()
        said = guard.communicate()[1].decode()
    assert re.findall(r"silent for (\S+) s: killed", said) == ["0.7", "1.4"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_that_dies_while_its_bundle_is_bad_is_replaced_all_the_same(api: FakeApi, tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    bundle = written(tmp_path / "bundle")
    card = (bundle / "card.json").read_bytes()
    guard = start(
        port=port, admin_port=admin_port, kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), bundle=bundle,
        bundle_poll_s=0.1,
    )  # fmt: skip

    def policy() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(get(admin_port, "/policy")[1])
        return told

    try:
        until(lambda: ready(admin_port))
        assert policy()["name"] == "linear"
        (bundle / "card.json").write_text("{")
        (first,) = children(guard.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: children(guard.pid) not in ([first], []) and ready(admin_port))
        assert policy()["name"] != "linear"
        assert policy()["refused"].startswith("the card is not JSON")
        (bundle / "card.json").write_bytes(card)
        until(lambda: policy()["name"] == "linear")
        assert policy()["refused"] is None
    finally:
        guard.kill()
        guard.communicate()


def test_a_bundle_that_is_bad_from_the_start_is_told_by_the_guard_and_not_replaced(
    api: FakeApi, tmp_path: Path
) -> None:
    bundle = written(tmp_path / "bundle")
    (bundle / "card.json").write_text("{")
    guard = start(kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), bundle=bundle)
    said = guard.communicate(timeout=LIMIT_S)[1].decode()
    assert (guard.returncode, "said: the card is not JSON" in said) == (1, True)


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
