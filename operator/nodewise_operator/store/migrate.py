"""From one version of the schema to the next, each step in one transaction: a kill leaves the old or the new."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    text,
    update,
)

from nodewise.core.errors import UserError
from nodewise_operator.store.codec import Values, checksum, encode
from nodewise_operator.store.engine import stamp
from nodewise_operator.store.errors import Damaged
from nodewise_operator.store.schema import META, METADATA, TABLES, VERSION

log = logging.getLogger(__name__)

_CREATION = 0x6E6F6465
"""PostgreSQL's advisory lock under which a store is made, so that two that start at once do not both."""
_ROWS = 1000


def create(connection: Connection) -> None:
    """Make the tables of the newest version, where there are none."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION})
    if version(connection) is not None:
        return
    stamp(connection)
    METADATA.create_all(connection)
    first = {
        "id": 1, "schema_version": VERSION, "epoch": uuid.uuid4().hex, "generation": 0, "holder": "", "seen_s": None,
        "revision": 0, "counts": dict.fromkeys(TABLES, 0),
    }  # fmt: skip
    connection.execute(META.insert(), encode(META, first, tick=0))


def version(connection: Connection) -> int | None:
    """The schema version of a store; None where there is no store. Raises UserError for somebody else's tables."""
    found = set(inspect(connection).get_table_names())
    if META.name in found:
        # The columns of that version, which need not be ours.
        held = connection.execute(text("SELECT * FROM meta")).mappings().one_or_none()
        if held is not None:
            if checksum(META.name, [value for name, value in held.items() if name != "sum"]) != held["sum"]:
                raise Damaged("its row of metadata is not what was written")
            return int(held["schema_version"])
    if connection.dialect.name == "sqlite" and found and not found & TABLES.keys():
        file = connection.execute(text("PRAGMA database_list")).all()[0][2]
        raise UserError(f"{file} holds tables of another program; name another file")
    return None


def upgrade(connection: Connection) -> int:
    """One step from the version that is there to the next, which is returned."""
    connection.execute(select(META.c.id).with_for_update())
    found = version(connection)
    if found is None or found not in STEPS:
        return VERSION if found is None else found  # another process was faster
    log.info("the store's schema goes from version %d to %d", found, found + 1)
    STEPS[found](connection)
    # The columns of that version, which need not be ours.
    held = dict(connection.execute(text("SELECT * FROM meta")).mappings().one()) | {"schema_version": found + 1}
    total = checksum(META.name, [value for name, value in held.items() if name != "sum"])
    connection.execute(update(META).values(schema_version=found + 1, sum=total))
    return found + 1


_COLUMNS_V2 = {
    "uid": Text, "namespace": Text, "name": Text, "owner": Text, "kind": Text, "workload": Text, "sla": BigInteger,
    "priority": BigInteger, "scheduler": Text, "manifest": Text, "fate": Text, "reason": Text, "created_s": Double,
    "bound_s": Double, "started_s": Double, "ready_s": Double, "finished_s": Double, "deadline_s": Double,
    "expected_run_s": Double, "node": Text, "node_class": Text, "exit_code": BigInteger, "restarts": BigInteger,
    "late": Boolean, "slowdown": Double, "joules": Double, "cents": Double, "tick": BigInteger, "sum": BigInteger,
    "arrived_s": Double,
}  # fmt: skip
_PODS_V2 = Table("pods", MetaData(), *(Column(name, kind) for name, kind in _COLUMNS_V2.items()))
"""As they were then: a step must not change when the tables do."""


def _arrival(connection: Connection) -> None:
    """1 → 2: pods are read in the order in which they came, so they get that as a column, and an index on it."""
    connection.execute(text("ALTER TABLE pods ADD COLUMN arrived_s DOUBLE PRECISION DEFAULT 0 NOT NULL"))
    after = ""
    while rows := (
        connection.execute(select(_PODS_V2).where(_PODS_V2.c.uid > after).order_by(_PODS_V2.c.uid).limit(_ROWS))
        .mappings()
        .all()
    ):
        for row in rows:
            new = pod_of_v1({name: value for name, value in row.items() if name != "arrived_s"})
            if new is not None:  # else it stays damaged under the new checksum, too
                connection.execute(update(_PODS_V2).where(_PODS_V2.c.uid == row["uid"]).values(new))
        after = rows[-1]["uid"]
    connection.execute(text("CREATE INDEX pods_by_arrival ON pods (arrived_s, uid)"))


def pod_of_v1(values: Values) -> Values | None:
    """The columns of a pod of version 1 in version 2; None if they are not what was written."""
    before = [value for name, value in values.items() if name != "sum"]
    if checksum(_PODS_V2.name, before) != values["sum"]:
        return None
    known = (values[name] for name in ("created_s", "bound_s", "started_s", "finished_s"))
    arrived_s = next((time_s for time_s in known if time_s is not None), 0.0)
    return {**values, "sum": checksum(_PODS_V2.name, [*before, arrived_s]), "arrived_s": arrived_s}


STEPS: dict[int, Callable[[Connection], None]] = {1: _arrival}
"""Version → what leads from it to the next."""
