"""Draws for many pods, from a generator that would give the same if each pod were drawn by itself.

A normal or exponential number takes as many bits as it needs, so a pod's draws must come one after the other; what is
made of them need not.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.columns import Ints

NORMAL, UNIFORM = "standard_normal", "random"
_AT_ONCE = 65_536


def draws(rng: np.random.Generator, pods: int, kinds: tuple[str, ...]) -> Floats:
    """Standard draws of these kinds for each pod, pod after pod [pods, kinds]."""
    ways = [getattr(rng, kind) for kind in kinds]
    made = np.empty((pods, len(kinds)))
    for begin in range(0, pods, _AT_ONCE):
        end = min(begin + _AT_ONCE, pods)
        flat = [way() for _ in range(begin, end) for way in ways]
        made[begin:end] = np.reshape(flat, (end - begin, len(kinds)))
    return made


def chosen(odds: Floats, uniforms: Floats) -> Ints:
    """What `Generator.choice` makes of uniform draws, as index into `odds`."""
    below = odds.cumsum()
    return np.asarray((below / below[-1]).searchsorted(uniforms, side="right"), np.int64)
