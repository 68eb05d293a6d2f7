"""What is old and over goes, a pod with all that is known of it, so that the rest still adds up."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, or_, select

from nodewise_operator.store.rows import Fate
from nodewise_operator.store.schema import DECISIONS, DOWNTIMES, ESTIMATOR, NODES, OBSERVATIONS, PODS, QUARANTINE
from nodewise_operator.store.writing import Meta

ROWS = 500
"""Pods in one transaction."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows went."""

    pods: int = 0
    decisions: int = 0
    nodes: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        """Both together."""
        return Pruned(self.pods + other.pods, self.decisions + other.decisions, self.nodes + other.nodes)


def over(before_s: float) -> ColumnElement[bool]:
    """Pods that were over before a time."""
    ended_s = func.coalesce(PODS.c.finished_s, PODS.c.arrived_s)
    return and_(PODS.c.fate.not_in([Fate.WAITING.value, Fate.RUNNING.value]), ended_s < before_s)


def old(connection: Connection, before_s: float) -> Pruned:
    """What `prune_pods` and `prune_rest` would delete."""
    uids = select(PODS.c.uid).where(over(before_s))

    def count(table: Table, which: ColumnElement[bool]) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(which)).scalar() or 0)

    decisions = or_(DECISIONS.c.uid.in_(uids), and_(DECISIONS.c.time_s < before_s, _orphan()))
    return Pruned(
        count(PODS, over(before_s)), count(DECISIONS, decisions), count(NODES, NODES.c.last_seen_s < before_s)
    )


def prune_pods(connection: Connection, before_s: float, meta: Meta) -> Pruned:
    """Delete the oldest pods that were over before a time, not more than `ROWS`, and what belongs to them.

    Observations stay until a saved estimator state holds them.
    """
    uids = list(
        connection.execute(select(PODS.c.uid).where(over(before_s)).order_by(PODS.c.arrived_s).limit(ROWS)).scalars()
    )
    if not uids:
        return Pruned()
    held = connection.execute(select(func.max(ESTIMATOR.c.revision))).scalar() or 0
    decisions = _delete(connection, DECISIONS, DECISIONS.c.uid.in_(uids), meta)
    learned = and_(OBSERVATIONS.c.uid.in_(uids), OBSERVATIONS.c.revision <= held)
    _delete(connection, OBSERVATIONS, learned, meta)
    _delete(connection, QUARANTINE, QUARANTINE.c.key.in_(uids), meta)
    return Pruned(_delete(connection, PODS, PODS.c.uid.in_(uids), meta), decisions)


def prune_rest(connection: Connection, before_s: float, meta: Meta) -> Pruned:
    """Delete nodes that were gone and downtimes that were over before a time; and decisions whose pod was lost."""
    _delete(connection, DOWNTIMES, DOWNTIMES.c.end_s < before_s, meta)
    decisions = _delete(connection, DECISIONS, and_(DECISIONS.c.time_s < before_s, _orphan()), meta)
    # A note of what was lost is of use as long as its other half is there.
    half = or_(exists().where(PODS.c.uid == QUARANTINE.c.key), exists().where(DECISIONS.c.uid == QUARANTINE.c.key))
    _delete(connection, QUARANTINE, and_(QUARANTINE.c.found_s < before_s, ~half), meta)
    return Pruned(decisions=decisions, nodes=_delete(connection, NODES, NODES.c.last_seen_s < before_s, meta))


def _orphan() -> ColumnElement[bool]:
    """Decisions whose pod was lost."""
    lost = exists().where(QUARANTINE.c.origin == PODS.name, QUARANTINE.c.key == DECISIONS.c.uid)
    return and_(lost, ~exists().where(PODS.c.uid == DECISIONS.c.uid))


def _delete(connection: Connection, table: Table, which: ColumnElement[bool], meta: Meta) -> int:
    gone = connection.execute(delete(table).where(which)).rowcount
    meta.counts[table.name] -= gone
    return gone
