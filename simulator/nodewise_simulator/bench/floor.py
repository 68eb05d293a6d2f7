"""The least an extender can do: `python -m nodewise_simulator.bench.floor --port P --says WHAT` serves until killed.

The same server as the extender's (uvicorn on uvloop and httptools, one worker, no framework), so that what is above it
is our own work.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane.access import free_ports

Message = MutableMapping[str, Any]
Says = Callable[[bytes], bytes]

CONSTANT = b'[{"Host":"node-00000","Score":10}]'


def _winner(body: bytes) -> bytes:
    """One candidate, by the pod's name, so that pods spread and every winner is feasible."""
    asked = json.loads(body)
    names = asked["NodeNames"]
    chosen = names[sum(asked["Pod"]["metadata"]["name"].encode()) * 7919 % len(names)]
    return json.dumps([{"Host": chosen, "Score": 10}]).encode()


SAYS: dict[str, Says] = {"constant": lambda _: CONSTANT, "neutral": lambda _: b"[]", "winner": _winner}
"""What the reply is; the first two do not look at the body."""


def app(says: Says) -> Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]:
    """An ASGI application that reads the body and replies."""

    async def serve(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        reply = says(b"".join(parts))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    return serve


@contextmanager
def floor(says: str) -> Iterator[tuple[int, int]]:
    """A running floor server: (port, process id)."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "nodewise_simulator.bench.floor", "--port", str(port), "--says", says]
    with subprocess.Popen(argv) as process:  # noqa: S603
        try:
            give_up_s = time.monotonic() + 30.0
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > give_up_s:
                        raise UserError("the bare HTTP server did not start: see what it wrote above") from None
                    time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()


def main() -> None:
    """The process itself."""
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--says", choices=SAYS, required=True)
    told = parser.parse_args()
    uvicorn.run(
        app(SAYS[told.says]), host="127.0.0.1", port=told.port, loop="uvloop", http="httptools", ws="none",
        lifespan="off", access_log=False, log_level="error", server_header=False, date_header=False,
        timeout_keep_alive=120,
    )  # fmt: skip


if __name__ == "__main__":
    main()
