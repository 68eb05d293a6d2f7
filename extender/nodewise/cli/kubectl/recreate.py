"""A pod's manifest as it would have to be written to make the pod once more, for another scheduler. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nodewise.cli.kubectl.parts import DEDICATED

Json = dict[str, Any]

_META = ("name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers")
_SET_BY_THE_SERVER = (
    "nodeName",
    "serviceAccount",  # the old name of serviceAccountName
    "priority",  # both follow from priorityClassName, and are refused where that means something else by now
    "preemptionPolicy",
    "ephemeralContainers",  # cannot be created with the pod
)
_TOKEN_VOLUME = "kube-api-access-"  # noqa: S105
_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105
_DEFAULT_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_DEFAULT_TOLERATED_S = 300


def recreated(pod: Mapping[str, Any], scheduler: str, key: str = DEDICATED) -> Json:
    """The manifest of `pod` for `scheduler`.

    What the API server and its admission set, they will set again: the token's volume, the default tolerations,
    priorities. And what our admission policy added goes: toleration and node selector of `key`.
    """
    meta, spec = pod["metadata"], copy.deepcopy(dict(pod["spec"]))
    for name in _SET_BY_THE_SERVER:
        spec.pop(name, None)
    spec["schedulerName"] = scheduler
    _without_token(spec)
    tolerations = [t for t in spec.pop("tolerations", ()) if t.get("key") != key and not _by_default(t)]
    if tolerations:
        spec["tolerations"] = tolerations
    selector = {name: value for name, value in spec.pop("nodeSelector", {}).items() if name != key}
    if selector:
        spec["nodeSelector"] = selector
    kept = {name: copy.deepcopy(meta[name]) for name in _META if meta.get(name)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": kept, "spec": spec}


def under_another_name(manifest: Mapping[str, Any]) -> Json:
    """The same pod as one more, to ask by a dry run what would become of it."""
    made = copy.deepcopy(dict(manifest))
    meta = made["metadata"]
    for name in ("name", "finalizers"):
        meta.pop(name, None)
    meta["generateName"] = "nodewise-release-"
    made["spec"].pop("hostname", None)
    return made


def controller(pod: Mapping[str, Any]) -> Json | None:
    """The entry of the owner that makes this pod anew when it is gone; None for a bare pod."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def _without_token(spec: Json) -> None:
    """Remove the volume that the ServiceAccount admission adds, and its mounts."""
    volumes = spec.get("volumes") or []
    added = {v["name"] for v in volumes if str(v["name"]).startswith(_TOKEN_VOLUME)}
    left = [volume for volume in volumes if volume["name"] not in added]
    spec.pop("volumes", None)
    if left:
        spec["volumes"] = left
    for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        mounts = [
            m
            for m in container.pop("volumeMounts", ())
            if not (m["name"] in added and m.get("mountPath") == _TOKEN_PATH)
        ]
        if mounts:
            container["volumeMounts"] = mounts


def _by_default(toleration: Mapping[str, Any]) -> bool:
    """Whether the DefaultTolerationSeconds admission added it, or would."""
    return (
        toleration.get("key") in _DEFAULT_TAINTS
        and toleration.get("tolerationSeconds") == _DEFAULT_TOLERATED_S
        and toleration.get("operator") == "Exists"
        and toleration.get("effect") == "NoExecute"
    )
