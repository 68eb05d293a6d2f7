"""`S1`, `S1r` and `S1-affinity`: nine idle nodes pull tasks from one queue; the makespan counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.sources import pull_bounds, pull_ppo, pull_rules
from nodewise_simulator.sources.checks import require_policy, require_whole
from nodewise_simulator.sources.nets import Net
from nodewise_simulator.sources.pull_queues import Queue, random_queue, shipped_queue
from nodewise_simulator.studies import Study

_CODED = "as coded: {} of run times that are normalised twice, so that each task looks like its type's smallest"
_REPAIRED = "repaired: {} of true run times"
_RULES = {
    "greedy": "each idle node takes the task shortest on it",
    "matching": "the shortest pair of idle node and task",
    "sjf": "the shortest task first",
}
_POLICIES = {
    "random": "as coded: any task",
    **{name: _CODED.format(says) for name, says in _RULES.items()},
    **{f"{name}-repaired": _REPAIRED.format(says) for name, says in _RULES.items()},
    "untrained": "as coded: the largest score of a 59-128-128-1 net of random weights; no training code exists",
    "net-trained": "ours: the same net, trained by clipped PPO on random queues like S1r's, then greedy; agent is its "
    "seed, updates=1 takes a second",
    "lpt-pull": "ours: the longest task to the fastest idle node",
    "lpt-earliest-completion": "ours: the longest task to the node where it ends first, idle or not",
    "milp": "ours: the best assignment that HiGHS finds in limit_s seconds; depends on the machine's speed",
    "bound": "bound: what no assignment can beat",
}
_UNITS = {"makespan": "s", "ratio": "to the bound", "proved": "s no assignment can beat"}


def _makespan(policy: str, queue: Queue, seed: int, options: _Options) -> float:
    if policy == "net-trained":
        return pull_rules.pulled(queue, pull_rules.scored(queue, pull_ppo.trained(options.agent, options.updates)))
    rng = np.random.default_rng([seed, 22])
    if policy == "lpt-earliest-completion":
        return pull_bounds.makespan(queue.time_s, pull_bounds.earliest_completion(queue.told_s))
    if policy == "untrained":
        return pull_rules.pulled(queue, pull_rules.scored(queue, Net(pull_ppo.SIZES, rng)))
    if policy == "lpt-pull":
        return pull_rules.pulled(queue, pull_rules.longest_first(queue))
    if policy == "random":
        return pull_rules.pulled(queue, pull_rules.each_takes(lambda _, w: w[int(rng.integers(len(w)))]))
    rule = {"greedy": pull_rules.greedy, "matching": pull_rules.matching, "sjf": pull_rules.shortest_first}
    coded = not policy.endswith("-repaired")
    times_s = pull_rules.believed_s(queue) if coded else queue.told_s
    return pull_rules.pulled(queue, rule[policy.removesuffix("-repaired")](times_s))


@dataclass(frozen=True, slots=True)
class _Options:
    """Seconds of `milp`; seed of `net-trained` and its updates, 0 for all."""

    limit_s: float
    agent: int
    updates: int


def _measured(name: str, policy: str, seed: int, queue: Queue, proved: float, options: _Options) -> dict[str, float]:
    require_policy(name, policy, _POLICIES)
    for key, value in (("agent", options.agent), ("updates", options.updates)):
        require_whole(name, key, value, 0)
    if not options.limit_s > 0.0:
        raise UserError(f"scenario {name} needs limit_s > 0")
    if policy == "bound":
        taken_s = proved
    elif policy == "milp":
        nodes, lower = pull_bounds.mixed_integer(queue.told_s, options.limit_s)
        taken_s = pull_bounds.makespan(queue.time_s, nodes)
        proved = max(proved, lower) if queue.told_s is queue.time_s else proved
    else:
        taken_s = _makespan(policy, queue, seed, options)
    return {"makespan": taken_s, "ratio": taken_s / proved, "proved": proved}


def _play_shipped(policy: str, seed: int, limit_s: float = 10.0, agent: int = 0, updates: int = 0) -> dict[str, float]:
    queue = shipped_queue(seed)
    return _measured("S1", policy, seed, queue, _separable_bound(queue), _Options(limit_s, agent, updates))


def _play_random(
    policy: str, seed: int, tasks: int = 33, limit_s: float = 10.0, agent: int = 0, updates: int = 0
) -> dict[str, float]:
    require_whole("S1r", "tasks", tasks)
    queue = random_queue(seed, tasks)
    return _measured("S1r", policy, seed, queue, _separable_bound(queue), _Options(limit_s, agent, updates))


def _play_affinity(
    policy: str, seed: int, queue: str = "random", limit_s: float = 10.0, agent: int = 0, updates: int = 0
) -> dict[str, float]:
    if queue not in ("random", "shipped"):
        raise UserError(f"queue={queue!r} of scenario S1-affinity is unknown; choose random or shipped")
    return _measured("S1-affinity", policy, seed, *_affinity(seed, queue), _Options(limit_s, agent, updates))


@lru_cache(maxsize=8)
def _affinity(seed: int, queue: str) -> tuple[Queue, float]:
    made = shipped_queue(seed, affinity=True) if queue == "shipped" else random_queue(seed, affinity=True)
    return made, pull_bounds.linear_bound(made.time_s)


def _separable_bound(queue: Queue) -> float:
    return pull_bounds.prefix_bound(queue.time_s[:, 0], queue.time_s[0] / queue.time_s[0, 0])


_study = partial(Study, policies=_POLICIES, units=_UNITS)
_SOURCE = "lluisvalerodelai/distributed-scheduling 979080e"

STUDIES = (
    _study(
        name="S1",
        says="the shipped queue of 33 tasks on nine nodes of 1 to 1.8 times the run time; a seed is an order of it",
        source=_SOURCE,
        headline="makespan",
        play=_play_shipped,
    ),
    _study(
        name="S1r",
        says="queues of 33 tasks of any type and size on the same nodes",
        source=f"ours, on the constants of {_SOURCE}",
        headline="ratio",
        play=_play_random,
    ),
    _study(
        name="S1-affinity",
        says="random queues (queue=shipped: the shipped one) on nodes that suit types differently, with noise",
        source=f"ours: measured ratios of {_SOURCE}, containers and noise assumed",
        headline="ratio",
        play=_play_affinity,
    ),
)
