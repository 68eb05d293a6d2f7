"""Nodes and pods from our own informer: a list after a gap is compared exactly, so no census is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from nodewise.kube.api import Call
from nodewise.kube.informer import Informer
from nodewise_operator.intake import Intake, node_item, pod_item


class InformerSource:
    """Watches both resources and feeds the intake."""

    def __init__(self, intake: Intake, node_call: Call, pod_call: Call, count: Callable[[str, str], None]) -> None:
        self._heard_s = {"nodes": float("nan"), "pods": float("nan")}  # epoch, when a list has to be made anew
        self._intake = intake
        self.trouble = ""  # informers log what is in their way
        self.informers: dict[str, Informer[Any]] = {
            resource: Informer(
                partial(self._asked, resource, call, count),
                project,
                partial(self._replaced, resource),
                partial(intake.event, resource),
                name=resource,
            )
            for resource, call, project in (("nodes", node_call, node_item), ("pods", pod_call, pod_item))
        }

    async def run(self) -> None:
        """Until cancelled. Nodes first: what pods teach depends on where they run."""
        nodes, pods = self.informers["nodes"], self.informers["pods"]
        async with asyncio.TaskGroup() as group:
            group.create_task(nodes.run())
            await nodes.synced.wait()
            group.create_task(pods.run())

    def age_s(self, resource: str) -> float:
        """Time since the API server spoke of it; inf before that."""
        return time.monotonic() - self.informers[resource].last_event_s

    def seen_until_s(self) -> float:
        """Epoch time up to which every event of a pod was handed on."""
        return time.time() - self.age_s("pods")

    async def _asked(self, resource: str, call: Call, count: Callable[[str, str], None], **asked: Any) -> Any:
        watches = asked.get("watch", False)
        count("watch" if watches else "list", resource)
        if not watches and "_continue" not in asked:
            self._heard_s[resource] = time.time() - self.age_s(resource)
        return await call(**asked)

    def _replaced(self, resource: str, items: list[Any]) -> None:
        self._intake.replaced(resource, items, self._heard_s[resource])
