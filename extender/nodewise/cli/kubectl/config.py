"""The configuration of our kube-schedulers, as the ConfigMap that their pods mount has it, and since when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from nodewise.cli.kubectl.cluster import Cluster, object_path
from nodewise.core.units import epoch_s

Json = dict[str, Any]


class ConfigMap(NamedTuple):
    """Where a configuration stands."""

    name: str
    """namespace/name"""
    changed_s: float
    """When its data was last written, in epoch seconds; 0 if nobody says."""


async def read(cluster: Cluster, pod: Json) -> tuple[Json, ConfigMap] | None:
    """The KubeSchedulerConfiguration among the ConfigMaps that a pod mounts. Raises Refused."""
    namespace = pod["metadata"]["namespace"]
    for name in config_maps(pod):
        what = f"get configmaps in namespace {namespace}"
        held = await cluster.get(object_path("configmaps", name, namespace), what)
        for text in (held.get("data") or {}).values():
            made = read_config(text)
            if made:
                return made, ConfigMap(f"{namespace}/{name}", changed_s(held))
    return None


def read_config(text: str) -> Json | None:
    """A KubeSchedulerConfiguration; None for any other text."""
    import yaml

    try:
        made = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return made if isinstance(made, dict) and made.get("kind") == "KubeSchedulerConfiguration" else None


def config_maps(pod: Json) -> Iterator[str]:
    """Names of the ConfigMaps that a pod mounts, the API server's certificate aside."""
    for volume in pod["spec"].get("volumes") or ():
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for source in sources:
            name = (source.get("configMap") or {}).get("name")
            if name and name != "kube-root-ca.crt":
                yield str(name)


def changed_s(held: Json) -> float:
    """When the data of a ConfigMap was last written: labels and annotations are nobody's configuration."""
    meta = held.get("metadata") or {}
    times = [
        str(entry["time"])
        for entry in meta.get("managedFields") or ()
        if entry.get("time") and "f:data" in (entry.get("fieldsV1") or {})
    ]
    times = times or [str(time) for time in (meta.get("creationTimestamp"),) if time]
    return max(map(epoch_s, times), default=0.0)


def started_s(pod: Json, container: str) -> float | None:
    """When a container of the pod, or else the pod, was started; None if nobody says."""
    status = pod.get("status") or {}
    for held in status.get("containerStatuses") or ():
        began = ((held.get("state") or {}).get("running") or {}).get("startedAt")
        if held.get("name") == container and began:
            return epoch_s(str(began))
    return epoch_s(str(status["startTime"])) if status.get("startTime") else None
