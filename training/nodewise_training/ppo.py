"""Proximal policy optimisation of a per-node scorer that begins as `economic` (Schulman et al. 2017, arXiv:1707.06347).

One iteration: fresh worlds are warmed up by the rule, each of their segments is continued several times with nodes drawn
from softmax(sharpness × score), and every decision is credited with how much less its pod cost, harm to others included,
than the same pod did in the other continuations (`returns`). Then a few epochs of the clipped surrogate over what was
recorded. An exponential average of the weights is what is evaluated and exported; nothing is selected by its score.

All that is random derives from (seed, iteration): a run that was killed and resumed is the run that was not, and the
budget only says where it stops.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodewise.core.columns import COLUMNS
from nodewise_simulator.compiled.run import Net, Record
from nodewise_simulator.scorer import weights_of
from nodewise_training.nets import Scorer, transformed
from nodewise_training.rollout import Batch, Collector, Plan

SEES = tuple(COLUMNS)
"""The columns of the policy, in card order."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is determined by, together with its seed and scenarios."""

    plan: Plan = field(default_factory=Plan)
    hidden: int = 32
    epochs: int = 2
    minibatch: int = 2048
    microbatch: int = 128
    """Decisions per forward pass; gradients of a minibatch add up, and activations stay in the cache."""
    learning_rate: float = 5e-4
    least_learning_rate: float = 5e-5
    learning_rate_decay: float = 0.99
    """Factor per iteration, so that the budget changes nothing but the end."""
    clip: float = 0.2
    entropy: float = 1e-3
    average: float = 0.9
    """What the exported weights keep of themselves at each iteration."""


class Learner:
    """The scorer, its optimiser and its average."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.scorer = Scorer(SEES, settings.hidden, seed)
        self.average = copy.deepcopy(self.scorer)
        self.optimiser = torch.optim.Adam(self.scorer.parameters(), lr=settings.learning_rate, eps=1e-5)
        self.low = np.full(len(SEES), np.inf)
        self.high = np.full(len(SEES), -np.inf)
        self.iteration = 0

    def net(self, *, averaged: bool = False) -> Net:
        scorer = self.average if averaged else self.scorer
        return Net.unbounded(SEES, *weights_of(scorer.arrays()))

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch; returns what is logged."""
        s = self.settings
        if self.iteration == 0:
            means, stds = _scale(batch)
            for scorer in (self.scorer, self.average):
                scorer.set_scale(means, stds)
        for group in self.optimiser.param_groups:
            group["lr"] = max(s.least_learning_rate, s.learning_rate * s.learning_rate_decay**self.iteration)
        index = batch.index()
        rng = np.random.default_rng([self.seed, self.iteration, 2])
        told = {"loss": 0.0, "clipped": 0.0, "kl": 0.0, "entropy": 0.0}
        steps = 0
        for _ in range(s.epochs):
            rng.shuffle(index)
            for begin in range(0, len(index), s.minibatch):
                mini = index[begin : begin + s.minibatch]
                self.optimiser.zero_grad()
                for at in range(0, len(mini), s.microbatch):
                    part = self._loss(batch, mini[at : at + s.microbatch], len(mini), self.iteration == 0)
                    for k in told:
                        told[k] += part[k]
                torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), 0.5)
                self.optimiser.step()
                steps += 1
        with torch.no_grad():
            for mine, new in zip(self.average.parameters(), self.scorer.parameters(), strict=True):
                mine.lerp_(new, 1.0 - s.average)
        self.iteration += 1
        return {k: v / steps for k, v in told.items()}

    def _loss(self, batch: Batch, index: NDArray[np.int64], whole: int, first: bool) -> dict[str, float]:
        s = self.settings
        node, pair, request, mask, chosen, old, adv = _micro(batch, index)
        scores = self.scorer(node, pair, request, mask) * s.plan.sharpness
        logp_all = torch.log_softmax(scores, -1)
        logp = logp_all.gather(1, chosen[:, None])[:, 0]
        ratio = torch.exp(logp - old)
        clipped = torch.clamp(ratio, 1.0 - s.clip, 1.0 + s.clip)
        gain = torch.minimum(ratio * adv, clipped * adv).sum()
        p = logp_all.exp()
        entropy = -(p * logp_all.masked_fill(~mask, 0.0)).sum()
        loss = -(gain + s.entropy * entropy) / whole
        loss.backward()
        with torch.no_grad():
            return {
                "loss": float(loss), "clipped": float((ratio != clipped).sum()) / whole,
                "kl": float((old - logp).sum()) / whole, "entropy": float(entropy) / whole,
            }


def _micro(batch: Batch, index: NDArray[np.int64]) -> tuple[Tensor, ...]:
    records = [batch.records[r] for r in index[:, 0]]
    at = index[:, 1]
    choice = np.stack([record.choice[k] for record, k in zip(records, at, strict=True)])
    m = int(choice[:, 1].max())
    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(r, name)[k] for r, k in zip(records, at, strict=True)]))
    node, pair = stack("node")[:, :m], stack("pair")[:, :m]
    mask = torch.arange(m)[None, :] < torch.from_numpy(choice[:, 1])[:, None]
    old = torch.tensor([r.logp[k] for r, k in zip(records, at, strict=True)], dtype=torch.float32)
    adv = torch.from_numpy(batch.advantage[index[:, 0], at].astype(np.float32))
    return node, pair, stack("request"), mask, torch.from_numpy(choice[:, 2]), old, adv


def _features(batch: Batch) -> NDArray[np.float32]:
    out = []
    for r, record in enumerate(batch.records):
        for k in range(0, (~np.isnan(batch.advantage[r])).sum(), 7):
            m = record.choice[k, 1]
            out.append(np.concatenate([record.node[k,:m], np.repeat(record.request[k][None,:], m, 0), record.pair[k,:m]], 1))
    return np.concatenate(out)


def _scale(batch):
    from nodewise_training.nets import places
    f = _features(batch)
    pl = places(SEES)
    order = np.concatenate([pl['node'], pl['request'], pl['pair']])
    g = np.empty_like(f); g[:, order] = f
    t = transformed(SEES, g)
    return t.mean(0), t.std(0)
