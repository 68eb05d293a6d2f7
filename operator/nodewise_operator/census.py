"""Who is there, by uid: a paged list of metadata only, for a watch that does not tell who left while it was cut.

With `Accept: …;as=PartialObjectMetadataList` the API server sends metadata alone ("Receiving resources as Tables",
Kubernetes API Concepts, and `k8s.io/apimachinery/pkg/apis/meta/v1`); what sends whole objects all the same is read
just so.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

ACCEPT = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
PAGE = 500
TIMEOUT_S = 60.0


class _Meta(msgspec.Struct):
    uid: str
    version: str = msgspec.field(name="resourceVersion", default="0")


class _Item(msgspec.Struct):
    metadata: _Meta


class _ListMeta(msgspec.Struct):
    more: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Item] | None = None


_page = msgspec.json.Decoder(_Page).decode


class CensusError(Exception):
    """It was not finished: HTTP status or what went wrong on the wire. Try again later."""


async def census(session: aiohttp.ClientSession, server: str, resource: str) -> dict[str, int]:
    """ResourceVersion of every object of `nodes` or `pods` there is, by uid. Raises CensusError."""
    found: dict[str, int] = {}
    asked: dict[str, Any] = {"limit": str(PAGE)}
    try:
        while True:
            async with session.get(
                f"{server}/api/v1/{resource}",
                params=asked,
                headers={"Accept": ACCEPT},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as reply:
                body = await reply.read()
                if reply.status == 410 and "continue" in asked:
                    found, asked = {}, {"limit": str(PAGE)}
                    continue
                if reply.status in (401, 403):
                    raise CensusError(
                        f"the API server lets nobody of our name list {resource} (HTTP {reply.status}): grant get, "
                        "list and watch on nodes and pods, cluster-wide"
                    )
                if reply.status != 200:
                    raise CensusError(f"HTTP {reply.status}: {body[:200].decode(errors='replace')}")
            page = _page(body)
            found.update((item.metadata.uid, int(item.metadata.version)) for item in page.items or ())
            if not page.metadata.more:
                return found
            asked = {"limit": str(PAGE), "continue": page.metadata.more}
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError, ValueError) as error:
        raise CensusError(f"{type(error).__name__}: {error}") from error
