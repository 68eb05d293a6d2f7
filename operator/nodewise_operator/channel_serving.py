"""The socket that the channel is served on: TLS with a certificate that may change, or loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from nodewise.channel.endpoint import is_loopback
from nodewise.core.errors import UserError
from nodewise_operator.auth import Auth, anyone
from nodewise_operator.channel_server import CLOSING

RELOAD_S = 5.0
"""Time between looks at the certificate."""

log = logging.getLogger(__name__)


class _Uvicorn(uvicorn.Server):
    """Signals are for the operator to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Certificate:
    """A server's certificate and key from two files. Raises UserError if they cannot be used."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._files = cert_file, key_file
        self._stamp: object = None
        try:
            self.reload()
        except OSError as error:
            raise UserError(
                f"certificate {cert_file} and key {key_file} cannot be used ({_why(error)}): name a pair in PEM files"
            ) from error

    def reload(self) -> bool:
        """Use what the files hold from the next connection on; whether they changed.

        Raises OSError (ssl.SSLError is one) if they cannot be used; the old ones are then kept.
        """
        stamp = [(found.st_mtime_ns, found.st_ino, found.st_size) for found in (file.stat() for file in self._files)]
        if stamp == self._stamp:
            return False
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)  # a bad pair would spoil the one in use
        self.context.load_cert_chain(*self._files)
        self._stamp = stamp
        return True

    async def watch(self, poll_s: float) -> None:
        """Look for new files, for ever."""
        told = ""
        while True:
            await asyncio.sleep(poll_s)
            try:
                if self.reload():
                    log.info("the channel has a new certificate")
                told = ""
            except OSError as error:
                if told != (told := _why(error)):
                    log.error("the channel keeps its old certificate: the new one cannot be used (%s)", told)


def checked(
    host: str, cert_file: Path | None, key_file: Path | None, *, open_to_all: bool, unauthenticated: bool
) -> Certificate | None:
    """What the channel is encrypted with, if it is.

    Raises UserError for a channel that others could read or write: outside loopback it needs TLS and tokens, and on
    loopback it needs tokens unless `unauthenticated` was chosen.
    """
    if open_to_all and not (unauthenticated and is_loopback(host)):
        raise UserError(
            f"the channel on {host} would take decisions from anybody: name the service accounts that may use it, or "
            "choose, on loopback only, to go without"
        )
    if (cert_file is None) != (key_file is None):
        raise UserError("the channel's certificate and key belong together: name both files or none")
    certificate = Certificate(cert_file, key_file) if cert_file and key_file else None
    if certificate is None and not is_loopback(host):
        raise UserError(f"the channel on {host} would not be encrypted: name a certificate and its key")
    return certificate


@contextlib.asynccontextmanager
async def serving(
    app: FastAPI,
    host: str,
    port: int,
    *,
    auth: Auth,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    unauthenticated: bool = False,
    reload_s: float = RELOAD_S,
) -> AsyncIterator[int]:
    """Serve `app`; gives the port. `auth` is what the app was made with. Raises UserError as `checked` does."""
    certificate = checked(host, cert_file, key_file, open_to_all=auth is anyone, unauthenticated=unauthenticated)
    sock = _listen(host, port)
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, log_level="warning",
        server_header=False, date_header=False, proxy_headers=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    config.load()
    config.ssl = certificate.context if certificate else None
    server = _Uvicorn(config)
    tasks = [asyncio.create_task(server.serve([sock]))]
    if certificate:
        tasks.append(asyncio.create_task(certificate.watch(reload_s)))
    try:
        yield sock.getsockname()[1]
    finally:
        setattr(app.state, CLOSING, True)
        server.should_exit = True
        await asyncio.wait(tasks[:1], timeout=5.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sock.close()


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise UserError(
            f"the channel cannot listen on {host}:{port} ({error.strerror}): choose another port"
        ) from error
    return sock


def _why(error: OSError) -> str:
    return error.strerror or str(error)
