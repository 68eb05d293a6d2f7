"""Kubernetes quantities, timestamps and durations as plain numbers; the only place that parses them.

Source: apimachinery `pkg/api/resource/quantity.go` (suffixes) and `pkg/apis/meta/v1/time.go` (RFC 3339).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_SUFFIX = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]*)")
_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(Z|z|[+-]\d\d:\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def quantity(text: str | float) -> float:
    """The value of a Kubernetes quantity such as `500m`, `1.5Gi` or `2e3`, in its base unit.

    Raises ValueError if the text is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or match[2] not in _SUFFIX:
        raise ValueError(f"{text!r} is not a Kubernetes quantity")
    return float(match[1]) * _SUFFIX[match[2]]


def milli(text: str | float) -> float:
    """A quantity in thousandths, rounded up to a whole number as kube-scheduler's `MilliValue` does."""
    return _round_up(quantity(text) * 1e3)


def whole(text: str | float) -> float:
    """A quantity rounded up to a whole number (bytes, pods, devices) as kube-scheduler's `Value` does."""
    return _round_up(quantity(text))


def _round_up(value: float) -> float:
    nearest = round(value)
    return float(nearest) if abs(value - nearest) <= 1e-9 * max(1.0, abs(value)) else float(math.ceil(value))


def epoch_s(stamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 timestamp with up to nine decimals. Raises ValueError if it is not one."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        raise ValueError(f"{stamp!r} is not an RFC 3339 timestamp")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    whole_s = (datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC) - _EPOCH).total_seconds()
    zone = match[8]
    if zone not in "Zz":
        offset_s = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        whole_s -= offset_s if zone[0] == "+" else -offset_s
    return whole_s + float(match[7] or 0.0)


def stamp(time_s: float) -> str:
    """The RFC 3339 timestamp of `time_s` seconds since 1970, with decimals only where there are any."""
    whole_s = math.floor(time_s)
    text = datetime.fromtimestamp(whole_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    part = f"{time_s - whole_s:.9f}".rstrip("0")[1:]
    return f"{text}{part if part != '.' else ''}Z"
