"""From rows that wait to rows that are written: batches, and what is done while the store is away."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nodewise.channel.messages import DecisionRow
from nodewise.core.estimator import Observation
from nodewise_operator.store import Store
from nodewise_operator.store.errors import StoreUnavailable, Unstorable
from nodewise_operator.store.rows import Batch, Downtime, NodeRow, PodRow

log = logging.getLogger(__name__)

PARKED = 100
MOST_UNWRITTEN = 5_000
"""Rows held while the store is away; then events wait in the queue."""
_RETRY_S = (0.1, 5.0)


@dataclass(slots=True)
class Counts:
    """What became of it all, since the start."""

    events: int = 0
    retried: int = 0
    parked: int = 0
    stale: int = 0
    """Events that were older than what was known."""
    pods_written: int = 0
    nodes_written: int = 0
    decisions_written: int = 0
    observations_written: int = 0
    downtimes: int = 0
    vanished: int = 0
    """Pods that went while nobody looked."""
    store_failures: int = 0
    held_s: float = 0.0
    """Time in which events waited because the store was away."""
    scored: int = 0
    unscored: int = 0


@dataclass(slots=True)
class Pending:
    """What the next transaction will hold."""

    pods: dict[str, PodRow] = field(default_factory=dict)
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    decisions: list[DecisionRow] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    downtimes: list[Downtime] = field(default_factory=list)
    segment: tuple[str, int, int] | None = None
    """Its rows are among the others."""
    seen_s: float | None = None
    since_s: float = math.inf

    def rows(self) -> int:
        """How much that is."""
        rows = len(self.pods) + len(self.nodes) + len(self.decisions) + len(self.observations) + len(self.downtimes)
        return rows + (self.segment is not None)


class Writer:
    """Owned by the intake's thread, as is the writing side of the store."""

    def __init__(self, store: Store, counts: Counts, batch_s: float, batch_rows: int) -> None:
        self.pending = Pending()
        self.counts = counts
        self.parked: deque[tuple[str, str]] = deque(maxlen=PARKED)  # what it was, and why not
        self.unavailable = ""  # why the store cannot be used; empty if it can
        self.refused = ""  # why the last transaction's segment will never be written; empty if it was
        self.on_written: list[Callable[[], None]] = []
        self.on_parked: Callable[[str], None] = lambda _uid: None  # of a pod that was not written with its decision
        self._store, self._batch_s, self._batch_rows = store, batch_s, batch_rows
        self._saves: list[tuple[int, dict[str, Any]]] = []
        self._retry_at_s, self._failures = 0.0, 0

    @property
    def due_s(self) -> float:
        """Monotonic time of the next writing; inf if nothing waits."""
        return max(self.pending.since_s + self._batch_s, self._retry_at_s)

    @property
    def full(self) -> bool:
        """Whether there is enough for a transaction of its own."""
        return self.pending.rows() >= self._batch_rows

    @property
    def overfull(self) -> bool:
        """Whether no more should be taken in until the store is back."""
        return self._failures > 0 and self.pending.rows() >= MOST_UNWRITTEN

    def back_off_s(self) -> float:
        """Time until the store may be tried again."""
        return max(self._retry_at_s - time.monotonic(), 0.0)

    def save(self, revision: int, learned: dict[str, Any]) -> None:
        """Keep the estimator as it is, once the observations that it was made of are written."""
        self._saves.append((revision, learned))

    def due(self) -> None:
        """Something waits."""
        self.pending.since_s = min(self.pending.since_s, time.monotonic())

    def flush_full(self) -> None:
        """In the middle of a long list: rows with their manifests are large."""
        if self.pending.rows() >= self._batch_rows:
            self.flush()

    def flush(self, *, last: bool = False) -> None:
        """Write what is pending, if it is time; while the store is away it stays pending."""
        now_s = time.monotonic()
        pending = self.pending
        if math.isinf(pending.since_s) or (now_s < self._retry_at_s and not last):
            return
        full = pending.rows() >= self._batch_rows
        if not (full or last or now_s >= pending.since_s + self._batch_s):
            return
        batch = Batch(
            pods=tuple(pending.pods.values()),
            nodes=tuple(pending.nodes.values()),
            decisions=tuple(pending.decisions),
            observations=tuple(pending.observations),
            downtimes=tuple(pending.downtimes),
            segment=pending.segment,
            seen_s=pending.seen_s,
        )
        self.refused = ""
        try:
            self._store.write(batch)
        except StoreUnavailable as error:
            self.failed(error)
            return
        except Unstorable:
            self.pending = Pending()
            if self._write_each(batch):
                self._is_back()
            return
        self._is_back()
        self.pending = Pending()
        counts = self.counts
        counts.pods_written += len(batch.pods)
        counts.nodes_written += len(batch.nodes)
        counts.decisions_written += len(batch.decisions)
        counts.observations_written += len(batch.observations)
        self.save_now()
        for told in self.on_written:
            told()

    def _is_back(self) -> None:
        if self.unavailable:
            log.info("the store can be written again")
        self.unavailable, self._failures, self._retry_at_s = "", 0, 0.0

    def failed(self, error: StoreUnavailable) -> None:
        """The store could not be used."""
        self.counts.store_failures += 1
        first_s, longest_s = _RETRY_S
        self._retry_at_s = time.monotonic() + min(first_s * 2.0**self._failures, longest_s)
        self._failures = min(self._failures + 1, 10)
        if self.unavailable != str(error):
            log.error("nothing can be recorded, %d rows wait: %s", self.pending.rows(), error)
        self.unavailable = str(error)
        self.due()  # only a transaction tells that it is back

    def _write_each(self, batch: Batch) -> bool:
        """Write what can be written of a batch that was refused, each pod with its decisions; park the rest.

        False if the store went away meanwhile.
        """
        of = {row.uid: tuple(d for d in batch.decisions if d.uid == row.uid) for row in batch.pods}
        parts = deque(Batch(pods=(row,), decisions=of[row.uid]) for row in batch.pods)
        parts += [Batch(decisions=(d,)) for d in batch.decisions if d.uid not in of]
        parts += [Batch(nodes=(row,)) for row in batch.nodes]
        parts += [Batch(observations=(seen,)) for seen in batch.observations]
        parts.append(Batch(downtimes=batch.downtimes, seen_s=batch.seen_s))
        if batch.segment is not None:
            parts.append(Batch(segment=batch.segment))  # last: then nothing of it is outstanding
        kept, without = set[str](), set[str]()
        while parts:
            part = parts[0]
            try:
                self._store.write(part)
                kept.update(row.uid for row in part.pods)
            except StoreUnavailable as error:
                self.failed(error)
                self._put_back(parts)
                break
            except Unstorable as why:
                if len(part.decisions) > 1:  # one of them may be to blame
                    parts.popleft()
                    parts.extendleft(Batch(pods=part.pods, decisions=(d,)) for d in part.decisions)
                    continue
                self._park(part, str(why))
                without.update(d.uid for d in part.decisions)
            parts.popleft()
        for uid in without - kept:
            self.on_parked(uid)
        return not parts

    def _park(self, part: Batch, why: str) -> None:
        named = next((f"pod {r.namespace}/{r.name} ({r.uid})" for r in part.pods), "a row")
        if part.segment is not None:
            named = f"segment {part.segment[1]} of extender {part.segment[0]}"
            self.refused = f"{named}: {why}"
        self.counts.parked += 1
        self.parked.append((named, why))
        log.error("%s cannot be recorded: %s", named, why)

    def _put_back(self, parts: Iterable[Batch]) -> None:
        for part in parts:
            self.pending.pods.update((row.uid, row) for row in part.pods)
            self.pending.nodes.update((row.uid, row) for row in part.nodes)
            self.pending.decisions += part.decisions
            self.pending.observations += part.observations
            self.pending.downtimes += part.downtimes
            self.pending.segment = part.segment or self.pending.segment
            self.pending.seen_s = part.seen_s or self.pending.seen_s
        self.due()

    def save_now(self) -> None:
        """After the observations that it was made of: the store never has a state that is ahead of them."""
        saves, self._saves = self._saves, []
        for revision, learned in saves:
            try:
                self._store.save_estimator(revision, learned)
            except StoreUnavailable as error:
                log.warning("the estimator was not saved (%s); the observations can be learned again", error)
