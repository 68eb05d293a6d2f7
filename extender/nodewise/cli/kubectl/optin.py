"""The label that sends a namespace's new pods to our scheduler: who has it, whether it acts, and taking it off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, Refused, collection, object_path
from nodewise.cli.kubectl.dedicated import ours, policies, sent_to
from nodewise.core.errors import UserError

if TYPE_CHECKING:
    from nodewise.cli.kubectl.releasing import Release

Json = dict[str, Any]

_LABEL_S, _POLL_S = 15.0, 0.2


async def bindings(cluster: Cluster) -> list[Json]:
    """Bindings of our MutatingAdmissionPolicies; without one the label does nothing. Raises Refused."""
    return await ours(cluster, "mutatingadmissionpolicybindings")


async def labelled(cluster: Cluster, namespace: str | None) -> list[str]:
    """Namespaces that have it: of one, or of all. Raises Refused."""
    if namespace is None:
        spaces = await cluster.listed(collection("namespaces"), "list namespaces")
    else:
        spaces = [await cluster.get(object_path("namespaces", namespace), f"get namespace {namespace}")]
    return found.namespaces_opted_in(spaces)


async def another_is_meant(cluster: Cluster, scheduler_name: str) -> str:
    """The scheduler that the label sends pods to, if that is known and not this one; else empty.

    A second Nodewise in the cluster has pods name it themselves: the label is the first one's.
    """
    try:
        named = sent_to(await policies(cluster))
    except Refused:
        return ""
    return "" if scheduler_name in named else ", ".join(sorted(named))


async def require(cluster: Cluster, namespace: str) -> None:
    """Raises UserError if there is no such namespace; whoever may not look is believed."""
    try:
        await cluster.get(object_path("namespaces", namespace), f"get namespace {namespace}")
    except Refused as refused:
        if refused.status == 404:
            raise UserError(
                f"there is no namespace {namespace}: kubectl get namespaces shows those that there are"
            ) from None
        if refused.status != 403:
            raise


async def take_off(cluster: Cluster, release: Release, taken: Sequence[str], stuck: Sequence[Json]) -> None:
    """Take the label off these namespaces, and wait until their new pods come to us no more. Raises UserError."""
    for name in taken:
        patch = {"metadata": {"labels": {found.OPT_IN: None}}}
        await cluster.ask(
            "PATCH", object_path("namespaces", name), f"patch namespace {name}", patch,
            content_type="application/merge-patch+json",
        )  # fmt: skip
    for _ in range(int(_LABEL_S / _POLL_S)):
        left = [name for name in await release.still_taken(stuck) if name in taken]
        if not left:
            return
        await asyncio.sleep(_POLL_S)  # admission goes by a cache, which learns of the label a little later
    raise UserError(
        f"the label is off, but new pods of {', '.join(left)} still go to {release.name}: something else sends them, "
        "such as another admission policy or webhook"
    )
