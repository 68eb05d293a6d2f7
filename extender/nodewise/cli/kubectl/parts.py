"""The parts of Nodewise that run in a cluster: its pods, and what those say of themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nodewise.cli.kubectl.cluster import Cluster, Refused, object_path
from nodewise.cli.kubectl.config import ConfigMap, read
from nodewise.core.annotations import PREFIX
from nodewise.core.errors import UserError

Json = dict[str, Any]

PART_OF = "app.kubernetes.io/part-of=nodewise"
COMPONENT = "app.kubernetes.io/component"
OPERATOR, SCHEDULER = "operator", "scheduler"
SYSTEM_NAMESPACE = "nodewise-system"
SCHEDULER_NAME = "nodewise"
OPT_IN, OPTED_IN = PREFIX + "scheduling", "enabled"
"""Label of a namespace, and its value, that send the namespace's new pods to our scheduler."""
DEDICATED = PREFIX + "dedicated"
"""Label and taint of our nodes, unless the chart was told another key."""
EXTENDER_PORT, OPERATOR_PORT = 8889, 8890
LEASE_S = 15.0
"""Of kube-scheduler, where its configuration does not say."""


class Hidden(UserError):  # noqa: N818
    """Whether parts of Nodewise are here may not be seen."""


@dataclass(frozen=True)
class Parts:
    """What was found in one namespace; lists are empty where nothing is installed."""

    operators: list[Json] = field(default_factory=list)
    schedulers: list[Json] = field(default_factory=list)
    config: Json | None = None
    """KubeSchedulerConfiguration of the schedulers; None if there is none, or it may not be read."""
    config_refused: str = ""
    """Why it could not be read."""
    config_map: ConfigMap | None = None
    """Where it stands."""

    @property
    def scheduler_name(self) -> str:
        """Of the pods that are ours."""
        profiles = (self.config or {}).get("profiles") or ()
        for profile in profiles:
            if profile.get("schedulerName"):
                return str(profile["schedulerName"])
        # The operator's outlives the scheduler: pods may still wait for one that was taken away.
        told = [env(pod, "NODEWISE_SCHEDULER_NAME") for pod in self.schedulers]
        told += [env(pod, "NODEWISE_OPERATOR_SCHEDULER_NAME") for pod in self.operators]
        return next(filter(None, told), SCHEDULER_NAME)

    @property
    def lease(self) -> tuple[str, str] | None:
        """Namespace and name of the schedulers' Lease; empty if they elect nobody, None if nothing here tells."""
        if self.config is None:
            told = (env(pod, "NODEWISE_OPERATOR_SCHEDULER_LEASE").partition("/") for pod in self.operators)
            return next(((namespace, name) for namespace, _, name in told if namespace and name), None)
        election = self.config.get("leaderElection") or {}
        if not election.get("leaderElect", True):
            return "", ""
        return str(election.get("resourceNamespace") or "kube-system"), str(
            election.get("resourceName") or "kube-scheduler"
        )

    @property
    def namespace(self) -> str:
        """Where they run; empty if there are none."""
        return next((str(pod["metadata"]["namespace"]) for pod in (*self.operators, *self.schedulers)), "")

    @property
    def extenders(self) -> list[Json]:
        """Those of the schedulers' pods that run."""
        return [pod for pod in self.schedulers if phase(pod) == "Running"]

    @property
    def operator(self) -> Json | None:
        """The one that is ready, else any that runs."""
        running = [pod for pod in self.operators if phase(pod) == "Running"]
        return next((pod for pod in running if is_ready(pod)), next(iter(running), None))


async def find(cluster: Cluster, namespace: str = "") -> Parts:
    """Look for the parts in `namespace`; if none is named in all if that is allowed, and in `nodewise-system` if not.

    Whoever may make pods in a namespace can give them our labels, so parts are never taken from two. Raises UserError
    if they lie in several, and Hidden if pods may not be listed.
    """
    pods = await _labelled(cluster, namespace)
    by = {name: [pod for pod in pods if labels(pod).get(COMPONENT) == name] for name in (OPERATOR, SCHEDULER)}
    spaces = sorted({pod["metadata"]["namespace"] for found in by.values() for pod in found})
    if len(spaces) > 1:
        raise UserError(
            f"pods with the labels of Nodewise are in the namespaces {', '.join(spaces)}: name the one that it runs in "
            "with --system-namespace"
        )
    config: tuple[Json, ConfigMap] | None = None
    refused_why = ""
    for pod in by[SCHEDULER]:
        try:
            config = await read(cluster, pod)
        except Refused as refused:
            refused_why = str(refused)
        if config:
            break
    held, where = config or (None, None)
    return Parts(by[OPERATOR], by[SCHEDULER], held, refused_why, where)


async def _labelled(cluster: Cluster, namespace: str) -> list[Json]:
    if not namespace:
        try:
            return await cluster.pods(None, labelSelector=PART_OF)
        except Refused as refused:
            if refused.status != 403:
                raise
    where = namespace or SYSTEM_NAMESPACE
    try:
        return await cluster.pods(where, labelSelector=PART_OF)
    except Refused as refused:
        if refused.status != 403:
            raise
        raise Hidden(
            f"you may not list pods in namespace {where}, where the parts of Nodewise are looked for: ask for that "
            "right, or name its namespace with --system-namespace"
        ) from None


def labels(thing: Json) -> dict[str, str]:
    """Of an object; often there are none."""
    return thing["metadata"].get("labels") or {}


def full_name(thing: Json) -> str:
    """namespace/name."""
    return f"{thing['metadata'].get('namespace') or 'default'}/{thing['metadata']['name']}"


def phase(pod: Json) -> str:
    """Pending, Running, Succeeded, Failed."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_ready(pod: Json) -> bool:
    """As the kubelet says."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def is_stuck(pod: Json) -> bool:
    """Waits for a scheduler."""
    return phase(pod) == "Pending" and not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp")


def containers(pod: Json) -> list[Json]:
    """Of a pod, init containers (and so sidecars) included."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def env(pod: Json, name: str) -> str:
    """A variable as the pod's first container that has it sets it."""
    for container in containers(pod):
        for variable in container.get("env") or ():
            if variable.get("name") == name:
                return str(variable.get("value") or "")
    return ""


def image_of(pod: Json, word: str) -> str:
    """The image whose repository ends in `word`; empty if no container has such a one."""
    return next((str(container["image"]) for container in containers(pod) if is_image(container, word)), "")


def is_image(container: Json, word: str) -> bool:
    """Whether the repository of the container's image ends in `word`."""
    return split_image(str(container.get("image") or ""))[0].endswith(word)


def split_image(image: str) -> tuple[str, str, str]:
    """Repository, tag and digest; empty where it has none."""
    rest, _, digest = image.partition("@")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    return (rest, "", digest) if colon < 0 else (rest[:colon], rest[colon + 1 :], digest)


def version_of(pod: Json) -> str:
    """What the pod's label says."""
    return labels(pod).get("app.kubernetes.io/version", "")


def port_of(pod: Json, otherwise: int, variable: str) -> int:
    """The port of probes of our program in the pod, as its variable says."""
    told = env(pod, variable)
    return int(told) if told.isdigit() else otherwise


def extender_port(pod: Json) -> int:
    """Where the pod's extender tells of itself."""
    return port_of(pod, EXTENDER_PORT, "NODEWISE_ADMIN_PORT")


def operator_port(pod: Json) -> int:
    """Where the operator tells of itself and of what it recorded."""
    return port_of(pod, OPERATOR_PORT, "NODEWISE_OPERATOR_PORT")


@dataclass(frozen=True)
class Holder:
    """Who leads the schedulers."""

    name: str
    """Empty if nobody does."""
    age_s: float
    """Since it was renewed, by the API server's clock."""
    lasts_s: float

    @property
    def held(self) -> bool:
        """Somebody has renewed it lately; the double leaves room for clocks that differ."""
        return bool(self.name) and self.age_s < 2 * self.lasts_s


async def lease_holder(cluster: Cluster, parts: Parts) -> Holder | None:
    """Who holds the schedulers' Lease; None if they have none. Raises UserError if that may not be seen."""
    from nodewise.core.units import epoch_s

    if not parts.schedulers:
        return None
    if parts.lease is None:
        raise UserError(parts.config_refused or "nothing here tells the schedulers' Lease, so nor who leads")
    namespace, name = parts.lease
    if not name:
        return None
    path = object_path("leases", name, namespace, "coordination.k8s.io/v1")
    try:
        spec = (await cluster.get(path, f"get leases in namespace {namespace}")).get("spec") or {}
    except Refused as refused:
        if refused.status == 404:
            return Holder("", math.inf, LEASE_S)
        raise
    renewed = spec.get("renewTime")
    age_s = cluster.now_s - epoch_s(str(renewed)) if renewed else math.inf
    return Holder(str(spec.get("holderIdentity") or ""), age_s, float(spec.get("leaseDurationSeconds") or LEASE_S))


async def ask_json(cluster: Cluster, pod: Json, port: int, path: str, **query: str) -> tuple[int, Json]:
    """Status and JSON that a part answers. Raises UserError if it does not answer so."""
    reply = await cluster.proxied(pod, port, path, query)
    try:
        told = json.loads(reply.body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise UserError(f"what answers on port {port} of pod {full_name(pod)} (HTTP {reply.status}) is no part of ours")
    return reply.status, told


async def metrics(cluster: Cluster, pod: Json, port: int) -> dict[str, float]:
    """Prometheus text of a part, by name with labels as they are written."""
    reply = await cluster.proxied(pod, port, "/metrics")
    if reply.status != 200:
        raise UserError(f"pod {full_name(pod)} has no metrics on port {port} (HTTP {reply.status})")
    return read_metrics(reply.body.decode(errors="replace"))


def read_metrics(text: str) -> dict[str, float]:
    """Samples of Prometheus text by name and labels."""
    made: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            try:
                made[name] = float(value)
            except ValueError:
                continue
    return made


def total(samples: dict[str, float], name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(value for key, value in samples.items() if key == name or key.startswith(name + "{"))


def operator_of(parts: Parts) -> Json:
    """The operator to ask. Raises UserError if none runs."""
    if parts.operator is None:
        why = "it does not run" if parts.operators else f"no pod has the labels {PART_OF} and {COMPONENT}={OPERATOR}"
        raise UserError(f"there is no operator to ask ({why}): install Nodewise, or look at `kubectl nodewise status`")
    return parts.operator


def namespaces_opted_in(namespaces: Sequence[Json]) -> list[str]:
    """Names of those whose label sends new pods to us."""
    return sorted(n["metadata"]["name"] for n in namespaces if labels(n).get(OPT_IN) == OPTED_IN)
