"""What the doctor looks at, asked for all at once; where we may not look, the refusal stands in its place."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nodewise.cli.kubectl import optin, workloads
from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, Json, Refused, collection, gathered, object_path
from nodewise.cli.kubectl.dedicated import DEDICATED, Dedicated, dedicated
from nodewise.cli.kubectl.parts import Holder, Parts
from nodewise.cli.kubectl.profiles import GROUP
from nodewise.cli.kubectl.rights import Right, asked_of
from nodewise.cli.kubectl.workloads import Idle, Missing
from nodewise.core.annotations import PREFIX
from nodewise.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """What one running part says of itself."""

    pod: Json
    ready: tuple[int, Json] | UserError
    """Status and answer of /readyz."""
    metrics: dict[str, float] | UserError


@dataclass(frozen=True)
class Facts:
    """A cluster as its doctor sees it; `known` takes the refusals out."""

    now_s: float
    parts: Parts
    version: Json | UserError
    crds: dict[str, Json | None] | UserError
    """By name; None for one that is not there. Karpenter's is among them."""
    namespaces: list[Json] | UserError
    nodes: list[Json] | UserError
    pods: list[Json] | UserError
    """All, as `slim_pod` leaves them."""
    policies: list[Json] | UserError | None
    """PlacementPolicies; None where the kind is not installed."""
    opt_in: list[Json] | UserError
    """Bindings of MutatingAdmissionPolicies that are ours."""
    holder: Holder | UserError | None
    operators: list[Told]
    extenders: list[Told]
    autoscalers: list[str] | UserError
    """Names of what seems to add nodes."""
    rights: dict[Right, bool] | UserError = field(default_factory=dict)
    dedicated: Dedicated | UserError | None = DEDICATED
    """Label and taint of our nodes; None where pods of ours may go to any."""
    idle: list[Idle] | UserError = field(default_factory=list)
    """Deployments of ours without pods."""
    missing: list[Missing] | UserError = field(default_factory=list)
    """Secrets that pods of ours wait for."""


def known(fact: T | UserError) -> T:
    """The fact, or its refusal raised."""
    if isinstance(fact, UserError):
        raise fact
    return fact


async def gather(cluster: Cluster, kinds: Sequence[str], system: str = "") -> Facts:
    """Ask for everything; `kinds` are the names of our CRDs. Raises UserError if the API server is not there."""
    parts, version = await found.find(cluster, system), await cluster.get("/version", "get /version")
    asked: list[Coroutine[Any, Any, Any]] = [
        _crds(cluster, (*kinds, KARPENTER)),
        cluster.listed(collection("namespaces"), "list namespaces"),
        cluster.listed(collection("nodes"), "list nodes", slim_node),
        cluster.pods(None, slim_pod),
        _or_none(cluster.listed(collection("placementpolicies", group=GROUP), "list placementpolicies")),
        optin.bindings(cluster),
        found.lease_holder(cluster, parts),
        _autoscalers(cluster),
        _rights(cluster, parts),
        dedicated(cluster, parts.scheduler_name),
        workloads.idle(cluster, parts, system),
        workloads.missing(cluster, parts),
    ]
    (
        crds, namespaces, nodes, pods, policies, opt_in, holder, autoscalers, rights, ours, idle, missing,
    ) = await gathered(asked)  # fmt: skip
    running = [pod for pod in (*parts.operators, *parts.schedulers) if found.phase(pod) == "Running"]
    told = [_told(cluster, pod, _port(parts, pod)) for pod in running]
    answers = [answer for answer in await gathered(told) if isinstance(answer, Told)]
    return Facts(
        cluster.now_s, parts, version, crds, namespaces, nodes, pods, policies, opt_in, holder,
        [one for one in answers if one.pod in parts.operators], [one for one in answers if one.pod in parts.schedulers],
        autoscalers, rights, ours, idle, missing,
    )  # fmt: skip


KARPENTER = "nodepools.karpenter.sh"


def slim_pod(pod: Json) -> Json:
    """A pod as far as the checks look at it: there may be a hundred thousand."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    kept = {key: meta[key] for key in ("name", "namespace", "creationTimestamp", "deletionTimestamp") if meta.get(key)}
    for said in ("annotations", "labels"):
        kept[said] = {k: v for k, v in (meta.get(said) or {}).items() if k.startswith(PREFIX)}
    kept["ownerReferences"] = [{"kind": owner["kind"]} for owner in meta.get("ownerReferences") or ()]
    return {
        "metadata": kept,
        "spec": {key: spec[key] for key in ("nodeName", "schedulerName") if spec.get(key)},
        "status": {"phase": status.get("phase")},
    }


def slim_node(node: Json) -> Json:
    """A node as far as the checks look at it."""
    meta = node["metadata"]
    return {
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {"taints": (node.get("spec") or {}).get("taints") or []},
    }


def _port(parts: Parts, pod: Json) -> int:
    return found.extender_port(pod) if pod in parts.schedulers else found.operator_port(pod)


async def _told(cluster: Cluster, pod: Json, port: int) -> Told:
    ready, metrics = await gathered([found.ask_json(cluster, pod, port, "/readyz"), _metrics(cluster, pod, port)])
    return Told(pod, ready, metrics)


async def _metrics(cluster: Cluster, pod: Json, port: int) -> Any:
    return await found.metrics(cluster, pod, port)


async def _or_none(work: Coroutine[Any, Any, list[Json]]) -> list[Json] | None:
    try:
        return await work
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


async def _crds(cluster: Cluster, names: Sequence[str]) -> dict[str, Json | None]:
    async def one(name: str) -> Json | None:
        path = object_path("customresourcedefinitions", name, group="apiextensions.k8s.io/v1")
        try:
            return await cluster.get(path, "get customresourcedefinitions")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    return dict(zip(names, [known(answer) for answer in await gathered([one(name) for name in names])], strict=True))


async def _autoscalers(cluster: Cluster) -> list[str]:
    """Deployments by their name, and what Cluster Autoscaler writes also where its cloud hides it."""
    deployments = await cluster.listed(
        collection("deployments", group="apps/v1"), "list deployments", lambda item: {"metadata": item["metadata"]}
    )
    names = [found.full_name(one) for one in deployments]
    seen = [name for name in names if "cluster-autoscaler" in name or name.rpartition("/")[2] == "karpenter"]
    if not seen:
        try:
            path = object_path("configmaps", "cluster-autoscaler-status", "kube-system")
            await cluster.get(path, "get configmaps in namespace kube-system")
            seen = ["Cluster Autoscaler (kube-system/cluster-autoscaler-status)"]
        except Refused as refused:
            if refused.status not in (403, 404):
                raise
    return seen


async def _rights(cluster: Cluster, parts: Parts) -> dict[Right, bool]:
    rights = asked_of(parts)
    reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    answers = await gathered(
        [cluster.ask("POST", reviews, "create subjectaccessreviews", right.review()) for right in rights]
    )
    return {
        right: bool((known(answer).get("status") or {}).get("allowed"))
        for right, answer in zip(rights, answers, strict=True)
    }
