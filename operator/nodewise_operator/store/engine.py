"""Connections to SQLite and PostgreSQL, and what their errors mean."""

from __future__ import annotations

import logging
import os
import sqlite3
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, StatementError

from nodewise.core.errors import UserError
from nodewise_operator.store.errors import Damaged, StoreUnavailable, Unstorable
from nodewise_operator.store.schema import APPLICATION_ID

PAGE_BYTES = 4096
"""Of new SQLite files. Decisions are larger, and their overflow pages leave less empty than larger pages would."""

_BUSY_S = 10.0
_CONNECT_S = 10
_FILE_IS_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG}
_TLS_MODES = ("require", "verify-ca", "verify-full")
_REFUSED_CLASSES = ("22", "23")
"""Of SQLSTATE: data exceptions and integrity violations."""
_HUNG_UP = ("57P01", "57P02")
"""SQLSTATEs of a server that stops."""


def parse(url: str) -> URL:
    """A store's URL: `sqlite:///FILE`, `postgresql://…`, or the path of a SQLite file. Raises UserError for others."""
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        made = make_url(url)
    except (ArgumentError, ValueError) as wrong:
        raise UserError(
            f"{url!r} is no URL of a store; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from wrong
    name = made.get_backend_name()
    if name in ("postgresql", "postgres"):
        return made.set(drivername="postgresql+pg8000")
    if name != "sqlite":
        raise UserError(f"a store is kept in SQLite or PostgreSQL, not in {name!r}; write sqlite:///FILE")
    if not made.database or made.database == ":memory:":
        raise UserError(f"{url!r} names no file, and a store must outlive its process; write sqlite:///FILE")
    return made


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite store; None for PostgreSQL."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def connect(url: URL, *, read_only: bool = False) -> Engine:
    """An engine whose commits are on disk when they return.

    `read_only` keeps SQLite from touching the file, its log included: closing would else fold the log into it, with
    what is damaged in the log gone for good.
    """
    path = sqlite_path(url)
    if path is None:
        query = dict(url.query)
        arguments = {"timeout": _CONNECT_S, "ssl_context": _tls(query.pop("sslmode", ""), query.pop("sslrootcert", ""))}
        # A connection that died is told of by the sentence that the caller gets, not by tracebacks as well.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        engine = create_engine(url.set(query=query), connect_args=arguments, pool_pre_ping=True, pool_size=3)
        event.listen(engine, "connect", _prepare_postgresql)
        return engine
    if read_only:
        frozen = not os.access(path.absolute().parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
        options = {"uri": "true", "mode": "ro"} | ({"immutable": "1"} if frozen else {})
        url = url.set(database="file:" + quote(str(path.absolute())), query=options)
    engine = create_engine(url, connect_args={"timeout": _BUSY_S, "check_same_thread": False}, pool_size=3)
    event.listen(engine, "connect", _prepare_sqlite)
    if not read_only:
        event.listen(engine, "connect", _prepare_writing)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def understood(error: Exception, where: str) -> Exception:
    """What an error met while using the database means, as an exception to raise. `where` names the store."""
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    said = _words(cause)
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None and (code & 0xFF in _FILE_IS_DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ):
        return Damaged(said)
    mangled = isinstance(cause, sqlite3.OperationalError) and said.startswith("no such ")
    if mangled or isinstance(cause, UnicodeDecodeError):
        return Damaged(said)  # our statements fit our schema, and SQLite tells of nothing but UTF-8
    refused = isinstance(cause, ValueError | OverflowError | TypeError | sqlite3.InterfaceError | sqlite3.DataError)
    refused = refused and not isinstance(cause, OSError)  # a certificate that is not trusted is both
    if refused or _sqlstate(cause)[:2] in _REFUSED_CLASSES:
        return Unstorable(f"the store {where} refuses a value: {said}")
    return StoreUnavailable(f"the store {where} cannot be used now: {said.rstrip('.')}")


def hung_up(error: Exception) -> bool:
    """Whether a PostgreSQL server closed a connection that was there: another one may do."""
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    lost = isinstance(cause, ConnectionError) or _words(cause) in ("network error", "connection is closed")
    return lost or _sqlstate(cause) in _HUNG_UP


def _sqlstate(cause: Any) -> str:
    if isinstance(cause, OSError):
        return f"{cause.strerror or cause}: {cause.filename}" if cause.filename else str(cause.strerror or cause)
    told = cause.args[0] if getattr(cause, "args", None) else None
    return str(told.get("C", "")) if isinstance(told, dict) else ""


def _words(cause: Any) -> str:
    """One line of what the driver says; pg8000 raises the server's fields as a dict."""
    if isinstance(cause, OSError):
        return f"{cause.strerror or cause}: {cause.filename}" if cause.filename else str(cause.strerror or cause)
    told = cause.args[0] if getattr(cause, "args", None) else cause
    if isinstance(told, dict):
        told = told.get("M", told)
    return " ".join(str(told).split()) or type(cause).__name__


def _tls(mode: object, roots: object) -> ssl.SSLContext | bool | None:
    """Libpq's `sslmode` and `sslrootcert`, which pg8000 does not know, as what it does: None tries, False does not."""
    if mode in ("", "prefer"):
        return None
    if mode == "disable":
        return False
    if mode not in _TLS_MODES:
        raise UserError(f"sslmode is one of disable, prefer, {', '.join(_TLS_MODES)}, and not {mode!r}")
    try:
        context = ssl.create_default_context(cafile=str(roots) if roots else None)
    except OSError as error:
        raise UserError(f"cannot read the certificates of sslrootcert={roots}: {error}") from error
    context.check_hostname = mode == "verify-full"
    if mode == "require" and not roots:
        context.verify_mode = ssl.CERT_NONE
    return context


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The module's own transactions leave DDL outside; ours begin in `_begin_sqlite`.
    connection.isolation_level = None
    connection.text_factory = lambda raw: raw.decode(errors="replace")  # a row with such a text fails its checksum


def _prepare_writing(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA page_size={PAGE_BYTES}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    # What is deleted is gone from the file: it is nobody's to read, and salvaging must not bring it back.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def stamp(connection: Connection) -> None:
    """Mark a new SQLite file as ours."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("SET synchronous_commit TO on")  # whatever the server's default is: we acknowledge by it
    cursor.close()
    connection.commit()
