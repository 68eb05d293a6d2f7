"""A policy that is a plain function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nodewise import __version__
from nodewise.core.raw import raw
from nodewise.core.reply import tie_break
from nodewise.core.types import ClusterView, PodRequest, Rows, Scores

Takes = Literal["view", "pair", "place"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One named rule; `says` is its line in `nodewise policies`."""

    name: str
    says: str
    fn: Callable[..., Any]
    """Score of each candidate [M], float64; higher is better. What it takes, `takes` says."""
    uses_run_times: bool = False
    """Whether believed run times matter to it, so that a row with the true ones (`NAME-oracle`) is of interest."""
    takes: Takes = "view"
    """What `fn` is called with:

    - "view": (pod: PodRequest, view: ClusterView, rows), whatever it wants to know;
    - "pair": (node, pod, pair) as a column of scope pair, by the same rules (`nodewise.core.columns`), so that the
      compiled simulator runs the very same function;
    - "place": (row, nodes, sequence, tie), integers: the candidate's row, how many nodes there are, how many decisions
      were taken, and a number of the pod's own. Compiled as well.
    """

    @property
    def digest(self) -> str:
        """Rules change only with Nodewise itself."""
        return f"{self.name}@{__version__}"

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M]."""
        match self.takes:
            case "pair":
                values = raw(pod, view, rows)
                made = self.fn(values.node, values.pod, values.pair)
            case "place":
                made = self.fn(rows, len(view.nodes.name), view.sequence, tie_break(pod.uid))
            case _:
                made = self.fn(pod, view, rows)
        return np.asarray(made, np.float32)
