"""Every row of ours that a damaged SQLite file still holds, whatever has become of its trees and its header.

Pages are read by themselves: each leaf of a table in the file and each page image in its write-ahead log, the newest
last. What makes a record a row of ours is its checksum, which covers the name of its table. Source of the formats:
"Database File Format", sqlite.org/fileformat2.html, §1.5–1.6, §2.1 and §4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodewise_operator.store.codec import Values, intact, natural
from nodewise_operator.store.engine import PAGE_BYTES
from nodewise_operator.store.migrate import pod_of_v1
from nodewise_operator.store.schema import PODS, TABLES

HEADER = b"SQLite format 3\0"
_TABLE_LEAF = b"\x0d"
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_LONGEST_BYTES = 1 << 28
"""Of a record: what claims to be longer is damage."""

_by_width: dict[int, list[str]] = {}
for _table in TABLES.values():
    _by_width.setdefault(len(_table.c), []).append(_table.name)


def carve(path: Path) -> Iterator[tuple[str, Values]]:
    """(table, columns) of every intact row of the file and its log; a row may come often, in several versions."""
    content = path.read_bytes()
    size = _page_size(content)
    pages = {1 + k // size: content[k : k + size] for k in range(0, len(content), size)}  # the last one may be short
    wal = path.with_name(path.name + "-wal")
    older: list[bytes] = []
    for number, page in _frames(wal.read_bytes() if wal.exists() else b"", size):
        if number in pages:
            older.append(pages[number])
        pages[number] = page
    for page in [*older, *pages.values()]:
        yield from _rows(page, size, pages)


def first_bad_frame(wal: bytes) -> int | None:
    """Number of the first damaged frame before the end of what was committed, 0 for the header; None if all is well.

    SQLite takes everything from such a frame on for a write that was cut off, and drops it without a word. What was
    really cut off by a crash has no commit behind it.
    """
    if len(wal) < _WAL_HEADER_BYTES + _FRAME_HEADER_BYTES:
        return None
    magic, _version, size, _sequence, *salt = struct.unpack(">6I", wal[:24])
    little = magic != _WAL_MAGIC[1]
    state = _wal_sum(wal[:24], (0, 0), little)
    if magic not in _WAL_MAGIC or state != struct.unpack(">2I", wal[24:32]) or not 512 <= size <= 65536:
        return 0
    step = _FRAME_HEADER_BYTES + size
    bad: int | None = None
    for number, start in enumerate(range(_WAL_HEADER_BYTES, len(wal) - step + 1, step), 1):
        _page, committed, *frame_salt = struct.unpack(">4I", wal[start : start + 16])
        if bad is None:
            state = _wal_sum(wal[start : start + 8], state, little)
            state = _wal_sum(wal[start + 24 : start + step], state, little)
            if frame_salt == salt and state == struct.unpack(">2I", wal[start + 16 : start + 24]):
                continue
            bad = number
        if frame_salt == salt and committed:
            return bad
    return None


def _wal_sum(data: bytes, state: tuple[int, int], little: bool) -> tuple[int, int]:
    first, second = state
    words = struct.unpack(f"{'<' if little else '>'}{len(data) // 4}I", data)
    for k in range(0, len(words), 2):
        first = (first + words[k] + second) & 0xFFFFFFFF
        second = (second + words[k + 1] + first) & 0xFFFFFFFF
    return first, second


def _page_size(content: bytes) -> int:
    size = int.from_bytes(content[16:18], "big")
    size = 65536 if size == 1 else size
    return size if content.startswith(HEADER) and size >= 512 and size & (size - 1) == 0 else PAGE_BYTES


def _frames(wal: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """(page number, image) of every frame, those of logs before this one first: they stand behind it in the file."""
    step = _FRAME_HEADER_BYTES + size
    starts = range(_WAL_HEADER_BYTES, len(wal) - _FRAME_HEADER_BYTES, step)
    salt = wal[16:24]
    for ours in (False, True):
        for start in starts:
            if (wal[start + 8 : start + 16] == salt) is ours:
                number = int.from_bytes(wal[start : start + 4], "big")
                yield number, wal[start + _FRAME_HEADER_BYTES : start + step]


def _rows(page: bytes, size: int, pages: dict[int, bytes]) -> Iterator[tuple[str, Values]]:
    if page[:1] != _TABLE_LEAF:  # nor is the first page one: it begins with the file's header, and holds the schema
        return
    cells = min(int.from_bytes(page[3:5], "big"), (size - 8) // 2)
    for k in range(cells):
        place = 8 + 2 * k
        record = _record(page, int.from_bytes(page[place : place + 2], "big"), size, pages)
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


def _record(page: bytes, at: int, size: int, pages: dict[int, bytes]) -> bytes | None:
    """The payload of a cell with its overflow pages; None if that is no payload."""
    length, at = _varint(page, at)
    _rowid, at = _varint(page, at)
    if not 0 < length <= _LONGEST_BYTES:
        return None
    local, most = length, size - 35
    if length > most:
        least = (size - 12) * 32 // 255 - 23
        local = least + (length - least) % (size - 4)
        local = local if local <= most else least
    parts, have = [page[at : at + local]], local
    following = int.from_bytes(page[at + local : at + local + 4], "big") if local < length else 0
    while have < length:
        overflow = pages.get(following)
        if overflow is None or len(parts) > length // (size - 4) + 2:
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
