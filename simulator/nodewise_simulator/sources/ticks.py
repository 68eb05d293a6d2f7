"""`S2`: a scheduler called "MARL" and its baselines as shipped, at 1.4 % of the CPUs, where all but energy is a tie."""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.sources.checks import require_policy, require_seed, require_whole
from nodewise_simulator.sources.tick_nets import Nets
from nodewise_simulator.sources.tick_rules import RULES
from nodewise_simulator.sources.tick_world import Rule, episode, least_dynamic_wh, run
from nodewise_simulator.studies import Study

_POLICIES = {
    "random": "as coded: any node that fits",
    "round-robin": "as coded: the nodes that fit by turns (the source calls it weighted)",
    "priority-minmin": "as coded: least run time × (1 + utilisation), which is the least utilised node",
    "marl": "as coded: a hand-written score plus a quarter of what 100 untrained nets say",
    "marl-without-net": "as coded, the same score without the nets",
    "least-watts": "ours: least dynamic watts per core",
    "balance-fit": "ours: free CPU and memory close to each other and small",
    "bound": "bound: cores as a fluid that fills nodes by watts per core; what it cannot change is random's",
}


def _play(policy: str, seed: int, rate: float = 0.5, tasks: int = 1000) -> dict[str, float]:
    require_policy("S2", policy, _POLICIES)
    require_whole("S2", "tasks", tasks)
    require_seed("S2", seed, (2**32 - 1) // 100)
    if not rate > 0.0:
        raise UserError("scenario S2 needs rate > 0")
    nodes, made = episode(seed, tasks, rate)
    metrics = run(nodes, made, _rule(policy, seed, made.stream()))
    if policy == "bound":
        least_wh = least_dynamic_wh(nodes, made)
        metrics["energy_total"] += least_wh - metrics["energy_dynamic"]
        metrics["energy_dynamic"] = least_wh
    return metrics


def _rule(policy: str, seed: int, draws: np.random.RandomState) -> Rule:
    if policy == "marl":
        return Nets(seed, draws).rule
    return RULES["random" if policy == "bound" else policy](draws)


STUDY = Study(
    name="S2",
    says="100 nodes of three tiers, 1,000 tasks, a clock of 5 s and no queue; the published episodes are 20–29",
    source="DanielBenniah/marl-distributed-scheduling 712fbdd; its kWh are Wh",
    policies=_POLICIES,
    units={
        "completion_mean": "s",
        "sla": "share of submitted",
        "sla_completed": "share of completed, as the source counts",
        "completed": "tasks",
        "energy_dynamic": "Wh",
        "energy_total": "Wh",
    },
    headline="energy_dynamic",
    play=_play,
)
