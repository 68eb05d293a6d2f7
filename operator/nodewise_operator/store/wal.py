"""Whether a write-ahead log of SQLite is what was written: "Database File Format", §4, sqlite.org/fileformat2.html."""

from __future__ import annotations

import struct

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)
"""Of logs whose checksums are over little-endian and over big-endian words."""


def first_bad_frame(log: bytes) -> int | None:
    """Number of the first damaged frame before the end of what was committed, 0 for the header; None if all is well.

    SQLite takes everything from such a frame on for a write that was cut off, and drops it without a word. What was
    really cut off by a crash has no commit behind it.
    """
    if len(log) < HEADER_BYTES + FRAME_HEADER_BYTES:
        return None
    magic, _version, size, _sequence, *salt = struct.unpack(">6I", log[:24])
    little = magic != _MAGIC[1]
    state = _sum(log[:24], (0, 0), little)
    if magic not in _MAGIC or state != struct.unpack(">2I", log[24:32]) or not 512 <= size <= 65536:
        return 0
    step = FRAME_HEADER_BYTES + size
    bad: int | None = None
    for number, start in enumerate(range(HEADER_BYTES, len(log) - step + 1, step), 1):
        _page, committed, *frame_salt = struct.unpack(">4I", log[start : start + 16])
        if bad is None:
            state = _sum(log[start : start + 8], state, little)
            state = _sum(log[start + 24 : start + step], state, little)
            if frame_salt == salt and state == struct.unpack(">2I", log[start + 16 : start + 24]):
                continue
            bad = number
        if frame_salt == salt and committed:
            return bad
    return None


def _sum(data: bytes, state: tuple[int, int], little: bool) -> tuple[int, int]:
    first, second = state
    words = struct.unpack(f"{'<' if little else '>'}{len(data) // 4}I", data)
    for k in range(0, len(words), 2):
        first = (first + words[k] + second) & 0xFFFFFFFF
        second = (second + words[k + 1] + first) & 0xFFFFFFFF
    return first, second
