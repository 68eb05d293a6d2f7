"""No decision may depend on what has not happened yet, whatever the world can do."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nodewise.policies import DEFAULT
from nodewise_simulator import scenarios
from nodewise_simulator.direct import Deferring, Defers
from nodewise_simulator.engine import Engine
from nodewise_simulator.physics import BACK_OFF, Autoscaler, Change, Drift, NodeChange, Queueing
from nodewise_simulator.run import resolve
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, World, created_again


class Watched(Deferring):
    """Keeps every question and every answer."""

    def __init__(self, world: World, policy: Defers) -> None:
        super().__init__(world, policy, DEFAULT, policy.deferral())  # type: ignore[arg-type]
        self.calls: list[tuple[float, str, tuple[str, ...], tuple[object, ...]]] = []

    def filter(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[str]:
        left = super().filter(pod, names, now_s)
        self.calls.append((now_s, pod.request.uid, tuple(names), tuple(left)))
        return left

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        reply = super().prioritize(pod, names, now_s)
        self.calls.append((now_s, pod.request.uid, tuple(names), tuple(reply)))
        return reply


def played(world: World, until_s: float) -> tuple[list[tuple[int, str, float]], list[object], Engine]:
    """What was bound, and what was asked and answered, until then."""
    policy = resolve("economic-defer-cmu")[0]
    assert isinstance(policy, Defers)
    watched = Watched(world, policy)
    scheduler = KubeScheduler(world.nodes, watched, watched.cache.view, np.random.default_rng(7))
    engine = Engine(world, scheduler, watched)
    outcomes = engine.run()
    bound = [(o.index, o.node, o.bound_s) for o in outcomes if o.bound_s < until_s]
    bound += [(a.index, a.node, a.bound_s) for a in engine.log.lost if a.bound_s < until_s]
    return sorted(bound), [call for call in watched.calls if call[0] < until_s], engine


def eventful(seed: int) -> World:
    """Twelve nodes, two of them the autoscaler's, and everything that an engine can do to them."""
    made = scenarios.make("hetero@pods=110,warm=0,load=0.8,mix=mixed,size=0.3", seed)
    pods = [created_again(p, 5.0 * p.request.created_s, 1) for p in made.pods]
    pods = [replace(p, image=p.request.workload, pull_s=9.0, start_s=0.5) for p in pods]
    pods[60] = replace(pods[60], parents=(3, 20))
    end_s = pods[-1].request.created_s
    nodes, manifests = made.nodes[::5], made.node_manifests[::5]
    pool = tuple(n.name for n in nodes if n.name.startswith("c7g"))[:2]
    others = [n.name for n in nodes if n.name not in pool]
    changes = [NodeChange(end_s * (0.1 + 0.1 * k), list(Change)[1 + k % 6], others[k]) for k in range(9)]
    return replace(
        made, node_manifests=manifests, nodes=nodes, pods=tuple(pods), changes=tuple(changes),
        autoscaler=Autoscaler(pool, boot_s=20.0), queueing=Queueing(retry=BACK_OFF), watch_lag_s=0.25,
        metrics_period_s=15.0, drifts=(Drift(end_s / 3, 1.5),),
    )  # fmt: skip


def other_future(world: World, played_to_its_end: Engine, at_s: float, rng: np.random.Generator) -> World:
    """Alike until `at_s`: then other pods come, other things happen, and what has not ended lasts longer."""
    pods = list(world.pods)
    for k, (pod, o) in enumerate(zip(pods, played_to_its_end.outcomes, strict=True)):
        if not o.finished_s <= at_s:
            pods[k] = replace(pod, true_run_s=pod.true_run_s * 4.0, noise_factor=9.0)
        if not o.started_s < at_s:
            pods[k] = replace(pods[k], true_run_s=pods[k].true_run_s[rng.permutation(len(world.classes))])
    first = next(k for k, p in enumerate(pods) if p.request.created_s >= at_s)
    new = [
        created_again(pods[old], world.pods[k].request.created_s, 1)
        for k, old in zip(range(first, len(pods)), first + rng.permutation(len(pods) - first), strict=True)
    ]
    changes = tuple(c if c.at_s < at_s else replace(c, change=Change.FAIL) for c in world.changes)
    drifts = (*(d for d in world.drifts if d.at_s < at_s), Drift(at_s, 5.0))
    return replace(world, pods=(*pods[:first], *new), changes=changes, drifts=drifts)


def test_another_future_changes_no_decision_before_it() -> None:
    world, rng = eventful(5), np.random.default_rng(1)
    at_s = world.pods[-1].request.created_s * 0.6
    bound, calls, engine = played(world, at_s)
    other_bound, other_calls, other = played(other_future(world, engine, at_s, rng), at_s)
    assert calls == other_calls
    assert bound == other_bound
    assert len(bound) > 45
    assert sum(o.finished_s < at_s for o in engine.outcomes) > 15
    assert engine.log.held > 0
    assert engine.log.lost
    assert [o.bound_s for o in engine.outcomes] != [o.bound_s for o in other.outcomes]
