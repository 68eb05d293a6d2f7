"""The extender process beside the bare HTTP server: latency of an exchange and the server's CPU time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.bench.floor import floor
from nodewise_simulator.bench.proc import cpu_s, only_child
from nodewise_simulator.bench.requests import Client, bodies, fill
from nodewise_simulator.bench.served_policy import MEASURED, flags
from nodewise_simulator.compare import Row, interval, ratio_interval
from nodewise_simulator.fake_api import FakeApi
from nodewise_simulator.processes import ExtenderProcess

FLOOR = "http-floor"
SIZES = (100, 1_000, 5_000)
_DIFFERENT = 50
"""Pods that are asked about again and again; each gives up its old place first, so that the cluster does not fill."""
_WARM = 1_000
"""Requests before the first round: the extender keeps the views of its last decisions, and that memory must be full."""

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, out of how much)"""


@dataclass(frozen=True, slots=True)
class _Round:
    p50_ms: float
    p99_ms: float
    cpu_us: float  # per request


_UNITS = {"latency_p50": ("ms", "p50_ms"), "latency_p99": ("ms", "p99_ms"), "cpu": ("µs per request", "cpu_us")}


def bench_extender(
    sizes: Sequence[int] = SIZES,
    *,
    policies: Sequence[str] = MEASURED,
    rounds: int = 5,
    requests: int = 300,
    progress: Progress = lambda *_: None,
) -> list[Row]:
    """Rows `names=N` for each policy's extender and for the floor: all in turn, one request at a time, as a scheduler.

    Latency is that of the whole exchange, CPU that of the serving process (the guard's child); ratios are to the floor
    of the same round, intervals over rounds. Raises UserError if a server does not start or gives no opinion.
    """
    if rounds < 1 or requests < 1 or not sizes or min(sizes) < 2:
        raise UserError("bench extender needs at least 1 round, 1 request and 2 names")
    rows: list[Row] = []
    total = rounds * (len(policies) + 1)
    for size in sizes:
        label = f"{size:,} names"
        measured = _of_size(size, policies, rounds, requests, lambda k, label=label: progress(label, k, total))  # type: ignore[misc]
        for name, made in measured.items():
            rows += _rows(f"names={size}", name, made, measured[FLOOR])
    return rows


def _of_size(
    size: int, policies: Sequence[str], rounds: int, requests: int, progress: Callable[[int], None]
) -> dict[str, list[_Round]]:
    rng = np.random.default_rng(size)
    measured: dict[str, list[_Round]] = {name: [] for name in (*policies, FLOOR)}
    with tempfile.TemporaryDirectory(prefix="nodewise-bench-") as name, FakeApi() as api:
        folder = Path(name)
        fill(api, size, rng)
        asked = bodies(size, _DIFFERENT, rng)
        kubeconfig = api.kubeconfig(folder / "kubeconfig")
        with ExitStack() as stack:
            servers = {}
            for policy in policies:
                own = folder / policy
                own.mkdir()
                extender = stack.enter_context(ExtenderProcess(kubeconfig, own, *flags(policy, own)))
                servers[policy] = (stack.enter_context(Client(extender.port)), only_child(extender.pid))
            floor_port, floor_pid = stack.enter_context(floor("constant"))
            servers[FLOOR] = (stack.enter_context(Client(floor_port)), floor_pid)
            for client, _ in servers.values():
                reply = [client.prioritize(asked[k % _DIFFERENT])[1] for k in range(_WARM)][-1]
                if [entry["Score"] for entry in json.loads(reply)] != [10]:
                    raise UserError(f"the extender gives no opinion, so there is nothing to measure: {reply[:80]!r}")
            for k in range(rounds):
                order = list(servers) if k % 2 == 0 else list(servers)[::-1]
                for name in order:
                    measured[name].append(_round(*servers[name], asked, k * requests, requests))
                    progress(sum(map(len, measured.values())))
    return measured


def _round(client: Client, pid: int, asked: Sequence[bytes], first: int, requests: int) -> _Round:
    before_s = cpu_s(pid)
    took_s = [client.prioritize(asked[(first + k) % len(asked)])[0] for k in range(requests)]
    spent_s = cpu_s(pid) - before_s
    p50, p99 = np.percentile(took_s, [50, 99]) * 1e3
    return _Round(float(p50), float(p99), spent_s / requests * 1e6)


def _rows(scenario: str, name: str, made: Sequence[_Round], floor_made: Sequence[_Round]) -> list[Row]:
    rows = []
    for metric, (unit, field) in _UNITS.items():
        values, base = (np.array([getattr(r, field) for r in of]) for of in (made, floor_made))
        rows.append(Row(scenario, name, metric, unit, float(values.mean()), *interval(values), len(values)))
        ratio = float(values.sum() / base.sum())
        rows.append(
            Row(scenario, name, f"{metric}_ratio", f"to {FLOOR}", ratio, *ratio_interval(values, base), len(values))
        )
    return rows
