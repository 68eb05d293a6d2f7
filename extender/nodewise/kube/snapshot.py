"""What is kept of pods and nodes, and the one file that a whole recording fits in.

Kept is what placing them again depends on: no environment, no arguments, no volumes' contents. All labels of pods stay,
because the selector of any other pod, even of one that comes later, may name them. A trimmed object is still Kubernetes
JSON, so it is read by `nodewise.core.pods` like any other.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from nodewise.core.annotations import PREFIX, hints
from nodewise.core.errors import UserError
from nodewise.core.pods import default_workload
from nodewise.core.units import epoch_s

Json = dict[str, Any]

VERSION = 1

_META = ("name", "generateName", "namespace", "uid", "creationTimestamp", "labels")
_OWNER = ("apiVersion", "kind", "name", "uid", "controller")
_SPEC = (
    "schedulerName", "nodeName", "priority", "restartPolicy", "nodeSelector", "affinity", "tolerations",
    "topologySpreadConstraints", "overhead", "schedulingGroup", "schedulingGates",
)  # fmt: skip
_ANNOTATIONS = ("kubernetes.io/config.mirror", "batch.kubernetes.io/job-completion-index")
"""By these, and labels, `nodewise.core.kinds` tells static pods and members of gangs."""


def trimmed_pod(pod: Mapping[str, Any]) -> Json:
    """A v1.Pod as far as it matters for placing it again; `pod_request` reads the same from it.

    Of the status only what an in-place resize has changed stays: how the pod fared is kept beside it, not in it. Raises
    KeyError if it has no metadata.
    """
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    told = bool(hints(meta.get("annotations") or {}, 0, False).workload)
    kept = _some(spec, _SPEC)
    kept["containers"] = [_container(c, image=not told) for c in spec.get("containers") or ()]
    if spec.get("initContainers"):
        kept["initContainers"] = [_container(c, image=False) for c in spec["initContainers"]]
    if spec.get("resources"):
        kept["resources"] = _some(spec["resources"], ("requests", "limits"))
    if spec.get("resourceClaims"):
        kept["resourceClaims"] = [_some(c, ("name",)) for c in spec["resourceClaims"]]
    if spec.get("volumes"):
        kept["volumes"] = [{kind: {} for kind in v if kind != "name"} for v in spec["volumes"]]
    made: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(meta, _META), "spec": kept}
    if owners := meta.get("ownerReferences"):
        made["metadata"]["ownerReferences"] = [_some(o, _OWNER) for o in owners]
    if resized := _resized(status):
        made["status"] = resized
    return made


def trimmed_node(node: Mapping[str, Any]) -> Json:
    """A v1.Node as far as placing depends on it; `node_spec` reads the same from it. Raises KeyError without a name."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    made: Json = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _metadata(meta, ("name", "uid", "creationTimestamp", "labels")),
        "spec": _some(spec, ("taints", "unschedulable")),
        "status": _some(status, ("allocatable",)),
    }
    if arch := (status.get("nodeInfo") or {}).get("architecture"):
        made["status"]["nodeInfo"] = {"architecture": arch}
    ready = [_some(c, ("type", "status")) for c in status.get("conditions") or () if c.get("type") == "Ready"]
    if ready:
        made["status"]["conditions"] = ready
    return made


def _some(thing: Mapping[str, Any], keys: Iterable[str]) -> Json:
    return {key: thing[key] for key in keys if thing.get(key) is not None}


def _metadata(meta: Mapping[str, Any], keys: Iterable[str]) -> Json:
    told = meta.get("annotations") or {}
    ours = {key: value for key, value in told.items() if key.startswith(PREFIX) or key in _ANNOTATIONS}
    return {**_some(meta, keys), **({"annotations": ours} if ours else {})}


def _container(container: Mapping[str, Any], *, image: bool) -> Json:
    made = _some(container, ("name", "restartPolicy"))
    if image and container.get("image"):
        made["image"] = _repository(str(container["image"]))
    resources = _some(container.get("resources") or {}, ("requests", "limits"))
    return {**made, "resources": resources} if resources else made


def _repository(image: str) -> str:
    """The image as far as the workload key looks at it, which is without tag and digest."""
    name = default_workload({}, {"containers": [{"image": image}]}).partition(":")[2]
    again = default_workload({}, {"containers": [{"image": name}]}).partition(":")[2]
    return name if again == name else image


def _resized(status: Mapping[str, Any]) -> Json:
    made: Json = {}
    for field in ("containerStatuses", "initContainerStatuses"):
        held = [
            {**_some(s, ("name", "allocatedResources")), "resources": _some(s.get("resources") or {}, ("requests",))}
            for s in status.get(field) or ()
            if s.get("allocatedResources") or (s.get("resources") or {}).get("requests")
        ]
        if held:
            made[field] = held
    pending = [c for c in status.get("conditions") or () if c.get("type") == "PodResizePending"]
    if pending:
        made["conditions"] = [_some(c, ("type", "status", "reason")) for c in pending]
    return made


class SnapshotNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node and when it was there."""

    manifest: Json
    """As `trimmed_node` leaves it."""
    first_seen_s: float | None = None
    last_seen_s: float | None = None
    """None while it is there."""


class SnapshotPod(msgspec.Struct, frozen=True, kw_only=True):
    """One pod and what became of it; times in epoch seconds, None where it never came to that."""

    manifest: Json
    """As `trimmed_pod` leaves it."""
    fate: Literal["waiting", "running", "succeeded", "failed", "censored"]
    reason: str = ""
    """Why it failed or was censored."""
    node: str = ""
    bound_s: float | None = None
    started_s: float | None = None
    finished_s: float | None = None
    """End of its containers, or when it was seen to be gone."""
    slowdown: float | None = None
    """Factor by which its neighbours are believed to have stretched its run."""


class SnapshotGap(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which pods may have come and gone unseen."""

    begin_s: float
    end_s: float
    why: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A recording of one cluster; holds only what could be seen."""

    v: int = VERSION
    made_s: float
    source: str
    """Where it comes from: `store` or `cluster`."""
    begin_s: float
    """Pods created before this are only there because they took room."""
    end_s: float
    """What is waiting or running did so at this time."""
    nodes: list[SnapshotNode]
    pods: list[SnapshotPod]
    estimator: Json = {}
    """`RunTimeEstimator.state()` at the end; empty: to be learned from the pods."""
    downtimes: list[SnapshotGap] = []

    def schedulers(self, since_s: float | None = None) -> dict[str, int]:
        """Pods that each scheduler was asked to place, of those created since then (by default, since `begin_s`)."""
        count: dict[str, int] = {}
        from_s = max(self.begin_s, since_s or self.begin_s)
        for pod in self.pods:
            if epoch_s(pod.manifest["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z") < from_s:
                continue
            name = (pod.manifest.get("spec") or {}).get("schedulerName") or "default-scheduler"
            count[name] = count.get(name, 0) + 1
        return count


def encoded(snapshot: Snapshot) -> bytes:
    """The file's contents, uncompressed."""
    return msgspec.json.encode(snapshot) + b"\n"


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write one JSON file, compressed if its name ends in `.gz`. Raises UserError if that is not possible."""
    data = encoded(snapshot)
    try:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise UserError(f"snapshot {path} cannot be written ({error.strerror}): name another file") from error


def read_snapshot(path: Path) -> Snapshot:
    """Read what `write_snapshot` wrote, compressed or not. Raises UserError for anything else, in one sentence."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or "it is cut short"
        raise UserError(f"snapshot {path} cannot be read ({why}): make one with `nodewise snapshot > FILE`") from error
    return _decoded(data, lambda why: UserError(f"snapshot {path} {why}: make one with `nodewise snapshot > FILE`"))


class _Head(msgspec.Struct):
    v: int


def _decoded(data: bytes, refuse: Callable[[str], UserError]) -> Snapshot:
    try:
        version = msgspec.json.decode(data, type=_Head).v
        if version != VERSION:
            raise refuse(f"has version {version}, and this Nodewise reads version {VERSION}")
        return msgspec.json.decode(data, type=Snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse(f"is not one of ours ({error})") from error
