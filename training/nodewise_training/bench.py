"""What training takes beside what it replaces: the compiled engine, and the learner.

Decisions are collected by the compiled engine and by the reference engine, on the same worlds; samples are learned from
by our learner and by one as it is usually written. CPU time of this process, one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nodewise.core.card import PolicyCard, column_now
from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.policies import DEFAULT
from nodewise.policies.bundle import write_bundle
from nodewise.policies.learned import load
from nodewise_simulator import scenarios
from nodewise_simulator.compare import Row, interval, ratio_interval
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, flatten
from nodewise_simulator.compiled.run import Net, Record, State, play_net, play_rule, play_sampled
from nodewise_simulator.run import play
from nodewise_simulator.world import World
from nodewise_training.export import OPSET, export, golden
from nodewise_training.nets import Scorer
from nodewise_training.ppo import SEES, Learner, Settings
from nodewise_training.rollout import Batch
from nodewise_training.worlds import FIRST_SEED

SCENARIO = "hetero@load=0.85"
"""60 nodes."""
RULE, GREEDY, SAMPLED = "rule", "greedy scorer", "sampled and recorded"
REFERENCE_RULE, REFERENCE_NET = "reference engine, economic", "reference engine, learned"
OURS, PLAIN = "our learner", "plain torch"

_PEERS = {RULE: REFERENCE_RULE, GREEDY: REFERENCE_NET, SAMPLED: REFERENCE_NET, OURS: PLAIN}
"""What each is compared with: it decides, or learns, the same."""

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, out of how much)"""


def bench_training(*, rounds: int = 5, pods: int = 2300, progress: Progress = lambda *_: None) -> list[Row]:
    """Rows of collecting (decisions/s) and of learning (µs per sample and epoch), and their ratios.

    Each round plays one world of `pods` pods from its first to its last with every side, then learns from what was
    recorded on it; intervals are over rounds. What is compiled is compiled before. Raises UserError for numbers that
    make no sense.
    """
    if rounds < 1 or pods < 100:
        raise UserError("bench training needs at least 1 round and 100 pods")
    torch.set_num_threads(1)
    learner, plain = Learner(Settings(), 0), PlainLearner(Settings(), 0)
    sides = [RULE, GREEDY, SAMPLED, REFERENCE_RULE, REFERENCE_NET, OURS, PLAIN]
    measured: dict[str, list[float]] = {name: [] for name in sides}
    progress("compiling", 0, 1)
    round_ = _Round.of(FIRST_SEED - 1, 100, learner)  # until here, no world was
    learned = _exported(learner.scorer, round_)
    for name in sides:
        round_.seconds_of(name, learned, learner, plain)
    progress("compiling", 1, 1)
    for k in range(rounds):
        round_ = _Round.of(FIRST_SEED - 2 - k, pods, learner)
        for name in sides if k % 2 == 0 else sides[::-1]:
            measured[name].append(round_.seconds_of(name, learned, learner, plain))
            progress("measuring", sum(map(len, measured.values())), rounds * len(sides))
    return _rows(measured)
