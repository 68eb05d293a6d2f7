"""Where the operator is, and how an extender proves there who it is."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nodewise.core.errors import UserError


@dataclass(slots=True)
class Endpoint:
    """The operator's address. Raises UserError for one that would send decisions and a token in clear text."""

    url: str
    token_file: Path | None = None
    """Read anew for each request: projected service-account tokens rotate."""
    ca_file: Path | None = None
    """Certificates that the operator's must be signed by; without it those of the system. Read again when it changes.
    """
    _context: ssl.SSLContext | None = field(default=None, init=False)
    _stamp: tuple[int, int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise UserError(
                f"the operator's URL {self.url} cannot be read ({error}): write https://HOST:PORT"
            ) from error
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
            raise UserError(f"the operator's URL {self.url} is none: write https://HOST:PORT")
        if parts.scheme == "http" and not is_loopback(host):
            raise UserError(
                f"the operator's URL {self.url} is not encrypted and {host} is another machine: write https://…"
            )

    def headers(self) -> dict[str, str]:
        """Of the next request. Raises OSError if the token cannot be read."""
        if self.token_file is None:
            return {}
        return {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}

    def tls(self) -> ssl.SSLContext | bool:
        """For the next connection. Raises OSError (ssl.SSLError is one) if the certificates cannot be used."""
        if self.ca_file is None or self.url.startswith("http://"):
            return True
        found = self.ca_file.stat()
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if self._context is None or stamp != self._stamp:
            self._context, self._stamp = ssl.create_default_context(cafile=self.ca_file), stamp
        return self._context


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
