"""Pods a second of the real kube-scheduler: without extender, with one that says nothing, with the least, with ours."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.bench.floor import floor
from nodewise_simulator.bench.proc import cpu_s, only_child
from nodewise_simulator.bench.served_policy import MEASURED, flags
from nodewise_simulator.compare import Row, interval, ratio_interval
from nodewise_simulator.controlplane import ControlPlane, node, pod, scheduler_config
from nodewise_simulator.controlplane.api import Api, pods_path
from nodewise_simulator.controlplane.loop import LoopThread
from nodewise_simulator.processes import ExtenderProcess

NONE, NEUTRAL, WINNER = "none", "neutral", "winner-only"
_GIB = 1 << 30
_PATIENCE_S = 120.0
_SCORED = re.compile(r'^nodewise_extender_requests_total\{outcome="scored",verb="prioritize"\} (\S+)', re.MULTILINE)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Run:
    pods_per_s: float
    scheduler_cpu_ms: float  # per pod
    extender_cpu_ms: float  # per pod; nan without extender
    scored: float  # share of the pods that our extender had an opinion on; nan for the others


@dataclass(slots=True)
class _Served:
    """An extender that runs: where, as which process, and how many pods it scored so far."""

    url: str | None = None
    pid: int | None = None
    scored: Callable[[], float] = lambda: float("nan")


def bench_scheduler(
    nodes: int = 1000,
    pods: int = 1000,
    *,
    policies: Sequence[str] = MEASURED,
    rounds: int = 3,
    progress: Progress = lambda *_: None,
) -> list[Row]:
    """Rows `nodes=N` for no extender, `[]`, a trivial winner-only one, and each policy of ours, in turn on one control
    plane.

    Pods are created first, then the scheduler is started, so that it is what is measured and not the API server's
    writing: pods a second from the first binding to the last, CPU over the same time. Our profile for all, default
    percentageOfNodesToScore. Everything shares this machine's cores. Raises UserError if the control-plane programs
    are missing or a run does not end.
    """
    if nodes < 2 or pods < 2 or rounds < 1 or pods > 30 * nodes:
        raise UserError("bench scheduler needs at least 2 nodes, 2 pods and 1 round, and at most 30 pods a node")
    names = (NONE, NEUTRAL, WINNER, *policies)
    runs: dict[str, list[_Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="nodewise-bench-") as folder, ControlPlane() as plane:
        label, total = f"kube-scheduler at {nodes:,} nodes", len(names) * rounds
        progress(label, 0, total)
        plane.create_nodes(_node(k) for k in range(nodes))
        for k in range(rounds):
            for name in names[k % len(names) :] + names[: k % len(names)]:
                runs[name].append(_run(plane, Path(folder), name, pods, f"round-{k}-{name}"))
                progress(label, sum(map(len, runs.values())), total)
    return [row for name in names for row in _rows(f"nodes={nodes}", name, runs)]


def _node(k: int) -> dict[str, object]:
    kinds = ("m4.4xlarge", "c7i.4xlarge", "m6i.4xlarge", "g4dn.4xlarge")
    return node(
        f"node-{k:05d}", cpu_milli=16_000, memory_bytes=64 * _GIB, instance_type=kinds[k % 4], zone=f"zone-{k % 3}"
    )


def _run(plane: ControlPlane, folder: Path, name: str, pods: int, namespace: str) -> _Run:
    plane.create_namespace(namespace)
    plane.create_pods(
        pod(
            f"p-{k}", namespace=namespace, cpu_milli=500, memory_bytes=_GIB // 2,
            annotations={"nodewise.dev/workload": f"workload-{k % 20}", "nodewise.dev/sla-class": "batch"},
        )
        for k in range(pods)
    )  # fmt: skip
    with ExitStack() as stack:
        served = stack.enter_context(_extender(name, plane, folder))
        loop = LoopThread("bench")
        stack.callback(loop.close)
        cpu = _Cpu(served.pid)
        bound = loop.start(_watch_bound(plane, namespace, pods, cpu.note))
        scheduler = plane.start_scheduler(scheduler_config(plane.kubeconfig, served.url))
        stack.callback(scheduler.stop)
        cpu.scheduler_pid = scheduler.process.pid
        try:
            bound.result(_PATIENCE_S)
        except TimeoutError:
            bound.cancel()
            raise UserError(f"not all of {pods} pods were bound within {_PATIENCE_S:g} s with {name}") from None
        scored = served.scored() / pods
    plane.delete_pods(namespace)
    first, last = cpu.notes[0], cpu.notes[-1]
    # What happened up to the first note is not in the differences.
    count = last[0] - first[0]
    return _Run(
        pods_per_s=count / (last[1] - first[1]),
        scheduler_cpu_ms=(last[2] - first[2]) / count * 1e3,
        extender_cpu_ms=(last[3] - first[3]) / count * 1e3,
        scored=scored,
    )


class _Cpu:
    """Notes (pods bound, time, CPU of the scheduler, CPU of the extender) at the first and the last binding."""

    def __init__(self, extender_pid: int | None) -> None:
        self.scheduler_pid: int | None = None
        self.notes: list[tuple[int, float, float, float]] = []
        self._extender_pid = extender_pid

    def note(self, bound: int, total: int) -> None:
        """`bound` of `total` pods are bound now."""
        if self.scheduler_pid is None or (self.notes and bound < total):
            return
        extender_s = cpu_s(self._extender_pid) if self._extender_pid is not None else float("nan")
        self.notes.append((bound, time.perf_counter(), cpu_s(self.scheduler_pid), extender_s))


async def _watch_bound(plane: ControlPlane, namespace: str, count: int, note: Callable[[int, int], None]) -> None:
    bound: set[str] = set()
    async with Api(plane.url, plane.token) as api, aclosing(api.events(pods_path(namespace))) as events:
        async for kind, thing in events:
            seen = thing["items"] if kind == "SYNC" else [thing]
            fresh = {p["metadata"]["name"] for p in seen if "nodeName" in p["spec"]} - bound
            if fresh:
                bound |= fresh
                note(len(bound), count)
            if len(bound) >= count:
                return


@contextmanager
def _extender(name: str, plane: ControlPlane, folder: Path) -> Iterator[_Served]:
    if name == NONE:
        yield _Served()
    elif name in (NEUTRAL, WINNER):
        with floor("neutral" if name == NEUTRAL else "winner") as (port, pid):
            yield _Served(f"http://127.0.0.1:{port}", pid)
    else:
        with ExtenderProcess(plane.kubeconfig, folder, *flags(name, folder)) as ours:

            def scored() -> float:
                found = _SCORED.search(str(ours.get("/metrics")))
                return float(found[1]) if found else 0.0

            yield _Served(f"http://127.0.0.1:{ours.port}", only_child(ours.pid), scored)


def _rows(scenario: str, name: str, runs: dict[str, list[_Run]]) -> list[Row]:
    rows = []
    for metric, unit, field in (
        ("throughput", "pods/s", "pods_per_s"),
        ("scheduler_cpu", "ms per pod", "scheduler_cpu_ms"),
        ("extender_cpu", "ms per pod", "extender_cpu_ms"),
        ("scored", "share of pods", "scored"),
    ):
        values = np.array([getattr(run, field) for run in runs[name]])
        if not np.isnan(values).any():
            rows.append(Row(scenario, name, metric, unit, float(values.mean()), *interval(values), len(values)))
        if metric == "throughput":
            for other in (NONE, NEUTRAL):
                base = np.array([run.pods_per_s for run in runs[other]])
                ratio = float(values.sum() / base.sum())
                low, high = ratio_interval(values, base)
                rows.append(Row(scenario, name, f"throughput_to_{other}", "ratio", ratio, low, high, len(values)))
    return rows
