"""Why parts of Nodewise do not run: Deployments without pods, containers that wait, Secrets that nobody made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, collection, gathered, object_path
from nodewise.cli.kubectl.parts import Parts
from nodewise.core.errors import UserError

Json = dict[str, Any]

_REPLICAS = {found.OPERATOR: 1, found.SCHEDULER: 2}
"""The chart's own."""


class Idle(NamedTuple):
    """A Deployment of ours that has no pod."""

    component: str
    deployment: str
    """namespace/name"""
    replicas: int
    """That it is to have."""

    @property
    def says(self) -> str:
        """What is wrong, without a full stop."""
        if self.replicas:
            return f"Deployment {self.deployment} has made no pod"
        return f"the {self.component} is scaled to 0"

    @property
    def fix(self) -> str:
        """The command that mends it, or shows why."""
        namespace, _, name = self.deployment.partition("/")
        if self.replicas:
            return f"kubectl describe replicasets -n {namespace} -l {found.COMPONENT}={self.component}"
        return f"kubectl scale -n {namespace} deployment/{name} --replicas {_REPLICAS[self.component]}"


class Missing(NamedTuple):
    """A Secret that pods of ours wait for."""

    secret: str
    """namespace/name"""
    keys: tuple[str, ...]
    """That they read from it, as far as they say."""


async def idle(cluster: Cluster, parts: Parts, system: str = "") -> list[Idle]:
    """Deployments of the parts that have no pods here. Raises Refused."""
    path = collection("deployments", parts.namespace or system or None, "apps/v1")
    held = await cluster.listed(path, "list deployments", labelSelector=found.PART_OF)
    there = {found.OPERATOR: parts.operators, found.SCHEDULER: parts.schedulers}
    made: list[Idle] = []
    for one in held:
        component = found.labels(one).get(found.COMPONENT, "")
        if component in there and not there[component]:
            replicas = (one.get("spec") or {}).get("replicas")
            made.append(Idle(component, found.full_name(one), 1 if replicas is None else int(replicas)))
    return made


async def missing(cluster: Cluster, parts: Parts) -> list[Missing]:
    """Secrets that pods of ours which have not started need, and that are not there. Raises UserError."""
    needed: dict[str, set[str]] = {}
    for pod in (*parts.operators, *parts.schedulers):
        if found.phase(pod) == "Pending":
            for name, keys in _secrets(pod):
                needed.setdefault(f"{pod['metadata']['namespace']}/{name}", set()).update(keys)

    async def there(full: str) -> bool:
        namespace, _, name = full.partition("/")
        path = object_path("secrets", name, namespace)
        return await cluster.exists(
            path, f"get secrets in namespace {namespace}, so whether {full} is there is unknown"
        )

    made: list[Missing] = []
    for full, answer in zip(needed, await gathered([there(full) for full in needed]), strict=True):
        if isinstance(answer, UserError):
            raise answer
        if not answer:
            made.append(Missing(full, tuple(sorted(needed[full]))))
    return made


def waits(pods: Sequence[Json]) -> str:
    """Why containers of these pods do not run, or the pods have no node, as Kubernetes tells; empty if it does not."""
    told: dict[str, None] = {}
    for pod in pods:
        status = pod.get("status") or {}
        for held in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            reason = ((held.get("state") or {}).get("waiting") or {}).get("reason")
            if reason and reason != "PodInitializing":
                told[f"{held.get('name')}: {reason}"] = None
        for condition in status.get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                told[f"no node: {condition.get('message')}"] = None
    return "; ".join(told)


def _secrets(pod: Json) -> Iterator[tuple[str, set[str]]]:
    """Secrets that a pod cannot start without, with the keys that it names."""
    for volume in pod["spec"].get("volumes") or ():
        for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
            secret = source.get("secret") or {}
            name = secret.get("secretName") or secret.get("name")
            if name and not secret.get("optional"):
                yield str(name), {str(item["key"]) for item in secret.get("items") or ()}
    for container in found.containers(pod):
        for variable in container.get("env") or ():
            secret = (variable.get("valueFrom") or {}).get("secretKeyRef") or {}
            if secret.get("name") and not secret.get("optional"):
                yield str(secret["name"]), {str(secret["key"])}
