"""How fast each class of nodes is, from what the estimator believes of run times.

A class's speed for a workload is its run time on the reference class over its run time here: 2 is twice as fast. Over
workloads, speeds are put together as a random-effects mean of their logs, which tells apart what workloads differ by
(the spread) and what is not known (the interval).

Source: DerSimonian and Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7 (1986).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nodewise.core.estimator import Posterior, RunTimeEstimator
from nodewise.core.types import Floats
from nodewise_operator.resources.node_profile import LONGEST_WORKLOAD

Z = 1.96
"""Half a 95 % interval, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What the estimator knew at one moment."""

    workloads: tuple[str, ...]  # [W]
    node_classes: tuple[str, ...]  # [C]
    posterior: Posterior

    @classmethod
    def of(cls, estimator: RunTimeEstimator) -> Learned:
        """As it stands. The estimator's owner calls this: it is not thread-safe."""
        workloads = tuple(name[:LONGEST_WORKLOAD] for name, _ in estimator.workloads)
        return cls(workloads, estimator.node_classes, estimator.posterior())

    def samples(self, node_class: str) -> float:
        """Finished pods that are known of a class; older ones count less."""
        if node_class not in self.node_classes:
            return 0.0
        return float(self.posterior.observations[:, self.node_classes.index(node_class)].sum())

    def reference(self, before: str = "") -> str:
        """The class with most observations, of several the first by name; empty if nothing was seen.

        The one from `before` stays until it has less than half as many: a new reference changes every speed.
        """
        least, name = min(((-self.samples(name), name) for name in self.node_classes), default=(0.0, ""))
        if not least:
            return ""
        return before if 2.0 * self.samples(before) >= -least else name


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one workload on one class: log of the ratio to the reference class, and how uncertain that is."""

    workload: str
    log_ratio: float
    sd: float
    samples: float
    reference_samples: float


@dataclass(frozen=True, slots=True)
class Overall:
    """Of one class over workloads, in logs."""

    log_ratio: float
    sd: float
    spread_sd: float
    """How differently workloads feel the class; nan where one workload cannot tell."""


def speeds(learned: Learned, node_class: str, reference: str) -> list[Speed]:
    """Of the workloads that finished on both classes, those most often seen here first; one a name."""
    if node_class not in learned.node_classes or reference not in learned.node_classes:
        return []
    here, there = learned.node_classes.index(node_class), learned.node_classes.index(reference)
    known, seen = learned.posterior, learned.posterior.observations
    log_ratio = known.log_mean[:, there] - known.log_mean[:, here]  # [W]
    # The errors of two cells are taken as independent. Both lean on the same prior, so the interval is rather too wide.
    sd = np.hypot(known.mean_sd[:, there], known.mean_sd[:, here]) if here != there else np.zeros(len(seen))
    rows = [row for row in np.flatnonzero((seen[:, here] > 0) & (seen[:, there] > 0)) if learned.workloads[row]]
    rows.sort(key=lambda row: (-seen[row, here], learned.workloads[row]))
    made: dict[str, Speed] = {}
    for row in rows:  # a name may have two rows: pods that tell an expected time, and pods that do not
        figures = log_ratio[row], sd[row], seen[row, here], seen[row, there]
        made.setdefault(learned.workloads[row], Speed(learned.workloads[row], *map(float, figures)))
    return list(made.values())


def overall(found: list[Speed]) -> Overall | None:
    """All workloads together; None if there is none, and exactly 1 for the reference class itself."""
    if not found:
        return None
    effect, variance = np.array([s.log_ratio for s in found]), np.array([s.sd for s in found]) ** 2  # [S]
    if not variance.all():
        return Overall(0.0, 0.0, math.nan)
    between = _between(effect, variance)
    weight = 1.0 / (variance + between)
    spread = math.sqrt(between) if len(found) > 1 else math.nan
    return Overall(float((weight * effect).sum() / weight.sum()), float(1.0 / np.sqrt(weight.sum())), spread)


def _between(effect: Floats, variance: Floats) -> float:
    """Variance of the true effects by the method of moments; 0 for a single one."""
    if len(effect) < 2:
        return 0.0
    weight = 1.0 / variance
    mean = (weight * effect).sum() / weight.sum()
    excess = (weight * (effect - mean) ** 2).sum() - (len(effect) - 1)
    return max(0.0, float(excess / (weight.sum() - (weight**2).sum() / weight.sum())))
