"""A small extender: neutral, for benchmarks to compare with, or by a given rule; it records its requests."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from nodewise_simulator.controlplane.loop import LoopThread

Json = dict[str, Any]
Reply = Callable[[Json], list[Json]]


def neutral(_args: Json) -> list[Json]:
    """The empty HostPriorityList: asked, and without opinion."""
    return []


def winner_only(choose: Callable[[Json, list[str]], str]) -> Reply:
    """A reply that scores `choose(pod, candidates)` alone; kube-scheduler takes absent nodes as 0."""

    def reply(args: Json) -> list[Json]:
        return [{"Host": choose(args["Pod"], args["NodeNames"]), "Score": 10}]

    return reply


class ToyExtender:
    """Serves `reply(decoded ExtenderArgs)` at `{url}/prioritize`; `bodies` keeps the raw body of every request.

    At `{url}/filter` no node passes for a pod that `holds` is true of, and preemption would not help it; `filtered`
    keeps name and `time.time()` of every such request.
    """

    def __init__(self, reply: Reply = neutral, holds: Callable[[Json], bool] = lambda _pod: False) -> None:
        self.bodies: list[bytes] = []
        self.filtered: list[tuple[str, float]] = []
        self._reply, self._holds = reply, holds
        self._thread = LoopThread("toy-extender")
        self.url = self._thread.run(self._serve())

    async def _serve(self) -> str:
        app = web.Application(client_max_size=256 << 20)
        app.router.add_post("/prioritize", self._prioritize)
        app.router.add_post("/filter", self._filter)
        # Longer than the 90 s after which Go closes an idle connection: Go does not repeat a POST that meets our close.
        self._runner = web.AppRunner(app, keepalive_timeout=120, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _prioritize(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        return web.Response(
            body=msgspec.json.encode(self._reply(msgspec.json.decode(body))), content_type="application/json"
        )

    async def _filter(self, request: web.Request) -> web.Response:
        args = msgspec.json.decode(await request.read())
        pod, names = args["Pod"], args["NodeNames"]
        self.filtered.append((pod["metadata"]["name"], time.time()))
        held = self._holds(pod)
        result = {
            "Nodes": None,
            "NodeNames": [] if held else names,
            "FailedNodes": {},
            "FailedAndUnresolvableNodes": dict.fromkeys(names, "held") if held else {},
            "Error": "",
        }
        return web.Response(body=msgspec.json.encode(result), content_type="application/json")

    def stop(self) -> None:
        """Close the port and end the thread."""
        self._thread.run(self._runner.cleanup())
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
