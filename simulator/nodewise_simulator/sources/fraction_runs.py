"""What the hybrid CPU/GPU scheduler's learners are trained on before they are measured: ranges, seeds and numbers.

As its configurations and its pipeline have them.
"""

from __future__ import annotations

from nodewise.core.types import Floats
from nodewise_simulator.sources.fraction_forests import forest_shares
from nodewise_simulator.sources.fraction_learners import (
    Shifted,
    Shown,
    heuristic_shares,
    live_shares,
    pipeline_shares,
)
from nodewise_simulator.sources.hybrid import Ranges, Tasks, skewed_tasks, uniform_tasks

HEAVY = Ranges((100, 5000), (100, 10000))
LIVE = Ranges((100, 5000), (10, 500))
SHIFTED = Ranges((10, 100), (2000, 5000))
_CONFIG = Ranges((100, 10000), (10, 5000))
_GPU_BEST = Ranges((1000, 10000), (10, 500))
_SHIFT_TRAINING = {
    "": (_CONFIG, (0.0, 1.0)),
    "repaired": (_CONFIG, (0.0, 1.0)),
    "high": (_CONFIG, (0.8, 1.0)),
    "biased": (_GPU_BEST, (0.8, 1.0)),
}
"""By suffix of the policy: the ranges committed, those with the intensities that the report names, always the GPU."""

_SEED, _ONLINE_SEED = 42, 101
_LABELLED = 1000
"""Tasks of the offline trainer, whose forest is also the teacher in the heavy run."""
_TAUGHT, _TAUGHT_EPOCHS, _TAUGHT_FIRST = 10_000, 100, 5000
_LIVE_TAUGHT, _LIVE_EPOCHS = 1000, 5
_ONLINE_HEAVY, _ONLINE = 1000, 500


def heavy_forest(made: Tasks, trees: int) -> Floats:
    """Shares [N] of the forest of the heavy configuration."""
    return forest_shares(skewed_tasks(_SEED, _LABELLED, HEAVY), made, trees)


def heavy_dqn(made: Tasks, agent: int, taught: int, trees: int, repaired: bool) -> Floats:
    """Shares [N] of HEAD's agent, taught by the forest (`repaired`: by nobody); `taught` 0 is the source's number."""
    tasks = skewed_tasks(_SEED, taught or _TAUGHT, HEAVY)
    shown = None if repaired else Shown(tasks, heavy_forest(tasks, trees), _TAUGHT_EPOCHS)
    return pipeline_shares(shown, skewed_tasks(_ONLINE_SEED, _ONLINE_HEAVY, HEAVY), made, agent)


def live_dqn(made: Tasks, seed: int, repaired: bool) -> Floats:
    """Shares [N] of HEAD's agent in the live engine, taught by a rule (`repaired`: by nobody)."""
    tasks = skewed_tasks(_SEED, _LIVE_TAUGHT, LIVE)
    return live_shares(None if repaired else Shown(tasks, heuristic_shares(tasks), _LIVE_EPOCHS), made, seed)


def head_dqn(made: Tasks, agent: int, taught: int, repaired: bool) -> Floats:
    """Shares [N] of HEAD's agent in its own shift test, taught by a rule, for its main program hands it no forest."""
    tasks = skewed_tasks(_SEED, taught or _TAUGHT, _CONFIG)
    shown = None if repaired else Shown(tasks, heuristic_shares(tasks), _TAUGHT_EPOCHS)
    return pipeline_shares(shown, skewed_tasks(_ONLINE_SEED, _ONLINE, _CONFIG), made, agent)


def shift_forest(kind: str, made: Tasks, trees: int) -> Floats:
    """Shares [N] of the first commit's forest; `kind` of its training tasks."""
    ranges, intensity = _SHIFT_TRAINING[kind]
    return forest_shares(uniform_tasks(_SEED, _LABELLED, ranges, intensity), made, trees)


def shift_dqn(kind: str, made: Tasks, agent: int, taught: int, epochs: int, exploring: bool) -> Floats:
    """Shares [N] of the first commit's agent.

    Its online tasks are like those that it was trained on. Only the biased one, that a report says to recover on the
    shifted tasks, is given those, and measured afterwards, or meanwhile (`exploring`).
    """
    ranges, intensity = _SHIFT_TRAINING[kind]
    learner = Shifted(
        uniform_tasks(_SEED, taught or _TAUGHT_FIRST, ranges, intensity), agent, kind == "repaired", epochs
    )
    if kind != "biased":
        learner.online(uniform_tasks(_ONLINE_SEED, _ONLINE, ranges, intensity))
        return learner.shares(made, exploring)
    taken = learner.online(made)
    return taken if exploring else learner.shares(made, exploring=False)
