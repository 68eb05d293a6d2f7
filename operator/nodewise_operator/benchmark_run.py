"""`nodewise profile` on a cluster, at the API server: Jobs made, their pods waited for, results written, Jobs deleted.

Rights: list nodes; in the namespace create and delete jobs.batch and list pods; and, to keep the results, list, create
and patch nodeprofiles.nodewise.dev and patch nodeprofiles/status. Logs are not read.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import ClientError
from kubernetes.aio.client import ApiClient, ApiException, BatchV1Api, CoreV1Api, CustomObjectsApi, V1Job

from nodewise.core.errors import UserError
from nodewise_operator.benchmark import Ask, NodeClass, Outcome, benchmark, job, merged, on_the_way, outcome
from nodewise_operator.profiles import object_name
from nodewise_operator.resources.base import GROUP, VERSION
from nodewise_operator.resources.node_profile import NodeProfile

Json = dict[str, Any]
Tell = Callable[..., None]
"""Told (label, done, total, note) of how it goes."""

MANAGER = "nodewise-profile"
"""Our field manager: what the operator writes into a NodeProfile stays the operator's."""
_APPLY = "application/apply-patch+yaml"
_POLL_S = 1.0
_NO_POD_S = 60.0
"""The Job controller makes a pod at once, or is not let."""
_CALL_S = 30.0
_CLEAN_UP_S = 30.0


async def nodes(api: ApiClient) -> list[Json]:
    """All nodes of the cluster. Raises UserError if they cannot be listed."""
    reply = await _answered(CoreV1Api(api).list_node_without_preload_content(_request_timeout=_CALL_S), "list nodes")
    return list(reply["items"])


async def run(api: ApiClient, ask: Ask, classes: Iterable[NodeClass], tell: Tell) -> list[Outcome]:
    """Run every workload on every class: classes side by side, the workloads of one class after each other.

    However it ends, no Job of it is left (as far as the API server answers). Raises UserError if Jobs cannot be made.
    """
    made: set[str] = set()
    try:
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(_one_class(api, ask, k, each, made, tell)) for k, each in enumerate(classes)]
        return [outcome for each in work for outcome in each.result()]
    except ExceptionGroup as several:
        for error in several.exceptions:
            if isinstance(error, UserError):
                raise error from None
        raise
    finally:
        await _clean_up(api, ask, made)


async def _one_class(api: ApiClient, ask: Ask, number: int, of: NodeClass, made: set[str], tell: Tell) -> list[Outcome]:
    done: list[Outcome] = []
    for workload in ask.workloads:
        if done and not done[-1].ran:  # no room, or no image: the next one would only wait as long
            done.append(replace(done[-1], workload=workload))
            continue
        say = partial(tell, of.name, len(done), len(ask.workloads))
        say(workload)
        name = f"nodewise-profile-{ask.run}-{number}-{workload}"
        body = V1Job.model_validate(job(ask, of, workload, name))
        made.add(name)  # first: a reply that is lost may have made it
        create = BatchV1Api(api).create_namespaced_job_without_preload_content
        await _answered(
            create(ask.namespace, body, _request_timeout=_CALL_S), f"create Jobs in namespace {ask.namespace}"
        )
        done.append(await _result(api, ask, of, workload, name, say))
        await _delete(api, ask, name)
        made.discard(name)
    tell(of.name, len(done), len(ask.workloads), "done")
    return done


async def _result(
    api: ApiClient, ask: Ask, of: NodeClass, workload: str, name: str, say: Callable[[str], None]
) -> Outcome:
    """Wait for the pod of a Job, by asking every second."""
    call = CoreV1Api(api).list_namespaced_pod_without_preload_content
    begun_s, seen, last, why = time.monotonic(), False, "no pod", ""
    while not why:
        pod = None
        try:
            listed = await _answered(
                call(ask.namespace, label_selector=f"batch.kubernetes.io/job-name={name}", _request_timeout=_CALL_S),
                f"list pods in namespace {ask.namespace}",
            )
        except _UnreachableError as error:  # for now: the Job goes on without us
            last = str(error)
        else:
            pod = next(iter(listed["items"]), None)
            if pod is None and seen:
                why = "its pod was deleted"
        waited_s = time.monotonic() - begun_s
        if pod is not None:
            seen = True
            if found := outcome(pod, of.name, workload):
                return found
            last = on_the_way(pod)
            say(f"{workload}, {last}")
        elif not seen and waited_s > _NO_POD_S:
            why = f"{last} for {_NO_POD_S:g} s: is there a quota, or an admission policy that refuses its pod?"
        if waited_s > ask.timeout_s:
            why = why or f"nothing after {ask.timeout_s:g} s: {last}"
        await asyncio.sleep(_POLL_S)
    return Outcome(of.name, workload, "", None, math.nan, why)


async def _clean_up(api: ApiClient, ask: Ask, made: set[str]) -> None:
    """Delete what is left; whoever cancelled us waits for it, but not for ever."""
    if not made:
        return
    work = asyncio.gather(*(_delete(api, ask, name) for name in made), return_exceptions=True)
    with_limit = asyncio.ensure_future(asyncio.wait_for(work, _CLEAN_UP_S))
    while not with_limit.done():
        try:
            await asyncio.shield(with_limit)
        except asyncio.CancelledError:  # a second Ctrl-C: still only 30 s
            continue
        except TimeoutError:
            return


async def _delete(api: ApiClient, ask: Ask, name: str) -> None:
    try:
        reply = await BatchV1Api(api).delete_namespaced_job_without_preload_content(
            name, ask.namespace, propagation_policy="Background", _request_timeout=_CALL_S
        )
        reply.release()
    except (ApiException, ClientError, TimeoutError):
        return  # gone already, or it ends and goes by itself: activeDeadlineSeconds, ttlSecondsAfterFinished


async def keep(api: ApiClient, outcomes: Iterable[Outcome]) -> str:
    """Write the results into the status of each class's NodeProfile, which is made if there is none.

    A sentence on why they were not written, or empty.
    """
    custom = CustomObjectsApi(api)
    by_class: dict[str, list[Outcome]] = defaultdict(list)
    for each in outcomes:
        if each.measured is not None and each.ran:
            by_class[each.node_class].append(each)
    try:
        found: Any = await custom.list_cluster_custom_object(
            GROUP, VERSION, NodeProfile.plural, _request_timeout=_CALL_S
        )
        objects: dict[str, Any] = {each["metadata"]["name"]: each for each in found["items"]}
        for node_class, results in by_class.items():
            held: Any = next((o for o in objects.values() if o["spec"]["nodeClass"] == node_class), None)
            name = held["metadata"]["name"] if held else object_name(node_class, objects)
            head = NodeProfile.head() | {"metadata": {"name": name}}
            to: dict[str, Any] = {
                "field_manager": MANAGER,
                "force": True,
                "_content_type": _APPLY,
                "_request_timeout": _CALL_S,
            }
            if held is None:
                objects[name] = held = head | {"spec": {"nodeClass": node_class}}
                await custom.patch_cluster_custom_object(GROUP, VERSION, NodeProfile.plural, name, held, **to)
            old = (held.get("status") or {}).get("benchmarks") or ()
            status = {"status": {"benchmarks": merged(old, map(benchmark, results))}}
            await custom.patch_cluster_custom_object_status(
                GROUP, VERSION, NodeProfile.plural, name, head | status, **to
            )
    except ApiException as error:
        if error.status == 404:
            return "not kept: NodeProfile is not installed (`nodewise crds | kubectl apply -f -`)"
        return f"not kept: {_message(error)}"
    except (ClientError, TimeoutError) as error:
        return f"not kept: {error or type(error).__name__}"
    return ""


class _UnreachableError(UserError):
    """The API server did not answer, or not yet: it may later."""


async def _answered(call: Any, what: str) -> Json:
    """The JSON of a call's reply. Raises UserError, which says what could not be done."""
    try:
        async with await call as reply:
            raw = await reply.read()
    except (ClientError, TimeoutError, OSError) as error:
        raise _UnreachableError(f"cannot {what}: {error or type(error).__name__}") from None
    if reply.status < 300:
        answer: Json = json.loads(raw)
        return answer
    try:
        said = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        said = f"HTTP {reply.status}"
    kind = _UnreachableError if reply.status == 429 or reply.status >= 500 else UserError
    raise kind(f"cannot {what}: {said}")


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
