"""The chart as a user has it: values for a plane, what it installs, and whom it belongs to."""

import json
from pathlib import Path
from typing import Any

from tests.install.certificates import tls_secret
from tests.install.images import REPOSITORY
from tests.install.plane import HOST_LABEL, Plane

Json = dict[str, Any]
CHART = REPOSITORY / "charts" / "nodewise"
NAMESPACE = "nodewise-system"
ACCOUNTS = ("nodewise-operator", "nodewise-scheduler", "nodewise-extender")
_HERE: Json = {
    "nodeSelector": {HOST_LABEL: "true"},
    "tolerations": [{"key": HOST_LABEL, "operator": "Exists"}],
}
# A node gives a pod the share of its processors that it asks for. Here a whole cluster shares two with whatever else
# runs, and the guard would take an extender that waits for its turn for one that hangs.
PATIENT: Json = {"extraEnv": [{"name": "NODEWISE_SILENCE_S", "value": "10"}]}
ADVISE: Json = {"operator": _HERE}
SCHEDULING: Json = {"operator": _HERE, "scheduling": {"enabled": True, "extender": PATIENT, **_HERE}}
TLS: Json = {"channel": {"tls": {"mode": "existingSecret", "existingSecret": {"name": "channel"}}}}


def values(plane: Plane, name: str, content: Json) -> Path:
    """A values file."""
    file = plane.folder / f"{name}.json"
    file.write_text(json.dumps(content))
    return file


def make_secret(plane: Plane) -> None:
    """The Secret that TLS names, for the operator's Service."""
    secret = tls_secret("channel", f"nodewise-operator.{NAMESPACE}.svc")
    plane.call("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)


def package(plane: Plane, version: str) -> Path:
    """The chart under another version, as the one that came before."""
    plane.helm("package", CHART, "--version", version, "--destination", plane.folder)
    return plane.folder / f"nodewise-{version}.tgz"


def user(account: str) -> str:
    """Of a service account of the release, as the audit log names it."""
    return f"system:serviceaccount:{NAMESPACE}:{account}"


def bound_by(plane: Plane, namespace: str, *, cut: bool = False) -> dict[str, tuple[str, str]]:
    """User and source address of the request that bound each pod of the namespace, by the pod's name.

    With `cut` also of requests whose answer nobody waited for: who is killed as it binds may have bound.
    """
    found = {}
    for event in plane.audit():
        ref = event.get("objectRef") or {}
        binding = ref.get("resource") == "pods" and ref.get("subresource") == "binding"
        if binding and ref["namespace"] == namespace and (cut or event["responseStatus"]["code"] == 201):
            found[ref["name"]] = (event["user"]["username"], event["sourceIPs"][0])
    return found
