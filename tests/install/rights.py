"""What service accounts may do by RBAC, and what they did by the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource, as one role grants it."""

    role: str
    verb: str
    resource: (
        str  # resource/subresource, with .group behind it if there is one: pods/binding, leases.coordination.k8s.io
    )
    name: str  # empty: every name
    namespace: str  # empty: every namespace

    def covers(self, did: Did) -> bool:
        """Whether this is what allowed a request."""
        return (
            (self.verb, self.resource) == (did.verb, did.resource)
            and self.name in ("", did.name)
            and self.namespace in ("", did.namespace)
        )


@dataclass(frozen=True, order=True)
class Did:
    """A kind of request that was seen."""

    verb: str
    resource: str
    name: str
    namespace: str


def granted(call: Any, account: str, namespace: str) -> set[Right]:
    """All rights of `account` (a service account of `namespace`) by the bindings that name it."""
    found: set[Right] = set()
    for kind in ("clusterrolebindings", "rolebindings"):
        for binding in call("GET", f"{RBAC}/{kind}")["items"]:
            subjects = binding.get("subjects") or ()
            if not any(s["name"] == account and s.get("namespace") == namespace for s in subjects):
                continue
            where = binding["metadata"].get("namespace", "")
            ref = binding["roleRef"]
            inside = f"namespaces/{where}/roles" if ref["kind"] == "Role" else "clusterroles"
            role = call("GET", f"{RBAC}/{inside}/{ref['name']}")
            found |= {right for rule in role.get("rules") or () for right in _rights(ref["name"], rule, where)}
    return found


def _rights(role: str, rule: Json, where: str) -> Iterator[Right]:
    for group in rule.get("apiGroups", ()):
        for resource in rule.get("resources", ()):
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames") or ("",):
                    yield Right(role, verb, f"{resource}.{group}" if group else resource, name, where)


def did(events: Iterable[Json]) -> set[Did]:
    """What these audit events asked for; requests about no resource, such as /apis, are left out."""
    found = set()
    for event in events:
        ref = event.get("objectRef") or {}
        if "resource" not in ref:
            continue
        resource = ref["resource"] + (f"/{ref['subresource']}" if "subresource" in ref else "")
        resource += f".{ref['apiGroup']}" if ref.get("apiGroup") else ""
        found.add(Did(event["verb"], resource, ref.get("name", ""), ref.get("namespace", "")))
    return found
