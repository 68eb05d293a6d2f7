"""How a batch becomes rows: pure statements on one connection, whose transaction is the caller's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from nodewise.core.estimator import Observation
from nodewise_operator.store.codec import (
    Values,
    decision_values,
    decode,
    downtime_values,
    encode,
    intact,
    node_values,
    observation_values,
    pod_values,
)
from nodewise_operator.store.errors import Damaged, Fenced
from nodewise_operator.store.ranges import arrived
from nodewise_operator.store.rows import Batch
from nodewise_operator.store.schema import (
    DECISIONS,
    DOWNTIMES,
    ESTIMATOR,
    META,
    NODES,
    OBSERVATIONS,
    PODS,
    QUARANTINE,
    SEGMENTS,
)

_ASKED = 500
"""Keys in one query."""
_STATES = 2
"""Estimator states that are kept."""


class Meta:
    """The row of `meta` while a transaction changes it."""

    def __init__(self, values: Values) -> None:
        self.values = decode(META, values)
        self.values.pop("sum")
        self.tick = int(self.values.pop("tick")) + 1
        self.counts: dict[str, int] = self.values["counts"]

    def save(self, connection: Connection) -> None:
        """Write it back; last in a transaction."""
        connection.execute(update(META).values(encode(META, self.values, self.tick)))


def read_meta(connection: Connection, *, lock: bool = False) -> Meta:
    """Read `meta`, and keep others from writing until the transaction ends if told."""
    query = select(META).with_for_update() if lock else select(META)
    held = dict(connection.execute(query).mappings().one_or_none() or {})
    if not held or not intact(META, held):
        raise Damaged("its row of metadata is not what was written")
    return Meta(held)


def hold_meta(connection: Connection, generation: int | None) -> Meta:
    """`meta` of the store, to be written by `generation`. Raises Fenced if another one holds it."""
    meta = read_meta(connection, lock=True)
    holder, now = meta.values["holder"], meta.values["generation"]
    if generation != now:
        raise Fenced(
            f"the store was taken over by {holder or 'another process'} (generation {now}, ours is {generation}); this "
            "process writes no more"
        )
    return meta


def write_batch(connection: Connection, batch: Batch, meta: Meta) -> None:
    """Every row of the batch that is new, and pods and nodes also where they are known."""
    tick, counts = meta.tick, meta.counts
    pods = list({row.uid: row for row in batch.pods}.values())
    counts["pods"] += replace(connection, PODS, [pod_values(row, tick) for row in pods])
    nodes = list({row.uid: row for row in batch.nodes}.values())
    counts["nodes"] += replace(connection, NODES, [node_values(row, tick) for row in nodes])
    counts["decisions"] += add(connection, DECISIONS, [decision_values(row, tick) for row in batch.decisions])
    _learn(connection, batch.observations, meta)
    counts["downtimes"] += add(connection, DOWNTIMES, [downtime_values(row, tick) for row in batch.downtimes])
    if batch.segment is not None:
        _segment(connection, *batch.segment, meta)
    if batch.seen_s is not None:
        before = meta.values["seen_s"]
        meta.values["seen_s"] = batch.seen_s if math.isnan(before) else max(before, batch.seen_s)


def add(connection: Connection, table: Table, rows: Sequence[Values]) -> int:
    """Insert the rows whose key is not there; how many those were."""
    if not rows:
        return 0
    key = next(iter(table.primary_key.columns))
    made = _insert(connection)(table).on_conflict_do_nothing().returning(key)
    return len(connection.execute(made, list(rows)).all())


def replace(connection: Connection, table: Table, rows: Sequence[Values]) -> int:
    """Insert or overwrite rows of distinct keys; how many are new. The key is the first column."""
    if not rows:
        return 0
    key = next(iter(table.primary_key.columns))
    known = len(present(connection, key, [row[key.name] for row in rows]))
    made: Any = _insert(connection)(table)
    others = {column.name: made.excluded[column.name] for column in table.c if column is not key}
    # RETURNING makes SQLAlchemy send many rows in one statement.
    made = made.on_conflict_do_update(index_elements=[key], set_=others).returning(key)
    connection.execute(made, list(rows)).all()
    return len(rows) - known


def present(connection: Connection, key: Any, values: Sequence[Any]) -> set[Any]:
    """Those of `values` that the column `key` holds."""
    found: set[Any] = set()
    for some in chunks(values, _ASKED):
        found.update(connection.execute(select(key).where(key.in_(some))).scalars())
    return found


def chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive parts of at most `size`."""
    return (values[k : k + size] for k in range(0, len(values), size))


def save_state(connection: Connection, revision: int, state: dict[str, Any], meta: Meta) -> None:
    """Keep an estimator state, and drop all but the newest few."""
    meta.counts["estimator"] += replace(
        connection, ESTIMATOR, [encode(ESTIMATOR, {"revision": revision, "state": state}, meta.tick)]
    )
    kept = connection.execute(select(ESTIMATOR.c.revision).order_by(ESTIMATOR.c.tick.desc()).limit(_STATES)).scalars()
    gone = connection.execute(delete(ESTIMATOR).where(ESTIMATOR.c.revision.not_in(list(kept))))
    meta.counts["estimator"] -= gone.rowcount


def quarantine(connection: Connection, bad: Iterable[tuple[Table, Values]], meta: Meta) -> int:
    """Move rows that are not what was written out of their tables; how many were moved."""
    moved = 0
    for table, values in bad:
        keys = list(table.primary_key.columns)
        # Not if it was overwritten meanwhile.
        where = [table.c[name] == values[name] for name in (*(column.name for column in keys), "tick", "sum")]
        if connection.execute(delete(table).where(*where)).rowcount != 1:
            continue
        key = "uid" if "uid" in table.c else keys[0].name
        note_lost(connection, table, [str(values[key])], "its checksum is wrong", meta, repr(values))
        meta.counts[table.name] -= 1
        moved += 1
    return moved


def note_lost(
    connection: Connection, table: Table, keys: Iterable[str], why: str, meta: Meta, content: str = ""
) -> None:
    """Keep in mind that rows of a table are gone."""
    lost = {"origin": str(table.name), "why": why, "content": content, "found_s": time.time()}
    rows = [encode(QUARANTINE, lost | {"key": key}, meta.tick) for key in keys]
    meta.counts["quarantine"] += add(connection, QUARANTINE, rows)


def _learn(connection: Connection, rows: Sequence[Observation], meta: Meta) -> None:
    known = present(connection, OBSERVATIONS.c.uid, [row.uid for row in rows])
    new = {row.uid: row for row in reversed(rows) if row.uid not in known}  # of two with one uid, the first
    made = []
    for row in reversed(new.values()):
        meta.values["revision"] += 1
        made.append(observation_values(row, meta.values["revision"], meta.tick))
    meta.counts["observations"] += add(connection, OBSERVATIONS, made)


def _segment(connection: Connection, extender: str, sequence: int, dropped: int, meta: Meta) -> None:
    held = connection.execute(select(SEGMENTS).where(SEGMENTS.c.extender == extender)).mappings().one_or_none()
    before: Values = {"contiguous": 0, "dropped": 0, "repeated": 0, "beyond": []}
    if held is not None:
        # Of a damaged row nothing is believed: all before this segment counts as come, for it is not sent again.
        row = dict(held)
        before = decode(SEGMENTS, row) if intact(SEGMENTS, row) else before | {"contiguous": sequence - 1}
    contiguous, beyond, new = arrived(sequence, before["contiguous"], before["beyond"])
    made = {
        "extender": extender,
        "contiguous": contiguous,
        "dropped": max(before["dropped"], dropped),
        "repeated": before["repeated"] + (not new),
        "beyond": beyond,
    }
    meta.counts["segments"] += replace(connection, SEGMENTS, [encode(SEGMENTS, made, meta.tick)])


def _insert(connection: Connection) -> Any:
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
