"""The extender's run-time estimator while an operator shares its own: one state, whichever of the two is away.

With the link fresh only the operator's log teaches; what the extender's own watch saw finish is kept by uid until the
log brings it. When the link is stale that is learned too, on top of what the operator is known to believe. On return
the operator learns what it does not have; when it has everything its belief is taken over as it is.

Whatever arrives is only noted. It is learned a little at a time by `tick`, and large tables are made by what `rebuild`
gives, on another thread: the event loop that owns all this has decisions to make.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import msgspec

from nodewise.channel.messages import ObservationRow, PredictorUpdate
from nodewise.core.estimator import EstimatorSettings, Observation, RunTimeEstimator

STALE_S = 10.0
"""An operator that was silent for so long is taken to be away."""
OVERDUE_S = 15.0
"""After so long the operator is told what it did not tell of: it may be blind itself."""
MOST = 10_000
"""Observations kept that the operator did not tell of; the oldest are given up."""
SLICE_S = 0.0015
"""Time after which `tick` begins nothing more; one observation takes 0.3 ms with 5,000 workloads on 20 classes."""
_TAIL = 1_000
"""Observations that an operator which crashes may have learned and not have on disk."""
_REPORTED = 500
"""Observations in one report."""


@dataclass(frozen=True, slots=True)
class Told:
    """A `PredictorUpdate`, read."""

    epoch: str
    revision: int
    state: RunTimeEstimator | None
    recent: frozenset[str]
    observations: list[Observation]


def read(reply: bytes, settings: EstimatorSettings) -> Told:
    """Read a `PredictorUpdate`; takes tens of milliseconds for a large state.

    Raises msgspec.MsgspecError, KeyError, TypeError or ValueError for a reply that is none.
    """
    update = msgspec.json.decode(reply, type=PredictorUpdate)
    state = RunTimeEstimator.restore(update.state.state(), settings) if update.state else None
    told = [row.observation() for row in update.observations]
    return Told(update.epoch, update.revision, state, frozenset(update.recent), told)


class Follower:
    """Owned by the event loop. Put `learn` where `ClusterState.learn` is.

    `estimator` is that of the state; when another takes its place, with the same indices, `replaced` is told of it.
    `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        estimator: RunTimeEstimator,
        clock: Callable[[], float] = time.monotonic,
        replaced: Callable[[RunTimeEstimator], None] = lambda _: None,
    ) -> None:
        self.estimator = estimator
        self.revision = 0  # of what was learned
        self.asked = "", 0
        """Epoch and revision of what was told, learned or not."""
        self.given_up = 0  # observations that were too many to be kept
        self._clock, self._replaced = clock, replaced
        self._heard_s = clock()  # a start is no absence: the operator has its time to answer
        self._base = RunTimeEstimator(estimator.settings)  # what the operator believes, as far as it was learned here
        self._new: Told | None = None  # a state that shall take the place of `_base`
        self._told: deque[tuple[Observation, int]] = deque()  # to be learned, with the revision that each leads to
        self._own: OrderedDict[str, tuple[Observation, float]] = OrderedDict()  # not told by it, with when they came
        self._idle: OrderedDict[str, None] = OrderedDict()  # those of them that `estimator` has not learned
        self._again: deque[str] = deque()  # those of these that it had learned before it was replaced
        self._ours: set[str] = set()  # what it learned from our own watch since then: not twice, when it is told
        self._tail: OrderedDict[str, Observation] = OrderedDict()  # what the operator learned last
        self._making: RunTimeEstimator | None = None  # what the last `rebuild` starts from

    @property
    def fresh(self) -> bool:
        """Whether the operator was heard lately."""
        return self._clock() - self._heard_s <= STALE_S

    @property
    def age_s(self) -> float:
        """Time since the operator was heard."""
        return self._clock() - self._heard_s

    @property
    def own(self) -> int:
        """Observations that the operator did not tell of (yet)."""
        return len(self._own)

    def learn(self, seen: Observation) -> None:
        """A pod was seen to finish by this extender's own watch."""
        if seen.teaches:
            self._keep(seen)

    def heard(self, told: Told) -> None:
        """The operator told what it learned."""
        if told.state is not None:
            if told.epoch != self.asked[0]:  # it may have crashed before its disk had what it told last
                for uid in [uid for uid in self._tail if uid not in told.recent]:
                    self._keep(self._tail.pop(uid))
                    self._again.append(uid)
            self._settle([uid for uid in self._own if uid in told.recent])
            self._new = told
            self._told.clear()
        else:
            first = told.revision - len(told.observations) + 1
            self._told.extend((seen, first + k) for k, seen in enumerate(told.observations))
            self._settle(seen.uid for seen in told.observations)
            self._ends_with(told.observations)
        self.asked = told.epoch, told.revision
        self._heard_s = self._clock()

    def known(self, uids: Iterable[str]) -> None:
        """The operator says that it learned from these before."""
        self._settle(uids)

    def overdue(self) -> list[ObservationRow]:
        """What to tell the operator of: it was away when they finished, or should have learned from them by now."""
        now_s = self._clock()
        due = (
            seen for uid, (seen, since_s) in self._own.items() if uid not in self._idle or now_s - since_s > OVERDUE_S
        )
        return [ObservationRow.of(seen) for seen in islice(due, _REPORTED)]

    def tick(self) -> bool:
        """Learn for a moment; whether there is more. If the operator is away what is kept is learned too."""
        ends_s = time.perf_counter() + SLICE_S
        while self._learn_one():
            if time.perf_counter() >= ends_s:
                return True
        return False

    def rebuild(self) -> Callable[[], RunTimeEstimator] | None:
        """What makes the estimator that shall replace ours, if one shall: call it anywhere, and `adopt` its result.

        Until then no `tick`, while all else goes on.
        """
        drained = not (self._told or self._again) and len(self._own) == len(self._idle)
        if self._new is None and not (self._ours and drained):
            return None
        self._making = self._source
        return partial(_adopted, copy.copy(self.estimator), self._making)

    def adopt(self, made: RunTimeEstimator) -> None:
        """Let `made` replace our estimator, unless it is out of date by now: then `rebuild` asks again."""
        ours, new = self.estimator, self._new
        if self._making is not self._source:
            return
        rows, columns = ours.workloads, ours.node_classes
        if made.workloads[: len(rows)] != rows or made.node_classes[: len(columns)] != columns:
            return  # indices were given out meanwhile
        if new is not None:
            self._base, self._new, self.revision = self._source, None, new.revision
        self._again.extend(uid for uid in self._own if uid not in self._idle)
        self._idle, self._ours = OrderedDict.fromkeys(self._own), set()
        self.estimator = made
        self._replaced(made)

    @property
    def _source(self) -> RunTimeEstimator:
        return self._new.state if self._new is not None and self._new.state is not None else self._base

    def _learn_one(self) -> bool:
        """Learn one observation, or forget that it was to be learned; False if there is none, or a rebuild is due."""
        if self._new is not None:
            return False
        if self._told:
            seen, self.revision = self._told.popleft()
            self._base.learn(seen)
            if seen.uid not in self._ours:
                self.estimator.learn(seen)
            return True
        if self._again:
            uid = self._again.popleft()
        elif self._idle and not self.fresh:
            uid = next(iter(self._idle))
        else:
            return False
        if uid in self._idle:
            del self._idle[uid]
            self._ours.add(uid)
            self.estimator.learn(self._own[uid][0])
        return True

    def _keep(self, seen: Observation) -> None:
        if seen.uid in self._own:
            return
        self._own[seen.uid] = seen, self._clock()
        if seen.uid not in self._ours:
            self._idle[seen.uid] = None
        if len(self._own) > MOST:
            uid, _ = self._own.popitem(last=False)
            self._idle.pop(uid, None)
            self.given_up += 1

    def _settle(self, uids: Iterable[str]) -> None:
        """What the operator has is no longer ours to keep, but for the case that it crashes before it is written."""
        had = [self._own.pop(uid)[0] for uid in uids if uid in self._own]
        for seen in had:
            self._idle.pop(seen.uid, None)
        self._ends_with(had)

    def _ends_with(self, told: Iterable[Observation]) -> None:
        self._tail.update((seen.uid, seen) for seen in told)
        while len(self._tail) > _TAIL:
            self._tail.popitem(last=False)


def _adopted(into: RunTimeEstimator, source: RunTimeEstimator) -> RunTimeEstimator:
    into.adopt(source)  # it replaces its tables and writes none, so those that it shares stay as they are
    return into
