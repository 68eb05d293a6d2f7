"""What one check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """We may not look."""


@dataclass(frozen=True)
class Finding:
    """One sentence, and what mends it if something is to be mended."""

    check: str
    verdict: Verdict
    says: str
    fix: str = ""


def ok(says: str) -> Finding:
    """All is well. (`examined` adds the name of the check.)"""
    return Finding("", Verdict.OK, says)


def warn(says: str, fix: str) -> Finding:
    """It works, and may not for long, or not as well as it could."""
    return Finding("", Verdict.WARN, says, fix)


def fail(says: str, fix: str) -> Finding:
    """It does not work."""
    return Finding("", Verdict.FAIL, says, fix)


def counted(count: int, what: str, many: str = "") -> str:
    """`1 pod`, `2 pods`; `many` where an s does not make it."""
    return f"{count:,} {what if count == 1 else many or what + 's'}"
