"""NodeProfiles, watched for what they override; apart from `overrides`, since the client takes its time to import."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kubernetes.aio.client import ApiClient

from nodewise.kube.api import custom_call
from nodewise.kube.optional import OptionalResource
from nodewise.kube.overrides import Override, override

GROUP, VERSION, PLURAL = "nodewise.dev", "v1alpha1", "nodeprofiles"


class OverrideWatch:
    """Keeps whoever asks told of all overrides there are; without NodeProfiles in the cluster there are none."""

    def __init__(self, api: ApiClient, told: Callable[[Iterable[Override]], None]) -> None:
        self._told = told
        self._known: dict[str, Override] = {}  # by name of the NodeProfile
        self._resource = OptionalResource[Override](
            custom_call(api, GROUP, VERSION, PLURAL), override, self._replaced, self._changed, name="node_profiles"
        )

    async def run(self) -> None:
        """Watch for ever; the owner cancels it."""
        await self._resource.run()

    def _replaced(self, all_of_them: list[Override]) -> None:
        self._known = {each.profile: each for each in all_of_them}
        self._told(self._known.values())

    def _changed(self, kind: str, one: Override) -> None:
        before = self._known.pop(one.profile, None)
        if kind != "DELETED":
            self._known[one.profile] = one
        if before != self._known.get(one.profile):  # most changes are of what the operator writes into the status
            self._told(self._known.values())
