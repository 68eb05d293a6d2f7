"""The parent of the server: a hung extender must become a dead one.

kube-scheduler calls the extender in its one scheduling loop and has no breaker: while the extender hangs, every pod
costs a time-out; once it is dead, a connection is refused and costs nothing. So the server shows signs of life on a
pipe, and this process kills it when they stop. The server owns the listening socket: it is gone the moment it dies.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

from nodewise.core.errors import UserError
from nodewise.extender.settings import ExtenderSettings

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_STARTING, _READY, _REFUSED = b"s", b"r", b"!"  # as in server.py, which is not imported: this process stays small
_AGAIN = "again"  # likewise: one before it has served, so it must too, with a stand-in if need be
_SHORT_LIFE_S = 10.0
_STEADY_S = 60.0
_MOST_PATIENCE = 8.0
_BACK_OFF_S = (0.1, 10.0)
_GOODBYE_S = 8.0


def run(settings: ExtenderSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Call it from the main thread. Raises UserError for settings that cannot work: a port in use, an unreadable
    kubeconfig, an unknown policy, a missing bundle.
    """
    if not settings.guard:
        from nodewise.extender import server

        server.run(settings)
        return 0
    return _Guard(settings).run()


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    pipe: int  # read end of its heartbeat
    started_s: float
    ready: bool = False


class _Guard:
    def __init__(self, settings: ExtenderSettings) -> None:
        self._settings = settings
        self._child: _Child | None = None
        self._stopping = False
        self._short_lives = 0
        self._patience = 1.0  # times the silence that is borne
        self._served = False

    def run(self) -> int:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._stopping:
                self._child = child = self._spawn()
                try:
                    said = self._watch(child)
                finally:
                    status = self._bury(child)
                if said.startswith(_REFUSED) and not self._served:
                    raise UserError(said[1:].decode(errors="replace"))
                if not self._stopping:
                    self._before_next(child, status, said)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stopping = True
        if self._child is not None and self._child.process.poll() is None:
            self._child.process.send_signal(signal.SIGCONT)
            self._child.process.send_signal(signal.SIGTERM)

    def _spawn(self) -> _Child:
        parent = os.getpid()
        read, write = os.pipe()

        def die_with_parent() -> None:  # in the child, between fork and exec: nothing but system calls
            if _LIBC is not None:
                _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)

        again = [_AGAIN] if self._served else []
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "nodewise.extender.server", self._settings.model_dump_json(), str(write), *again],
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **one_thread},
            start_new_session=True,  # Ctrl-C reaches us only; we pass it on
            preexec_fn=die_with_parent,  # noqa: PLW1509  there are no other threads here
        )
        os.close(write)
        return _Child(process, read, time.monotonic())

    def _watch(self, child: _Child) -> bytes:
        """Return when the child is dead or as good as dead, with the last thing it said."""
        said = b""
        while True:
            ready_s = self._settings.silence_s * self._patience
            silence_s = ready_s if child.ready else max(ready_s, self._settings.startup_silence_s)
            if self._stopping:
                silence_s = _GOODBYE_S
            asked_s = time.monotonic()
            if not select.select([child.pipe], [], [], silence_s)[0]:
                if time.monotonic() - asked_s > 2.0 * silence_s:
                    continue  # we were stopped ourselves, and so probably was the child: ask again
                child.process.kill()  # works on a stopped process too
                log.error("the extender was silent for %g s: killed", silence_s)
                self._bear_more(time.monotonic() - child.started_s)
                return b""
            heard = os.read(child.pipe, 4096)
            if not heard:
                return said
            said = said + heard if said.startswith(_REFUSED) else heard
            child.ready = child.ready or _READY in heard
            self._served = self._served or heard[:1] in (_STARTING, _READY)

    def _bear_more(self, lived_s: float) -> None:
        """One that is killed soon again waits for its turn on a starved machine, which would else never be served."""
        self._patience = 2.0 if lived_s > _STEADY_S else min(2.0 * self._patience, _MOST_PATIENCE)

    def _bury(self, child: _Child) -> int:
        """Make sure that it is dead; its exit status, negative for a signal."""
        os.close(child.pipe)
        try:
            child.process.wait(0.2)
        except subprocess.TimeoutExpired:
            child.process.kill()
        return child.process.wait()

    def _before_next(self, child: _Child, status: int, said: bytes) -> None:
        lived_s = time.monotonic() - child.started_s
        self._short_lives = self._short_lives + 1 if lived_s < _SHORT_LIFE_S else 0
        first_s, longest_s = _BACK_OFF_S
        wait_s = min(first_s * 2.0 ** (self._short_lives - 1), longest_s) if self._short_lives else 0.0
        why = said[1:].decode(errors="replace") if said.startswith(_REFUSED) else f"status {status}"
        log.error("the extender ended after %.1f s (%s): starting it again in %.1f s", lived_s, why, wait_s)
        ends_s = time.monotonic() + wait_s
        while not self._stopping and time.monotonic() < ends_s:
            time.sleep(min(0.05, max(0.0, ends_s - time.monotonic())))
