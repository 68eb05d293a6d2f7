"""Nodewise's own services as processes of this machine: what runs is what a user starts."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane.access import free_ports

_READY_S = 60.0
_PATIENCE_S = 5.0


class NodewiseProcess:
    """A running `nodewise COMMAND` on loopback, for the length of a `with` block; `log` is what it says."""

    command: ClassVar[str]
    port_flag: ClassVar[str]
    """Of the port that others call."""
    admin_flag: ClassVar[str]
    """Of the port of probes and metrics."""

    def __init__(self, kubeconfig: Path, folder: Path, *flags: str) -> None:
        self.port, self.admin_port = free_ports(2)
        self.log = folder / f"{self.command}-{self.port}.log"
        self._argv = [
            sys.executable, "-m", "nodewise.cli.main", self.command, self.port_flag, str(self.port),
            self.admin_flag, str(self.admin_port), "--kubeconfig", str(kubeconfig), *flags,
        ]  # fmt: skip

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and return when it is ready. Raises UserError if it does not become so."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by this signal, and by SIGKILL if it does not heed it."""
        self._process.send_signal(number)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        deadline_s = time.monotonic() + _READY_S
        while self.get("/readyz") is None:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                tail = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise UserError(f"the {self.command} did not become ready: {tail[0]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process id; the extender's is that of the guard, whose child serves."""
        return self._process.pid

    def get(self, path: str) -> Any:
        """The JSON (or text) of a GET on the admin port; None if it does not answer 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5.0)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if reply.status != 200:
            return None
        return json.loads(body) if "json" in (reply.getheader("Content-Type") or "") else body.decode()


class ExtenderProcess(NodewiseProcess):
    """`nodewise extender`."""

    command = "extender"
    port_flag = "--port"
    admin_flag = "--admin-port"


class OperatorProcess(NodewiseProcess):
    """`nodewise operator`; `port` is that of the channel."""

    command = "operator"
    port_flag = "--channel-port"
    admin_flag = "--port"
