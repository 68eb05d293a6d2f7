"""Which numbers of 1, 2, 3 … have come, when they come late, early or twice."""

from __future__ import annotations

Ranges = list[list[int]]
"""Ascending, apart and not touching: [first, last]."""


def arrived(number: int, contiguous: int, beyond: Ranges) -> tuple[int, Ranges, bool]:
    """After `number` came: up to which all are there, the ranges that came early, and whether it is new."""
    if number <= contiguous or any(first <= number <= last for first, last in beyond):
        return contiguous, beyond, False
    merged: Ranges = []
    for first, last in sorted([*beyond, [number, number]]):
        if merged and first == merged[-1][1] + 1:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    if merged[0][0] == contiguous + 1:
        contiguous = merged.pop(0)[1]
    return contiguous, merged, True


def missing(contiguous: int, beyond: Ranges) -> int:
    """How many numbers below the highest that came have not come."""
    return beyond[-1][1] - contiguous - sum(last - first + 1 for first, last in beyond) if beyond else 0
