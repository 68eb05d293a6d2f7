"""Which nodes are set aside for our pods: the label and taint that the release's admission policy writes into them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, Refused, collection

Json = dict[str, Any]

ADMISSION = "admissionregistration.k8s.io"
_QUOTED = r'("(?:[^"\\]|\\.)*")'
_SCHEDULER = re.compile(rf'path:\s*"/spec/schedulerName",\s*value:\s*{_QUOTED}')
_TOLERATION = re.compile(
    rf'Object\.spec\.tolerations\{{\s*key:\s*{_QUOTED},\s*operator:\s*"Equal",\s*value:\s*{_QUOTED}'
)


class Dedicated(NamedTuple):
    """Key and value of that label and taint."""

    key: str
    value: str


DEDICATED = Dedicated(found.DEDICATED, "true")
"""Unless the chart was told another."""


async def dedicated(cluster: Cluster, scheduler_name: str) -> Dedicated | None:
    """What the admission policy for that scheduler adds; None if it adds nothing (shared nodes), and the chart's own
    default if there is no such policy. Raises Refused.
    """
    return read(await policies(cluster), scheduler_name)


async def policies(cluster: Cluster) -> list[Json]:
    """MutatingAdmissionPolicies that are ours; none where the kind is not there. Raises Refused."""
    return await ours(cluster, "mutatingadmissionpolicies")


async def ours(cluster: Cluster, resource: str) -> list[Json]:
    """Objects of a kind of admission that are ours, in whatever version the cluster has it. Raises Refused."""
    for version in ("v1", "v1beta1"):
        path = collection(resource, group=f"{ADMISSION}/{version}")
        try:
            return await cluster.listed(path, f"list {resource}", labelSelector=found.PART_OF)
        except Refused as refused:
            if refused.status != 404:
                raise
    return []


def read(policies: list[Json], scheduler_name: str) -> Dedicated | None:
    """As `dedicated`, of policies that were listed: their CEL is the chart's, with JSON strings in it."""
    for policy in policies:
        for expression in _expressions(policy):
            named = _SCHEDULER.search(expression)
            if named and json.loads(named[1]) == scheduler_name:
                added = _TOLERATION.search(expression)
                return Dedicated(json.loads(added[1]), json.loads(added[2])) if added else None
    return DEDICATED


def sent_to(policies: list[Json]) -> set[str]:
    """The schedulers that policies which were listed send pods to."""
    named = (_SCHEDULER.search(expression) for policy in policies for expression in _expressions(policy))
    return {str(json.loads(one[1])) for one in named if one}


def _expressions(policy: Json) -> Iterator[str]:
    for mutation in (policy.get("spec") or {}).get("mutations") or ():
        yield str((mutation.get("jsonPatch") or {}).get("expression") or "")
