"""Decisions as lines of JSON in a file, written by a thread of its own: a slow disk never delays a decision."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import Any

import msgspec

from nodewise.core.errors import UserError
from nodewise.extender.records import Record

VERSION = 1

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Journal:
    """Appends to one file. Not for several processes at once."""

    def __init__(self, path: Path, most: int = 10_000) -> None:
        """Open `path`; at most `most` records wait to be written. Raises UserError if it cannot be written."""
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UserError(f"the journal {path} cannot be written ({error.strerror}): name a file that can") from error
        self.written = 0
        self.dropped = 0  # the queue was full, or the disk refused
        self._queue: queue.Queue[Record | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Hand over a record; counted as dropped if the writer is too far behind."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    @property
    def waiting(self) -> int:
        """Records not written yet."""
        return self._queue.qsize()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for at most `timeout_s`, and close the file."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _write(self) -> None:
        with self._file:
            while (record := self._queue.get()) is not None:
                try:
                    self._file.write(_encode(line(record)) + b"\n")
                    self.written += 1
                except Exception:  # the next one may be writable, and a dead writer would be silent
                    self.dropped += 1
                    log.exception("a decision was not journaled")


def line(record: Record) -> dict[str, Any]:
    """What the journal says of a decision; `propensity` is that of the winner, `scores` stand beside `candidates`."""
    decision = record.decision
    won = decision.candidates == decision.winner
    return {
        "v": VERSION,
        "time_s": record.time_s,
        "uid": decision.pod.uid,
        "namespace": decision.pod.namespace,
        "pod": decision.pod.name,
        "policy": decision.policy,
        "digest": decision.digest,
        "fallback": decision.fallback.value,
        "neutral": decision.neutral,
        "candidates": [record.names[row] for row in decision.candidates],
        "scores": [float(score) for score in decision.scores],
        "reply": decision.reply,
        "winner": record.names[decision.winner] if decision.winner >= 0 else "",
        "propensity": float(decision.propensities[won][0]) if won.any() else 0.0,
        "latency_us": record.latency_us,
        "sequence": record.sequence,
    }
