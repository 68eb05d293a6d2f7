"""The extender's run-time estimator while an operator shares its own: one state, whichever of the two is away.

With the link fresh only the operator's log teaches; what the extender's own watch saw finish is kept by uid until the
log brings it. When the link is stale that is learned too, on top of what the operator is known to believe. On return
the operator's belief is taken over, and what it does not have yet is given to it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from nodewise.channel.messages import ObservationRow, PredictorUpdate
from nodewise.core.estimator import Observation, RunTimeEstimator

STALE_S = 10.0
"""An operator that was silent for so long is taken to be away."""
OVERDUE_S = 15.0
"""After so long the operator is told what it did not tell of: it may be blind itself."""
MOST = 10_000
"""Observations kept that the operator did not tell of; the oldest are given up."""
_TAIL = 1_000
"""Observations that an operator which crashes may have learned and not have on disk."""
_REPORTED = 500
"""Observations in one report."""


class Follower:
    """Owned by the event loop. Put `learn` where `ClusterState.learn` is; `estimator` stays that of the state.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, estimator: RunTimeEstimator, clock: Callable[[], float] = time.monotonic) -> None:
        self.estimator = estimator
        self.epoch, self.revision = "", 0
        self.given_up = 0  # observations that were too many to be kept
        self._clock = clock
        self._heard_s = clock()  # a start is no absence: the operator has its time to answer
        self._base = RunTimeEstimator(estimator.settings)  # what the operator believes, as far as it told
        self._own: OrderedDict[str, tuple[Observation, float]] = OrderedDict()  # not told by it, with when they came
        self._on_top: set[str] = set()  # those of them that `estimator` learned
        self._tail: OrderedDict[str, Observation] = OrderedDict()  # what the operator learned last

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
            self.tick()

    def tick(self) -> None:
        """Learn what is kept if the operator is away; call it now and then."""
        if not self.fresh:
            self._learn_own(self._own)

    def heard(self, update: PredictorUpdate) -> None:
        """The operator told what it learned. Raises KeyError, TypeError or ValueError for a state that is none."""
        if update.state is not None:
            self._base = RunTimeEstimator.restore(update.state, self.estimator.settings)
            known = set(update.recent)
            if update.epoch != self.epoch:  # it may have crashed before its disk had what it told last
                for uid in [uid for uid in self._tail if uid not in known]:
                    self._keep(self._tail.pop(uid))
                    self._on_top.add(uid)
            self._settle([uid for uid in self._own if uid in known])
            self._rebuild()
        else:
            told = [row.observation() for row in update.observations]
            for seen in told:
                self._base.learn(seen)
            was_on_top = bool(self._on_top)
            self._settle(seen.uid for seen in told)
            self._learned(told)
            if was_on_top and told:
                self._rebuild()
            else:
                for seen in told:
                    self.estimator.learn(seen)
        self.epoch, self.revision = update.epoch, update.revision
        self._heard_s = self._clock()

    def overdue(self) -> list[ObservationRow]:
        """What to tell the operator of: it was away when they finished, or should have learned from them by now."""
        now_s = self._clock()
        due = [seen for uid, (seen, since_s) in self._own.items() if uid in self._on_top or now_s - since_s > OVERDUE_S]
        return [ObservationRow.of(seen) for seen in due[:_REPORTED]]

    def known(self, uids: Iterable[str]) -> None:
        """The operator says that it learned from these before."""
        on_top = len(self._on_top)
        self._settle(uids)
        if len(self._on_top) != on_top:
            self._rebuild()

    def _keep(self, seen: Observation) -> None:
        self._own.setdefault(seen.uid, (seen, self._clock()))
        if len(self._own) > MOST:
            uid, _ = self._own.popitem(last=False)
            self._on_top.discard(uid)
            self.given_up += 1

    def _settle(self, uids: Iterable[str]) -> None:
        """What the operator has is no longer ours to keep, but for the case that it crashes before it is written."""
        had = [self._own.pop(uid)[0] for uid in uids if uid in self._own]
        self._on_top.difference_update(seen.uid for seen in had)
        self._learned(had)

    def _learned(self, told: Iterable[Observation]) -> None:
        self._tail.update((seen.uid, seen) for seen in told)
        while len(self._tail) > _TAIL:
            self._tail.popitem(last=False)

    def _learn_own(self, uids: Iterable[str]) -> None:
        for uid in uids:
            if uid not in self._on_top:
                self._on_top.add(uid)
                self.estimator.learn(self._own[uid][0])

    def _rebuild(self) -> None:
        """What the operator believes, and on top what it does not have."""
        again, self._on_top = [uid for uid in self._own if uid in self._on_top], set()
        self.estimator.adopt(self._base)
        self._learn_own(again)
