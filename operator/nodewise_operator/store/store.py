"""The store: one writer, many readers, SQLite or PostgreSQL."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, func, select, tuple_

from nodewise.channel.messages import DecisionRow
from nodewise.core.errors import UserError
from nodewise.core.estimator import Observation
from nodewise_operator.store import writing
from nodewise_operator.store.codec import (
    Values,
    decision_row,
    decode,
    downtime_row,
    intact,
    node_row,
    observation_row,
    pod_row,
)
from nodewise_operator.store.conservation import Conservation, conservation
from nodewise_operator.store.database import Database, fetch
from nodewise_operator.store.export import export
from nodewise_operator.store.prune import Pruned, old, over, prune_pods, prune_rest
from nodewise_operator.store.rows import Batch, Downtime, Fate, NodeRow, PodRow
from nodewise_operator.store.schema import (
    DECISIONS,
    DOWNTIMES,
    ESTIMATOR,
    NODES,
    OBSERVATIONS,
    PODS,
    SALVAGES,
    SEGMENTS,
    TABLES,
)
from nodewise_operator.store.writing import Meta

log = logging.getLogger(__name__)

T = TypeVar("T")

RIVAL_S = 10.0
"""Who was watching so short a time ago may do so still."""
_READ = 500
"""Rows in one query of a long reading: no transaction lasts, so that SQLite's log can be checkpointed."""


class Store:
    """Every method raises StoreUnavailable if the database cannot be used now, and can then be called again.

    A row whose checksum is wrong is never returned: it is logged, counted in `damaged`, and moved into quarantine by
    the next `write`. A SQLite file whose structure is wrong is replaced by what can be saved of it. One thread writes;
    any may read.
    """

    where: str
    """Its file, or its URL without the password."""
    damaged: int
    """Rows with a wrong checksum that this object has come across."""

    def __init__(self, database: Database) -> None:
        """Use `open`."""
        self.where = database.where
        self.damaged = 0
        self._database = database
        self._bad: dict[tuple[Any, ...], tuple[Table, Values]] = {}

    @classmethod
    def open(cls, url: str, *, create: bool = True, migrate: bool = True) -> Store:
        """Open a store by URL or by the path of its SQLite file.

        With `create`, it is made if it is not there, and salvaged if it is damaged; without, both are a UserError, and
        a SQLite file is only read. An older schema is upgraded with `create` and `migrate`, else a UserError; a newer
        one always is.
        """
        database = Database(url, owner=create)
        try:
            database.prepare(create, migrate)
            made = cls(database)
            database.generation = int(made.meta()["generation"])
        except UserError:
            database.close(refused=True)
            raise
        except BaseException:
            database.close()
            raise
        return made

    def close(self) -> None:
        """Let go of the database; nothing is outstanding."""
        self._database.close()

    # Writing

    def take_over(self, holder: str) -> int:
        """Become the one writer; the new generation. Whoever wrote before meets Fenced at its next write."""

        def take(connection: Connection) -> int:
            meta = writing.read_meta(connection, lock=True)
            meta.values["generation"] += 1
            meta.values["holder"] = holder
            meta.save(connection)
            return int(meta.values["generation"])

        self._database.generation = made = self._database.write(take)
        return made

    def release(self) -> None:
        """An orderly end: nobody holds the store any more. Raises Fenced if another took it over."""
        self._change(lambda _, meta: meta.values.update(holder=""))

    def rival(self, holder: str = "", within_s: float = RIVAL_S, *, now_s: float | None = None) -> str:
        """Who else seems to write it now; empty if nobody does.

        Of SQLite's file this is known exactly, if the file system has locks; of PostgreSQL it is taken to be the
        process that did not end in order and has written up to `within_s` seconds ago that it watches.
        """
        meta = self.meta()
        other = "" if meta["holder"] == holder else str(meta["holder"])
        shared = self._database.shared()
        if shared is not None:
            return (other or "another process") if shared else ""
        return other if (time.time() if now_s is None else now_s) - float(meta["seen_s"]) < within_s else ""

    def write(self, batch: Batch) -> None:
        """One transaction, on disk when this returns. Writing a batch again changes nothing.

        Raises Fenced if another took over, StoreUnavailable if it may work later, Unstorable if it never will; in all
        three nothing of the batch was written.
        """
        self._change(lambda connection, meta: writing.write_batch(connection, batch, meta))

    def save_estimator(self, revision: int, state: dict[str, Any]) -> None:
        """Keep `RunTimeEstimator.state()` as it is after the observation of that revision."""
        self._change(lambda connection, meta: writing.save_state(connection, revision, state, meta))

    # Reading

    def pod(self, uid: str) -> PodRow | None:
        """What is known of one pod."""
        found = self._found(PODS, [PODS.c.uid == uid])
        return pod_row(found[0]) if found and found[0]["uid"] == uid else None

    def knows(self, uid: str) -> Fate | None:
        """The fate of one pod; None if it is not known."""
        found = self.pod(uid)
        return found.fate if found else None

    def open_pods(self) -> list[PodRow]:
        """Those that wait or run, in order of arrival."""
        return list(self.pods(fates=(Fate.WAITING, Fate.RUNNING)))

    def pods(
        self, since_s: float = -math.inf, until_s: float = math.inf, fates: Collection[Fate] = tuple(Fate)
    ) -> Iterator[PodRow]:
        """Pods that arrived in [since_s, until_s), in order of arrival."""
        where = [*_within(PODS.c.arrived_s, since_s, until_s)]
        if set(fates) != set(Fate):
            where.append(PODS.c.fate.in_([str(fate) for fate in fates]))
        return map(pod_row, self._rows(PODS, (PODS.c.arrived_s, PODS.c.uid), where))

    def nodes(self) -> Iterator[NodeRow]:
        """All nodes that are remembered, in order of uid."""
        return map(node_row, self.columns(NODES))

    def decisions(
        self,
        since_s: float = -math.inf,
        until_s: float = math.inf,
        *,
        source: str | None = None,
        uid: str | None = None,
    ) -> Iterator[DecisionRow]:
        """Decisions of [since_s, until_s), in order of time; of one source or one pod if told."""
        where = [*_within(DECISIONS.c.time_s, since_s, until_s)]
        where += [DECISIONS.c.source == source] if source is not None else []
        where += [DECISIONS.c.uid == uid] if uid is not None else []
        order = (DECISIONS.c.time_s, DECISIONS.c.uid, DECISIONS.c.source)
        return map(decision_row, self._rows(DECISIONS, order, where))

    def observations(self, after: int = 0) -> Iterator[tuple[int, Observation]]:
        """(revision, observation) above `after`, in the order in which they were learned."""
        return map(observation_row, self.columns(OBSERVATIONS, [OBSERVATIONS.c.revision > after]))

    def estimator(self) -> tuple[int, dict[str, Any]] | None:
        """The newest state that was saved and is still what was, and its revision."""
        found = max(self._found(ESTIMATOR), key=lambda row: int(row["tick"]), default=None)
        return (int(found["revision"]), decode(ESTIMATOR, found)["state"]) if found else None

    def acknowledged(self, extender: str) -> int:
        """Every segment of the extender up to this one is stored."""
        found = self._found(SEGMENTS, [SEGMENTS.c.extender == extender])
        return int(found[0]["contiguous"]) if found else 0

    def segments(self) -> list[Values]:
        """What came of each extender: contiguous, beyond, dropped, repeated."""
        return [decode(SEGMENTS, row) for row in self.columns(SEGMENTS)]

    def downtimes(self) -> list[Downtime]:
        """In order of their begin."""
        return [downtime_row(row) for row in self.columns(DOWNTIMES)]

    def salvages(self) -> list[Values]:
        """When the file was damaged and replaced, the name of its copy, rows saved and lost by table."""
        return [decode(SALVAGES, row) for row in self.columns(SALVAGES)]

    def last_seen_s(self) -> float:
        """The newest `Batch.seen_s`; nan in a new store."""
        return float(self.meta()["seen_s"])

    @property
    def epoch(self) -> str:
        """Names one line of revisions: another one after observations may have been lost to damage."""
        return str(self.meta()["epoch"])

    def meta(self) -> Values:
        """The row of `schema.META`: version, holder, generation, rows by table."""
        return self._database.read(lambda connection: writing.read_meta(connection).values)

    def size_bytes(self) -> int:
        """What it takes on disk."""
        return self._database.size_bytes()

    def period(self) -> tuple[float, float]:
        """First and last time that anything is known of: a pod's arrival or end, a decision; nan if nothing is."""
        times = (PODS.c.arrived_s, PODS.c.finished_s, DECISIONS.c.time_s)
        extremes = [select(bound(time_s)) for time_s in times for bound in (func.min, func.max)]
        found = self._database.read(lambda connection: [connection.execute(query).scalar() for query in extremes])
        known = [time_s for time_s in found if time_s is not None]
        return min(known, default=math.nan), max(known, default=math.nan)

    def columns(self, table: Table, where: Sequence[ColumnElement[bool]] = ()) -> Iterator[Values]:
        """The rows of a table as they are stored (see `schema`), in the order of its key."""
        return self._rows(table, tuple(table.primary_key.columns), where)

    # Checking and keeping

    def conservation(self) -> Conservation:
        """Whether decisions = outcomes + running + censored, uid by uid."""
        return self._database.read(conservation)

    def verify(self) -> dict[str, int]:
        """Read every row; how many of each table are not what was written, if any."""
        found: dict[str, int] = {}
        for name, table in TABLES.items():
            before = self.damaged
            deque(self.columns(table), maxlen=0)
            if self.damaged > before:
                found[name] = self.damaged - before
        return found

    def old(self, older_than_s: float, *, now_s: float | None = None) -> Pruned:
        """What `prune` would delete."""
        before_s = (time.time() if now_s is None else now_s) - older_than_s
        return self._database.read(lambda connection: old(connection, before_s))

    def prune(self, older_than_s: float, *, now_s: float | None = None, export_to: Path | None = None) -> Pruned:
        """Delete pods that were over, and nodes gone, `older_than_s` seconds ago, and all that belongs to them.

        With `export_to`, a folder, the pods and decisions that go are first written to a new folder in it; after a kill
        in between, once more to another one.
        """
        before_s = (time.time() if now_s is None else now_s) - older_than_s
        if export_to is not None:
            self._export_old(export_to, before_s)
        gone = Pruned()
        while (part := self._changed(lambda connection, meta: prune_pods(connection, before_s, meta))).pods:
            gone += part
        gone += self._changed(lambda connection, meta: prune_rest(connection, before_s, meta))
        self._database.checkpoint()
        return gone

    def export(self, folder: Path) -> dict[str, int]:
        """Write pods, decisions, observations, nodes and downtimes as Parquet; rows written of each."""
        return export(self.columns, folder)

    def _export_old(self, into: Path, before_s: float) -> None:
        ended = over(before_s)
        decided = DECISIONS.c.uid.in_(select(PODS.c.uid).where(ended))
        parts: dict[Table, list[ColumnElement[bool]]] = {PODS: [ended], DECISIONS: [decided]}
        if next(self.columns(PODS, [ended]), None) is not None:
            name = datetime.fromtimestamp(before_s, UTC).strftime("until-%Y%m%dT%H%M%S.%fZ")
            export(lambda table: self.columns(table, parts[table]) if table in parts else (), into / name)

    # How

    def _change(self, change: Callable[[Connection, Meta], None]) -> None:
        self._changed(change)

    def _changed(self, change: Callable[[Connection, Meta], T]) -> T:
        bad = dict(self._bad)

        def changed(connection: Connection) -> T:
            meta = writing.hold_meta(connection, self._database.generation)
            made = change(connection, meta)
            writing.quarantine(connection, bad.values(), meta)
            meta.save(connection)
            return made

        made = self._database.write(changed)
        for key in bad:
            self._bad.pop(key, None)
        return made

    def _rows(
        self, table: Table, order: Sequence[ColumnElement[Any]], where: Sequence[ColumnElement[bool]] = ()
    ) -> Iterator[Values]:
        after: tuple[Any, ...] | None = None
        beyond = 0
        while True:
            query = select(table).where(*where).order_by(*order).limit(_READ).offset(beyond)
            if after is not None:
                query = query.where(tuple_(*order) > tuple_(*after))
            rows = self._database.read(lambda connection, query=query: fetch(connection, query))  # type: ignore[misc]
            for row in rows:
                beyond += 1
                if self._intact(table, row):
                    yield row
                    # The key of a damaged row leads anywhere: it is counted, and the last good one followed.
                    after, beyond = tuple(row[column.name] for column in order), 0
            if len(rows) < _READ:
                return

    def _found(self, table: Table, where: Sequence[ColumnElement[bool]] = ()) -> list[Values]:
        """Of a few rows, those that are intact."""
        query = select(table).where(*where)
        return [
            row for row in self._database.read(lambda connection: fetch(connection, query)) if self._intact(table, row)
        ]

    def _intact(self, table: Table, row: Values) -> bool:
        if intact(table, row):
            return True
        key = tuple(row[column.name] for column in table.primary_key.columns)
        if (table.name, *key) not in self._bad:
            self._bad[table.name, *key] = table, row
            self.damaged += 1
            log.error("a row of %s in the store is not what was written (%s): it is left out", table.name, key)
        return False


def _within(column: ColumnElement[Any], since_s: float, until_s: float) -> Iterator[ColumnElement[bool]]:
    if since_s > -math.inf:
        yield column >= since_s
    if until_s < math.inf:
        yield column < until_s
