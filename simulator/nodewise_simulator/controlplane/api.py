"""The few Kubernetes API calls that the harness needs, on raw JSON dicts."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

Json = dict[str, Any]
CONNECTIONS = 16  # creating is fastest here at about this many on two cores; more only queue inside the API server
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
_LONGEST_EVENT_BYTES = 4 << 20  # aiohttp refuses a longer line of a watch


class ApiError(Exception):
    """The API server's refusal: HTTP status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """An async client of one API server with a bearer token; certificates are not checked, it is for loopback."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=False),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=_LONGEST_EVENT_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """One request, decoded; raises ApiError for every status that is not 2xx."""
        data = None if body is None else msgspec.json.encode(body)
        async with self._session.request(
            method, path, data=data, params=params, headers={"Content-Type": content_type}
        ) as reply:
            raw = await reply.read()
        answer: Json = {}
        if raw.startswith(b"{"):
            answer = msgspec.json.decode(raw)
        if reply.status >= 300:
            raise ApiError(reply.status, str(answer.get("message") or raw[:200].decode(errors="replace")))
        return answer

    async def create_all(self, objects: Iterable[tuple[str, Json]]) -> list[Json]:
        """POST every object to its path, 16 at a time; replies in the order of `objects`."""
        return await asyncio.gather(*(self.call("POST", path, each) for path, each in objects))

    async def events(
        self, path: str, *, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """(type, object) for ever: first one "SYNC" with the whole list, then ADDED, MODIFIED and DELETED as they come.

        The API server ends a watch after some time, and refuses to resume one from too long ago: then a new list
        comes, as a new "SYNC".
        """
        asked = dict(params or {})
        while True:
            now = await self.call("GET", path, params=asked)
            yield "SYNC", now
            version = now["metadata"]["resourceVersion"]
            watch = {**asked, "watch": "true", "resourceVersion": version}
            async with self._session.get(path, params=watch) as reply:
                if reply.status != 200:
                    raise ApiError(reply.status, await reply.text())
                try:
                    while line := await reply.content.readline():
                        event = msgspec.json.decode(line)
                        if event["type"] == "ERROR":  # 410 Gone, mostly
                            break
                        yield event["type"], event["object"]
                except aiohttp.ClientPayloadError:  # the connection ended in the middle
                    continue


def pods_path(namespace: str | None) -> str:
    """The collection of one namespace's pods, or of all."""
    return "/api/v1/pods" if namespace is None else f"/api/v1/namespaces/{namespace}/pods"
