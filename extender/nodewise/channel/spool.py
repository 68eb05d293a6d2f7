"""Segments that wait for the operator: numbered files in a bounded folder, on disk before they are counted as kept.

A folder holds one folder for each life of an extender; what an earlier life left is uploaded under its name. When the
bound is reached the oldest go first: their pods are the likeliest to be gone before the operator looks again, and a
decision whose outcome nobody saw teaches nothing, while those of the newest still lie ahead.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import socket
import threading
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nodewise.channel.messages import VERSION
from nodewise.core.errors import UserError

MOST_BYTES = 64 << 20
_LEVEL = 5  # of compression

log = logging.getLogger(__name__)


class _Encoded(msgspec.Struct):
    """`nodewise.channel.messages.Segment` whose rows are JSON already."""

    v: int
    extender: str
    sequence: int
    rows: list[msgspec.Raw]
    dropped: int


class SpoolError(Exception):
    """A segment that was kept is not there any more."""


@dataclass(slots=True)
class Waiting:
    """One segment that the operator has not acknowledged."""

    extender: str
    sequence: int
    rows: int
    size: int  # bytes
    path: Path | None
    data: bytes = b""
    """Its content, where it is on no disk."""


class Spool:
    """Thread-safe: one thread adds, another takes from the front.

    `folder` None keeps everything in memory. Raises UserError if the folder cannot be used.
    """

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES, extender: str | None = None) -> None:
        self.extender = extender or _life()
        self.dropped = 0  # rows that were not kept, since this life began
        self.size = 0  # bytes that wait
        self._most = most_bytes
        self._sequence = 0
        self._waiting: deque[Waiting] = deque()
        self._sent: Waiting | None = None  # the one that is under way
        self._lives: dict[Path, int] = {}  # folders that are ours, with the descriptor of their lock
        self._folder = folder
        self._own: Path | None = None
        self._failing = False
        self._lock = threading.Lock()
        if folder is not None:
            self.adopt()
            try:
                self._own = folder / self.extender
                self._own.mkdir(parents=True)
                self._hold(self._own)
            except OSError as error:
                raise UserError(
                    f"the spool {folder} cannot be used ({error.strerror}): name a folder that can be written"
                ) from error

    @property
    def segments(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, rows: list[bytes]) -> None:
        """Keep rows, each a `DecisionRow` as JSON, as the next segment; returns when they are on disk."""
        self._sequence += 1
        raw = [msgspec.Raw(row) for row in rows]
        text = msgspec.json.encode(_Encoded(VERSION, self.extender, self._sequence, raw, self.dropped))
        data = _compressed(text)
        made = Waiting(self.extender, self._sequence, len(rows), len(data), None, data)
        with self._lock:
            victims = self._make_room(made.size)
            fits = self.size + made.size <= self._most
            if not fits:
                self.dropped += made.rows
        _unlink(victims)
        if not fits:
            return
        if self._own is not None:
            self._write(made, self._own)
        with self._lock:
            self._waiting.append(made)
            self.size += made.size

    def oldest(self) -> Waiting | None:
        """What to send next; it is not dropped before `done`."""
        with self._lock:
            self._sent = self._waiting[0] if self._waiting else None
            return self._sent

    def read(self, waiting: Waiting) -> bytes:
        """Its gzip bytes. Raises SpoolError if the disk has lost it."""
        try:
            return waiting.data if waiting.path is None else waiting.path.read_bytes()
        except OSError as error:
            raise SpoolError(str(error)) from error

    def done(self, waiting: Waiting, *, kept: bool = True) -> None:
        """The operator has it, or (not `kept`) will never take it."""
        with self._lock:
            self._sent = None
            if not kept:
                self.dropped += waiting.rows
            self._remove(waiting)
        _unlink([waiting])

    def adopt(self) -> None:
        """Take over what lives that have ended left in the folder; call it now and then.

        Other folders in it are not ours: nothing is read or removed there.
        """
        if self._folder is None:
            return
        with contextlib.suppress(OSError):  # what cannot be read now may be read the next time
            lives = [path for path in self._folder.iterdir() if path not in self._lives and _is_life(path)]
            for life in sorted(lives, key=lambda path: path.stat().st_mtime_ns, reverse=True):
                if self._hold(life):
                    self._take_over(life)

    def close(self) -> None:
        """Let another process take over what waits."""
        for life in [*self._lives]:
            self._release(life)

    def _write(self, made: Waiting, folder: Path) -> None:
        """To disk, or it stays in memory while the disk refuses."""
        path = folder / f"{made.sequence:010}-{made.rows}.json.gz"
        try:
            _write_synced(path, made.data)
        except OSError as error:
            if not self._failing:
                log.error("the spool %s cannot be written (%s): decisions wait in memory", folder, error.strerror)
            self._failing = True
            return
        if self._failing:
            log.info("the spool %s can be written again", folder)
        self._failing = False
        made.path, made.data = path, b""

    def _make_room(self, size: int) -> list[Waiting]:
        """Forget the oldest; their files are for the caller to remove, once the lock is free."""
        victims = []
        while self.size + size > self._most:
            victim = next((waiting for waiting in self._waiting if waiting is not self._sent), None)
            if victim is None:
                break
            self.dropped += victim.rows
            self._remove(victim)
            victims.append(victim)
        return victims

    def _remove(self, waiting: Waiting) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiting)
            self.size -= waiting.size

    def _hold(self, life: Path) -> bool:
        """Whether the folder is ours now: its lock ends with the process that holds it, however that ends."""
        lock = os.open(life / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lives[life] = lock
        return True

    def _release(self, life: Path) -> None:
        with contextlib.suppress(OSError):
            if all(path.name == _LOCK for path in life.iterdir()):
                (life / _LOCK).unlink()
                life.rmdir()
        os.close(self._lives.pop(life))

    def _take_over(self, life: Path) -> None:
        left: list[Waiting] = []
        for path in life.iterdir():
            if found := _NAME.fullmatch(path.name):
                size = path.stat().st_size
                left.append(Waiting(life.name, int(found["sequence"]), int(found["rows"]), size, path))
            elif _PART.fullmatch(path.name):
                path.unlink()  # it was being written when its extender ended
        if not left:
            self._release(life)
            return
        left.sort(key=lambda waiting: waiting.sequence)
        with self._lock:
            for k, waiting in enumerate(left):  # in front of our own, which are younger
                self._waiting.insert(k, waiting)
                self.size += waiting.size
            victims = self._make_room(0)
        _unlink(victims)


_LOCK = "lock"
_NAME = re.compile(r"(?P<sequence>\d{10})-(?P<rows>\d+)\.json\.gz")
_PART = re.compile(r"\d{10}-\d+\.json\.part")
_LIFE = re.compile(r"[A-Za-z0-9.-]+-[0-9a-f]{8}")


def _life() -> str:
    return f"{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname()) or 'extender'}-{secrets.token_hex(4)}"


def _is_life(path: Path) -> bool:
    """Whether an extender made this folder: it has the name and the lock of a life."""
    ours = _LIFE.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    return bool(ours) and (path / _LOCK).is_file()


def _unlink(gone: list[Waiting]) -> None:
    for waiting in gone:
        if waiting.path is not None:
            with contextlib.suppress(OSError):
                waiting.path.unlink(missing_ok=True)


def _compressed(text: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=31)
    return packer.compress(text) + packer.flush()


def _write_synced(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
