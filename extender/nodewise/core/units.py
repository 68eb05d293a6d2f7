"""Kubernetes quantities, timestamps and durations as plain numbers; the only place that parses them.

Source: apimachinery `pkg/api/resource/quantity.go` (suffixes) and `pkg/apis/meta/v1/time.go` (RFC 3339).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

_SUFFIX = {
    **{s: Decimal(10) ** e for s, e in (("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9))},
    **{s: Decimal(10) ** e for s, e in (("T", 12), ("P", 15), ("E", 18))},
    **{s: Decimal(2) ** e for s, e in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60))},
}
_QUANTITY = re.compile(r"([+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,2})?)([a-zA-Z]*)", re.ASCII)
_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(Z|z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _exact(text: str | float) -> Decimal:
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or match[2] not in _SUFFIX:
        raise ValueError(f"{text!r} is not a Kubernetes quantity")
    return Decimal(match[1]) * _SUFFIX[match[2]]


def quantity(text: str | float) -> float:
    """The value of a Kubernetes quantity such as `500m`, `1.5Gi` or `2e3`, in its base unit.

    Raises ValueError if the text is not a quantity.
    """
    return float(_exact(text))


def milli(text: str | float) -> float:
    """A quantity in thousandths, rounded up to a whole number as kube-scheduler's `MilliValue` does."""
    return float(math.ceil(_exact(text) * 1000))


def whole(text: str | float) -> float:
    """A quantity rounded up to a whole number (bytes, pods, devices) as kube-scheduler's `Value` does."""
    return float(math.ceil(_exact(text)))


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
    carry_s, nanos = divmod(round((time_s - whole_s) * 1e9), 10**9)
    text = (_EPOCH + timedelta(seconds=whole_s + carry_s)).strftime("%Y-%m-%dT%H:%M:%S")
    part = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{text}{part}Z"


def number(value: float | None) -> str:
    """For people: four significant digits, two below a thousandth, without an exponent; a dash if it is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-9:
        return "0"
    digits = 3 - math.floor(math.log10(abs(value)))
    most = 4 if abs(value) >= 1e-3 else digits - 2
    return f"{value:,.{min(max(digits, 0), most)}f}"
