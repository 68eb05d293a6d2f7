"""Every row of ours that a damaged SQLite file still holds, whatever has become of its trees and its header.

Pages are read by themselves: each leaf of a table in the file, and each page image in its write-ahead log. What makes a
record a row of ours is its checksum, which covers the name of its table. Source of the formats: "Database File Format",
sqlite.org/fileformat2.html, §1.5–1.6, §2.1 and §4.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodewise_operator.store import wal
from nodewise_operator.store.codec import Values, intact, natural
from nodewise_operator.store.engine import PAGE_BYTES
from nodewise_operator.store.migrate import pod_of_v1
from nodewise_operator.store.schema import PODS, TABLES

Bytes = bytes | mmap.mmap

HEADER = b"SQLite format 3\0"
_TABLE_LEAF = b"\x0d"
_LONGEST_BYTES = 1 << 28
"""Of a record: what claims to be longer is damage."""

_by_width: dict[int, list[str]] = {}
for _table in TABLES.values():
    _by_width.setdefault(len(_table.c), []).append(_table.name)


class _Pages:
    """The page images of a file and its log, which need not fit into memory."""

    def __init__(self, content: Bytes, log: Bytes) -> None:
        self.size = _page_size(content)
        self._content, self._log = content, log
        self._newest = dict(self._frames())
        """Page number → where its newest image begins in the log."""

    def all(self) -> Iterator[bytes]:
        """Every image of every page."""
        for start in range(0, len(self._content), self.size):
            yield self._content[start : start + self.size]  # the last one may be short
        for _number, start in self._frames():
            yield self._log[start : start + self.size]

    def page(self, number: int) -> bytes:
        """The newest image of one page; empty if there is none."""
        start = self._newest.get(number)
        if start is not None:
            return self._log[start : start + self.size]
        return self._content[(number - 1) * self.size : number * self.size] if number > 0 else b""

    def _frames(self) -> Iterator[tuple[int, int]]:
        """(page number, where its image begins); those of logs before this one, which stand behind it, come first."""
        step = wal.FRAME_HEADER_BYTES + self.size
        salt = self._log[16:24]
        for ours in (False, True):
            for start in range(wal.HEADER_BYTES, len(self._log) - wal.FRAME_HEADER_BYTES, step):
                if (self._log[start + 8 : start + 16] == salt) is ours:
                    yield int.from_bytes(self._log[start : start + 4], "big"), start + wal.FRAME_HEADER_BYTES


def carve(path: Path) -> Iterator[tuple[str, Values]]:
    """(table, columns) of every intact row of the file and its log; a row may come often, in several versions."""
    with _mapped(path) as content, _mapped(path.with_name(path.name + "-wal")) as log:
        pages = _Pages(content, log)
        for page in pages.all():
            yield from _rows(page, pages)


@contextmanager
def _mapped(path: Path) -> Iterator[Bytes]:
    if not path.exists() or not path.stat().st_size:
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def _page_size(content: Bytes) -> int:
    size = int.from_bytes(content[16:18], "big")
    size = 65536 if size == 1 else size
    return size if content[:16] == HEADER and size >= 512 and size & (size - 1) == 0 else PAGE_BYTES


def _rows(page: bytes, pages: _Pages) -> Iterator[tuple[str, Values]]:
    if page[:1] != _TABLE_LEAF:  # nor is the first page one: it begins with the file's header, and holds the schema
        return
    cells = min(int.from_bytes(page[3:5], "big"), (len(page) - 8) // 2)
    for k in range(cells):
        place = 8 + 2 * k
        record = _record(page, int.from_bytes(page[place : place + 2], "big"), pages)
        values = _values(record) if record is not None else None
        found = _ours(values) if values is not None else None
        if found is not None:
            yield found


def _ours(values: list[Any]) -> tuple[str, Values] | None:
    """The table of a record and its columns, also if it was written before the schema was upgraded."""
    for name in _by_width.get(len(values), ()):
        made = natural(tuple(TABLES[name].c), values)
        if made is not None and intact(TABLES[name], made):
            return name, made
    if len(values) == len(PODS.c) - 1:
        before = natural(tuple(PODS.c)[:-1], values)
        upgraded = pod_of_v1(before) if before is not None else None
        return (PODS.name, upgraded) if upgraded is not None else None
    return None


def _record(page: bytes, at: int, pages: _Pages) -> bytes | None:
    """The payload of a cell with its overflow pages; None if that is no payload."""
    length, at = _varint(page, at)
    _rowid, at = _varint(page, at)
    if not 0 < length <= _LONGEST_BYTES:
        return None
    size = pages.size
    local, most = length, size - 35
    if length > most:
        least = (size - 12) * 32 // 255 - 23
        local = least + (length - least) % (size - 4)
        local = local if local <= most else least
    parts, have = [page[at : at + local]], local
    following = int.from_bytes(page[at + local : at + local + 4], "big") if local < length else 0
    while have < length:
        overflow = pages.page(following)
        if not overflow or len(parts) > length // (size - 4) + 2:
            return None
        parts.append(overflow[4 : 4 + length - have])
        have += size - 4
        following = int.from_bytes(overflow[:4], "big")
    record = b"".join(parts)
    return record if len(record) == length else None


def _values(record: bytes) -> list[Any] | None:
    """The values of a record; None if it is none."""
    end, at = _varint(record, 0)
    body = end
    made: list[Any] = []
    while at < end:
        kind, at = _varint(record, at)
        width = _width(kind)
        part = record[body : body + width]
        if len(part) != width:
            return None
        body += width
        try:
            made.append(_value(kind, part))
        except (UnicodeDecodeError, ValueError):
            return None
    return made if body == len(record) else None


def _width(kind: int) -> int:
    return (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind] if kind < 12 else (kind - 12) // 2


def _value(kind: int, part: bytes) -> Any:
    match kind:
        case 0:
            return None
        case 7:
            return struct.unpack(">d", part)[0]
        case 8 | 9:
            return kind - 8
        case 10 | 11:
            raise ValueError("reserved")
    if kind < 10:
        return int.from_bytes(part, "big", signed=True)
    return part.decode() if kind % 2 else part


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and the place behind it; what runs over the end reads as zeros."""
    value = 0
    for k in range(8):
        byte = data[at + k] if at + k < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + k + 1
    return value << 8 | (data[at + 8] if at + 8 < len(data) else 0), at + 9
