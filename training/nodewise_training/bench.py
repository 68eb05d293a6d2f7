"""What training takes beside what it replaces: the compiled engine, and the learner.

Decisions are collected by the compiled engine and by the reference engine, on the same worlds; samples are learned from
by our learner and by one as it is usually written. CPU time of this process, one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import Net, Record, State, play_net, play_rule, play_sampled
from nodewise_simulator.run import play
from nodewise_simulator.world import World
from nodewise_training.export import OPSET, export, golden
from nodewise_training.nets import Scorer
from nodewise_training.ppo import SEES, Learner, Settings
from nodewise_training.rollout import FIRST_SEED, Batch
from nodewise_training.seen import Seen

SCENARIO = "hetero@load=0.85"
"""60 nodes."""
RULE, GREEDY, SAMPLED = "rule", "greedy scorer", "sampled and recorded"
REFERENCE_RULE, REFERENCE_NET = "reference engine, economic", "reference engine, learned"
OURS, PLAIN = "our learner", "plain torch"

_PEERS = {RULE: REFERENCE_RULE, GREEDY: REFERENCE_NET, SAMPLED: REFERENCE_NET, OURS: PLAIN}
"""What each is compared with: it decides, or learns, by the same."""
_LEAST_PODS = 200

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, out of how much)"""
_Side = Callable[[], int]
"""Does its work once; returns how many decisions it took, or samples it learned from, those of all epochs added up."""


def bench_training(*, rounds: int = 5, pods: int = 2300, progress: Progress = lambda *_: None) -> list[Row]:
    """Rows of collecting, decisions/s, and of learning, µs per sample and epoch; ratios of both.

    In each round every side plays the same new world of `pods` pods from its first to its last, or learns from what was
    recorded on it; intervals are over rounds. What is compiled is compiled before. Raises UserError for numbers that
    make no sense.
    """
    if rounds < 1 or pods < _LEAST_PODS:
        raise UserError(f"bench training needs at least 1 round and {_LEAST_PODS} pods")
    torch.set_num_threads(1)
    ours, plain = Learner(Settings(), 0), PlainLearner(Settings(), 0)
    net, learned = ours.net(), None
    per_unit_s: dict[str, list[float]] = {}
    for k in range(-1, rounds):  # the first is not counted: it compiles
        made = scenarios.make(f"{SCENARIO},pods={pods if k >= 0 else _LEAST_PODS},warm=0", FIRST_SEED - 1 - k)
        batch, collectors = collected(made, net)
        learned = learned or _exported(ours, batch)
        sides: dict[str, _Side] = {
            **collectors,
            REFERENCE_RULE: partial(_refer, made, DEFAULT), REFERENCE_NET: partial(_refer, made, learned),
            OURS: partial(_learn, ours, batch), PLAIN: partial(_learn, plain, batch),
        }  # fmt: skip
        for at, name in enumerate(list(sides) if k % 2 == 0 else list(sides)[::-1]):
            took_s = _timed(sides[name])
            if k >= 0:
                per_unit_s.setdefault(name, []).append(took_s)
            progress("rounds, after one that compiles", (k + 1) * len(sides) + at + 1, (rounds + 1) * len(sides))
    return [row for name in sides for row in _rows(name, per_unit_s)]


class PlainScorer(Scorer):
    """The same network with every operation as torch has it, and all in new memory."""

    def join(self, encoding: Tensor, pair: Tensor, request: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Scorer.join`; a mask must be given."""
        assert mask is not None
        asked = functional.linear(self._scaled("request", request), self.request_weight, self.hidden_bias)
        first = functional.linear(self._scaled("pair", pair), self.pair_weight) + encoding + asked.unsqueeze(-2)
        first = first.relu() * mask.unsqueeze(-1)
        pool = torch.cat([first.sum(-2) / mask.sum(-1, keepdim=True), first.amax(-2)], -1)
        others = functional.linear(pool, self.pool_weight, self.second_bias)
        second = (functional.linear(first, self.second_weight) + others.unsqueeze(-2)).relu()
        scores = second @ self.output_weight - pair @ (self.get_buffer("terms") @ self.skip)
        return scores.masked_fill(~mask, -torch.inf)


class PlainLearner(Learner):
    """A minibatch in one pass of that network, as torch is usually written; the same loss and the same steps."""

    def __init__(self, settings: Settings, seed: int) -> None:
        super().__init__(replace(settings, microbatch=settings.minibatch), seed)
        self.scorer = PlainScorer(SEES, settings.hidden, seed)
        self.optimiser = torch.optim.Adam(self.scorer.parameters(), settings.learning_rate, eps=1e-5)


def collected(made: World, net: Net) -> tuple[Batch, dict[str, _Side]]:
    """What is recorded on a world, to learn from, and the compiled engine's sides."""
    flat, pods = flatten(made), len(made.pods)
    record, random = Record.room(pods, len(made.nodes), SEES), np.random.default_rng(made.seed)
    uniforms, plan = random.random(pods), Settings().plan

    def compiled(played: Callable[..., None], *given: Any) -> int:
        state = State.start(flat)
        played(flat, state, *given)
        return int(state.number[kn.ASKED])

    sample = partial(compiled, play_sampled, net, plan.sharpness, uniforms, record, 0, pods + 1)
    index = np.arange(min(sample(), Settings().minibatch))
    batch = Batch(record, random.normal(size=pods).clip(-plan.clip, plan.clip), index, cents=0.0, departed=0.0)
    return batch, {RULE: partial(compiled, play_rule), GREEDY: partial(compiled, play_net, net), SAMPLED: sample}


def _refer(made: World, policy: Policy) -> int:
    return len(play(made, policy)[1].took_s)


def _learn(learner: Learner, batch: Batch) -> int:
    learner.update(batch)
    return learner.settings.epochs * len(batch.index)


def _exported(learner: Learner, batch: Batch) -> Policy:
    """The network as it is served, without ranges: it is asked about everything."""
    seen = Seen(learner.scorer)
    seen.add(batch.record, batch.index)
    card = PolicyCard(
        name="untrained", algorithm="none", columns=tuple(map(column_now, SEES)), opset=OPSET, commit="none",
        command="none", scenarios=(), seeds=(), results={}, files={},
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="nodewise-bench-") as folder:
        bundle = Path(folder) / "bundle"
        write_bundle(bundle, export(learner.scorer), card, golden(learner.scorer, seen.sample))
        return load(bundle)


def _timed(side: _Side) -> float:
    """CPU seconds of this process for each decision or sample."""
    before_s = time.process_time()
    number = side()
    return (time.process_time() - before_s) / number


def _rows(name: str, per_unit_s: Mapping[str, list[float]]) -> list[Row]:
    own_s, peer_s = np.array(per_unit_s[name]), np.array(per_unit_s[_PEERS.get(name, name)])
    if name in (OURS, PLAIN):
        what, metric, unit, peer = "learning", "learn", "µs per sample and epoch", PLAIN
        values, above, below = own_s * 1e6, own_s, peer_s
    else:
        what, metric, unit, peer = "collecting", "decide", "decisions/s", "the reference engine"
        values, above, below = 1.0 / own_s, peer_s, own_s
    where, rounds, ratio = f"{SCENARIO}, {what}", len(own_s), float(above.sum() / below.sum())
    return [
        Row(where, name, metric, unit, float(values.mean()), *interval(values), rounds),
        Row(where, name, f"{metric}_ratio", f"to {peer}", ratio, *ratio_interval(above, below), rounds),
    ]
