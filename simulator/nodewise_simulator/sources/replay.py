"""`S0a` and `S0b`: the load balancer's tables, row by row; the optimum is the least wait + size ÷ speed of each row.

A contextual bandit: no decision changes the next row, and all that the optimum needs stands in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.checks import require_policy, require_whole
from nodewise_simulator.sources.replay_data import Table, playground_table, sla_table
from nodewise_simulator.sources.replay_learners import (
    DQN_A,
    DQN_B,
    Choices,
    dqn,
    drift_choices,
    regression_choices,
)
from nodewise_simulator.studies import Study

_COMMON = {
    "round-robin": "as coded: row number mod 4",
    "lwr-wait": "as coded, module 1: least wait ÷ speed",
    "lwr-load": "as coded, modules 2 and 3: least load ÷ speed",
    "earliest-finish-time": "ours: least wait + size ÷ speed; the source's oracle and the optimum",
    "bound": "bound: of each row the least completion, which `earliest-finish-time` attains",
}
_PLAYGROUND = _COMMON | {
    "dqn-a": "as coded, module 1: state 20, net 20-128-128-4, 50 episodes of 1,000 rows, then greedy "
    "(exploring=1: measured in its last episode)",
    "dqn-b": "as coded, module 1's second variant: state 16, net 16-96-96-4, 60 episodes of 1,200 rows, then greedy "
    "(exploring=1: measured in its last episode)",
}
_SLA = _COMMON | {
    "drift-aware": "as coded, module 2: predicted load ÷ speed where a prediction is off by 30 %, else load ÷ speed",
    "regression": "as coded, module 3, called a graph net: 14-64-32-1 regresses the completion; least prediction",
}


def _choices(policy: str, table: Table, seed: int) -> Choices:
    rules: dict[str, Callable[[], Floats]] = {
        "lwr-wait": lambda: table.wait_s / table.speed,
        "lwr-load": lambda: table.load / table.speed,
        "earliest-finish-time": lambda: table.completion_s,
        "bound": lambda: table.completion_s,
    }
    if policy in rules:
        return np.asarray(rules[policy]().argmin(axis=1))
    if policy == "drift-aware":
        return drift_choices(table)
    if policy == "regression":
        return regression_choices(table, np.random.default_rng([seed, 12]))
    return np.arange(len(table.size)) % 4


def _play_playground(policy: str, seed: int, episodes: int = 0, exploring: int = 0) -> dict[str, float]:
    """`episodes` of a DQN's training, 0 the source's number; `exploring` 1 measures the last of them, not the table."""
    require_policy("S0a", policy, _PLAYGROUND)
    require_whole("S0a", "episodes", episodes, 0)
    if exploring not in (0, 1):
        raise UserError(f"scenario S0a needs exploring 0 or 1, not {exploring}")
    table = playground_table(seed)
    rows = np.arange(len(table.size))
    if policy in ("dqn-a", "dqn-b"):
        settings = DQN_A if policy == "dqn-a" else DQN_B
        learned = dqn(table, settings, np.random.default_rng([seed, 12]), episodes)
        rows, chosen = (learned.episode_rows, learned.episode_choices) if exploring else (rows, learned.greedy)
    else:
        chosen = _choices(policy, table, seed)
    taken_s = table.completion_s[rows, chosen]
    plain, variance, violated = -taken_s, table.load_variance[rows], table.violated[rows]
    return {
        "completion_mean": float(taken_s.mean()),
        "agreement": float((chosen == table.completion_s[rows].argmin(axis=1)).mean()),
        "violated": float(violated.mean()),
        "reward_a": float((plain - 0.5 * variance - 2.0 * violated).mean()),
        "reward_b": float((plain - 0.2 * variance - 12.0 * violated).mean()),
    }


def _play_sla(policy: str, seed: int) -> dict[str, float]:
    require_policy("S0b", policy, _SLA)
    table = sla_table(seed)
    chosen = _choices(policy, table, seed)
    taken_s = table.completion_s[np.arange(len(chosen)), chosen]
    violated = taken_s > table.deadline_s
    return {
        "completion_mean": float(taken_s.mean()),
        "agreement": float((chosen == table.completion_s.argmin(axis=1)).mean()),
        "violated": float(violated.mean()),
        "reward_2": float((-taken_s - 5.0 * violated).mean()),
        "reward_3": float((-taken_s - 8.0 * violated).mean()),
    }


_study = partial(Study, headline="completion_mean")
_UNITS = {"completion_mean": "s", "agreement": "share of rows as the oracle", "violated": "share"}

STUDIES = (
    _study(
        name="S0a",
        says="a table of 10,000 tasks, each with what it finds on 4 CPUs; no decision changes the next row",
        source="Sreevishnu07/Advanced-ML-Based-Load-Balancing fd5178b, playground table, reconstructed",
        policies=_PLAYGROUND,
        units=_UNITS | {"reward_a": "module 1", "reward_b": "module 1, second variant"},
        play=_play_playground,
    ),
    _study(
        name="S0b",
        says="the same with a deadline for each task",
        source="Sreevishnu07/Advanced-ML-Based-Load-Balancing fd5178b, realistic_sla table, reconstructed",
        policies=_SLA,
        units=_UNITS | {"reward_2": "module 2", "reward_3": "module 3"},
        play=_play_sla,
    ),
)
