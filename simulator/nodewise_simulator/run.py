"""One run: a world, a policy, an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.policies import DEFAULT, LEARNED, ORACLE, POLICIES, bundle_folder
from nodewise.policies.defer import DEFER, ORDER, split
from nodewise.policies.waiting import with_waiting
from nodewise_simulator import scenarios
from nodewise_simulator.columns import PodColumns
from nodewise_simulator.dag import job_metrics
from nodewise_simulator.direct import Deferring, Defers, Direct
from nodewise_simulator.engine import Engine, Log, Outcome
from nodewise_simulator.fates import Fates, fates
from nodewise_simulator.metrics import Result, completions, measure
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World

if TYPE_CHECKING:
    from nodewise_simulator.compiled.flat import Flat

AUTO, COMPILED, REFERENCE = SIMULATORS = ("auto", "compiled", "reference")
"""Who plays: the compiled engine where it models the world and the policy, else the reference engine; or only one."""
Progress = Callable[[int], None]


def resolve(name: str, bundle: Path | None = None) -> tuple[Policy, bool]:
    """The policy of this name and whether it is told the truth (`NAME-oracle`).

    `learned` is the given bundle or the one built in; a name with a slash in it is the folder of a bundle. NAME-defer
    also defers pods, NAME-cmu lets them wait in order, NAME-defer-cmu does both. Raises UserError if there is none.
    """
    base, deferring, ordered = split(name.removesuffix(ORACLE))
    oracle = name.endswith(ORACLE)
    if "/" in name or (base == LEARNED and not oracle):
        from nodewise.policies.learned import load

        if "/" in name:
            return load(Path(name)), False
        return with_waiting(load(bundle_folder(bundle)), deferring=deferring, ordered=ordered), False
    if base not in POLICIES:
        if (meant := _in_order(name)) != name:
            raise UserError(f"there is no policy {name!r}; its endings go in another order: write {meant}")
        known = ", ".join((*POLICIES, LEARNED))
        raise UserError(f"there is no policy {name!r}; choose one of {known} (see `nodewise policies`)")
    found = POLICIES[base]
    if oracle and not found.uses_run_times:
        timed = ", ".join(k for k, p in POLICIES.items() if p.uses_run_times)
        raise UserError(f"{name!r} would be the same as {base!r}, which ignores run times; with {ORACLE}: {timed}")
    return with_waiting(found, deferring=deferring, ordered=ordered), oracle


def _in_order(name: str) -> str:
    """A name whose endings were mixed up as it should be; any other as it is."""
    base = name
    for ending in (DEFER, ORDER, ORACLE) * 3:
        base = base.removesuffix(ending)
    ends = name[len(base) :]
    return base + "".join(e for e in (DEFER, ORDER, ORACLE) if e in ends) if base in POLICIES else name


def check_bundle(policies: Sequence[str], bundle: Path | None) -> None:
    """Refuse a bundle that no policy would load. Raises UserError."""
    if bundle is not None and LEARNED not in policies:
        raise UserError(f"--bundle {bundle} is for policy {LEARNED!r}, which is not asked for; add it, or leave it out")


class Stage:
    """A world to be played by several policies, and the engine that is asked for, of `SIMULATORS`.

    The compiled engine's arrays are made once. Both engines give the same placements and the same metrics, but for
    `decision_p50` and `decision_p99`, which only the reference engine has: it times each decision.
    """

    def __init__(self, world: World, simulator: str = AUTO) -> None:
        """Raises UserError for an unknown engine, and for a world in which nothing would be played or counted."""
        if simulator not in SIMULATORS:
            raise UserError(f"there is no simulator {simulator!r}; choose one of {', '.join(SIMULATORS)}")
        if not world.nodes:
            raise UserError(f"scenario {world.scenario} has no nodes; give it one")
        if len(world.pods) <= world.warm:
            raise UserError(f"scenario {world.scenario} has no counted pods; it needs more than its {world.warm} warm")
        self.world, self.simulator = world, simulator

    @cached_property
    def flat(self) -> Flat:
        """The world as arrays. Raises UserError if the compiled engine does not model it."""
        from nodewise_simulator.compiled.flat import flatten

        return flatten(self.world)

    def play(self, policy: Policy, *, oracle: bool = False, progress: Progress | None = None) -> Result:
        """One run to its end. Raises UserError if only the compiled engine may play it, and does not."""
        from nodewise_simulator.compiled import plays  # without numba

        if self.simulator == REFERENCE or (self.simulator == AUTO and (oracle or not plays.plays(self.world, policy))):
            return play(self.world, policy, oracle=oracle, progress=progress)[0]
        if oracle:
            raise UserError(f"the compiled engine tells no policy the truth, as {policy.name}{ORACLE} wants")
        plays.check(self.world, policy)
        outcomes, log = plays.played(self.world, lambda: self.flat, policy, progress)
        return result(self.world, policy.name, outcomes, log, COMPILED)


def result(world: World, policy: str, outcomes: Sequence[Outcome] | Fates, log: Log, simulator: str) -> Result:
    """What a run was worth."""
    of = fates(world, outcomes)
    metrics = measure(world, of, log=log)
    if not isinstance(world.pods, PodColumns) and any(pod.parents for pod in world.pods):
        metrics |= job_metrics(world, of)
    names = np.array([*(n.name for n in world.nodes), ""], object)
    return Result(
        world.scenario, policy, world.seed, metrics, tuple(names[of.node].tolist()), completions(world, of), simulator
    )


def play(
    world: World,
    policy: Policy,
    *,
    oracle: bool = False,
    progress: Progress | None = None,
) -> tuple[Result, Direct]:
    """Run a world to its end by the reference engine, with decisions taken in this process; the extender as it ended.

    A policy that `Defers` may hold pods. See `Stage` for the engine that is the fastest.
    """
    if isinstance(policy, Defers):
        direct: Direct = Deferring(world, policy, DEFAULT, policy.deferral(), oracle=oracle)
    else:
        direct = Direct(world, policy, DEFAULT, oracle=oracle)
    scheduler = KubeScheduler(
        world.nodes, direct, direct.cache.view, np.random.default_rng([world.seed, 99]), fits_always=world.fifo
    )
    engine = Engine(world, scheduler, direct, progress)
    outcomes = engine.run()
    made = result(world, policy.name + (ORACLE if oracle else ""), outcomes, engine.log, REFERENCE)
    if direct.took_s:
        p50, p99 = np.percentile(direct.took_s, [50, 99]) * 1e3
        made.metrics.update(decision_p50=float(p50), decision_p99=float(p99))
    return made, direct


def simulate(scenario: str, policy: str, seed: int, bundle: Path | None = None, simulator: str = AUTO) -> Result:
    """One run by name. Raises UserError for an unknown scenario, policy or bundle, or simulator."""
    check_bundle((policy,), bundle)
    found, oracle = resolve(policy, bundle)
    return Stage(scenarios.make(scenario, seed), simulator).play(found, oracle=oracle)
