"""Rollouts for on-policy learning: fresh worlds from another process, several rollouts of each segment of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, flatten
from nodewise_simulator.compiled.run import Net, Record, State, play_net, play_rule, play_sampled
from nodewise_training.returns import expected_cents, leave_one_out, normalised

Ints = NDArray[np.int64]


FIRST_SEED = 1_000_000
"""Worlds of training seed s begin at (s + 1) × this: far above every seed that anything is evaluated on."""
_APPROACH = 300
"""Pods that the policy places before a segment, so that it learns from clusters as it leaves them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is rolled out for one update."""

    worlds: int = 4
    segments: int = 2
    """Disjoint stretches of each world's pods that are learned from."""
    rollouts: int = 4
    """Continuations of the same segment, which are each other's baseline."""
    decisions: int = 800
    """Pods of a segment."""
    tail: int = 1000
    """Pods played after it, so that what its decisions did to others is seen."""
    sharpness: float = 20.0
    """Decisions are drawn from softmax(sharpness × score in cents)."""
    clip: float = 4.0
    """Advantages are cut at this many of their standard deviations."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Recorded decisions of R rollouts, and their advantages."""

    records: Sequence[Record]
    advantage: Floats  # [R, decisions] nan where there is nothing to learn
    cost: float
    """Mean expected cents of a decided pod."""
    departed: float
    """Share of decisions that were not the rule's."""

    def index(self) -> Ints:
        """(rollout, decision) of everything that can be learned from [n, 2]."""
        return np.argwhere(~np.isnan(self.advantage))


def world(scenario: str, seed: int) -> Flat:
    """The flat world of a scenario and seed."""
    return flatten(scenarios.make(scenario, seed))


class Collector:
    """Makes batches; the worlds of the next one are made meanwhile, in another process. Use as a context manager."""

    def __init__(self, scenario_texts: Sequence[str], columns: tuple[str, ...], plan: Plan, seed: int) -> None:
        self._scenarios, self._columns, self._plan, self._seed = tuple(scenario_texts), columns, plan, seed
        self._processes = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._ahead: dict[int, list[Future[Flat]]] = {}
        self._records: list[Record] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def collect(self, net: Net, iteration: int) -> Batch:
        """Roll the policy out on the worlds of an iteration; the same for the same seed, iteration and weights.

        The records are overwritten by the next call.
        """
        for ahead in (iteration, iteration + 1):
            if ahead not in self._ahead:
                jobs = [self._processes.submit(world, text, seed) for text, seed in self._worlds(ahead)]
                self._ahead[ahead] = jobs
        flats = [job.result() for job in self._ahead.pop(iteration)]
        share = self._plan.segments * self._plan.rollouts
        if not self._records:
            nodes = max(len(flat.node_f) for flat in flats)
            count = self._plan.worlds * share
            self._records = [Record.room(self._plan.decisions, nodes, self._columns) for _ in range(count)]
        rolling = [
            self._threads.submit(
                roll_out, flat, net, self._plan, self._records[k * share : (k + 1) * share], (self._seed, iteration, k)
            )
            for k, flat in enumerate(flats)
        ]
        parts = [job.result() for job in rolling]
        return Batch(
            self._records,
            np.concatenate([part.advantage for part in parts]),
            float(np.nanmean(np.concatenate([part.cents for part in parts]))),
            sum(part.departed for part in parts) / max(sum(part.asked for part in parts), 1),
        )

    def _worlds(self, iteration: int) -> Iterator[tuple[str, int]]:
        for k in range(self._plan.worlds):
            number = iteration * self._plan.worlds + k
            yield self._scenarios[number % len(self._scenarios)], FIRST_SEED * (self._seed + 1) + number


@dataclass(frozen=True, slots=True)
class Part:
    """What came of one world; R rollouts of P pods."""

    advantage: Floats  # [R, P] of each record's decisions; nan beyond the recorded ones
    cents: Floats  # [R, P] expected cost of each pod; nan where no decision was recorded
    departed: int
    asked: int


def roll_out(flat: Flat, net: Net, plan: Plan, records: Sequence[Record], seed: Sequence[int]) -> Part:
    """Fill `records` [segments × rollouts] with what is sampled on a world; same seed, same records.

    Each segment begins where `economic`, and for the last stretch the policy itself, have led. Raises UserError for a
    world that is too short.
    """
    rng, pods = np.random.default_rng(seed), len(flat.pod_f)
    first, last = pods * 3 // 10, pods - plan.tail
    span = (last - first) // plan.segments
    if span < plan.decisions or first < _APPROACH:
        least = (plan.segments * plan.decisions + plan.tail) * 10 // 7 + 1
        raise UserError(f"a world of {pods} pods is too short to learn from; give the scenario {least}, warm-up included")
    cents = np.full((len(records), plan.decisions), np.nan)
    charged, departed, asked = cents.copy(), 0, 0
    places: list[Ints] = []  # of each record's decisions among the segment's pods
    trunk = State.start(flat)
    for segment in range(plan.segments):
        begin = first + segment * span + int(rng.integers(0, span - plan.decisions + 1))
        play_rule(flat, trunk, begin - _APPROACH)
        start = trunk.copy()
        play_net(flat, start, net, begin)
        start.number[[kn.ASKED, kn.DEPARTED]] = 0
        for k in range(segment * plan.rollouts, (segment + 1) * plan.rollouts):
            state, record, uniforms = start.copy(), records[k], rng.random(pods)
            play_sampled(flat, state, net, plan.sharpness, uniforms, record, begin, begin + plan.decisions)
            asked, departed = asked + state.number[kn.ASKED], departed + state.number[kn.DEPARTED]
            decided = record.choice[: state.number[kn.RECORDED], 0]
            play_net(flat, state, net, begin + plan.decisions + plan.tail)
            places.append(decided - begin)
            cents[k, places[k]] = expected_cents(flat, state, decided)
            charged[k, places[k]] = cents[k, places[k]] + state.pod[decided, kn.HARM]
    shape = (plan.segments, plan.rollouts, plan.decisions)
    advantage = np.stack([leave_one_out(of_segment) for of_segment in charged.reshape(shape)])
    by_pod = normalised(advantage, plan.clip).reshape(charged.shape)
    by_record = np.full_like(by_pod, np.nan)
    for k, place in enumerate(places):
        by_record[k, : len(place)] = by_pod[k, place]
    return Part(by_record, cents, int(departed), int(asked))

