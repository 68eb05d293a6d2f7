"""Nothing lost, nothing double: every pod that was decided about has one fate, and every pod was decided about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Exists, Select, Table, exists, func, select

from nodewise_operator.store.ranges import missing
from nodewise_operator.store.rows import Fate
from nodewise_operator.store.schema import DECISIONS, OBSERVATIONS, PODS, QUARANTINE, SEGMENTS

MOST_NAMED = 20
"""Uids named of each kind."""


@dataclass(frozen=True, slots=True)
class Conservation:
    """Counts of one moment. decided + lost_decisions = outcomes + running + censored + lost_pods, uid by uid."""

    decided: int
    """Distinct uids in decisions."""
    decisions: int
    succeeded: int
    failed: int
    running: int
    """Waiting or running."""
    censored: int
    lost_pods: int
    """Uids decided about whose pod is known to be lost to damage of the store (`nodewise data inspect` says when)."""
    lost_decisions: int
    """Pods whose decisions are known to be lost to it."""
    dropped: int
    """Decisions that extenders say they could not keep: their spool was full."""
    without_pod: int
    """Uids decided about that nothing else is known of."""
    without_decision: int
    double: int
    """Pods, decisions or observations that are there twice."""
    gaps: int
    """Segments that have not come while a later one of the same extender has."""
    without_pod_uids: tuple[str, ...] = ()
    """Some of them, as of the following."""
    without_decision_uids: tuple[str, ...] = ()
    double_uids: tuple[str, ...] = ()
    gap_extenders: tuple[str, ...] = ()

    @property
    def outcomes(self) -> int:
        """Pods that ended by themselves."""
        return self.succeeded + self.failed

    @property
    def pods(self) -> int:
        """All of them, whatever their fate."""
        return self.outcomes + self.running + self.censored

    @property
    def ok(self) -> bool:
        """Whether it all adds up."""
        return not (self.without_pod or self.without_decision or self.double or self.gaps or not self._equal)

    @property
    def _equal(self) -> bool:
        return self.decided + self.lost_decisions == self.pods + self.lost_pods

    def __str__(self) -> str:
        """One sentence."""
        adds_up = (
            f"{self.decided:,} decided = {self.outcomes:,} outcomes + {self.running:,} running + "
            f"{self.censored:,} censored"
        )
        if self.lost_pods or self.lost_decisions:
            adds_up += f", but for {self.lost_pods:,} pods and decisions of {self.lost_decisions:,} lost to damage"
        if self.ok:
            return adds_up
        wrong = [
            _named(self.without_pod, "decided without a fate", self.without_pod_uids),
            _named(self.without_decision, "with a fate but no decision", self.without_decision_uids),
            _named(self.double, "there twice", self.double_uids),
            f"{self.gaps:,} segments have not come (of {', '.join(self.gap_extenders)})" if self.gaps else "",
        ]
        return "the store does not add up: " + "; ".join(filter(None, wrong) if any(wrong) else [f"not so: {adds_up}"])


def _named(count: int, what: str, names: tuple[str, ...]) -> str:
    if not count:
        return ""
    more = " …" if count > len(names) else ""
    return f"{count:,} {what} ({', '.join(names)}{more})"


def conservation(connection: Connection) -> Conservation:
    """As it stands in the transaction of the connection."""
    by_fate = connection.execute(select(PODS.c.fate, func.count()).group_by(PODS.c.fate))
    fates = {str(fate): int(count) for fate, count in by_fate}
    lost_pod, lost_decision = _lost(PODS, DECISIONS.c.uid), _lost(DECISIONS, PODS.c.uid)
    no_pod = _some(connection, without_pod().where(~lost_pod))
    no_decision = _some(connection, without_decision().where(~lost_decision))
    double = [_some(connection, query) for query in _twice()]
    beyond = [
        (extender, missing(contiguous, msgspec.json.decode(ranges, type=list[list[int]])))
        for extender, contiguous, ranges in connection.execute(
            select(SEGMENTS.c.extender, SEGMENTS.c.contiguous, SEGMENTS.c.beyond)
        )
    ]
    return Conservation(
        decided=_count(connection, select(DECISIONS.c.uid).distinct()),
        decisions=_count(connection, select(DECISIONS.c.uid)),
        succeeded=fates.get(Fate.SUCCEEDED, 0),
        failed=fates.get(Fate.FAILED, 0),
        running=fates.get(Fate.WAITING, 0) + fates.get(Fate.RUNNING, 0),
        censored=fates.get(Fate.CENSORED, 0),
        lost_pods=_count(connection, without_pod().where(lost_pod)),
        lost_decisions=_count(connection, without_decision().where(lost_decision)),
        dropped=int(connection.execute(select(func.coalesce(func.sum(SEGMENTS.c.dropped), 0))).scalar() or 0),
        without_pod=no_pod[0],
        without_decision=no_decision[0],
        double=sum(count for count, _ in double),
        gaps=sum(count for _, count in beyond),
        without_pod_uids=no_pod[1],
        without_decision_uids=no_decision[1],
        double_uids=tuple(uid for _, uids in double for uid in uids)[:MOST_NAMED],
        gap_extenders=tuple(extender for extender, count in beyond if count)[:MOST_NAMED],
    )


def _twice() -> tuple[Select[Any], ...]:
    """Uids of rows that the keys of the tables should make impossible; a damaged index does not."""
    d = DECISIONS.c
    return (
        select(PODS.c.uid).group_by(PODS.c.uid).having(func.count() > 1),
        select(d.uid).group_by(d.uid, d.source, d.time_s).having(func.count() > 1),
        select(OBSERVATIONS.c.uid).group_by(OBSERVATIONS.c.uid).having(func.count() > 1),
    )


def without_pod() -> Select[Any]:
    """Uids decided about of which there is no pod."""
    # Not NOT IN, of which PostgreSQL makes a loop in a loop when the inner one does not fit into its memory.
    return select(DECISIONS.c.uid).distinct().where(~exists().where(PODS.c.uid == DECISIONS.c.uid))


def without_decision() -> Select[Any]:
    """Uids of pods of which there is no decision."""
    return select(PODS.c.uid).where(~exists().where(DECISIONS.c.uid == PODS.c.uid))


def _lost(table: Table, uid: ColumnElement[str]) -> Exists:
    return exists().where(QUARANTINE.c.origin == str(table.name), QUARANTINE.c.key == uid)


def _some(connection: Connection, query: Select[Any]) -> tuple[int, tuple[str, ...]]:
    return _count(connection, query), tuple(connection.execute(query.limit(MOST_NAMED)).scalars())


def _count(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar() or 0)
