"""A real PostgreSQL server for tests, from the distribution's packages; used as a fixture of `store_url`."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_USER = "postgres"
_START_S = 60


def programs() -> Path | None:
    """The folder of initdb and postgres, the newest version; None if there is none."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name))
    return Path(on_path).resolve().parent if on_path else found[-1].parent if found else None


def skip_or_fail() -> Path:
    """The programs' folder. Where they must be there (CI), their absence is a failure: a skip would look green."""
    found = programs()
    if found is not None:
        return found
    missing = "there is no PostgreSQL server here; on Debian: apt-get install postgresql"
    if os.environ.get("NODEWISE_REQUIRE_POSTGRES") == "1":
        pytest.fail(f"NODEWISE_REQUIRE_POSTGRES=1, but {missing}")
    pytest.skip(missing)


@contextmanager
def server(programs: Path, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """A server of its own on a free port of loopback: `postgresql://postgres@127.0.0.1:PORT`, without a database.

    With `tls`, the files of a certificate and its key, it also takes encrypted connections. Its other settings are the
    distribution's, fsync among them. As root it runs as the user `postgres`, as it insists.
    """
    as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="nodewise-postgres-"))
    if as_user:
        shutil.chown(folder, _USER, _USER)
    data, log = folder / "data", folder / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = [*as_user, str(programs / "initdb"), "--pgdata", str(data), "--username", _USER, "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C.UTF-8"]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True, cwd=folder)
    control = [*as_user, str(programs / "pg_ctl"), "--pgdata", str(data), "--wait"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    for file in tls or ():
        kept = folder / file.name
        shutil.copy(file, kept)
        kept.chmod(0o600)
        if as_user:
            shutil.chown(kept, _USER, _USER)
    if tls:
        options += f" -c ssl=on -c ssl_cert_file={folder / tls[0].name} -c ssl_key_file={folder / tls[1].name}"
    start = [*control, "--timeout", str(_START_S), "--log", str(log), "--options", options, "start"]
    try:
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        yield f"postgresql://{_USER}@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "--mode", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


def create_database(server_url: str, name: str) -> str:
    """An empty database on the server; its URL. One of that name is dropped before."""
    from sqlalchemy import create_engine, text

    engine = create_engine(
        f"{server_url}/postgres".replace("postgresql:", "postgresql+pg8000:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return f"{server_url}/{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of one server for all tests of a module."""
    with server(skip_or_fail()) as url:
        yield url


_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place for a store, once of each kind; import it with `postgres_server`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return create_database(request.getfixturevalue("postgres_server"), f"test_{next(_numbers)}")
