"""A pod's command as a process of this machine: what the kubelet's container runtime does, without a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
_MOST_MESSAGE_BYTES = 4096
_MOST_LOG_BYTES = 2048
"""Kubernetes' bounds of a termination message, and of the part of the log that stands in for one."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended."""

    code: int = 0
    message: str = ""
    """What it wrote to its `terminationMessagePath`; or the end of its log, if it failed and its policy says so."""


async def run_command(pod: Json, _node: str) -> Exit:
    """Run the first container's command and wait for its end; cancelling kills it.

    `python` is ours. Its mounts and its termination message are in a temporary folder: their paths are replaced
    wherever they begin an argument or a variable. User, image, resources, probes and other containers are not played.
    """
    container = pod["spec"]["containers"][0]
    with tempfile.TemporaryDirectory(prefix="nodewise-pod-") as text:
        folder = Path(text)
        message = folder / "termination-message"
        places = {container.get("terminationMessagePath") or "/dev/termination-log": str(message)}
        for k, mount in enumerate(container.get("volumeMounts") or ()):
            (folder / str(k)).mkdir()
            places[mount["mountPath"]] = str(folder / str(k))
        argv = [_placed(word, places) for word in (*(container.get("command") or ()), *(container.get("args") or ()))]
        variables = {each["name"]: _placed(each.get("value") or "", places) for each in container.get("env") or ()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        log = folder / "log"
        with log.open("wb") as out:
            try:
                code = await _run(argv, {**os.environ, "PATH": path, **variables}, out.fileno())
            except OSError as error:  # no such program
                return Exit(127, str(error))
        return Exit(code, _message(container, code, message, log))


async def _run(argv: list[str], env: Mapping[str, str], out: int) -> int:
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
    )
    try:
        code = await child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):  # its own group: what it started goes with it
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
    return code if code >= 0 else 128 - code


def _placed(text: str, places: Mapping[str, str]) -> str:
    for path, real in places.items():
        if text == path or text.startswith(f"{path}/"):
            return real + text[len(path) :]
    return text


def _message(container: Json, code: int, message: Path, log: Path) -> str:
    said = message.read_bytes()[:_MOST_MESSAGE_BYTES] if message.exists() else b""
    if not said and code != 0 and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        said = log.read_bytes()[-_MOST_LOG_BYTES:]
    return said.decode(errors="replace")
