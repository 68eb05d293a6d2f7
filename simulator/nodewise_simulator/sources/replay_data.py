"""The two tables that a DQN load balancer was trained on, reconstructed: a row is a task and what it finds on 4 CPUs.

Source: repository Sreevishnu07/Advanced-ML-Based-Load-Balancing (fd5178b). Its CSV files were never published; these
parameters were fitted to the rows it prints for round robin and for least work (and, in `sla_table`, to its best
completion and its three SLA rates). They are one of many sets that fit, and not the author's data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nodewise.core.types import Floats

ROWS = 10_000
SLA_SPEEDS = (1.8, 2.4, 3.1, 3.3)
SLA_SIZE = (2.3, 17.1)
SLA_DEADLINE_S = (1.75, 7.25)
_PLAYGROUND_SPEEDS = (1.25, 1.65, 2.0, 2.4)


@dataclass(frozen=True, slots=True)
class Table:
    """N rows, 4 CPUs. No decision changes a later row: a contextual bandit."""

    size: Floats  # [N]
    priority: Floats  # [N] 1, 2 or 3
    queue_len: Floats  # [N, 4]
    load: Floats  # [N, 4]
    wait_s: Floats  # [N, 4]
    speed: Floats  # [4]
    load_variance: Floats  # [N]
    violated: Floats  # [N] the playground's SLA flag: a column, whatever is chosen; zero where there is a deadline
    deadline_s: Floats  # [N] infinite in the playground

    @property
    def completion_s(self) -> Floats:
        """[N, 4] seconds until the task is done on each CPU: wait + size ÷ speed."""
        return self.wait_s + self.size[:, None] / self.speed

    @property
    def load_avg(self) -> Floats:
        """[N] mean load of the CPUs."""
        return np.asarray(self.load.mean(axis=1))


@lru_cache(maxsize=8)
def playground_table(seed: int) -> Table:
    """R1: waits of 33 s on average, alike on a row's CPUs."""
    rng = np.random.default_rng([seed, 10])
    factor = rng.exponential(1.0, (ROWS, 1))
    wait_s = 33.0 * factor * rng.exponential(1.0, (ROWS, 4))
    load = wait_s / 33.0
    return Table(
        size=rng.uniform(1.0, 18.0, ROWS),
        priority=rng.integers(1, 4, ROWS).astype(float),
        queue_len=np.round(wait_s / 8.0),
        load=load,
        wait_s=wait_s,
        speed=np.array(_PLAYGROUND_SPEEDS),
        load_variance=np.minimum(load.var(axis=1), 4.0),
        violated=(rng.random(ROWS) < 0.332).astype(float),
        deadline_s=np.full(ROWS, np.inf),
    )


@lru_cache(maxsize=8)
def sla_table(seed: int) -> Table:
    """R2: waits of 2 s on average, independent; a deadline for each task."""
    rng = np.random.default_rng([seed, 11])
    load = rng.exponential(4.4, (ROWS, 4))
    wait_s = 0.447 * load
    return Table(
        size=rng.uniform(*SLA_SIZE, ROWS),
        priority=rng.integers(1, 4, ROWS).astype(float),
        queue_len=np.round(load),
        load=load,
        wait_s=wait_s,
        speed=np.array(SLA_SPEEDS),
        load_variance=load.var(axis=1),
        violated=np.zeros(ROWS),
        deadline_s=rng.uniform(*SLA_DEADLINE_S, ROWS),
    )
