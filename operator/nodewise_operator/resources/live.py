"""The objects of one of our kinds as the API server has them, and server-side apply to them.

The kind need not be installed and its objects need not be ours to write: that is told once, and tried again later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from functools import partial
from typing import Any

from aiohttp import ClientError
from kubernetes.aio.client import ApiClient, ApiException, CustomObjectsApi

from nodewise.kube.optional import OptionalResource
from nodewise_operator.resources.base import GROUP, VERSION, Resource

log = logging.getLogger(__name__)

Json = dict[str, Any]
MANAGER = "nodewise-operator"
"""Our field manager: what others set in an object stays theirs."""
_APPLY = "application/apply-patch+yaml"
_TIMEOUT_S = 30.0


class Live:
    """One cluster-scoped kind. `objects` is by name, and current while `run` runs and `readable` holds."""

    def __init__(self, api: ApiClient, kind: type[Resource], *, again_s: float = 60.0) -> None:
        self.kind = kind
        self.objects: dict[str, Json] = {}
        self.changed = asyncio.Event()
        """Set by every event; whoever waits for it clears it."""
        self._custom = CustomObjectsApi(api)
        call = partial(self._custom.list_cluster_custom_object_without_preload_content, GROUP, VERSION, kind.plural)
        self._watch = OptionalResource(call, _as_is, self._replace, self._event, name=kind.plural, again_s=again_s)
        self._again_s, self._refused_s, self._said = again_s, -math.inf, ""

    async def run(self) -> None:
        """Watch for ever; the owner cancels it."""
        await self._watch.run()

    async def answered(self) -> None:
        """Wait until the API server said what there is, or that it does not say."""
        await self._watch.answered.wait()

    @property
    def readable(self) -> bool:
        """Whether the kind is installed and may be read."""
        return self._watch.answered.is_set() and not self._watch.refused

    async def apply(self, name: str, fields: Json, *, status: bool = False) -> bool:
        """Make these fields so, by server-side apply, and take back what we set before and is not among them.

        False if it was refused: without the right nothing is tried for a while.
        """
        if time.monotonic() - self._refused_s < self._again_s:
            return False
        body = self.kind.head() | {"metadata": {"name": name}} | fields
        call = self._custom.patch_cluster_custom_object_status if status else self._custom.patch_cluster_custom_object
        try:
            await call(
                GROUP, VERSION, self.kind.plural, name, body, field_manager=MANAGER, force=True, _content_type=_APPLY,
                _request_timeout=_TIMEOUT_S,
            )  # fmt: skip
        except ApiException as error:
            if error.status == 403:
                self._refused_s = time.monotonic()
            self.complain(f"{error.status}: {_message(error)}")
            return False
        except (ClientError, TimeoutError) as error:
            self.complain(str(error) or type(error).__name__)
            return False
        self._said = ""
        return True

    def complain(self, why: str) -> None:
        """Say why it is not written, once."""
        if why != self._said:
            log.warning("%s cannot be written (%s); trying again", self.kind.plural, why)
        self._said = why

    def _replace(self, objects: list[Json]) -> None:
        self.objects = {each["metadata"]["name"]: each for each in objects}
        self.changed.set()

    def _event(self, kind: str, obj: Json) -> None:
        name = obj["metadata"]["name"]
        if kind != "DELETED":
            self.objects[name] = obj
        elif self.objects.get(name, {}).get("metadata", {}).get("uid") == obj["metadata"]["uid"]:
            del self.objects[name]
        self.changed.set()


def _as_is(obj: Json) -> Json:
    return obj


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
