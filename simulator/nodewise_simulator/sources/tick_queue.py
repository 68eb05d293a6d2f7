"""`S2q-array`: nodes, tasks and clock of S2 at a load at which tasks wait, the order of the queue an option.

Ours, from the source's constants. Finished tasks are released before others are placed; a task that fits nowhere waits
and is tried again at each tick, and later ones may overtake it. The world `S2q` is the same on Kubernetes' terms.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.checks import require_policy, require_seed, require_whole
from nodewise_simulator.sources.tick_rules import RULES
from nodewise_simulator.sources.tick_world import SLACK, TICK_S, Nodes, Rule, State, Tasks, episode
from nodewise_simulator.studies import Study

_NAME = "S2q-array"
_POLICIES = {
    "random": "as coded: any node that fits",
    "priority-minmin": "as coded: the least utilised node",
    "marl-without-net": "as coded: the source's score without its nets",
    "best-fit": "ours: least free CPU and memory after placing",
    "balance-fit": "ours: free CPU and memory close to each other and small",
    "least-watts": "ours: least dynamic watts per core",
    "bound": "bound: every task starts at the tick after it arrives, on cores that draw the least there is",
}
_ORDERS = ("fifo", "priority", "latest-start")


def _rank(order: str, tasks: Tasks) -> Floats:
    """[N] what the queue is sorted by; ties go by arrival."""
    if order == "priority":
        return tasks.priority.astype(float)
    if order == "latest-start":
        return tasks.arrival_s + tasks.run_s * (np.array(SLACK)[tasks.priority] - 1.0)
    return tasks.arrival_s


def _run(nodes: Nodes, tasks: Tasks, rule: Rule, order: str) -> tuple[Floats, float]:
    """Start of every task, [N], and dynamic energy in Wh."""
    state = State.of(nodes)
    started_s, node_of = np.full(len(tasks.run_s), np.inf), np.zeros(len(tasks.run_s), np.int64)
    rank, w_per_core = _rank(order, tasks), nodes.dynamic_w / nodes.cores
    waiting: list[int] = []
    running = np.empty(0, np.int64)
    following, ticks, dynamic_j = 0, 0, 0.0
    while following < len(started_s) or waiting or len(running):
        now_s = state.now_s = ticks * TICK_S
        over = started_s[running] + tasks.run_s[running] <= now_s
        for task in running[over].tolist():
            state.change(tasks, task, node_of[task], -1)
        state.arrived = int(np.searchsorted(tasks.arrival_s, now_s, side="right"))
        waiting = sorted([*waiting, *range(following, state.arrived)], key=lambda task: (rank[task], task))
        following, left, placed = state.arrived, [], []
        for task in waiting:
            fits = np.flatnonzero(
                (nodes.cores - state.used_cores >= tasks.cores[task])
                & (nodes.memory_gb - state.used_gb >= tasks.memory_gb[task])
            )
            if not len(fits):
                left.append(task)
                continue
            node = node_of[task] = rule(state, tasks, task, fits)
            started_s[task] = now_s
            placed.append(task)
            state.placed += 1
            state.change(tasks, task, node, 1)
        waiting = left
        running = np.append(running[~over], np.array(placed, np.int64))
        dynamic_j += float(w_per_core @ state.used_cores) * TICK_S
        ticks += 1
    return started_s, dynamic_j / 3600.0


def _play(policy: str, seed: int, rate: float = 26.0, tasks: int = 12000, order: str = "fifo") -> dict[str, float]:
    require_policy(_NAME, policy, _POLICIES)
    require_whole(_NAME, "tasks", tasks)
    require_seed(_NAME, seed, (2**32 - 1) // 100)
    if not rate > 0.0:
        raise UserError(f"scenario {_NAME} needs rate > 0")
    if order not in _ORDERS:
        raise UserError(f"order={order!r} of scenario {_NAME} is unknown; choose one of {', '.join(_ORDERS)}")
    nodes, made = episode(seed, tasks, rate)
    if policy == "bound":
        started_s = np.ceil(made.arrival_s / TICK_S) * TICK_S
        dynamic_wh = float((made.cores * made.run_s).sum() * (nodes.dynamic_w / nodes.cores).min()) / 3600.0
    else:
        started_s, dynamic_wh = _run(nodes, made, RULES[policy](np.random.default_rng([seed, 31])), order)
    completion_s = started_s + made.run_s - made.arrival_s
    return {
        "completion_mean": float(completion_s.mean()),
        "sla": float((completion_s <= made.run_s * np.array(SLACK)[made.priority]).mean()),
        "energy_dynamic": dynamic_wh,
    }


STUDY = Study(
    name=_NAME,
    says="S2 at 26 tasks a second with a queue (order=fifo, priority or latest-start), as arrays",
    source="ours, on the constants of DanielBenniah/marl-distributed-scheduling 712fbdd",
    policies=_POLICIES,
    units={"completion_mean": "s", "sla": "share of submitted", "energy_dynamic": "Wh"},
    headline="completion_mean",
    play=_play,
)
