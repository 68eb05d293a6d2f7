"""Rows to columns and back, and the checksum that says whether a row is what was written.

The checksum is CRC-32 over the msgpack form of [table name, values in the order of the columns], `sum` left out. SQLite
verifies nothing of what it reads, and its `integrity_check` looks at structure only: of random single-bit flips it sees
few.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Double, LargeBinary, Table, Text

from nodewise.channel.messages import DecisionRow
from nodewise.core.estimator import Observation
from nodewise_operator.store.rows import Downtime, Fate, NodeRow, PodRow
from nodewise_operator.store.schema import DECISIONS, DOWNTIMES, NODES, OBSERVATIONS, PODS

Values = dict[str, Any]

_pack = msgspec.msgpack.Encoder().encode
_LARGEST = 2**63


class Codec(NamedTuple):
    """How the columns of one table are written; the places of those that need something done."""

    summed: tuple[str, ...]
    """All columns but `sum`, in order."""
    floats: tuple[str, ...]
    json: tuple[str, ...]


@functools.cache
def _codec(table: Table) -> Codec:
    names = tuple(table.c.keys())
    return Codec(
        tuple(name for name in names if name != "sum"),
        tuple(column.name for column in table.c if isinstance(column.type, Double)),
        tuple(column.name for column in table.c if column.info.get("json")),
    )


def checksum(table: str, values: Sequence[Any]) -> int:
    """Of the values of one row, `sum` left out. Raises ValueError, TypeError or OverflowError."""
    return zlib.crc32(_pack((str(table), *values)))


def encode(table: Table, record: Mapping[str, Any], tick: int) -> Values:
    """The columns of a row, nan as None, lists and dicts as JSON, with tick and checksum."""
    kind = _codec(table)
    made = dict(record)
    made["tick"] = tick
    for name in kind.floats:
        value = made[name]
        # -0.0 would come back from SQLite as 0.0 and look damaged.
        made[name] = None if value is None or math.isnan(value) else float(value) + 0.0
    for name in kind.json:
        made[name] = msgspec.json.encode(made[name]).decode()
    made["sum"] = checksum(table.name, [made[name] for name in kind.summed])
    return made


def intact(table: Table, values: Mapping[str, Any]) -> bool:
    """Whether the columns, as read, are those that were written."""
    try:
        return checksum(table.name, [values[name] for name in _codec(table).summed]) == int(values["sum"])
    except (ValueError, TypeError, OverflowError):
        return False


def decode(table: Table, values: Mapping[str, Any]) -> Values:
    """The inverse of `encode`, for columns that are `intact`."""
    kind = _codec(table)
    made = dict(values)
    for name in kind.floats:
        if made[name] is None:
            made[name] = math.nan
    for name in kind.json:
        made[name] = msgspec.json.decode(made[name])
    return made


def natural(columns: Sequence[Column[Any]], values: Sequence[Any]) -> Values | None:
    """Columns as they stand in a raw SQLite record, as the types that the checksum is taken over; None if they are not.

    SQLite keeps whole floats and booleans as integers.
    """
    made: Values = {}
    for column, value in zip(columns, values, strict=True):
        match column.type, value:
            case _, None:
                made[column.name] = None
            case Double(), int() | float():
                made[column.name] = float(value)
            case Boolean(), int():
                made[column.name] = bool(value)
            case BigInteger(), int():
                made[column.name] = value
            case LargeBinary(), bytes():
                made[column.name] = value
            case Text(), str():
                made[column.name] = value
            case _:
                return None
    return made


def pod_values(row: PodRow, tick: int) -> Values:
    """Columns of `pods`."""
    made = {name: getattr(row, name) for name in PodRow.__slots__}
    made["fate"], made["kind"], made["sla"] = str(row.fate), str(row.kind), int(row.sla)
    known = (row.created_s, row.bound_s, row.started_s, row.finished_s)
    made["arrived_s"] = next((time_s for time_s in known if math.isfinite(time_s)), 0.0)
    return encode(PODS, made, tick)


def pod_row(values: Mapping[str, Any]) -> PodRow:
    """The inverse of `pod_values`."""
    made = decode(PODS, values)
    made["fate"] = Fate(made["fate"])
    return PodRow(**{name: made[name] for name in PodRow.__slots__})


def node_values(row: NodeRow, tick: int) -> Values:
    """Columns of `nodes`."""
    return encode(NODES, {name: getattr(row, name) for name in NodeRow.__slots__}, tick)


def node_row(values: Mapping[str, Any]) -> NodeRow:
    """The inverse of `node_values`."""
    made = decode(NODES, values)
    return NodeRow(**{name: made[name] for name in NodeRow.__slots__})


def decision_values(row: DecisionRow, tick: int) -> Values:
    """Columns of `decisions`."""
    return encode(DECISIONS, msgspec.structs.asdict(row), tick)


def decision_row(values: Mapping[str, Any]) -> DecisionRow:
    """The inverse of `decision_values`; scores that were not finite are nan."""
    made = decode(DECISIONS, values)
    made["reply"] = [tuple(pair) for pair in made["reply"]]
    made["scores"] = [math.nan if score is None else float(score) for score in made["scores"]]
    return DecisionRow(**{name: made[name] for name in DecisionRow.__struct_fields__})


def observation_values(row: Observation, revision: int, tick: int) -> Values:
    """Columns of `observations`."""
    made = {name: getattr(row, name) for name in Observation.__slots__}
    return encode(OBSERVATIONS, {"revision": revision, **made}, tick)


def observation_row(values: Mapping[str, Any]) -> tuple[int, Observation]:
    """The inverse of `observation_values`."""
    made = decode(OBSERVATIONS, values)
    return made["revision"], Observation(**{name: made[name] for name in Observation.__slots__})


def downtime_values(row: Downtime, tick: int) -> Values:
    """Columns of `downtimes`."""
    return encode(DOWNTIMES, {"begin_s": row.begin_s, "end_s": row.end_s, "why": row.why}, tick)


def downtime_row(values: Mapping[str, Any]) -> Downtime:
    """The inverse of `downtime_values`."""
    return Downtime(values["begin_s"], values["end_s"], values["why"])
