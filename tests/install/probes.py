"""A container's probes, run as a kubelet runs them: from the node, against the pod's address."""

import asyncio
import contextlib
import ssl
from typing import Any

import aiohttp
from tests.install.container import enter

Json = dict[str, Any]
_UNCHECKED = ssl._create_unverified_context()  # a kubelet checks no certificate of a probe either


async def succeeds(probe: Json, container: Json, pod_ip: str, pid: int) -> bool:
    """One try."""
    timeout_s = probe.get("timeoutSeconds", 1)
    with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(timeout_s):
            if http := probe.get("httpGet"):
                return await _http(http, container, pod_ip)
            if tcp := probe.get("tcpSocket"):
                _, writer = await asyncio.open_connection(tcp.get("host") or pod_ip, _port(tcp["port"], container))
                writer.close()
                return True
            if command := probe.get("exec"):
                child = await asyncio.create_subprocess_exec(*enter(pid, command["command"]))
                return await child.wait() == 0
            raise NotImplementedError(f"probe {probe}")
    return False


async def _http(http: Json, container: Json, pod_ip: str) -> bool:
    scheme, host = http.get("scheme", "HTTP").lower(), http.get("host") or pod_ip
    url = f"{scheme}://{host}:{_port(http['port'], container)}{http.get('path', '/')}"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=_UNCHECKED, allow_redirects=False) as reply:
        return 200 <= reply.status < 400


def _port(port: int | str, container: Json) -> int:
    if isinstance(port, int):
        return port
    return next(int(each["containerPort"]) for each in container.get("ports") or () if each.get("name") == port)
