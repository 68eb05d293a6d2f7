"""Plain v1.Pod objects of one container."""

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]


def pod(
    name: str,
    *,
    cpu_milli: int,
    memory_bytes: int,
    namespace: str = "default",
    scheduler_name: str = "nodewise",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    owner: Mapping[str, Any] | None = None,
    tolerations: Iterable[Json] = (),
    affinity: Json | None = None,
    image: str = "registry.k8s.io/pause:3.10",
) -> Json:
    """A pod that never restarts, with requests and no limits.

    `owner` is the entry of `metadata.ownerReferences` for its controller. Nobody pulls the image: the harness's
    kubelet only plays the pod.
    """
    metadata: Json = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    if owner:
        metadata["ownerReferences"] = [dict(owner)]
    requests = {"cpu": f"{cpu_milli}m", "memory": str(memory_bytes)}
    spec: Json = {
        "schedulerName": scheduler_name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": image, "resources": {"requests": requests}}],
    }
    if tolerations := list(tolerations):
        spec["tolerations"] = tolerations
    if affinity:
        spec["affinity"] = affinity
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
