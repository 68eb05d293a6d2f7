"""Upstream's fake extenders (pkg/scheduler/testing/framework/fake_extender.go), at the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .emulator import Post

Json = dict[str, Any]
BOTH = ("node1", "node2")
POD: Json = {"metadata": {"name": "p", "uid": "p"}, "spec": {}}


def keeps(*kept: str, unresolvable: Sequence[str] = ()) -> Post:
    """A filter that keeps some nodes and names the others."""

    def post(body: bytes) -> tuple[int, bytes]:
        names = json.loads(body)["NodeNames"]
        out = [n for n in names if n not in kept]
        reply = {
            "NodeNames": [n for n in names if n in kept],
            "FailedNodes": {n: f"{n} failed" for n in out if n not in unresolvable},
            "FailedAndUnresolvableNodes": {n: f"{n} failed" for n in out if n in unresolvable},
        }
        return 200, json.dumps(reply).encode()

    return post


def all_pass(body: bytes) -> tuple[int, bytes]:
    return keeps(*json.loads(body)["NodeNames"])(body)


def fails(_: bytes) -> tuple[int, bytes]:
    return 500, b"[]"


def prefers(best: str, points: int = 10, others: int = 1) -> Post:
    """A prioritize verb like Node1PrioritizerExtender, its inner weight multiplied in."""

    def post(body: bytes) -> tuple[int, bytes]:
        names = json.loads(body)["NodeNames"]
        return 200, json.dumps([{"Host": n, "Score": points if n == best else others} for n in names]).encode()

    return post


def must_not_be_called(_: bytes) -> tuple[int, bytes]:
    raise AssertionError("called")
