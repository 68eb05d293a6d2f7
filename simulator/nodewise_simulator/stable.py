"""The largest load that a policy keeps up with, by bisection over a scenario's parameter `load`.

Arrivals are Poisson and traces long, so that a backlog that grows has time to show (`totals.unstable`): of a bursty
trace one would learn where its last burst fell. A policy is stable at a load if its backlog does not rise; the search
takes it that what is stable at one load is stable at all lower ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator import lab, scenarios
from nodewise_simulator.compare import Row, rows_of
from nodewise_simulator.compare.grid import ALL
from nodewise_simulator.metrics import Result
from nodewise_simulator.run import AUTO, REFERENCE, Stage, resolve
from nodewise_simulator.workers import Workers

SCENARIO = "random-clusters"
CALM = {"burst": "1", "wave": "0", "per_node": "600"}
"""What is set of a scenario's parameters unless the user did: Poisson arrivals and four times the usual length."""
UNITS = {"stable_load": "share of capacity", "at_limit": "0 or 1"}
"""`stable_load` is the parameter `load`, for random-clusters a share of the fluid capacity, in which no scheduler loses
any; `at_limit`: the search went no further, so that the truth lies beyond."""
SLOW = "only the reference engine plays"
"""Why a policy is left out of `all`: a search by that engine takes hours a seed."""
_LEAST, _MOST = 0.2, 1.4


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for: loads from `least` to `most` in steps. See `chosen` for `all` as the policies."""

    scenario: str
    policies: tuple[str, ...]
    step: float = 0.02
    least: float = _LEAST
    most: float = _MOST
    bundle: Path | None = None
    simulator: str = AUTO

    @property
    def steps(self) -> int:
        """How many steps there are from `least` on without leaving the range."""
        return math.floor((self.most - self.least) / self.step + 1e-9)

    def at(self, load: float) -> str:
        """The scenario at a load."""
        taken = self.scenario.partition("@")[2]
        given = {part.partition("=")[0] for part in taken.split(",") if part}
        known = signature(scenarios.SCENARIOS[self.scenario.partition("@")[0]]).parameters
        added = [f"{key}={value}" for key, value in CALM.items() if key in known and key not in given]
        name = self.scenario.partition("@")[0]
        return f"{name}@{','.join([*filter(None, [taken]), *added, f'load={load:.6g}'])}"

    def check(self, seed: int) -> None:
        """Refuse what could not be searched. Raises UserError."""
        name, _, taken = self.scenario.partition("@")
        if name not in lab.known():
            raise UserError(f"there is no scenario {name!r}; choose one of {', '.join(scenarios.SCENARIOS)}")
        if name not in scenarios.SCENARIOS or "load" not in signature(scenarios.SCENARIOS[name]).parameters:
            has = [k for k, made in scenarios.SCENARIOS.items() if "load" in signature(made).parameters]
            raise UserError(f"scenario {name!r} has no parameter load to search; choose one of {', '.join(has)}")
        scenarios.parameters_of(self.scenario)
        if any(part.startswith("load=") for part in taken.split(",")):
            raise UserError(f"the search sets load itself; leave it out of {self.scenario}")
        if not 0.001 <= self.step <= 0.5:
            raise UserError(f"--step is {self.step:g}; take 0.001 to 0.5")
        if not 0.0 < self.least < self.most < math.inf:
            raise UserError(f"loads are searched from {self.least:g} to {self.most:g}; take 0 < least < most")
        if ALL in self.policies:
            raise UserError(f"--policies {ALL} stands alone, for every policy that is fast; write {ALL}, or names")
        if lab.BOUND in self.policies:
            raise UserError(f"policy {lab.BOUND!r} places no pods and has no stable load; leave it out of --policies")
        if len(set(self.policies)) != len(self.policies):
            raise UserError("--policies names a policy twice; name each once")
        lab.check(self.at(self.least), seed, self.policies, self.bundle, self.simulator)


def chosen(search: Search, seed: int) -> tuple[Search, tuple[str, ...]]:
    """The search with the names that `all` stands for, and those of the scenario's policies that are left out: `SLOW`.

    Nobody is left out where the reference engine is asked for. Raises UserError, also where nothing is compiled.
    """
    if search.policies != (ALL,):
        return search, ()
    from nodewise_simulator.compiled import plays

    replace(search, policies=(), bundle=None).check(seed)
    everything = lab.policies_of(search.scenario)
    world = scenarios.make(search.at(search.least), seed)
    played = [
        name for name in everything
        if search.simulator != REFERENCE and plays.plays(world, resolve(name, search.bundle)[0])
    ]  # fmt: skip
    if not played and search.simulator != REFERENCE:
        raise UserError(f"{SLOW} {search.scenario}; say --simulator reference, or name policies: hours a seed")
    taken = tuple(played or everything)
    return replace(search, policies=taken), tuple(name for name in everything if name not in taken)


def stable_loads(
    search: Search, seeds: Sequence[int], *, baseline: str = "", jobs: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Row]:  # fmt: skip
    """Rows of each policy's largest stable load, with intervals over seeds and ratios to `baseline` (the first).

    `progress` is called with (seeds done, seeds). Raises UserError before anything runs if an argument is wrong.
    """
    baseline = baseline or search.policies[0]
    if baseline not in search.policies:
        raise UserError(f"baseline {baseline!r} is not among the compared policies; add it to --policies")
    search.check(seeds[0])
    found: dict[int, list[Result]] = {}
    for results in _found(search, seeds, min(jobs, len(seeds))):
        found[results[0].seed] = results
        progress(len(found), len(seeds))
    by_seed = [found[seed] for seed in seeds]
    return rows_of(search.scenario, search.policies, by_seed, baseline, UNITS, "stable_load")


def of_seed(search: Search, seed: int) -> list[Result]:
    """The largest stable load of each policy on the cluster of a seed; all policies see the same worlds."""
    stages: dict[int, Stage] = {}

    def stable(policy: str, step: int) -> bool:
        if step not in stages:
            scenario = search.at(search.least + step * search.step)
            stages[step] = Stage(scenarios.make(scenario, seed), search.simulator)
        return not lab.play_on(stages[step], policy, search.bundle).metrics["unstable"]

    return [_result(search, policy, seed, _last(search.steps, policy, stable)) for policy in search.policies]


def _last(steps: int, policy: str, stable: Callable[[str, int], bool]) -> int:
    """The last step that is stable, by bisection; -1 if the first is not."""
    low, high = -1, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if stable(policy, middle) else (low, middle)
    return low


def _result(search: Search, policy: str, seed: int, step: int) -> Result:
    load = search.least + max(step, 0) * search.step
    metrics = {"stable_load": load, "at_limit": float(step in (-1, search.steps))}
    return Result(search.scenario, policy, seed, metrics, ())


def _found(search: Search, seeds: Sequence[int], jobs: int) -> Iterator[list[Any]]:
    if jobs <= 1:
        for seed in seeds:
            yield of_seed(search, seed)
        return
    with Workers(jobs) as workers:
        for future in as_completed([workers.submit(of_seed, search, seed) for seed in seeds]):
            yield future.result()
