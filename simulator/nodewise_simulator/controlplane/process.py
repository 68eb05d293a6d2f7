"""One child process: log file, readiness, an end that leaves no orphan."""

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_alive: "set[Process]" = set()


class Process:
    """A child process that writes stdout and stderr to `log` and cannot outlive us.

    Three nets: `stop()` (or the end of the `with` block) terminates, then kills; `atexit` does the same when Python
    ends by itself; and on Linux the kernel kills the child when Python is killed (PR_SET_PDEATHSIG). The kernel
    watches the *thread* that started the child, so start it from one that outlives it: the main thread. The child
    leads its own process group, so that Ctrl-C reaches only Python and stopping reaches the child's children too.
    """

    def __init__(self, name: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start `argv`; `env` is added to our own environment."""
        self.name = name
        self.log = log
        parent = os.getpid()

        def die_with_parent() -> None:  # in the child, between fork and exec: nothing but system calls
            if _LIBC is not None:
                _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:  # Python died before the call above
                    os._exit(1)

        with log.open("ab") as out:
            self._child = subprocess.Popen(  # noqa: S603
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        _alive.add(self)

    @property
    def pid(self) -> int:
        """Process id, which is also the process group's."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while the process runs."""
        return self._child.poll()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of what the process wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll `ready` every 50 ms; RuntimeError quotes the log if the process ends or time runs out first."""
        give_up_s = time.monotonic() + timeout_s
        while not ready():
            if self.returncode is not None:
                raise RuntimeError(f"{self.name} ended with status {self.returncode}; its log ends:\n{self.log_tail()}")
            if time.monotonic() > give_up_s:
                raise RuntimeError(f"{self.name} was not ready after {timeout_s:g} s; its log ends:\n{self.log_tail()}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone (SIGSTOP makes it hang, SIGKILL makes it die)."""
        self._child.send_signal(number)

    def stop(self, grace_s: float = 10.0) -> None:
        """Terminate, and kill after `grace_s`; returns when the process is gone. Does nothing the second time."""
        if self.returncode is None:
            self._child.terminate()
            self._child.send_signal(signal.SIGCONT)  # a stopped process does not see the SIGTERM
            try:
                self._child.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self in _alive:
            _alive.discard(self)
            with contextlib.suppress(ProcessLookupError):  # the group's id stays taken while it has members
                os.killpg(self.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@atexit.register
def _stop_all() -> None:
    for process in list(_alive):
        process.stop(grace_s=2.0)
