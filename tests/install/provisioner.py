"""The default StorageClass: a folder of this machine for each claim."""

from pathlib import Path
from typing import Any

from nodewise_simulator.controlplane import Api

Json = dict[str, Any]
CLASS = "folders"
STORAGE_CLASS: Json = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "example.com/folders",
    "reclaimPolicy": "Retain",
}


async def provision(url: str, token: str, folder: Path) -> None:
    """Make a PersistentVolume for every claim of the class, for ever; the controller manager binds the two."""
    async with Api(url, token) as api:
        async for kind, thing in api.events("/api/v1/persistentvolumeclaims"):
            for claim in thing["items"] if kind == "SYNC" else [thing]:
                wanted = claim["spec"].get("storageClassName") == CLASS and not claim["spec"].get("volumeName")
                if kind != "DELETED" and wanted and claim["status"]["phase"] == "Pending":
                    await _make(api, claim, folder)


async def _make(api: Api, claim: Json, folder: Path) -> None:
    meta = claim["metadata"]
    name = f"pv-{meta['uid']}"
    path = folder / name
    if path.exists():
        return
    path.mkdir(parents=True)
    spec = {
        "capacity": claim["spec"]["resources"]["requests"],
        "accessModes": claim["spec"]["accessModes"],
        "storageClassName": CLASS,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(path)},
        "claimRef": {key: meta[key] for key in ("namespace", "name", "uid")},
    }
    await api.call("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})
