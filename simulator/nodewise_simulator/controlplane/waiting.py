"""Waiting for pods by watching them."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from nodewise_simulator.controlplane.api import Api, pods_path

Json = dict[str, Any]


async def wait_for_pods(
    api: Api, count: int, namespace: str, timeout_s: float, state: str, reached: Callable[[Json], bool]
) -> dict[str, Json]:
    """Pods of the namespace by name, once `count` of them have `reached` what the message calls `state`.

    Raises TimeoutError, which quotes the conditions of a pod that has not.
    """
    done: dict[str, Json] = {}
    others: dict[str, Json] = {}

    def put(pod: Json) -> None:
        name = pod["metadata"]["name"]
        into, out_of = (done, others) if reached(pod) else (others, done)
        into[name] = pod
        out_of.pop(name, None)

    try:
        async with asyncio.timeout(timeout_s), aclosing(api.events(pods_path(namespace))) as events:
            async for kind, thing in events:
                if kind == "SYNC":
                    done.clear()
                    others.clear()
                    for pod in thing["items"]:
                        put(pod)
                elif kind == "DELETED":
                    done.pop(thing["metadata"]["name"], None)
                    others.pop(thing["metadata"]["name"], None)
                else:
                    put(thing)
                if len(done) >= count:
                    break
    except TimeoutError:
        why = next((f"; {name} is not: {_condition(pod)}" for name, pod in others.items()), "")
        raise TimeoutError(
            f"{len(done)} of {count} pods in {namespace} are {state} after {timeout_s:g} s{why}"
        ) from None
    return done


def _condition(pod: Json) -> str:
    said = [c["message"] for c in pod["status"].get("conditions", ()) if c.get("message")]
    return "; ".join(said) or f"phase {pod['status'].get('phase')}, and no condition says why"
