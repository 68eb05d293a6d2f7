"""The watches of PlacementPolicies and namespaces, and what they are worth as long as they last."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from kubernetes.aio.client import ApiClient

from nodewise.extender.service import Service
from nodewise.kube.api import custom_call, namespace_call
from nodewise.kube.optional import OptionalResource
from nodewise.kube.placement import (
    GROUP,
    PLURAL,
    VERSION,
    PlacementPolicy,
    SeenNamespace,
    placement_policy,
    seen_namespace,
)

UNREAD = "placement-policies-not-read"


class PlacementWatch:
    """Feeds `service.modes`, and loads what its PlacementPolicies ask for. Nothing here makes an extender unready."""

    def __init__(self, api: ApiClient, service: Service) -> None:
        modes = service.modes
        self._courses = service.courses
        self._policies = OptionalResource[PlacementPolicy](
            custom_call(api, GROUP, VERSION, PLURAL), placement_policy, modes.replace_policies, modes.policy_event,
            name="placement_policies",
        )  # fmt: skip
        self._namespaces = OptionalResource[SeenNamespace](
            namespace_call(api), seen_namespace, modes.replace_namespaces, modes.namespace_event, name="namespaces"
        )
        modes.unread = lambda: "" if self._policies.answered.is_set() else UNREAD
        service.telemetry.gauge(
            "placement_policies", "PlacementPolicies that are followed", lambda: len(modes.policies)
        )
        for resource in (self._policies, self._namespaces):
            self._gauges(service, resource)

    def says(self) -> dict[str, str]:
        """How old what is known is, for people."""
        return {resource.informer.name: resource.says() for resource in (self._policies, self._namespaces)}

    async def wait(self, timeout_s: float) -> None:
        """Until both were read, or were refused, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._policies.answered.wait()
                await self._namespaces.answered.wait()

    async def run(self) -> None:
        """Watch and load for ever."""
        async with asyncio.TaskGroup() as group:
            for job in (self._policies.run(), self._namespaces.run(), self._courses.run()):
                group.create_task(job)

    def _gauges(self, service: Service, resource: OptionalResource[Any]) -> None:
        gauge, name = service.telemetry.gauge, resource.informer.name
        what = name.replace("_", " ")
        gauge(f"{name}_age_seconds", f"Time since the API server spoke of {what}", lambda: resource.age_s)
        gauge(f"{name}_refused", f"1 while {what} cannot be read", lambda: float(bool(resource.refused)))
