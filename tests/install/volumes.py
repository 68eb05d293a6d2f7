"""A pod's volumes as folders of this machine, and the values that its spec takes from elsewhere."""

import base64
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodewise_simulator.controlplane import Api, ApiError

Json = dict[str, Any]
DEFAULT_MODE = 0o644
DEFAULT_EXPIRATION_S = 3600


class NotYetError(Exception):
    """Something that the pod needs is not there; a kubelet tries again until it is."""


@dataclass(frozen=True)
class Issued:
    """A token that was asked for: what its claims say."""

    pod: str
    volume: str
    audience: str  # empty: the API server's own
    jti: str


@dataclass
class Sources:
    """Reads what a pod refers to, and keeps the tokens' claims that it asked for."""

    api: Api
    issued: list[Issued] = field(default_factory=list)

    async def get(self, kind: str, namespace: str, name: str, *, optional: bool = False) -> Json:
        """`data` of a Secret or ConfigMap as bytes by key; empty if it is optional and not there."""
        try:
            got = await self.api.call("GET", f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
        except ApiError as error:
            if error.status == 404 and optional:
                return {}
            if error.status == 404:
                raise NotYetError(f"{kind} {name} not found") from None
            raise
        data = got.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}

    async def token(self, pod: Json, volume: str, asked: Json) -> bytes:
        """A token of the pod's service account, bound to the pod, as its kubelet asks for it."""
        meta, account = pod["metadata"], pod["spec"]["serviceAccountName"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        audience = asked.get("audience", "")
        spec = {
            "audiences": [audience] if audience else [],
            "expirationSeconds": asked.get("expirationSeconds", DEFAULT_EXPIRATION_S),
            "boundObjectRef": bound,
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        answer = await self.api.call("POST", path, {"spec": spec})
        token: str = answer["status"]["token"]
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        self.issued.append(Issued(meta["name"], volume, audience, claims["jti"]))
        return token.encode()

    async def environment(self, pod: Json, container: Json, pod_ip: str) -> dict[str, str]:
        """`env` and `envFrom`, with $(NAME) of earlier ones put in."""
        found: dict[str, str] = {}
        namespace = pod["metadata"]["namespace"]
        for each in container.get("envFrom") or ():
            for kind in ("configMap", "secret"):
                if ref := each.get(f"{kind}Ref"):
                    data = await self.get(kind, namespace, ref["name"], optional=ref.get("optional", False))
                    found |= {each.get("prefix", "") + key: value.decode() for key, value in data.items()}
        for each in container.get("env") or ():
            if (source := each.get("valueFrom")) is None:
                found[each["name"]] = expand(each.get("value", ""), found)
            elif (value := await self._value(pod, source, pod_ip)) is not None:
                found[each["name"]] = value
        return found

    async def _value(self, pod: Json, source: Json, pod_ip: str) -> str | None:
        if ref := source.get("fieldRef"):
            return downward(pod, ref["fieldPath"], pod_ip)
        for kind in ("secret", "configMap"):
            if ref := source.get(f"{kind}KeyRef"):
                optional = ref.get("optional", False)
                data = await self.get(kind, pod["metadata"]["namespace"], ref["name"], optional=optional)
                if ref["key"] not in data and not optional:
                    raise NotYetError(f"key {ref['key']} not found in {kind} {ref['name']}")
                return data[ref["key"]].decode() if ref["key"] in data else None
        raise NotImplementedError(f"valueFrom {source}")


def expand(text: str, values: dict[str, str]) -> str:
    """Kubernetes' $(NAME), with $$(NAME) for a literal; unknown names stay."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else values.get(m[1], m[0]), text)


def downward(pod: Json, path: str, pod_ip: str) -> str:
    """The value of a fieldRef."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(found[1], {}).get(found[2], ""))
    if path in ("status.podIP", "status.podIPs"):
        return pod_ip
    value: Any = pod
    for part in path.split("."):
        value = value[part]
    return str(value)


class Volumes:
    """The volumes of one pod below one folder."""

    def __init__(self, sources: Sources, folder: Path) -> None:
        self._sources = sources
        self._folder = folder

    async def make(self, pod: Json, pod_ip: str) -> dict[str, tuple[Path, bool]]:
        """Folder and whether it is read-only, by name; NotYetError while something is missing."""
        made = {}
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        for volume in pod["spec"].get("volumes") or ():
            folder, read_only = self._folder / volume["name"], True
            if "emptyDir" in volume:
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o777)
                read_only = False
            elif claim := volume.get("persistentVolumeClaim"):
                folder = await self._claimed(pod["metadata"]["namespace"], claim["claimName"])
                read_only = claim.get("readOnly", False)
            else:
                files = await self._files(pod, volume, pod_ip)
                _write(folder, files)
            if group is not None:
                _give(folder, group, writable=not read_only)
            made[volume["name"]] = (folder, read_only)
        return made

    async def _claimed(self, namespace: str, name: str) -> Path:
        claim = await self._sources.api.call("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
        if claim["status"].get("phase") != "Bound":
            raise NotYetError(f"claim {name} is not bound")
        volume = await self._sources.api.call("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        return Path(volume["spec"]["hostPath"]["path"])

    async def _files(self, pod: Json, volume: Json, pod_ip: str) -> dict[str, tuple[bytes, int]]:
        """Content and mode by path."""
        if projected := volume.get("projected"):
            sources, mode = projected["sources"], projected.get("defaultMode", DEFAULT_MODE)
        else:
            kind = next(k for k in ("secret", "configMap", "downwardAPI") if k in volume)
            source = dict(volume[kind])
            sources, mode = [{kind: source}], source.get("defaultMode", DEFAULT_MODE)
        found: dict[str, tuple[bytes, int]] = {}
        for source in sources:
            ((kind, what),) = source.items()
            if kind == "serviceAccountToken":
                token = await self._sources.token(pod, volume["name"], what)
                # Kubelet's rule: 0600 of the container's user, 0640 with a fsGroup; else by defaultMode.
                found[what["path"]] = (token, 0o640 if _has_fs_group(pod) else mode)
            elif kind == "downwardAPI":
                for item in what["items"]:
                    value = downward(pod, item["fieldRef"]["fieldPath"], pod_ip)
                    found[item["path"]] = (value.encode(), item.get("mode", mode))
            else:
                found |= await self._keys(pod, kind, what, mode)
        return found

    async def _keys(self, pod: Json, kind: str, what: Json, mode: int) -> dict[str, tuple[bytes, int]]:
        name, optional = what.get("secretName") or what["name"], what.get("optional", False)
        data = await self._sources.get(kind, pod["metadata"]["namespace"], name, optional=optional)
        items: Iterable[Json] = what.get("items") or ({"key": key, "path": key} for key in data)
        found = {}
        for item in items:
            if item["key"] in data:
                found[item["path"]] = (data[item["key"]], item.get("mode", mode))
            elif not optional:
                raise NotYetError(f"key {item['key']} not found in {kind} {name}")
        return found


def _has_fs_group(pod: Json) -> bool:
    return (pod["spec"].get("securityContext") or {}).get("fsGroup") is not None


def _write(folder: Path, files: dict[str, tuple[bytes, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for path, (content, mode) in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)


def _give(folder: Path, group: int, *, writable: bool) -> None:
    """fsGroup: the group owns everything, and may write where the volume can be written."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, -1, group)
        mode = path.stat().st_mode & 0o7777
        path.chmod(mode | (0o060 if writable else 0o040) | (0o2110 if path.is_dir() else 0))
