"""The whole question: what would this policy have gained on what was recorded?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise.core.types import CostRates, Floats, Policy
from nodewise.kube.snapshot import Snapshot
from nodewise.policies.economic import ECONOMIC
from nodewise_simulator.advise.gains import Gain, Group, intervals, thin_cells, verdict
from nodewise_simulator.advise.outcomes import METRICS, measured
from nodewise_simulator.advise.record import Recording, Seen, recording
from nodewise_simulator.advise.replay import replayed
from nodewise_simulator.advise.truth import Truth, truth
from nodewise_simulator.engine import Outcome
from nodewise_simulator.world import World

_UNEXPLAINED = 0.15
"""Share of the mean completion that may be unexplained."""
_RULED = 0.1
"""Share of pods with rules that are not simulated."""
_CHANGED = 0.2
"""Share of nodes that came or went."""

if TYPE_CHECKING:
    from nodewise_simulator.advise.compiled import Compiled

T = TypeVar("T")

DRAWS = 20

RECORDED, STOCK = "recorded", "kube-default"
"""What gains can be to: the placements as they were, or those of a simulated stock scheduler."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far what is simulated is from what happened."""

    recorded: dict[str, Gain]
    """Recorded placements, played again, minus the stock scheduler's: around zero if the recorded scheduler is one."""
    seen_s: float
    """Mean completion as it was seen, of the pods that succeeded."""
    starting_s: float
    """Mean time of it from binding to start (image pulls); the replay leaves it out, as it would be the same again."""
    played_s: float
    """Mean completion of the same pods with the recorded placements played again."""
    ruled: float
    """Share of pods whose place depends on volumes, or on pods that were not recorded, which is not simulated."""
    changed: float
    """Share of nodes that came or went, which the replay has all the time."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the advice should not be trusted; empty if nothing speaks against it."""
        made = []
        cost = self.recorded["cost"]
        if not cost.low <= 0.0 <= cost.high:
            share = cost.mean / cost.before
            made.append(
                f"the recorded placements cost {abs(share):.0%} {'more' if share > 0 else 'less'} than those of the "
                "simulated stock scheduler, so another scheduler, or rules that are not simulated, were at work"
            )
        explained_s = self.played_s + self.starting_s
        if abs(self.seen_s - explained_s) > _UNEXPLAINED * self.seen_s:
            made.append(
                f"pods took {self.seen_s:.3g} s from creation to end where their placements, starts and runs explain "
                f"{explained_s:.3g} s, so they waited for something that is not simulated (quotas, gates, volumes)"
            )
        if self.ruled > _RULED:
            made.append(
                f"{self.ruled:.0%} of the pods have rules on volumes, or on pods that were not recorded, which are not "
                "simulated"
            )
        if self.changed > _CHANGED:
            made.append(f"{self.changed:.0%} of the nodes came or went, and the replay has them all the time")
        return tuple(made)


@dataclass(frozen=True, slots=True)
class Advice:
    """What a policy would have gained, group by group."""

    policy: str
    baseline: str
    total: Group
    namespaces: tuple[Group, ...]
    workloads: tuple[Group, ...]
    calibration: Calibration
    contention: tuple[float, float, float]
    """Slowdown of a pod whose neighbours request all of its node's CPU: median and 95 % interval."""
    draws: int
    recording: Recording
    decided: dict[str, int]
    """Decisions of all replays by why the policy did not take them itself and the rule `economic` stood in; empty if it
    did. Nothing is in here for `economic` itself, which nobody stands in for."""

    @property
    def fallback_share(self) -> float:
        """Share of the decisions that the rule took instead of the policy; nan if it was never asked."""
        asked = sum(self.decided.values())
        return 1.0 - self.decided.get("", 0) / asked if asked else math.nan


@dataclass(frozen=True, slots=True)
class _Played:
    """The n counted pods under one scheduler, in K draws."""

    values: Floats  # [K, n, metrics]
    columns: NDArray[np.int64]  # [K, n] class of the node; -1 if it got none


def advise(
    snapshot: Snapshot,
    policy: Policy,
    *,
    draws: int = DRAWS,
    rates: CostRates | None = None,
    since_s: float | None = None,
    baseline: str = RECORDED,
    progress: Callable[[int, int], None] | None = None,
) -> Advice:
    """Play the recorded arrivals again, `draws` times over; `progress` is called with (plays done, plays).

    Beliefs are those at the end of the recording: the question is what the policy is worth from now on, on pods like
    these. They are the centre of what the truth is drawn from, and never the draw itself. `baseline`: the placements
    as they were, which were seen and need no model of a scheduler, or `kube-default`, which is simulated. Raises
    UserError if the snapshot has nothing to learn from.
    """
    if baseline not in (RECORDED, STOCK):
        raise UserError(f"gains cannot be to {baseline!r}: choose {RECORDED} or {STOCK}")
    rates = rates or CostRates()
    made = recording(snapshot, rates, since_s)
    about = truth(made, rates)
    counted = [k for k, p in enumerate(made.pods) if p.counted]
    stock, recorded, ours = (
        _Played(np.zeros((draws, len(counted), len(METRICS))), np.zeros((draws, len(counted)), np.int64))
        for _ in range(3)
    )
    fast = _compiled(about.world(0), made, rates) if policy is ECONOMIC else None
    decided: Counter[str] = Counter()
    for seed in range(draws):
        world = about.world(seed)
        for at, into in enumerate((stock, recorded, ours)):
            if into is ours and fast:
                outcomes = fast.replayed(world)
            else:
                who = policy if into is ours else None
                told = decided if who is not None and who is not ECONOMIC else None
                outcomes = replayed(world, made, who, rates, seed, as_recorded=into is recorded, decided=told)
            into.values[seed] = measured(world, outcomes, counted, rates)
            into.columns[seed] = _columns(world, outcomes, counted)
            if progress:
                progress(3 * seed + at + 1, 3 * draws)
    before = {RECORDED: recorded, STOCK: stock}[baseline]
    return Advice(
        policy=policy.name,
        baseline=baseline,
        total=_group("", "", made, about, before, ours, counted),
        namespaces=tuple(_group(ns, "", made, about, before, ours, counted) for ns in _namespaces(made)),
        workloads=tuple(_group(ns, w, made, about, before, ours, counted) for ns, w in _workloads(made)),
        calibration=_calibration(made, counted, stock, recorded),
        contention=about.contention.interval,
        draws=draws,
        recording=made,
        decided=dict(decided),
    )


def _compiled(world: World, made: Recording, rates: CostRates) -> Compiled | None:
    from nodewise_simulator.advise.compiled import compiled  # numba takes a second to import

    return compiled(world, made, rates)


def _columns(world: World, outcomes: Sequence[Outcome], counted: Sequence[int]) -> NDArray[np.int64]:
    column = {n.name: world.class_of[n.node_class] for n in world.nodes}
    return np.array([column.get(outcomes[k].node, -1) for k in counted], np.int64)


def _namespaces(made: Recording) -> list[str]:
    return _most(p.request.namespace for p in made.pods if p.counted)


def _workloads(made: Recording) -> list[tuple[str, str]]:
    return _most((p.request.namespace, p.request.workload) for p in made.pods if p.counted)


def _most(keys: Iterable[T]) -> list[T]:
    """Each once, those that come most often first."""
    return [key for key, _ in Counter(keys).most_common()]


def _group(
    namespace: str, workload: str, made: Recording, about: Truth, before: _Played, after: _Played,
    counted: Sequence[int],
) -> Group:  # fmt: skip
    chosen = [
        at for at, k in enumerate(counted)
        if namespace in ("", made.pods[k].request.namespace) and workload in ("", made.pods[k].request.workload)
    ]  # fmt: skip
    gains = intervals(before.values[:, chosen], after.values[:, chosen])
    thin = thin_cells(
        [about.row[counted[at]] for at in chosen], after.columns[:, chosen], about.observations, about.names,
        about.classes,
    )  # fmt: skip
    return Group(namespace, workload, len(chosen), gains, verdict(gains["cost"], thin), thin)


def _calibration(made: Recording, counted: Sequence[int], stock: _Played, recorded: _Played) -> Calibration:
    ended = [at for at, k in enumerate(counted) if made.pods[k].fate == "succeeded" and made.pods[k].ended]
    pods = [made.pods[counted[at]] for at in ended]
    starting = [p.started_s - p.bound_s for p in pods if p.started_s > p.bound_s]
    return Calibration(
        recorded=intervals(recorded.values, stock.values),
        seen_s=float(np.mean([p.finished_s - p.request.created_s for p in pods])) if pods else math.nan,
        starting_s=sum(starting) / len(pods) if pods else 0.0,
        played_s=float(recorded.values[:, ended, 0].mean()) if pods else math.nan,
        ruled=sum(_is_ruled(made.pods[k]) for k in counted) / len(counted),
        changed=made.changed_nodes / len(made.nodes),
    )


def _is_ruled(pod: Seen) -> bool:
    """Whether where it may go depends on what the replay does not look at: volumes, or pods that were not recorded."""
    return pod.request.pinned or pod.loosened
