"""Rollouts for on-policy learning: fresh worlds from another process, several rollouts of each segment of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nodewise.core.types import Floats
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat
from nodewise_simulator.compiled.run import Net, Record, State, play_net, play_rule, play_sampled
from nodewise_simulator.workers import Workers
from nodewise_training.returns import expected_cents, leave_one_out, normalised, to_others_cents
from nodewise_training.worlds import check_length, world

Ints = NDArray[np.int64]

FIRST_SEED = 1_000_000
"""Worlds of training seed s begin at (s + 1) × this: far above every seed that anything is evaluated on."""
_APPROACH = 300
"""Pods that the policy places before a segment, so that it learns from clusters as it leaves them."""
_COLD = 0.06
"""Part of a world's pods that only fill it, before the first segment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is rolled out for one update, and how a decision is credited."""

    worlds: int = 2
    segments: int = 4
    """Disjoint stretches of each world's pods that are learned from."""
    rollouts: int = 4
    """Continuations of the same segment, which are each other's baseline."""
    decisions: int = 800
    """Pods of a segment."""
    tail: int = 1000
    """Pods played after it, so that what its decisions did to others is seen."""
    sharpness: float = 20.0
    """Decisions are drawn from softmax(sharpness × score in cents)."""
    information: float = 1.0
    """Weight of what a run would teach; see `returns.to_others_cents`."""
    clip: float = 4.0
    """Advantages are cut at this many of their standard deviations."""

    @property
    def least_pods(self) -> int:
        """How many pods a world must have."""
        learned = self.segments * self.decisions + self.tail
        return max(int(learned / (1.0 - _COLD)) + 1, learned + _APPROACH)


@dataclass(frozen=True, slots=True)
class Batch:
    """Decisions as they were taken, with their advantages; D rows, of which `index` names those to learn from."""

    record: Record  # of D rows
    advantage: Floats  # [D]
    index: Ints
    cents: float
    """Mean expected cost of a decided pod."""
    departed: float
    """Share of decisions that were not the rule's."""


class Collector:
    """Makes batches; the worlds of the next one are made meanwhile, in another process. Use as a context manager."""

    def __init__(self, scenario_texts: Sequence[str], columns: tuple[str, ...], plan: Plan, seed: int) -> None:
        self._scenarios, self._columns, self._plan, self._seed = tuple(scenario_texts), columns, plan, seed
        self._workers = Workers(1)
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._ahead: dict[int, list[Future[Flat]]] = {}
        self._record: Record | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._workers.__exit__()

    def collect(self, net: Net, iteration: int) -> Batch:
        """Roll the policy out on the worlds of an iteration; the same for the same seed, iteration and weights.

        The record is overwritten by the next call. Raises UserError for a scenario that cannot be learned from.
        """
        plan = self._plan
        for ahead in (iteration, iteration + 1):
            if ahead not in self._ahead:
                jobs = [self._workers.submit(world, text, seed) for text, seed in self._worlds(ahead)]
                self._ahead[ahead] = jobs
        flats = [job.result() for job in self._ahead.pop(iteration)]
        share = plan.segments * plan.rollouts * plan.decisions
        nodes = max(len(f.node_f) for f in flats)
        if self._record is None or self._record.node.shape[1] < nodes:
            self._record = Record.room(plan.worlds * share, nodes, self._columns)
        rolling = [
            self._threads.submit(
                roll_out, flat, net, plan, self._record.part(k * share, share), (self._seed, iteration, k)
            )
            for k, flat in enumerate(flats)
        ]
        parts = [job.result() for job in rolling]
        advantage = np.concatenate([part.advantage for part in parts])
        return Batch(
            record=self._record,
            advantage=advantage,
            index=np.flatnonzero(~np.isnan(advantage)),
            cents=float(np.mean([part.cents for part in parts])),
            departed=sum(part.departed for part in parts) / max(sum(part.asked for part in parts), 1),
        )

    def _worlds(self, iteration: int) -> Iterator[tuple[str, int]]:
        """Scenarios in turn, each with seeds of its own one after the other: what a seed rotates, each sees whole."""
        count = len(self._scenarios)
        for k in range(self._plan.worlds):
            number = iteration * self._plan.worlds + k
            own = FIRST_SEED // count * (number % count) + number // count
            yield self._scenarios[number % count], FIRST_SEED * (self._seed + 1) + own


@dataclass(frozen=True, slots=True)
class Part:
    """What came of one world."""

    advantage: Floats  # by row of the record; nan where no decision was recorded
    cents: float
    departed: int
    asked: int


def roll_out(flat: Flat, net: Net, plan: Plan, record: Record, seed: Sequence[int]) -> Part:
    """Fill `record` [segments × rollouts × decisions] with what is sampled on a world; same seed, same record.

    Each segment begins where `economic`, and for the last stretch the policy itself, have led. Raises UserError for a
    world that is too short.
    """
    rng, pods, size = np.random.default_rng(seed), len(flat.pod_f), plan.decisions
    check_length(flat, plan.least_pods)
    first = max(int(pods * _COLD), _APPROACH)
    span = (pods - plan.tail - first) // plan.segments
    shape = (plan.segments, plan.rollouts, size)
    cents, charged = np.full(shape, np.nan), np.full(shape, np.nan)
    place = np.full(shape, -1)  # of each recorded decision, its pod's among those of the segment
    departed = asked = 0
    trunk = State.start(flat)
    for segment in range(plan.segments):
        begin = first + segment * span + int(rng.integers(0, span - size + 1))
        play_rule(flat, trunk, begin - _APPROACH)
        start = trunk.copy()
        play_net(flat, start, net, begin)
        start.number[[kn.ASKED, kn.DEPARTED]] = 0
        for k in range(plan.rollouts):
            state, mine = start.copy(), record.part((segment * plan.rollouts + k) * size, size)
            play_sampled(flat, state, net, plan.sharpness, rng.random(pods), mine, begin, begin + size)
            asked, departed = asked + int(state.number[kn.ASKED]), departed + int(state.number[kn.DEPARTED])
            decided = mine.choice[: state.number[kn.RECORDED], 0].copy()
            play_net(flat, state, net, begin + size + plan.tail, charge=True)
            place[segment, k, : len(decided)] = decided - begin
            own = expected_cents(flat, state, decided)
            cents[segment, k, decided - begin] = own
            charged[segment, k, decided - begin] = own + to_others_cents(state, decided, plan.information)
    by_pod = np.stack([normalised(leave_one_out(of_segment), plan.clip) for of_segment in charged])
    by_record = np.where(place >= 0, np.take_along_axis(by_pod, np.maximum(place, 0), axis=-1), np.nan)
    return Part(by_record.ravel(), float(np.nanmean(cents)), departed, asked)
