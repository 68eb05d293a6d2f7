"""The demo: a stream of scheduling cycles through a real extender process for each policy, then many seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodewise.policies import LEARNED, builtin
from nodewise_simulator import scenarios
from nodewise_simulator.compare import Row, compare
from nodewise_simulator.run import REFERENCE, play, resolve
from nodewise_simulator.served import play_served
from nodewise_simulator.world import World

POLICIES = (
    "kube-default", "least-work-remaining", "earliest-finish-time", "economic", *((LEARNED,) if builtin() else ()),
)  # fmt: skip
"""The last is what decides by default; a placement of it is explained."""

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, out of how much)"""


@dataclass(frozen=True, slots=True)
class Streamed:
    """What the stream through one extender process showed."""

    policy: str
    cycles: int
    """Pods that the extender was asked about, warm-up included."""
    decided: Mapping[str, int]
    """How many decisions each policy took, by name: the rule stands in for a learned one."""
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
    last = worth_explaining(made)
    for name in POLICIES:

        def ended(count: int, name: str = name) -> None:
            if count % 50 == 0 or count == len(made.pods):
                progress(f"{name} through the extender", count, len(made.pods))

        wanted = last if name == POLICIES[-1] else ""
        run = play_served(made, name, progress=ended, explain=wanted)
        explained = run.explained or explained
        direct, _ = play(made, resolve(name)[0])
        equal = sum(a == b for a, b in zip(run.result.placements, direct.placements, strict=True))
        took = run.result.metrics["decision_p50"], run.result.metrics["decision_p99"]
        streamed.append(Streamed(name, run.asked, run.decided, equal, len(made.pods), *took))
    label = f"{len(seeds)} seeds"
    rows = compare(
        "hetero", POLICIES, seeds, baseline=POLICIES[0], jobs=jobs, progress=lambda k, n, _: progress(label, k, n),
        simulator=REFERENCE,  # who sees a demonstration does not wait for a compiler
    )  # fmt: skip
    return Demo([_timed(row, streamed) for row in rows], streamed, explained)


def _timed(row: Row, streamed: Sequence[Streamed]) -> Row:
    """Decision times are those seen over HTTP, from the one stream; the runs beside it have no HTTP to time."""
    if not row.metric.startswith("decision_"):
        return row
    own = next(s for s in streamed if s.policy == row.policy)
    value = own.p50_ms if row.metric == "decision_p50" else own.p99_ms
    return replace(row, mean=value, low=value, high=value, seeds=1)


def worth_explaining(made: World) -> str:
    """The last production pod that many nodes may take: those with a GPU are few, and full ones are not asked about."""
    return next(p for p in reversed(made.pods) if p.request.sla == 0 and not p.request.gpus_milli).request.name
