"""The demo: a stream of scheduling cycles through a real extender process for each policy, then many seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodewise.policies import DEFAULT, rule
from nodewise_simulator import scenarios
from nodewise_simulator.compare import Row, compare
from nodewise_simulator.run import play
from nodewise_simulator.served import play_served

POLICIES = ("kube-default", "least-work-remaining", "earliest-finish-time", "economic")

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, out of how much)"""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What the stream through one extender process showed."""

    policy: str
    cycles: int
    """Pods that the extender was asked about, warm-up included."""
    equal: int
    """Pods that got the same node as in a run without HTTP."""
    pods: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Demo:
    """Everything that the demo prints."""

    rows: list[Row]
    streamed: list[Streamed]
    explained: Any
    """`/explain` of one placement, as the extender answered it; None if it did not."""


def demo(seeds: Sequence[int], *, pods: int = 600, jobs: int = 2, progress: Progress = lambda *_: None) -> Demo:
    """Stream `pods` counted pods of `hetero` through the extender for each policy, then compare over `seeds`.

    Raises UserError if the extender does not start.
    """
    streamed, explained = [], None
    made = scenarios.make(f"hetero@pods={pods}", seeds[0])
    last = next(p for p in reversed(made.pods) if p.request.sla == 0).request.name
    for name in POLICIES:

        def ended(count: int, name: str = name) -> None:
            if count % 50 == 0 or count == len(made.pods):
                progress(f"{name} through the extender", count, len(made.pods))

        wanted = last if name == DEFAULT.name else ""
        result, told, cycles = play_served(made, name, progress=ended, explain=wanted)
        explained = told or explained
        direct, _ = play(made, rule(name))
        equal = sum(a == b for a, b in zip(result.placements, direct.placements, strict=True))
        took = result.metrics["decision_p50"], result.metrics["decision_p99"]
        streamed.append(Streamed(name, cycles, equal, len(made.pods), *took))
    label = f"{len(seeds)} seeds"
    rows = compare(
        "hetero", POLICIES, seeds, baseline=POLICIES[0], jobs=jobs, progress=lambda k, n: progress(label, k, n)
    )
    return Demo([_timed(row, streamed) for row in rows], streamed, explained)


def _timed(row: Row, streamed: Sequence[Streamed]) -> Row:
    """Decision times are those seen over HTTP, from the one stream; the runs beside it have no HTTP to time."""
    if not row.metric.startswith("decision_"):
        return row
    own = next(s for s in streamed if s.policy == row.policy)
    value = own.p50_ms if row.metric == "decision_p50" else own.p99_ms
    return replace(row, mean=value, low=value, high=value, seeds=1)
