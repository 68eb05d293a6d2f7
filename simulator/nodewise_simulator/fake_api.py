"""A small Kubernetes API server: a few resources in memory, list, watch and binding over real HTTP.

It keeps the promises that a list-and-watch client relies on: one resourceVersion counter for everything, pages of one
consistent snapshot, events in order and without gaps, bookmarks, 410 for what is no longer remembered. It breaks them
on request (the methods under "faults"). Nothing is validated and nothing is secret: for tests and demonstrations only.
"""

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from aiohttp import web

from nodewise_simulator.fake_store import KIND, Collection, Object, Selector, selector

Resource = Literal["nodes", "pods", "namespaces", "placementpolicies"]
_SNAPSHOTS_KEPT = 16
_EVENTS_PER_WRITE = 1000


class _Watch:
    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.stalled = False
        self.orders: deque[bytes | Literal["end", "drop"]] = deque()  # bytes are sent as they stand


class FakeApi:
    """`put`, `delete` and `bind` from any thread; HTTP on 127.0.0.1 from a thread of its own.

    `history` is the least number of events per resource that a watch can go back; `bookmark_s` the time between
    bookmarks (kube-apiserver: about 60); `tls` serves https, and `kubeconfig` then tells clients not to verify it.
    """

    def __init__(self, *, history: int = 10_000, bookmark_s: float = 60.0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: deque[str] = deque(maxlen=1000)  # path and query of the last requests
        self._collections = {name: Collection(name, history) for name in KIND}
        self._rv = 0
        self._lock = threading.Lock()
        self._snapshots: dict[int, tuple[int, list[bytes]]] = {}
        self._snapshot_id = 0
        self._bookmark_s, self._tls = bookmark_s, tls
        self._watches: set[_Watch] = set()
        self._refusals: deque[web.Response] = deque()
        self._denied: dict[str, int] = {"placementpolicies": 404}
        self._expired_tokens = 0
        self._waking = self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._port = 0

    # --- objects

    def put(self, resource: Resource, obj: Object) -> int:
        """Create or replace by metadata.uid; encoded before it returns, so `obj` stays the caller's to change.

        Returns the new resourceVersion, which is not written into `obj`.
        """
        with self._lock:
            rv = self._rv + 1
            self._collections[resource].put(obj, rv)
            self._rv = rv
        self._wake_watches()
        return rv

    def delete(self, resource: Resource, uid: str) -> int:
        """Remove the object and return the resourceVersion of its removal. Errors: KeyError if there is none."""
        with self._lock:
            rv = self._rv + 1
            self._collections[resource].delete(uid, rv)
            self._rv = rv
        self._wake_watches()
        return rv

    def bind(self, namespace: str, name: str, node: str) -> int:
        """Set the pod's node as the binding subresource does. Errors: KeyError (no such pod), ValueError (is bound)."""
        with self._lock:
            pods, rv = self._collections["pods"], self._rv + 1
            pod = msgspec.json.decode(pods.objects[pods.uids[namespace, name]].body)
            if pod.setdefault("spec", {}).get("nodeName"):
                raise ValueError(f"pod {name} is already assigned to node {pod['spec']['nodeName']}")
            pod["spec"]["nodeName"] = node
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            conditions = pod.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [c for c in conditions if c["type"] != "PodScheduled"]
            conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now})
            pods.put(pod, rv)
            self._rv = rv
        self._wake_watches()
        return rv

    # --- life

    def start(self) -> Self:
        """Listen on a free port of 127.0.0.1; returns when requests are answered."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="fake-api", daemon=True)
        self._thread.start()
        if not ready.wait(10.0):
            raise RuntimeError("the fake API server did not start")
        return self

    def stop(self) -> None:
        """End all watches and the thread. A stopped server does not start again."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server (JSON, which is YAML too) and return its path."""
        cluster: Object = {"server": self.url} | ({"insecure-skip-tls-verify": True} if self._tls else {})
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": {"token": "fake"}}],
        }
        path.write_text(json.dumps(config, indent=2))
        return path

    # --- faults; each has taken effect when the method returns

    def refuse(self, times: int, status: int = 500, headers: dict[str, str] | None = None) -> None:
        """Answer the next requests with this status."""
        refusal = (status, "InternalError", "refused on request", headers)
        self._in_loop(lambda: self._refusals.extend(_status(*refusal) for _ in range(times)))

    def deny(self, resource: Resource, status: int = 0) -> None:
        """Answer requests for this resource with a status from now on, its watches ended; 0 ends that.

        404 is a custom resource that is not installed, which PlacementPolicies are not at first; 403 one that may not
        be read.
        """
        with self._lock:
            self._denied[resource] = status
            if status == 404:
                for uid in [*self._collections[resource].objects]:
                    self._rv += 1
                    self._collections[resource].delete(uid, self._rv)
        if status:
            self.end_watches()

    def expire_continue_tokens(self, times: int = 1) -> None:
        """Answer 410 to the next requests that carry a continue token."""
        with self._lock:
            self._expired_tokens += times

    def compact(self) -> None:
        """Forget all events: a watch that asks for anything but the newest resourceVersion is told 410."""
        with self._lock:
            for collection in self._collections.values():
                collection.forget(len(collection.events))

    def bookmark(self) -> None:
        """Send a bookmark now on every open watch that takes them, unless nothing has happened since it began."""
        self._order(b"")

    def end_watches(self) -> None:
        """End open watches in good order, as when their time is up."""
        self._order("end")

    def drop_watches(self) -> None:
        """Cut the connection of open watches in the middle of a line."""
        self._order(b'{"type":"MODIFIED","object":{"metad', "drop")

    def stall_watches(self) -> None:
        """Open watches fall silent for ever without being closed, like a connection lost behind a load balancer."""

        def stall() -> None:
            for watch in self._watches:
                watch.stalled = True

        self._in_loop(stall)

    def expire_watches(self) -> None:
        """Send ERROR 410 on open watches and end them."""
        self._order(_GONE_EVENT, "end")

    def corrupt_watches(self, line: bytes = b"{oops\n") -> None:
        """Send these bytes on open watches."""
        self._order(line)

    def _order(self, *orders: bytes | Literal["end", "drop"]) -> None:
        def give() -> None:
            for watch in self._watches:
                watch.orders.extend(orders)
                watch.wake.set()

        self._in_loop(give)

    def _in_loop(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(action)
        self._loop.call_soon_threadsafe(done.set)
        if not done.wait(10.0):
            raise RuntimeError("the fake API server does not run")

    # --- server thread

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(middlewares=[self._refusing], client_max_size=16 << 20)
        app.add_routes(
            [
                web.get("/readyz", self._readyz),
                web.get("/version", self._version),
                web.get("/api/v1/{resource:nodes|pods|namespaces}", self._get),
                web.get("/apis/nodewise.dev/v1alpha1/{resource:placementpolicies}", self._get),
                web.post("/api/v1/namespaces/{namespace}/pods/{name}/binding", self._bind),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        self._loop.run_until_complete(site.start())
        self._port = runner.addresses[0][1]
        self._loop.call_soon(ready.set)
        self._loop.run_forever()
        self._stopping = True
        self._notify()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _wake_watches(self) -> None:
        """One wake-up for all puts since the last one: waking a loop costs more than a put."""
        if self._thread is not None and not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._notify)

    def _notify(self) -> None:
        self._waking = False
        for watch in self._watches:
            watch.wake.set()

    @web.middleware
    async def _refusing(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        if self._refusals:
            return self._refusals.popleft()
        reply: web.StreamResponse = await handler(request)
        return reply

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.0+fake", "platform": "linux/amd64"})

    async def _bind(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        try:
            node = msgspec.json.decode(await request.read())["target"]["name"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            return _status(400, "BadRequest", f"binding: {error}")
        try:
            self.bind(namespace, name, node)
        except KeyError:
            return _status(404, "NotFound", f'pods "{name}" not found')
        except ValueError as error:
            return _status(409, "Conflict", str(error))
        return _status(201, "", "")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        query, collection = request.query, self._collections[request.match_info["resource"]]
        if denied := self._denied.get(request.match_info["resource"]):
            return _status(denied, "Denied", "denied on request")
        try:
            selected = selector(query.get("fieldSelector", ""), collection.kind)
        except ValueError as error:
            return _status(400, "BadRequest", str(error))
        if query.get("watch", "").lower() in ("true", "1"):
            return await self._watch(request, collection, selected)
        return self._list(collection, selected, int(query.get("limit") or 0), query.get("continue", ""))

    def _list(self, collection: Collection, selected: Selector, limit: int, token: str) -> web.Response:
        with self._lock:
            snapshot_id, start = 0, 0
            if token:
                snapshot_id, start = map(int, token.split("-"))
                if self._expired_tokens or snapshot_id not in self._snapshots:
                    self._expired_tokens = max(0, self._expired_tokens - 1)
                    return _status(410, "Expired", "The provided continue parameter is too old")
                rv, bodies = self._snapshots[snapshot_id]
            else:
                rv = self._rv
                bodies = [stored.body for stored in collection.objects.values() if selected(stored.fields)]
            end = start + limit if limit else len(bodies)
            meta: Object = {"resourceVersion": str(rv)}
            if end < len(bodies):
                if not token:
                    self._snapshot_id = snapshot_id = self._snapshot_id + 1
                    self._snapshots[snapshot_id] = rv, bodies
                    if len(self._snapshots) > _SNAPSHOTS_KEPT:
                        del self._snapshots[next(iter(self._snapshots))]
                meta |= {"continue": f"{snapshot_id}-{end}", "remainingItemCount": len(bodies) - end}
            else:
                self._snapshots.pop(snapshot_id, None)
        head = b'{"kind":"%sList","apiVersion":"v1","metadata":%s,"items":[' % (
            collection.kind.encode(),
            msgspec.json.encode(meta),
        )
        return web.Response(body=head + b",".join(bodies[start:end]) + b"]}", content_type="application/json")

    async def _watch(self, request: web.Request, collection: Collection, selected: Selector) -> web.StreamResponse:
        query, loop = request.query, asyncio.get_running_loop()
        rv = start_rv = int(query.get("resourceVersion") or 0)
        bookmarks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
        reply = web.StreamResponse(headers={"Content-Type": "application/json"})
        watch = _Watch()
        self._watches.add(watch)
        ends_s = loop.time() + float(query.get("timeoutSeconds") or 1800)
        bookmark_s = loop.time() + self._bookmark_s
        try:
            await reply.prepare(request)
            with self._lock:
                expired, position = rv < collection.oldest_rv, collection.position_after(rv)
            if expired:
                await reply.write(_GONE_EVENT)
                return reply
            while not self._stopping and request.transport is not None and loop.time() < ends_s:
                watch.wake.clear()
                chunk = b""
                if not watch.stalled:
                    with self._lock:
                        if position < collection.dropped:  # too slow: it asks again and is told 410
                            return reply
                        first = position - collection.dropped
                        events = collection.events[first : first + _EVENTS_PER_WRITE]
                        position += len(events)
                        rv = self._rv if len(events) < _EVENTS_PER_WRITE else events[-1].rv
                    chunk = b"".join(event.line(selected) for event in events)
                    while watch.orders:
                        order = watch.orders.popleft()
                        if isinstance(order, bytes):
                            chunk += order or (_bookmark(collection.kind, rv) if bookmarks and rv > start_rv else b"")
                            continue
                        if chunk:
                            await reply.write(chunk)
                        if order == "drop" and request.transport is not None:
                            request.transport.close()
                        return reply
                    if bookmarks and loop.time() >= bookmark_s:
                        if rv > start_rv:  # kube-apiserver says nothing either until something has happened
                            chunk += _bookmark(collection.kind, rv)
                        bookmark_s = loop.time() + self._bookmark_s
                    if chunk:
                        await reply.write(chunk)
                    if len(events) == _EVENTS_PER_WRITE:
                        continue
                until_s = ends_s if watch.stalled or not bookmarks else min(ends_s, bookmark_s)
                try:
                    async with asyncio.timeout_at(until_s):
                        await watch.wake.wait()
                except TimeoutError:
                    pass
        except ConnectionError:  # the client left
            pass
        finally:
            self._watches.discard(watch)
        return reply


def _status_object(code: int, reason: str, message: str) -> Object:
    outcome = "Success" if code < 300 else "Failure"
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": outcome,
        "message": message,
        "reason": reason,
        "code": code,
    }


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(_status_object(code, reason, message), status=code, headers=headers)


def _bookmark(kind: str, rv: int) -> bytes:
    obj = {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": str(rv), "creationTimestamp": None}}
    return msgspec.json.encode({"type": "BOOKMARK", "object": obj}) + b"\n"


_GONE_EVENT = (
    msgspec.json.encode({"type": "ERROR", "object": _status_object(410, "Expired", "too old resource version")}) + b"\n"
)
