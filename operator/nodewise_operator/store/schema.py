"""The tables, the same for SQLite and PostgreSQL. Times in epoch seconds; nan is stored as NULL.

Every table ends in `tick`, the number of the transaction that wrote the row, and `sum`, a checksum over all its other
columns (`codec`). Columns that came with a later version stand behind those.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

VERSION = 2
"""Of the tables below; `migrate` leads there from older ones."""

APPLICATION_ID = 0x4E6F6477
"""SQLite's `application_id` of our files."""

METADATA = MetaData()


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _json(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False, info={"json": True})


def _float(name: str) -> Column[Any]:
    return Column(name, Double, nullable=True)


def _int(name: str, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=nullable)


def _bool(name: str, nullable: bool = False) -> Column[Any]:
    return Column(name, Boolean, nullable=nullable)


def _table(name: str, key: tuple[str, ...], *columns: Column[Any], since_v2: tuple[Column[Any], ...] = ()) -> Table:
    return Table(name, METADATA, *columns, _int("tick"), _int("sum"), *since_v2, PrimaryKeyConstraint(*key))


META = Table(
    "meta",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _int("schema_version"),
    _text("epoch"),
    _int("generation"),
    _text("holder"),
    _float("seen_s"),
    _int("revision"),
    _json("counts"),
    _int("tick"),
    _int("sum"),
)
"""One row: version, who may write (generation, holder), when it was last watching, the last revision given to an
observation, how many rows each table holds, and `epoch`, another one after rows were lost."""

PODS = _table(
    "pods",
    ("uid",),
    *map(_text, ("uid", "namespace", "name", "owner", "kind", "workload")),
    *map(_int, ("sla", "priority")),
    _text("scheduler"),
    _json("manifest"),
    *map(_text, ("fate", "reason")),
    *map(_float, ("created_s", "bound_s", "started_s", "ready_s", "finished_s", "deadline_s", "expected_run_s")),
    *map(_text, ("node", "node_class")),
    _int("exit_code", nullable=True),
    _int("restarts"),
    _bool("late", nullable=True),
    *map(_float, ("slowdown", "joules", "cents")),
    since_v2=(Column("arrived_s", Double, nullable=False, server_default="0"),),
)
"""`PodRow`; arrived_s is the first time known of it, by which pods are read."""

NODES = _table(
    "nodes",
    ("uid",),
    *map(_text, ("uid", "name", "node_class")),
    _json("manifest"),
    *map(_float, ("first_seen_s", "last_seen_s")),
)

DECISIONS = _table(
    "decisions",
    ("uid", "source", "time_s"),
    *map(_text, ("uid", "namespace", "pod")),
    _float("time_s"),
    *map(_text, ("source", "mode", "placement_policy", "policy", "digest", "fallback", "neutral")),
    *map(_json, ("candidates", "scores")),
    _text("winner"),
    _json("reply"),
    _float("propensity"),
    _text("bound"),
    *map(_json, ("columns", "featured")),
    Column("features", LargeBinary, nullable=False),
    _float("latency_us"),
    _int("sequence"),
)

OBSERVATIONS = _table(
    "observations",
    ("revision",),
    _int("revision"),
    Column("uid", Text, nullable=False, unique=True),
    _text("workload"),
    _bool("described"),
    _text("node_class"),
    *map(_float, ("run", "slowdown")),
)

ESTIMATOR = _table("estimator", ("revision",), _int("revision"), _json("state"))
"""The newest states, more than one so that a damaged one leaves the one before it."""

SEGMENTS = _table(
    "segments",
    ("extender",),
    _text("extender"),
    *map(_int, ("contiguous", "dropped", "repeated")),
    _json("beyond"),
)
"""An extender a row: every segment up to `contiguous` is there, and `beyond` lists ranges [first, last] that came
early."""

DOWNTIMES = _table("downtimes", ("begin_s", "end_s", "why"), *map(_float, ("begin_s", "end_s")), _text("why"))

QUARANTINE = _table(
    "quarantine", ("origin", "key"), *map(_text, ("origin", "key", "why", "content")), _float("found_s")
)
"""Rows that are known to be lost to damage: table and key, and what is left of them."""

SALVAGES = _table("salvages", ("time_s",), _float("time_s"), _text("copy"), *map(_json, ("saved", "lost")))
"""When a damaged file was replaced: where its copy is and how many rows of each table were saved and lost."""

Index("decisions_by_time", DECISIONS.c.time_s, DECISIONS.c.uid, DECISIONS.c.source)
Index("pods_by_fate", PODS.c.fate)
Index("pods_by_arrival", PODS.c.arrived_s, PODS.c.uid)

TABLES: dict[str, Table] = {table.name: table for table in METADATA.sorted_tables}
