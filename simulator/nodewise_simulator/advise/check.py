"""Is the advice right? Worlds whose truth is known are recorded, advised about, and then really played.

`python -m nodewise_simulator.advise.check` prints how often what was achieved lay in the interval that was predicted.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import CostRates, Floats, Policy
from nodewise.kube.snapshot import Snapshot, SnapshotNode, SnapshotPod, trimmed_node, trimmed_pod
from nodewise_simulator import scenarios
from nodewise_simulator.advise.advice import RECORDED, Advice, advise
from nodewise_simulator.advise.gains import Gain
from nodewise_simulator.advise.outcomes import METRICS, UNITS, measured
from nodewise_simulator.advise.record import recording
from nodewise_simulator.advise.replay import Advised, Pinned, Stock
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.run import resolve
from nodewise_simulator.world import World


def record(
    world: World, *, seed: int = 0, until_s: float = math.inf, whole_seconds: bool = False
) -> tuple[Snapshot, list[Outcome]]:
    """What would be recorded of a world that the stock scheduler places, and what became of its pods.

    The window begins with the first pod that is counted and ends at `until_s`, or when all have ended. With
    `whole_seconds`, times are cut to them, as Kubernetes does.
    """
    stock = Stock(world)
    scheduler = Pinned(world.nodes, stock, stock.view, np.random.default_rng([seed, 5]))
    outcomes = Engine(world, scheduler, stock).run()
    end_s = min(max(o.finished_s for o in outcomes if not math.isnan(o.finished_s)), until_s)

    def told(at_s: float) -> float | None:
        return (float(math.floor(at_s)) if whole_seconds else at_s) if at_s <= end_s else None

    pods = [
        SnapshotPod(
            manifest=trimmed_pod(pod.manifest),
            fate="succeeded" if o.finished_s <= end_s else "running" if o.bound_s <= end_s else "waiting",
            node=o.node if o.bound_s <= end_s else "",
            bound_s=told(o.bound_s),
            started_s=told(o.started_s),
            finished_s=told(o.finished_s),
        )
        for o, pod in zip(outcomes, world.pods, strict=True)
        if pod.request.created_s <= end_s
    ]
    nodes = [SnapshotNode(manifest=trimmed_node(n)) for n in world.node_manifests]
    begin_s = world.pods[world.warm].request.created_s
    return Snapshot(made_s=end_s, source="simulator", begin_s=begin_s, end_s=end_s, nodes=nodes, pods=pods), outcomes


@dataclass(frozen=True, slots=True)
class Checked:
    """One world: what was predicted and what was achieved, by metric."""

    advice: Advice
    achieved: dict[str, float]
    spent: dict[str, float]
    """By the recorded placements."""

    @property
    def predicted(self) -> dict[str, Gain]:
        """Over all pods."""
        return self.advice.total.gains

    def covers(self, metric: str) -> bool:
        """Whether the interval contains what was achieved."""
        return self.predicted[metric].low <= self.achieved[metric] <= self.predicted[metric].high


def check(
    world: World, policy: Policy, *, draws: int, baseline: str = RECORDED, whole_seconds: bool = False
) -> Checked:
    """Record, advise, and play the same pods with their true run times under the policy that has learned."""
    rates = CostRates()
    snapshot, before = record(world, whole_seconds=whole_seconds)
    advice = advise(snapshot, policy, draws=draws, baseline=baseline, rates=rates)
    observer = Advised(world, policy, recording(snapshot, rates), rates, resumed=False)
    scheduler = Pinned(world.nodes, observer, observer.state.view, np.random.default_rng(1))
    row = {n.name: k for k, n in enumerate(world.nodes)}
    scheduler.pins = {p.request.uid: row[before[k].node] for k, p in enumerate(world.pods[: world.warm])}
    after = Engine(world, scheduler, observer).run()
    counted = range(world.warm, len(world.pods))
    spent, left = (_sums(measured(world, outcomes, counted, rates)) for outcomes in (before, after))
    return Checked(advice, *(dict(zip(METRICS, v.tolist(), strict=True)) for v in (spent - left, spent)))


def _sums(values: Floats) -> Floats:
    made = np.array(values.sum(axis=0))
    made[METRICS.index("completion")] /= len(values)
    return made


def main() -> None:
    """Print a line for each world, then for each metric how often the interval was right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", default="hetero@load=0.7,pods=600,warm=300")
    parser.add_argument("--policy", default="economic")
    parser.add_argument("--baseline", default=RECORDED)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--worlds", type=int, default=24)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--whole-seconds", action="store_true")
    told = parser.parse_args()
    policy, made = resolve(told.policy)[0], []
    for seed in range(told.first, told.first + told.worlds):
        world = scenarios.make(told.scenario, seed)
        found = check(world, policy, draws=told.draws, baseline=told.baseline, whole_seconds=told.whole_seconds)
        made.append(found)
        cells = [
            f"{m} {found.achieved[m]:.3g} {'in' if found.covers(m) else 'NOT IN'} [{g.low:.3g}, {g.high:.3g}]"
            for m, g in found.predicted.items()
        ]
        print(f"seed {seed}: {found.advice.total.verdict.value}; {'; '.join(cells)}", flush=True)  # noqa: T201
    for m in METRICS:
        predicted = np.array([c.predicted[m].mean for c in made])
        width = np.mean([c.predicted[m].high - c.predicted[m].low for c in made])
        achieved, spent = (np.array([getattr(c, what)[m] for c in made]) for what in ("achieved", "spent"))
        print(  # noqa: T201
            f"{m}: achieved in the 95 % interval in {np.mean([c.covers(m) for c in made]):.0%} of {len(made)} worlds; "
            f"predicted {predicted.mean():.4g} against {achieved.mean():.4g} {UNITS[m]} achieved "
            f"(ratio {predicted.sum() / achieved.sum():.3f}), interval {width:.3g} wide; spent {spent.mean():.4g}"
        )


if __name__ == "__main__":
    main()
