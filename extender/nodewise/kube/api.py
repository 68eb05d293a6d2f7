"""The connection to the API server, and the list-and-watch calls that are needed."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import yaml
from aiohttp import ClientResponse
from kubernetes.aio.client import ApiClient, Configuration, CoreV1Api, CustomObjectsApi
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from nodewise.core.errors import UserError

Call = Callable[..., Awaitable[ClientResponse]]
"""One list or watch request: takes what kubernetes.aio's `list_…_without_preload_content` take, gives the raw reply."""

BOUND_PODS = "spec.nodeName!="
"""Every pod that has a node. A finished pod stays, and arrives as MODIFIED with its final status."""

ACTIVE_PODS = f"{BOUND_PODS},status.phase!=Succeeded,status.phase!=Failed"
"""What uses a node now. A pod that finishes leaves the selection as DELETED, and that event does not say how it ended.

kube-apiserver sends "a delete event with the previous object content, but with the event's resource version"
(apiserver/pkg/storage/cacher/cache_watcher.go, convertToWatchEvent). Seen on 1.36.3: a pod patched from Running to
Succeeded with a terminated container came as DELETED, phase Running, without containerStatuses, under the patch's
resourceVersion. So run times must come from `FINISHED_PODS` or `BOUND_PODS`.
"""

FINISHED_PODS = f"{BOUND_PODS},status.phase!=Pending,status.phase!=Running,status.phase!=Unknown"
"""How pods ended: each arrives once as ADDED, with its final status (seen on 1.36.3).

Written with `!=` because a field selector cannot say "Succeeded or Failed". A pod that is deleted before it ends never
matches; `ACTIVE_PODS` shows it as DELETED with a deletionTimestamp.
"""


async def connect(kubeconfig: Path | None, context: str | None = None) -> ApiClient:
    """Client of the API server that `kubeconfig` names; the caller closes it.

    Without a path: the pod's service account where Kubernetes set KUBERNETES_SERVICE_HOST, otherwise $KUBECONFIG or
    ~/.kube/config. Nothing is sent yet, so an unreachable server is not noticed here.

    Errors: UserError when the configuration cannot be read or makes no sense.
    """
    configuration = Configuration()
    in_cluster = kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ
    path = str(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")  # the client expands the tilde
    try:
        if in_cluster:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            _require_file(path)
            await load_kube_config(  # type: ignore[no-untyped-call]
                path, context, client_configuration=configuration, persist_config=False
            )
        return ApiClient(configuration)
    except ConfigException as error:
        if in_cluster:
            raise UserError(
                f"the pod's service account is not usable ({error}): set automountServiceAccountToken, "
                "or name a kubeconfig"
            ) from error
        raise UserError(f"kubeconfig {path} is not usable: {str(error).rstrip('.')}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"kubeconfig {path} is not YAML{where}: repair it or name another file") from error
    except OSError as error:  # an unreadable file, or a certificate that OpenSSL refuses (ssl.SSLError is an OSError)
        what = error.strerror or str(error)
        raise UserError(f"kubeconfig {path} names a file that cannot be used: {error.filename or what}") from error
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # wrong shapes, bad base64, bytes that are no text
        raise UserError(f"kubeconfig {path} is malformed ({error}): compare it with `kubectl config view`") from error


def node_call(api: ApiClient) -> Call:
    """List and watch all nodes."""
    call: Call = CoreV1Api(api).list_node_without_preload_content
    return call


def pod_call(api: ApiClient, field_selector: str | None = None) -> Call:
    """List and watch the pods of all namespaces; `field_selector` is one of the three above, or None for every pod."""
    call: Call = CoreV1Api(api).list_pod_for_all_namespaces_without_preload_content
    return partial(call, field_selector=field_selector) if field_selector else call


def namespace_call(api: ApiClient) -> Call:
    """List and watch all namespaces."""
    call: Call = CoreV1Api(api).list_namespace_without_preload_content
    return call


def custom_call(api: ApiClient, group: str, version: str, plural: str) -> Call:
    """List and watch all objects of a cluster-scoped custom resource."""
    return partial(CustomObjectsApi(api).list_cluster_custom_object_without_preload_content, group, version, plural)


def _require_file(paths: str) -> None:
    """The client passes over files that do not exist and then complains of a missing key; say the real reason."""
    if not any(Path(path).expanduser().exists() for path in paths.split(os.pathsep) if path):
        raise UserError(f"kubeconfig {paths} does not exist: name one with --kubeconfig or set KUBECONFIG")
    for path in filter(None, paths.split(os.pathsep)):
        if Path(path).expanduser().is_dir():
            raise UserError(f"kubeconfig {path} is a folder: name the file")
