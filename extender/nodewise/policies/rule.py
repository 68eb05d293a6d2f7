"""A policy that is a plain function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nodewise import __version__
from nodewise.core.types import ClusterView, PodRequest, Rows, Scores


@dataclass(frozen=True, slots=True)
class Rule:
    """One named rule; `says` is its line in `nodewise policies`."""

    name: str
    says: str
    fn: Callable[[PodRequest, ClusterView, Rows], Any]
    """Score of each candidate row [M], float64; higher is better."""
    uses_run_times: bool = False
    """Whether believed run times matter to it, so that a row with the true ones (`NAME-oracle`) is of interest."""

    @property
    def digest(self) -> str:
        """Rules change only with Nodewise itself."""
        return f"{self.name}@{__version__}"

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M]."""
        return np.asarray(self.fn(pod, view, rows), np.float32)
