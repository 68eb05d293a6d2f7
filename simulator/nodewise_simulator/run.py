"""One run: a world, a policy, an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.policies import DEFAULT, LEARNED, ORACLE, POLICIES, bundle_folder
from nodewise.policies.defer import split
from nodewise.policies.waiting import with_waiting
from nodewise_simulator import scenarios
from nodewise_simulator.dag import job_metrics
from nodewise_simulator.direct import Deferring, Defers, Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.metrics import Result, completions, measure
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import World


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
        known = ", ".join((*POLICIES, LEARNED))
        raise UserError(f"there is no policy {name!r}; choose one of {known} (see `nodewise policies`)")
    found = POLICIES[base]
    if oracle and not found.uses_run_times:
        timed = ", ".join(k for k, p in POLICIES.items() if p.uses_run_times)
        raise UserError(f"{name!r} would be the same as {base!r}, which ignores run times; with {ORACLE}: {timed}")
    return with_waiting(found, deferring=deferring, ordered=ordered), oracle


def check_bundle(policies: Sequence[str], bundle: Path | None) -> None:
    """Refuse a bundle that no policy would load. Raises UserError."""
    if bundle is not None and LEARNED not in policies:
        raise UserError(f"--bundle {bundle} is for policy {LEARNED!r}, which is not asked for; add it, or leave it out")


def play(
    world: World,
    policy: Policy,
    *,
    oracle: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Result, Direct]:
    """Run a world to its end with decisions taken in this process; a policy that `Defers` may hold pods."""
    if isinstance(policy, Defers):
        direct: Direct = Deferring(world, policy, DEFAULT, policy.deferral(), oracle=oracle)
    else:
        direct = Direct(world, policy, DEFAULT, oracle=oracle)
    scheduler = KubeScheduler(
        world.nodes, direct, direct.cache.view, np.random.default_rng([world.seed, 99]), fits_always=world.fifo
    )
    engine = Engine(world, scheduler, direct, progress)
    outcomes = engine.run()
    metrics = measure(world, outcomes, log=engine.log)
    if any(pod.parents for pod in world.pods):
        metrics |= job_metrics(world, outcomes)
    if direct.took_s:
        p50, p99 = np.percentile(direct.took_s, [50, 99]) * 1e3
        metrics |= {"decision_p50": float(p50), "decision_p99": float(p99)}
    name = policy.name + (ORACLE if oracle else "")
    placements = tuple(o.node for o in outcomes)
    return Result(world.scenario, name, world.seed, metrics, placements, completions(world, outcomes)), direct


def simulate(scenario: str, policy: str, seed: int, bundle: Path | None = None) -> Result:
    """One run by name. Raises UserError for an unknown scenario, policy or bundle."""
    check_bundle((policy,), bundle)
    found, oracle = resolve(policy, bundle)
    return play(scenarios.make(scenario, seed), found, oracle=oracle)[0]
