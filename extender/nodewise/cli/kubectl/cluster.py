"""The cluster that kubectl would talk to: requests as plain JSON, and what their refusals mean."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import typer

from nodewise.core.errors import UserError

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

Json = dict[str, Any]
T = TypeVar("T")

TIMEOUT_S = 15.0
_PAGE = 500
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_NONE = "default"
"""Namespace of a context that names none."""

KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="File that names the cluster. Without it: $KUBECONFIG.")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
SystemOption = Annotated[
    str,
    typer.Option(
        "--system-namespace",
        help="Namespace that Nodewise runs in. Without it: found by its pods' labels.",
        show_default=False,
    ),
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace. Without it: that of the context.", show_default=False)
]


class Refused(UserError):  # noqa: N818
    """The API server said no; as a UserError it is told in a sentence where nobody catches it."""

    def __init__(self, status: int, message: str, reason: str, what: str) -> None:
        self.status = status
        self.message = message
        """Of the API server."""
        self.reason = reason
        """As one word: NotFound, Conflict, Invalid …; empty if it was not the API server that answered."""
        self.what = what
        """What was asked for, such as `list pods`."""
        you = f"you may not {what}: ask for that right" if status in (401, 403) and reason != "Invalid" else ""
        super().__init__(you or f"the API server does not {what} (HTTP {status}): {message.rstrip('.')}")


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Cluster:
    """One API server, for the length of a `with` block. Its methods raise Refused, and UserError if it is not there."""

    def __init__(self, kubeconfig: Path | None = None, context: str | None = None, namespace: str = "") -> None:
        self._kubeconfig, self._context, self._namespace = kubeconfig, context, namespace
        self._ahead_s = 0.0  # of the API server's clock

    def __enter__(self) -> Self:
        from nodewise.kube.api import connect

        self._runner = asyncio.Runner()
        try:
            self._api: ApiClient = self.run(connect(self._kubeconfig, self._context))
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._api.close())  # type: ignore[no-untyped-call]
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it, in the loop that all requests of this connection are made in."""
        return self._runner.run(work)

    @property
    def now_s(self) -> float:
        """Epoch seconds by the API server's clock, as far as it has told; ours may be wrong."""
        return time.time() + self._ahead_s

    @property
    def namespace(self) -> str:
        """The one that was named, else that of the context, as kubectl takes it."""
        return self._namespace or self._of_context() or _NONE

    def _of_context(self) -> str:
        from kubernetes.aio.config.kube_config import list_kube_config_contexts

        file = str(self._kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
        if not any(Path(path).expanduser().exists() for path in file.split(os.pathsep) if path):
            return ""  # in a cluster
        contexts, current = list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
        held = next((c for c in contexts if c["name"] == self._context), current) if self._context else current
        return str((held or {}).get("context", {}).get("namespace") or "")

    async def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = TIMEOUT_S,
    ) -> Reply:
        """One request, its reply as it came. Raises UserError if nothing answers."""
        import aiohttp

        try:
            method, url, headers, data, _ = await self._api.param_serialize(
                method, path, query_params=[*(query or {}).items()], auth_settings=["BearerToken"], body=body,
                header_params={"Content-Type": content_type, "Accept": accept},
            )  # fmt: skip
            reply = await self._api.call_api(method, url, headers, data, _request_timeout=timeout_s)
            self._ahead_s = _ahead_s(reply.headers.get("Date"), self._ahead_s)
            return Reply(reply.status, reply.headers, await reply.read())  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise UserError(f"the API server does not answer ({why}): check the kubeconfig and the network") from error

    async def ask(
        self,
        method: str,
        path: str,
        what: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout_s: float = TIMEOUT_S,
    ) -> Json:
        """One request, decoded; `what` it is for, as `you may not …` goes on. Raises Refused for what is not 2xx."""
        reply = await self.request(method, path, body, query=query, content_type=content_type, timeout_s=timeout_s)
        try:
            answer = json.loads(reply.body) if reply.body else {}
        except ValueError:
            answer = None
        if reply.status >= 300 or not isinstance(answer, dict):
            told = answer if isinstance(answer, dict) else {}
            message = str(told.get("message") or reply.body[:300].decode(errors="replace").strip())
            raise Refused(reply.status, message, str(told.get("reason") or ""), what)
        return answer

    async def get(self, path: str, what: str, **query: str) -> Json:
        """One object."""
        return await self.ask("GET", path, what, query=query)

    async def exists(self, path: str, what: str) -> bool:
        """Whether an object is there, without its content. Raises Refused if that may not be seen."""
        reply = await self.request("GET", path, accept=_METADATA)
        if reply.status >= 300 and reply.status != 404:
            raise Refused(reply.status, reply.body[:300].decode(errors="replace"), "", what)
        return reply.status != 404

    async def listed(
        self, path: str, what: str, read: Callable[[Json], Json] = lambda item: item, **query: str
    ) -> list[Json]:
        """All objects of a collection, page by page, each as `read` makes it."""
        found: list[Json] = []
        token = ""
        while True:
            asked = {**query, "limit": str(_PAGE), **({"continue": token} if token else {})}
            try:
                page = await self.ask("GET", path, what, query=asked)
            except Refused as refused:
                if refused.status == 410 and token:  # it took too long: the server has forgotten where we were
                    found, token = [], ""
                    continue
                raise
            found += map(read, page.get("items") or ())
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    async def proxied(
        self, pod: Json, port: int, path: str, query: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
    ) -> Reply:
        """What a pod answers on one of its ports, asked by the API server.

        Raises Refused if we may not ask, and if the API server does not reach the pod; an error that the pod itself
        answers is a reply.
        """
        meta = pod["metadata"]
        where = f"{object_path('pods', meta['name'], meta['namespace'])}:{port}/proxy{path}"
        what = f"get pods/proxy in namespace {meta['namespace']}"
        reply = await self.request("GET", where, query=query, timeout_s=timeout_s)
        if reply.status >= 400:
            try:
                told = json.loads(reply.body)
            except ValueError:
                told = None
            if isinstance(told, dict) and told.get("kind") == "Status":  # the API server's own
                raise Refused(reply.status, str(told.get("message") or ""), str(told.get("reason") or ""), what)
        return reply

    async def pods(
        self, namespace: str | None, read: Callable[[Json], Json] = lambda item: item, **query: str
    ) -> list[Json]:
        """Pods of one namespace, or of all."""
        where = f" in namespace {namespace}" if namespace else " in all namespaces"
        return await self.listed(collection("pods", namespace), f"list pods{where}", read, **query)


def collection(resource: str, namespace: str | None = None, group: str = "v1") -> str:
    """The path of a resource; `group` is `v1` or `apps/v1`."""
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    return f"{root}/namespaces/{segment(namespace)}/{resource}" if namespace else f"{root}/{resource}"


def object_path(resource: str, name: str, namespace: str | None = None, group: str = "v1") -> str:
    """The path of one object. Raises UserError for what is no name."""
    return f"{collection(resource, namespace, group)}/{segment(name)}"


def segment(name: str) -> str:
    """A name as one part of a path. Raises UserError for one that would lead elsewhere."""
    if name in ("", ".", ".."):
        raise UserError(f"{name!r} is no name of an object in Kubernetes: write the one that kubectl get shows")
    return quote(name, safe="")


def _ahead_s(date: str | None, otherwise: float) -> float:
    """How far a reply's Date is ahead of us."""
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return otherwise


async def gathered(works: Iterable[Coroutine[Any, Any, T]]) -> list[T | UserError]:
    """All at once; a UserError (and so Refused) stands where one came to it."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, UserError):
            raise each
    return [each for each in found if not isinstance(each, BaseException) or isinstance(each, UserError)]
