"""The operator's run-time estimator as a log: every extender that follows it believes the same.

Each life of the operator is an epoch of its own: what was learned and sent shortly before a crash may not have reached
the disk, so a follower of an earlier epoch is sent everything again, and gives back what is missing.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol

from nodewise.channel.messages import EstimatorState, ObservationRow, PredictorUpdate
from nodewise.core.estimator import Observation, RunTimeEstimator

SAVE_EVERY = 200
"""Observations between two saved states."""
LOGGED = 5_000
"""Observations that can be sent one by one; whoever is further behind is sent the state."""
SENT = 200
"""Of them in one update: a follower decides on pods meanwhile."""
KNOWN = 50_000
"""Uids remembered, so that no pod teaches twice; a cluster keeps 12,500 finished pods (kube-controller-manager)."""
RECENT = 10_000
"""Of them sent with a state."""
_LAST = "last"
"""In a saved state: uid of the pod that taught last."""


class Kept(Protocol):
    """What a predictor is restored from, as `nodewise_operator.store.Store` has it."""

    def estimator(self) -> tuple[int, dict[str, Any]] | None:
        """Revision and state saved last."""

    def observations(self, after: int = 0) -> Iterable[tuple[int, Observation]]:
        """Observations with a revision above `after`, in order."""


class Predictor:
    """One thread owns it, and whatever else uses its estimator; `epoch` and `revision` may be read from any.

    Whoever makes it learn writes the observation to the store next, in the same order.

    `save(revision, state)` is called with a state that holds only what was learned before the call, so that the store
    never has a state that is ahead of its observations.
    """

    def __init__(
        self,
        estimator: RunTimeEstimator | None = None,
        *,
        save: Callable[[int, dict[str, Any]], None] = lambda _revision, _state: None,
        save_every: int = SAVE_EVERY,
        logged: int = LOGGED,
    ) -> None:
        self.estimator = estimator or RunTimeEstimator()
        self.epoch = secrets.token_hex(8)
        self.revision = 0
        self._save, self._save_every, self._saved = save, save_every, 0
        self._log: deque[ObservationRow] = deque(maxlen=logged)
        self._known: OrderedDict[str, None] = OrderedDict()

    def restore(self, store: Kept) -> None:
        """Believe again what the store says was learned. Only before anything is learned."""
        after, state = store.estimator() or (0, {})
        if state:
            self.estimator.adopt(RunTimeEstimator.restore(state, self.estimator.settings))
        self.revision = after
        later: list[Observation] = []
        found = False
        for revision, seen in store.observations(max(0, after - KNOWN)):
            self._remember(seen.uid)
            self.revision = revision
            if found or revision > after:
                later.append(seen)
            if seen.uid == state.get(_LAST):  # it counts more than the number, which a database may skip
                found = True
                later.clear()
        self._saved = self.revision - len(later)
        for seen in later:
            self.estimator.learn(seen)

    def learn(self, seen: Observation) -> bool:
        """Learn from a finished pod; False if it taught before, or says nothing. Write it to the store if it did."""
        if seen.uid in self._known or not seen.teaches:
            return False
        if self.revision - self._saved >= self._save_every:
            self._save_state()
        seen = self.estimator.as_learned(seen)
        self.estimator.learn(seen)
        self.revision += 1
        self._log.append(ObservationRow.of(seen))
        self._remember(seen.uid)
        return True

    def knows(self, uid: str) -> bool:
        """Whether this pod taught already, as far as can be remembered."""
        return uid in self._known

    def save(self) -> None:
        """Save the state as it stands, for instance before an orderly end; after the last observation was written."""
        if self.revision != self._saved:
            self._save_state()

    def update(self, epoch: str, since: int) -> PredictorUpdate:
        """What a follower lacks that has seen `since` of `epoch`, or the first of it: ask again."""
        missing = self.revision - since
        if epoch == self.epoch and 0 <= missing <= len(self._log):
            first = len(self._log) - missing
            news = list(islice(self._log, first, first + SENT))
            return PredictorUpdate(epoch=self.epoch, revision=since + len(news), observations=news)
        return PredictorUpdate(
            epoch=self.epoch,
            revision=self.revision,
            state=EstimatorState.of(self.estimator.state()),
            recent=list(islice(self._known, max(0, len(self._known) - RECENT), None)),
        )

    def _save_state(self) -> None:
        last = next(reversed(self._known), "")
        self._save(self.revision, {**self.estimator.state(), _LAST: last})
        self._saved = self.revision

    def _remember(self, uid: str) -> None:
        self._known[uid] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
