"""What the service accounts of our parts must be allowed to do, and what they must not be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.parts import Parts

Json = dict[str, Any]


@dataclass(frozen=True)
class Right:
    """One verb of one account; `wanted` is False for what is too much."""

    account: str
    """namespace/name"""
    verb: str
    group: str
    resource: str
    """With a subresource as `pods/binding`."""
    namespace: str = ""
    """Where; empty is everywhere."""
    name: str = ""
    """Of the one object that is meant; empty is any."""
    wanted: bool = True

    def review(self) -> Json:
        """The SubjectAccessReview that asks for it."""
        namespace, _, name = self.account.partition("/")
        resource, _, sub = self.resource.partition("/")
        asked = {"verb": self.verb, "group": self.group, "resource": resource, "subresource": sub,
                 "namespace": self.namespace, "name": self.name}  # fmt: skip
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{namespace}:{name}",
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
                "resourceAttributes": {key: value for key, value in asked.items() if value},
            },
        }

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        group = f".{self.group}" if self.group else ""
        resource, slash, sub = self.resource.partition("/")
        return f"{self.verb} {resource}{group}{slash}{sub}{where}"


_OURS = "nodewise.dev"
_READS = ("list", "watch")

_OPERATOR = (
    *((verb, "", resource) for resource in ("nodes", "pods") for verb in _READS),
    *((verb, _OURS, resource) for resource in ("nodeprofiles", "placementpolicies") for verb in _READS),
    ("create", _OURS, "nodeprofiles"), ("patch", _OURS, "nodeprofiles"), ("patch", _OURS, "nodeprofiles/status"),
    ("patch", _OURS, "placementpolicies/status"),
)  # fmt: skip
_EXTENDER = (
    *((verb, "", resource) for resource in ("nodes", "pods", "namespaces") for verb in _READS),
    *((verb, _OURS, resource) for resource in ("nodeprofiles", "placementpolicies") for verb in _READS),
)
_SCHEDULER = (
    *((verb, "", resource) for resource in ("nodes", "pods") for verb in _READS),
    ("create", "", "pods/binding"), ("patch", "", "pods/status"), ("create", "events.k8s.io", "events"),
)  # fmt: skip
_TOO_MUCH = (
    ("*", "*", "*"), ("get", "", "secrets"), ("create", "", "pods"), ("create", "", "pods/exec"),
    ("delete", "", "nodes"), ("patch", "", "nodes"), ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
)  # fmt: skip
_TOO_MUCH_FOR_WATCHERS = (("delete", "", "pods"), ("patch", "", "pods"), ("create", "", "pods/binding"))
"""Of those that only watch; kube-scheduler itself must bind, and delete what it preempts."""


def accounts(parts: Parts) -> dict[str, str]:
    """The accounts, `operator`, `scheduler` and `extender` → namespace/name, of the parts that are there."""
    made: dict[str, str] = {}
    for role, pods in ((found.OPERATOR, parts.operators), (found.SCHEDULER, parts.schedulers)):
        for pod in pods[:1]:
            made[role] = f"{pod['metadata']['namespace']}/{pod['spec'].get('serviceAccountName') or 'default'}"
    scheduler = made.get(found.SCHEDULER, "")
    if scheduler.endswith("-scheduler"):  # one pod has one account: the extender's token comes from a Secret
        made["extender"] = scheduler.removesuffix("-scheduler") + "-extender"
    return made


def asked_of(parts: Parts) -> list[Right]:
    """Every right to be looked at."""
    return [*_asked_of(parts)]


def _asked_of(parts: Parts) -> Iterator[Right]:
    for role, account in accounts(parts).items():
        wanted = {found.OPERATOR: _OPERATOR, found.SCHEDULER: _SCHEDULER}.get(role, _EXTENDER)
        for verb, group, resource in wanted:
            yield Right(account, verb, group, resource)
        too_much = _TOO_MUCH if role == found.SCHEDULER else (*_TOO_MUCH, *_TOO_MUCH_FOR_WATCHERS)
        for verb, group, resource in too_much:
            yield Right(account, verb, group, resource, wanted=False)
    namespace, lease = parts.lease or ("", "")
    if lease and found.SCHEDULER in (held := accounts(parts)):
        for verb in ("get", "update"):
            yield Right(held[found.SCHEDULER], verb, "coordination.k8s.io", "leases", namespace, lease)
