"""The fluid capacity of a cluster: the highest rate of arrivals that any routing of a mix of pods could keep up with.

Pods are divisible and may be split over node classes as one likes; nothing is lost to fragments. No scheduler reaches
it, so loads and stable loads are told as shares of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats


@dataclass(frozen=True, slots=True)
class Capacity:
    """W kinds of pods, C node classes."""

    pods_per_s: float
    """The highest rate of all kinds together."""
    routed_per_s: Floats  # [W, C] how much of each kind goes where at that rate
    run_s: float
    """Mean time that a pod holds its room at that rate."""


def fluid_capacity(shares: Floats, hold_s: Floats, wants: Floats, room: Floats) -> Capacity:
    """The most λ such that λ × shares[w] = Σ_c x[w, c] and Σ_w x[w, c] × hold_s[w, c] × wants[w, r] ≤ room[c, r].

    `shares` [W] of the arrivals, `hold_s` [W, C] mean time that a pod holds its room (inf: may not go there), `wants`
    [W, R] and `room` [C, R] in the same units. Raises UserError if some kind of pod can go nowhere.
    """
    from scipy.optimize import linprog  # type: ignore[import-untyped]

    kinds, classes = hold_s.shape
    open_to = np.isfinite(hold_s)
    if not open_to.any(axis=1).all():
        raise UserError("a kind of pod can run on no node class; its row of hold_s needs a finite time")
    load = np.where(open_to, hold_s, 0.0)[:, :, None] * wants[:, None, :]  # [W, C, R]
    used = np.zeros((classes, wants.shape[1], 1 + kinds * classes))
    for c in range(classes):
        used[c, :, 1 + c :: classes] = load[:, c, :].T
    routed = np.zeros((kinds, 1 + kinds * classes))
    routed[:, 0] = -shares
    for w in range(kinds):
        routed[w, 1 + w * classes : 1 + (w + 1) * classes] = 1.0
    least = np.zeros(1 + kinds * classes)
    least[0] = -1.0
    bounds = [(0.0, None), *((0.0, None if ok else 0.0) for ok in open_to.ravel())]
    # Scaled to about one, whatever the units of room are.
    scale = np.maximum(room, 1e-300).reshape(-1, 1)
    found = linprog(
        least, used.reshape(-1, used.shape[2]) / scale, np.ones(room.size), routed, np.zeros(kinds), bounds,
        method="highs",
    )  # fmt: skip
    if found.status != 0:
        raise UserError(f"the capacity of the cluster could not be found: {found.message}")
    x = np.asarray(found.x[1:], float).reshape(kinds, classes)
    rate = float(found.x[0])
    return Capacity(rate, x, float((x * np.where(open_to, hold_s, 0.0)).sum()) / rate)
