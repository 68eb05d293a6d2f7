"""Which PlacementPolicy applies to a pod. Told by watches; exactly one applies, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nodewise.kube.placement import Mode, PlacementPolicy, SeenNamespace

UNKNOWN_NAMESPACE = "namespace-unknown"


@dataclass(frozen=True, slots=True)
class Applied:
    """What holds for one pod."""

    mode: Mode
    policy: PlacementPolicy | None = None
    """The one that applies; None if none does."""
    unsure: str = ""
    """Why nobody can tell, so that no opinion is safe; empty if one can."""


class Modes:
    """All PlacementPolicies and the labels of all namespaces; `default` is the mode of pods that no policy selects.

    `changed` is called after the policies have changed. Owned by the event loop.
    """

    def __init__(self, default: Mode, changed: Callable[[], None] = lambda: None) -> None:
        self.default = default
        self.unread: Callable[[], str] = lambda: ""  # why the policies are not known yet; empty if they are
        self._changed = changed
        self._policies: dict[str, PlacementPolicy] = {}  # by name
        self._namespaces: dict[str, Mapping[str, str]] = {}  # labels by name
        self._of_namespace: dict[str, list[tuple[PlacementPolicy, bool]]] = {}  # best first, and whether it is sure

    @property
    def policies(self) -> tuple[PlacementPolicy, ...]:
        """All there are, in the order in which they are asked."""
        return tuple(sorted(self._policies.values(), key=lambda policy: policy.rank))

    def of(self, namespace: str, labels: Mapping[str, str]) -> Applied:
        """What holds for a pod of `namespace` with these `labels`."""
        if unread := self.unread():
            return Applied(self.default, None, unread)
        for policy, sure in self._candidates(namespace):
            if policy.selects_pod(labels):
                return Applied(policy.mode, policy, "" if sure else UNKNOWN_NAMESPACE)
        return Applied(self.default)

    def _candidates(self, namespace: str) -> list[tuple[PlacementPolicy, bool]]:
        found = self._of_namespace.get(namespace)
        if found is None:
            labels = self._namespaces.get(namespace)
            told = ((policy, policy.selects_namespace(namespace, labels)) for policy in self.policies)
            found = [(policy, yes is True) for policy, yes in told if yes is not False]
            self._of_namespace[namespace] = found
        return found

    # --- from the watches

    def replace_policies(self, policies: list[PlacementPolicy]) -> None:
        """All policies there are."""
        self._policies = {policy.name: policy for policy in policies}
        self._of_namespace.clear()
        self._changed()

    def policy_event(self, kind: str, policy: PlacementPolicy) -> None:
        """One change of a policy."""
        if kind != "DELETED":
            self._policies[policy.name] = policy
        elif (known := self._policies.get(policy.name)) and known.uid == policy.uid:
            del self._policies[policy.name]
        self._of_namespace.clear()
        self._changed()

    def replace_namespaces(self, namespaces: list[SeenNamespace]) -> None:
        """All namespaces there are."""
        self._namespaces = {each.name: each.labels for each in namespaces}
        self._of_namespace.clear()

    def namespace_event(self, kind: str, namespace: SeenNamespace) -> None:
        """One change of a namespace."""
        if kind == "DELETED":
            self._namespaces.pop(namespace.name, None)
        else:
            self._namespaces[namespace.name] = namespace.labels
        self._of_namespace.clear()
