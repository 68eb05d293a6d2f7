"""`S3-heavy`, `S3-live` and `S4`: choose a GPU share for each task, where no decision bears on another.

There is no queue and the time is linear in the share, so the optimum is the comparison of two numbers (`threshold`):
these scenarios tell whether a learner finds what is known, and no more.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources import fraction_runs as runs
from nodewise_simulator.sources.checks import require_policy, require_seed, require_whole
from nodewise_simulator.sources.fraction_forests import live_forest_shares
from nodewise_simulator.sources.hybrid import Tasks, skewed_tasks, uniform_tasks
from nodewise_simulator.studies import Study

_UNITS = {"total_time": "s", "mean_time": "s", "energy": "Wh", "cost": "USD"}
_POWER_W = {"simulator": (200.0, 100.0), "live": (50.0, 30.0)}
"""GPU and CPU; the source has both, for the same machine."""
_USD_PER_S = (0.0001, 0.00002)  # GPU and CPU, in the simulator
_USD_PER_KWH = 0.15  # in the live engine

_STEPS = tuple(round(0.1 * k, 1) for k in range(11))
_CONSTANT = {f"gpu-{f:.1f}": f"ours: the share {f:.1f} for every task, one of the source's eleven" for f in _STEPS}
_POLICIES = {
    "round-robin": "as coded: share {0} for every other task, {1} for the rest",
    "random": "as coded: a share from U({2}), from the source's own stream",
    "greedy": "as coded: the task's intensity is its share",
    "oracle": "as coded: the fastest of the eleven shares 0, 0.1, …, 1",
    **_CONSTANT,
    "all-cpu": "ours: everything on the CPU",
    "all-gpu": "ours: everything on a GPU (in the source's code, left out of its list)",
    "threshold": "ours: the GPU if its time is shorter, which is the optimum",
    "bound": "bound: of each task the shorter of its two times, which `threshold` attains",
}


_FOREST = (
    "as coded, in numpy: a forest of `trees` trees of depth 15 regresses the oracle's share on four fifths of 1,000 "
    "tasks of {0}"
)
_LIVE_FOREST = "as coded, in numpy: ten trees, grown anew every 50 tasks from the last 1,000; a half until then"
_PIPELINE = (
    "as coded: a dueling double DQN shown `taught` tasks (0: 10,000) with a forest's choices at +1, for 100 epochs, "
    "then 1,000 online tasks with real rewards beside those; then greedy (torch)"
)
_PIPELINE_REPAIRED = "repaired: the same from real rewards alone (torch)"
_LIVE_DQN = (
    "as coded: a dueling double DQN shown 1,000 tasks with a rule's choices at +1, which stay beside real rewards; "
    "measured while it explores (torch)"
)
_LIVE_DQN_REPAIRED = "repaired: the same from real rewards alone (torch)"
_SHIFT_DQN = (
    "as coded{0}: a dueling double DQN, `epochs` of imitation on `taught` tasks (0: 5,000) of {1}, then 500 online of "
    "{2}, each reward stored with the action before; then greedy, or with exploring=1 as it explores (torch)"
)
_HEAD_DQN = "as S3-heavy's, taught by a rule, 500 online tasks"


def _described(even: float, odd: float, low: float, high: float) -> dict[str, str]:
    return {name: says.format(even, odd, f"{low}, {high}") for name, says in _POLICIES.items()}


def _shares(policy: str, tasks: Tasks, pair: tuple[float, float], spread: tuple[float, float]) -> Floats:
    """The GPU share of every task."""
    count = len(tasks.size)
    if policy == "round-robin":
        return np.where(np.arange(count) % 2 == 0, *pair)
    if policy == "random":
        return np.asarray(tasks.stream().uniform(*spread, count))
    if policy == "greedy":
        return tasks.intensity
    if policy == "oracle":
        times = np.stack([f * tasks.gpu_s + (1.0 - f) * tasks.cpu_s for f in _STEPS])
        return np.asarray(np.array(_STEPS)[times.argmin(axis=0)])
    if policy in ("threshold", "bound"):
        return np.where(tasks.gpu_s < tasks.cpu_s, 1.0, 0.0)
    constant = {"all-cpu": 0.0, "all-gpu": 1.0}
    return np.full(count, constant[policy] if policy in constant else float(policy.removeprefix("gpu-")))


def _measured(tasks: Tasks, share: Floats, power: str) -> dict[str, float]:
    if power not in _POWER_W:
        raise UserError(f"power={power!r} is not one of the source's models; choose simulator or live")
    time_s = share * tasks.gpu_s + (1.0 - share) * tasks.cpu_s
    gpu_w, cpu_w = _POWER_W[power]
    joules = float((time_s * (share * gpu_w + (1.0 - share) * cpu_w)).sum())
    if power == "live":
        usd = joules / 3.6e6 * _USD_PER_KWH
    else:
        usd = float((time_s * (share * _USD_PER_S[0] + (1.0 - share) * _USD_PER_S[1])).sum())
    total_s = float(time_s.sum())
    return {"total_time": total_s, "mean_time": total_s / len(time_s), "energy": joules / 3600.0, "cost": usd}


def _play_heavy(
    policy: str,
    seed: int,
    tasks: int = 20000,
    power: str = "simulator",
    trees: int = 100,
    taught: int = 0,
    agent: int = 0,
) -> dict[str, float]:
    """`agent` is the seed of a DQN, so that it can differ on the one published trace; `taught` 0: as in the source."""
    require_policy("S3-heavy", policy, _HEAVY_POLICIES)
    require_seed("S3-heavy", seed)
    require_seed("S3-heavy", agent)
    for name, value, least in (("tasks", tasks, 1), ("trees", trees, 1), ("taught", taught, 0)):
        require_whole("S3-heavy", name, value, least)
    made = skewed_tasks(seed, tasks, runs.HEAVY)
    if policy == "forest":
        share = runs.heavy_forest(made, trees)
    elif policy.startswith("dqn"):
        share = runs.heavy_dqn(made, agent, taught, trees, policy == "dqn-repaired")
    else:
        share = _shares(policy, made, (0.5, 0.3), (0.2, 0.8))
    return _measured(made, share, power)


def _play_live(policy: str, seed: int, tasks: int = 3000, power: str = "live") -> dict[str, float]:
    require_policy("S3-live", policy, _LIVE_POLICIES)
    require_seed("S3-live", seed)
    require_whole("S3-live", "tasks", tasks)
    made = skewed_tasks(seed, tasks, runs.LIVE)
    if policy == "forest":
        share = live_forest_shares(made)
    elif policy.startswith("dqn"):
        share = runs.live_dqn(made, seed, policy == "dqn-repaired")
    else:
        share = _shares(policy, made, (0.5, 0.0), (0.0, 1.0))
    return _measured(made, share, power)


def _play_shift(
    policy: str,
    seed: int,
    tasks: int = 500,
    power: str = "simulator",
    generator: str = "first",
    trees: int = 100,
    epochs: int = 50,
    taught: int = 0,
    exploring: int = 0,
    agent: int = 0,
) -> dict[str, float]:
    """`agent` and `taught` as in `S3-heavy`; `epochs` and `exploring` are of the first commit's DQN."""
    require_policy("S4", policy, _SHIFT_POLICIES)
    require_seed("S4", seed)
    require_seed("S4", agent)
    for name, value, least in (("tasks", tasks, 1), ("trees", trees, 1), ("epochs", epochs, 1), ("taught", taught, 0)):
        require_whole("S4", name, value, least)
    if generator not in ("first", "head"):
        raise UserError(f"generator={generator!r} of scenario S4 is unknown; choose first (commit) or head")
    if exploring not in (0, 1):
        raise UserError(f"scenario S4 needs exploring 0 or 1, not {exploring}")
    first = generator == "first"
    if not first and policy in ("dqn-high", "dqn-biased"):
        raise UserError(f"scenario S4 has the policy {policy!r} for generator=first only; choose dqn for head")
    if not first and exploring:
        raise UserError("scenario S4 has exploring=1 for generator=first only; leave it out for head")
    made = uniform_tasks(seed, tasks, runs.SHIFTED, (0.0, 0.1)) if first else skewed_tasks(seed, tasks, runs.SHIFTED)
    learner, _, kind = policy.partition("-")
    if learner == "dqn" and not first:
        share = runs.head_dqn(made, agent, taught, kind == "repaired")
    elif learner == "dqn":
        share = runs.shift_dqn(kind, made, agent, taught, epochs, bool(exploring))
    elif learner == "forest":
        share = runs.shift_forest(kind, made, trees)
    else:
        share = _shares(policy, made, (0.5, 0.3), (0.2, 0.8))
    return _measured(made, share, power)


_HEAVY_POLICIES = _described(0.5, 0.3, 0.2, 0.8) | {
    "forest": _FOREST.format("the same ranges"),
    "dqn": _PIPELINE,
    "dqn-repaired": _PIPELINE_REPAIRED,
}
_LIVE_POLICIES = _described(0.5, 0.0, 0.0, 1.0) | {
    "forest": _LIVE_FOREST,
    "dqn": _LIVE_DQN,
    "dqn-repaired": _LIVE_DQN_REPAIRED,
}
_SHIFT_POLICIES = _described(0.5, 0.3, 0.2, 0.8) | {
    "forest": _FOREST.format("the source's training ranges"),
    "forest-high": _FOREST.format("those ranges, intensities 0.8 to 1"),
    "forest-biased": _FOREST.format("a kind for which the GPU is always best, as in its report"),
    "dqn": _SHIFT_DQN.format("", "the source's training ranges", "the same") + "; generator=head: " + _HEAD_DQN,
    "dqn-high": _SHIFT_DQN.format(", by its report", "those ranges, intensities 0.8 to 1", "the same"),
    "dqn-biased": _SHIFT_DQN.format(", by its report", "a kind for which the GPU is always best", "the shifted kind"),
    "dqn-repaired": "repaired: `dqn`, each reward with its own action and no discount; generator=head: from real "
    "rewards alone (torch)",
}
_study = partial(Study, units=_UNITS, headline="total_time")

STUDIES = (
    _study(
        name="S3-heavy",
        says="20,000 tasks, each on the CPU, a GPU or a share of both, no queue; the published run is seed 999",
        source="anurag2796/hybrid-ml-scheduler fae1b14: config_heavy, sizes 100–5000, memory 100–10000 MB",
        policies=_HEAVY_POLICIES,
        play=_play_heavy,
    ),
    _study(
        name="S3-live",
        says="the live engine's 3,000 tasks without its sleeps: a GPU is best for every one of them",
        source="anurag2796/hybrid-ml-scheduler fae1b14: defaults, sizes 100–5000, memory 10–500 MB",
        policies=_LIVE_POLICIES,
        play=_play_live,
    ),
    _study(
        name="S4",
        says="the distribution-shift test: small tasks that move much memory, better on the CPU; published is seed 99",
        source="anurag2796/hybrid-ml-scheduler dc5deeb (generator=head: fae1b14): sizes 10–100, memory 2000–5000 MB",
        policies=_SHIFT_POLICIES,
        play=_play_shift,
    ),
)
