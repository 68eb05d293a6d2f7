"""A damaged SQLite file: how it is noticed, kept, and replaced by one with every row that is still what was written."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, func, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from nodewise.core.errors import UserError
from nodewise_operator.store import migrate, writing
from nodewise_operator.store.carve import HEADER, carve
from nodewise_operator.store.codec import Values, decode, encode
from nodewise_operator.store.conservation import without_decision, without_pod
from nodewise_operator.store.disk import sync
from nodewise_operator.store.engine import connect, understood
from nodewise_operator.store.errors import Damaged, StoreUnavailable
from nodewise_operator.store.schema import (
    APPLICATION_ID,
    DECISIONS,
    ESTIMATOR,
    META,
    NODES,
    OBSERVATIONS,
    PODS,
    SALVAGES,
    SEGMENTS,
    TABLES,
)
from nodewise_operator.store.wal import first_bad_frame
from nodewise_operator.store.writing import Meta

log = logging.getLogger(__name__)

_BUILDING, _READY = ".salvaging", ".salvaged"
_SIDES = ("-wal", "-shm")
_ROWS = 500
_CHANGING = {table.name for table in (PODS, NODES, ESTIMATOR, SEGMENTS, META)}
"""Tables whose rows are overwritten: of several versions the newest counts."""


_Counts = tuple[dict[str, int], dict[str, int] | None]
"""Rows saved and lost by table; None where nothing tells how many there were."""


class FileLock:
    """Held shared by all that may write a SQLite store, and alone by the one that replaces its file."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._new = not self._path.exists()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def alone(self) -> bool:
        """Take it alone; False if another process holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as taken:
            if taken.errno != errno.EWOULDBLOCK:
                raise
            fcntl.flock(self._file, fcntl.LOCK_SH)
            return False
        return True

    def share(self) -> None:
        """Hold it with others again."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self, *, discard: bool = False) -> None:
        """Let go; not to be used any more. `discard`: there is no store beside it, so leave nothing behind that was not
        there before.
        """
        if self._file >= 0:
            if discard and self._new and self.alone():
                self._path.unlink(missing_ok=True)
            os.close(self._file)
        self._file = -1


def damage(path: Path, engine: Engine, lock: FileLock | None) -> str | None:
    """What is wrong with the structure of the file or its log; None if nothing is. Its rows are checked when read.

    The log is looked at only if no other process may be writing it.
    """
    if lock is not None and lock.alone():
        wal = path.with_name(path.name + "-wal")
        bad = first_bad_frame(wal.read_bytes()) if wal.exists() else None
        lock.share()
        if bad is not None:
            return f"frame {bad} of its write-ahead log is not what was written"
    try:
        with engine.connect() as connection:
            found = str(connection.execute(text("PRAGMA integrity_check(1)")).scalar())
    except (DBAPIError, UnicodeDecodeError) as error:
        meant = understood(error, str(path))
        if isinstance(meant, Damaged):
            return str(meant)
        raise meant from error
    return None if found == "ok" else " ".join(found.split())


def salvage(path: Path, lock: FileLock, wrong: str, generation: int | None) -> None:
    """Keep the damaged file as a copy and put a new one in its place. Raises UserError where that cannot be done.

    A kill at any moment leaves the damaged file, or the new one that `finish` puts in place.
    """
    if not lock.alone():
        raise UserError(f"the store {path} is damaged ({wrong}) and another process holds it; stop that process first")
    try:
        _salvage(path, wrong, generation)
    except (OSError, SQLAlchemyError) as error:
        why = understood(error, str(path))
        raise StoreUnavailable(f"the store {path} is damaged ({wrong}) and cannot be salvaged now: {why}") from error
    finally:
        lock.share()


def _salvage(path: Path, wrong: str, generation: int | None) -> None:
    new = path.with_name(path.name + _BUILDING)
    for old in (new, *(new.with_name(new.name + side) for side in _SIDES)):
        old.unlink(missing_ok=True)
    copy = _copy_name(path)
    engine = connect(URL.create("sqlite", database=str(new)))
    try:
        saved, lost = _rebuild(engine, path, copy.name, generation)
        raw = engine.raw_connection()
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()
    finally:
        engine.dispose()
    if not sum(saved.values()) and not _looks_like_ours(path):
        new.unlink()
        raise no_store(path, wrong)
    sync(new)
    for side in ("", "-wal"):
        _keep(path.with_name(path.name + side), copy.with_name(copy.name + side))
    new.rename(path.with_name(path.name + _READY))
    sync(path.parent)
    _put(path)
    unknown = "an unknown number of rows was lost" if lost is None else f"{sum(lost.values()):,} rows were lost"
    log.error(
        "the store %s was damaged (%s): %s rows were saved into a new file and %s; the damaged one is kept as %s",
        path, wrong, f"{sum(saved.values()):,}", unknown, copy.name,
    )  # fmt: skip


def salvageable(path: Path) -> bool:
    """Whether `salvage` would take the file: for one who only reads."""
    return _looks_like_ours(path) or any(name != META.name for name, _ in carve(path))


def no_store(path: Path, wrong: str) -> UserError:
    """What is said of a file that is not salvaged."""
    return UserError(f"{path} is no store, or nothing of it is left: {wrong}; name another file, or move it away")


def finish(path: Path, lock: FileLock | None) -> None:
    """Put a salvaged file in place, if its process was killed before it did."""
    if lock is None or not path.with_name(path.name + _READY).exists():
        return
    if lock.alone():
        _put(path)
    lock.share()


def _put(path: Path) -> None:
    # A log of the damaged file must never meet the new one.
    for side in _SIDES:
        path.with_name(path.name + side).unlink(missing_ok=True)
    path.with_name(path.name + _READY).replace(path)
    sync(path.parent)


def _rebuild(engine: Engine, path: Path, copy: str, generation: int | None) -> _Counts:
    """Fill a new store with what is carved."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        migrate.create(connection)
        found = carve(path)
        metas: list[Values] = []
        while some := list(islice(found, _ROWS)):
            metas += [values for name, values in some if name == META.name]
            _take(connection, some)
        return _settle(connection, metas, copy, generation)


def _take(connection: Connection, some: list[tuple[str, Values]]) -> None:
    for name in {name for name, _ in some} - {META.name}:
        table = TABLES[name]
        keys = [column.name for column in table.primary_key.columns]
        rows: dict[tuple[Any, ...], Values] = {}
        for values in (values for found, values in some if found == name):
            key = tuple(values[k] for k in keys)
            if key not in rows or values["tick"] > rows[key]["tick"]:
                rows[key] = values
        new = writing.add(connection, table, list(rows.values()))
        if name in _CHANGING and new < len(rows):
            for values in rows.values():
                same = [table.c[k] == values[k] for k in keys]
                connection.execute(update(table).where(*same, table.c.tick < values["tick"]).values(values))


def _settle(connection: Connection, metas: list[Values], copy: str, generation: int | None) -> _Counts:
    meta: Meta = writing.read_meta(connection, lock=True)
    saved = {name: _rows_of(connection, table) for name, table in TABLES.items() if table is not META}
    lost: dict[str, int] | None = None
    newest = max(metas, key=lambda values: int(values["tick"]), default=None)
    if newest is not None:
        own = {name: meta.values[name] for name in ("epoch", "schema_version")}
        meta.values = {name: value for name, value in decode(META, newest).items() if name not in ("tick", "sum")} | own
        lost = {name: max(meta.values["counts"].get(name, 0) - count, 0) for name, count in saved.items()}
    else:
        # Nobody who wrote before may hold this generation.
        meta.values["generation"] = generation if generation is not None else int(time.time())
    ticks = [connection.execute(select(func.max(table.c.tick))).scalar() or 0 for table in TABLES.values()]
    meta.tick = max(*ticks, newest["tick"] if newest else 0) + 1
    last = connection.execute(select(func.max(OBSERVATIONS.c.revision))).scalar() or 0
    meta.values["revision"] = max(meta.values["revision"], last)
    meta.counts = meta.values["counts"] = dict(saved)
    for table, uids in _halves(connection):
        writing.note_lost(connection, table, uids, f"lost with the file that is kept as {copy}", meta)
    row = {"time_s": time.time(), "copy": copy, "saved": saved, "lost": lost}
    meta.counts[SALVAGES.name] += writing.add(connection, SALVAGES, [encode(SALVAGES, row, meta.tick)])
    meta.save(connection)
    return saved, lost


def _rows_of(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar() or 0)


def _looks_like_ours(path: Path) -> bool:
    """Whether a file that holds no row of ours is a store nevertheless: by its mark, or because it has no tables."""
    with path.open("rb") as file:
        head = file.read(100)
    ours = head[68:72] == APPLICATION_ID.to_bytes(4, "big")
    return head.startswith(HEADER) and (ours or int.from_bytes(head[28:32], "big") <= 1)


def _halves(connection: Connection) -> Iterator[tuple[Table, list[str]]]:
    """Uids of which a pod or all decisions are gone while the other half is there."""
    yield PODS, list(connection.execute(without_pod()).scalars())
    yield DECISIONS, list(connection.execute(without_decision()).scalars())


def _copy_name(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return path.with_name(f"{path.name}.damaged-{stamp}")


def _keep(path: Path, copy: Path) -> None:
    """The same bytes under a second name; a second copy where the file system has no links."""
    if not path.exists():
        return
    try:
        os.link(path, copy)
    except OSError:
        shutil.copy2(path, copy)
