"""One database behind the store: transactions, what their errors mean, and salvaging when its file is damaged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Select, text
from sqlalchemy.exc import SQLAlchemyError

from nodewise.core.errors import UserError
from nodewise_operator.store import migrate
from nodewise_operator.store.codec import Values
from nodewise_operator.store.engine import connect, hung_up, parse, sqlite_path, understood
from nodewise_operator.store.errors import Damaged
from nodewise_operator.store.salvage import FileLock, damage, finish, no_store, salvage, salvageable
from nodewise_operator.store.schema import VERSION

T = TypeVar("T")


def fetch(connection: Connection, query: Select[Any]) -> list[Values]:
    """The rows of a query, by column names."""
    found = connection.execute(query)
    names = tuple(found.keys())
    return [dict(zip(names, row, strict=True)) for row in found]


class Database:
    """Runs functions in transactions. Each may run twice: once more after its file was salvaged, or the server had
    closed the connection meanwhile.

    Raises StoreUnavailable, Unstorable, or UserError if the file is damaged and cannot be salvaged.
    """

    def __init__(self, url: str, *, owner: bool) -> None:
        """Only an owner writes: makes the file, and replaces it if it is damaged."""
        parsed = parse(url)
        self.path = sqlite_path(parsed)
        self.where = str(self.path or parsed.render_as_string(hide_password=True))
        self.generation: int | None = None
        """Goes into a salvaged file whose own is lost."""
        self._url = parsed
        self._busy = threading.RLock()
        self._lock: FileLock | None = None
        if self.path is not None:
            _check_path(self.path, owner)
            try:
                self._lock = FileLock(self.path) if owner else None
                finish(self.path, self._lock)
            except OSError as error:
                raise understood(error, self.where) from error
        self._engine = connect(parsed, read_only=not owner)

    def close(self, *, refused: bool = False) -> None:
        """Let go of it; `refused`: it is no store."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release(discard=refused)

    def prepare(self, create: bool, upgrade: bool) -> None:
        """Check the file, and make or upgrade the schema as far as that is allowed. Raises UserError if it is not."""
        if self.path is not None and self.path.exists() and self.path.stat().st_size:
            # By a connection that changes nothing: it may be the file of another program.
            looking = connect(self._url, read_only=True)
            try:
                wrong = damage(self.path, looking, self._lock)
                if wrong is None:
                    self._once(looking, migrate.version, writes=False)
            except Damaged as found_wrong:
                wrong = str(found_wrong)
            finally:
                looking.dispose()
            if wrong is not None:
                self._salvage(wrong)
        found = self.read(migrate.version)
        if found is None and create:
            self.write(migrate.create)
            found = self.read(migrate.version)
        if found is None:
            raise UserError(f"there is no store in {self.where}; the operator makes it when it starts")
        if found > VERSION:
            raise UserError(
                f"the store {self.where} has schema version {found}, and this program knows none above {VERSION}; "
                "use a newer nodewise"
            )
        if found < VERSION and not (create and upgrade):
            raise UserError(
                f"the store {self.where} has schema version {found}, and this program reads {VERSION}; the operator "
                "upgrades it when it starts"
            )
        while found < VERSION:
            found = self.write(migrate.upgrade)

    def read(self, use: Callable[[Connection], T]) -> T:
        """In one snapshot."""
        return self._run(use, writes=False)

    def write(self, use: Callable[[Connection], T]) -> T:
        """In one transaction, which is on disk when this returns; all of it or nothing."""
        with self._busy:
            return self._run(use, writes=True)

    def shared(self) -> bool | None:
        """Whether another process may write SQLite's file now; None for PostgreSQL and for one who only reads."""
        if self._lock is None:
            return None
        alone = self._lock.alone()
        self._lock.share()
        return not alone

    def checkpoint(self) -> None:
        """Empty SQLite's log: page images from before a deletion must not come back when the file is salvaged."""
        if self.path is not None:
            raw = self._engine.raw_connection()
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raw.close()

    def size_bytes(self) -> int:
        """On disk; of SQLite with its log."""
        if self.path is None:
            return int(
                self.read(lambda c: c.execute(text("SELECT pg_database_size(current_database())")).scalar()) or 0
            )
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _run(self, use: Callable[[Connection], T], *, writes: bool) -> T:
        engine = self._engine
        try:
            return self._once(engine, use, writes)
        except Damaged as wrong:
            with self._busy:
                if self._engine is engine:  # else another thread has salvaged it meanwhile
                    self._salvage(str(wrong))
        try:
            return self._once(self._engine, use, writes)
        except Damaged as wrong:
            raise UserError(f"the store {self.where} is damaged, also after salvaging it: {wrong}") from wrong

    def _once(self, engine: Engine, use: Callable[[Connection], T], writes: bool) -> T:
        options: dict[str, Any] = {"writes": writes}
        if not writes and self.path is None:
            options["isolation_level"] = "REPEATABLE READ"
        for again in (True, False):
            try:
                with engine.connect() as connection, connection.execution_options(**options).begin():
                    return use(connection)
            except (SQLAlchemyError, OSError, ValueError, OverflowError) as error:
                if self.path is None:
                    engine.dispose()  # the other connections of the pool are as old
                if not (again and hung_up(error)):
                    raise understood(error, self.where) from error
        raise AssertionError("the second time it returns or raises")

    def _salvage(self, wrong: str) -> None:
        if self.path is None:
            raise UserError(f"the store {self.where} is damaged: {wrong}; restore it from a backup")
        if self._lock is None:
            if not salvageable(self.path):
                raise no_store(self.path, wrong)
            raise UserError(f"the store {self.where} is damaged: {wrong}; the operator salvages it when it starts")
        self._engine.dispose()
        salvage(self.path, self._lock, wrong, self.generation)
        self._engine = connect(self._url)


def _check_path(path: Path, owner: bool) -> None:
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder {path.parent} of the store {path.name} does not exist; make it")
    if path.is_dir():
        raise UserError(f"the store {path} is a folder; name a file")
    if not owner and not path.exists():
        raise UserError(f"there is no store {path}; the operator makes it when it starts")
