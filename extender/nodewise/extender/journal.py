"""Decisions as rows, made and written by a thread of its own: neither features nor a slow disk delay a decision.

They go as lines of JSON to a file, and in segments to the spool of the channel to the operator.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path

import msgspec

from nodewise.channel.spool import Spool
from nodewise.core.errors import UserError
from nodewise.core.types import ClusterView
from nodewise.extender.records import Record
from nodewise.extender.rows import decision_row

VERSION = 2
"""Of a line; a line is a `DecisionRow` and this number."""
SEGMENT_ROWS, SEGMENT_BYTES, SEGMENT_S = 500, 1 << 20, 0.5
"""Where a segment ends: rows, bytes of JSON, and how long its first row has waited."""
_VIEWS = 64
"""Views that may wait; each can be megabytes, and a row without features is better than none."""

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Journal:
    """Appends to one file, to a spool, or to both. Not for several processes at once."""

    def __init__(self, path: Path | None = None, most: int = 10_000, *, spool: Spool | None = None) -> None:
        """Open `path`; at most `most` records wait to be written. Raises UserError if it cannot be written."""
        try:
            self._file = path.open("ab", buffering=0) if path else None
        except OSError as error:
            raise UserError(f"the journal {path} cannot be written ({error.strerror}): name a file that can") from error
        self.written = 0
        self.dropped = 0  # the queue was full, or the disk refused
        self.without_features = 0  # rows: too many waited
        self._spool = spool
        self._segment: list[bytes] = []
        self._segment_bytes, self._segment_ends_s = 0, 0.0
        self._queue: queue.Queue[tuple[Record, ClusterView | None] | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Hand over a record; counted as dropped if the writer is too far behind."""
        view = record.view
        if view is not None and self._queue.qsize() >= _VIEWS:
            self.without_features += 1
            view = None
        try:
            self._queue.put_nowait((record, view))
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
        while True:
            wait_s = max(self._segment_ends_s - time.monotonic(), 0.0) if self._segment else None
            try:
                taken = self._queue.get(timeout=wait_s)
            except queue.Empty:
                self._end_segment()
                continue
            if taken is None:
                break
            try:
                self._take(*taken)
                self.written += 1
            except Exception:  # the next one may be writable, and a dead writer would be silent
                self.dropped += 1
                log.exception("a decision was not journaled")
            del taken  # its view is large
            time.sleep(0)  # whoever waits for the interpreter, a request above all, goes first
        self._end_segment()
        if self._file is not None:
            self._file.close()

    def _take(self, record: Record, view: ClusterView | None) -> None:
        row = _encode(decision_row(record, view))
        if self._file is not None:
            self._file.write(b'{"v":%d,%s\n' % (VERSION, row[1:]))
        if self._spool is None:
            return
        if not self._segment:
            self._segment_ends_s = time.monotonic() + SEGMENT_S
        self._segment.append(row)
        self._segment_bytes += len(row)
        full = len(self._segment) >= SEGMENT_ROWS or self._segment_bytes >= SEGMENT_BYTES
        if full or time.monotonic() >= self._segment_ends_s:
            self._end_segment()

    def _end_segment(self) -> None:
        rows, self._segment, self._segment_bytes = self._segment, [], 0
        if self._spool is None or not rows:
            return
        try:
            self._spool.add(rows)
        except Exception:
            self.dropped += len(rows)
            log.exception("a segment of %d decisions was not kept", len(rows))
