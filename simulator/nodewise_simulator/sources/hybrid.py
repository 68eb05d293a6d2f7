"""Tasks that run on a CPU, a GPU or a share of each: the model of a hybrid CPU/GPU scheduler, and its task generators.

Source: repository anurag2796/hybrid-ml-scheduler, its HEAD (fae1b14) and its first commit (dc5deeb). A task takes
c = (size ÷ 1000)^1.5 ÷ (intensity + 0.5) seconds on the CPU and c ÷ (1 + 3 × intensity) + memory ÷ 16000 on a GPU; with
the share f on the GPU it takes f parts of the one and 1 − f of the other. Both generators draw in the order of the
source, so that its seeds give its tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nodewise.core.types import Floats

TRANSFER_MB_PER_S = 16000.0
GPUS = 4


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks in order of arrival; every array is [N]."""

    arrival_s: Floats
    size: Floats
    intensity: Floats
    memory_mb: Floats
    after: Any
    """State of the source's generator after the last task; its random policy goes on from there."""

    @property
    def cpu_s(self) -> Floats:
        """Seconds on the CPU alone."""
        return (self.size / 1000.0) ** 1.5 / (self.intensity + 0.5)

    @property
    def gpu_s(self) -> Floats:
        """Seconds on a GPU alone, transfer included."""
        return self.cpu_s / (1.0 + 3.0 * self.intensity) + self.memory_mb / TRANSFER_MB_PER_S

    def stream(self) -> np.random.RandomState:
        """The source's generator as it stands after the last task."""
        stream = np.random.RandomState()
        stream.set_state(self.after)
        return stream


@dataclass(frozen=True, slots=True)
class Ranges:
    """Least and largest size and memory of a configuration."""

    size: tuple[int, int]
    memory_mb: tuple[int, int]


@lru_cache(maxsize=8)
def skewed_tasks(seed: int, count: int, ranges: Ranges, rate: float = 1.0) -> Tasks:
    """The generator of HEAD: Pareto(1.5) sizes, intensities around 0.2 (30 %) and 0.8, memory that follows the size."""
    draw = np.random.RandomState(seed)
    (least, most), (low_mb, high_mb) = ranges.size, ranges.memory_mb
    columns = np.empty((4, count))
    now_s = 0.0
    for k in range(count):
        now_s += draw.exponential(1.0 / rate)
        size = int(min((draw.pareto(1.5) + 1.0) * least, most))
        centre = 0.2 if draw.random_sample() < 0.3 else 0.8
        intensity = min(max(draw.normal(centre, 0.1), 0.05), 1.0)
        memory_mb = size / most * high_mb + draw.normal(0.0, 0.1 * high_mb)
        columns[:, k] = now_s, size, intensity, int(min(max(memory_mb, low_mb), high_mb))
        _draw_parents(draw, k)
    return Tasks(columns[0], columns[1], columns[2], columns[3], draw.get_state())


@lru_cache(maxsize=8)
def uniform_tasks(seed: int, count: int, ranges: Ranges, intensity: tuple[float, float]) -> Tasks:
    """The generator of the first commit: size, intensity and memory uniform."""
    draw = np.random.RandomState(seed)
    columns = np.empty((4, count))
    now_s = 0.0
    for k in range(count):
        now_s += draw.exponential(1.0)
        columns[:, k] = now_s, draw.randint(*ranges.size), draw.uniform(*intensity), draw.randint(*ranges.memory_mb)
        _draw_parents(draw, k)
    return Tasks(columns[0], columns[1], columns[2], columns[3], draw.get_state())


def _draw_parents(draw: np.random.RandomState, task: int) -> None:
    """Every fifth task has 1–3 parents among the last 50. Nothing reads them; they move the stream on."""
    if task > 0 and draw.random_sample() < 0.2:
        known = min(task, 50)
        draw.choice(known, min(draw.randint(1, 4), known), replace=False)
