"""A running kube-scheduler, and what its /metrics say."""

import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from nodewise_simulator.controlplane.process import Process

_SAMPLE = re.compile(r"^(\w+(?:\{.*\})?) (\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_UNCHECKED = ssl._create_unverified_context()  # noqa: S323 - self-signed certificates on loopback


def fetch(url: str, token: str | None = None, timeout_s: float = 5.0) -> str | None:
    """The body of a 200 reply, None for any other and while nothing listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own address
        with urllib.request.urlopen(request, timeout=timeout_s, context=_UNCHECKED) as reply:  # noqa: S310
            body: bytes = reply.read()
            return body.decode() if reply.status == 200 else None
    except OSError:  # HTTPError and URLError are OSErrors
        return None


@dataclass(frozen=True)
class Scheduler:
    """Handle of one kube-scheduler process."""

    process: Process
    url: str
    token: str

    def metrics(self) -> dict[str, float]:
        """All samples by `name{labels}` as the scheduler writes them; see `total`."""
        text = fetch(f"{self.url}/metrics", self.token)
        if text is None:
            raise RuntimeError(
                f"{self.process.name} does not answer /metrics; its log ends:\n{self.process.log_tail()}"
            )
        return parse_metrics(text)

    def stop(self) -> None:
        """End the process."""
        self.process.stop()


def parse_metrics(text: str) -> dict[str, float]:
    r"""Samples of a page in Prometheus' text format, by everything before the value.

    >>> parse_metrics('# TYPE a counter\na{b="c d"} 3\nup 1e+00\n')
    {'a{b="c d"}': 3.0, 'up': 1.0}
    """
    return {found[1]: float(found[2]) for found in _SAMPLE.finditer(text)}


def total(samples: Mapping[str, float], name: str, **labels: str) -> float:
    """The sum of all samples of one metric that carry these labels; 0 when there is none.

    >>> total({'a{b="c",d="e"}': 3.0, 'a{b="x",d="e"}': 4.0, "ab": 5.0}, "a", d="e")
    7.0
    """
    wanted = labels.items()
    return sum(
        value
        for key, value in samples.items()
        if key.partition("{")[0] == name and wanted <= dict(_LABEL.findall(key)).items()
    )
