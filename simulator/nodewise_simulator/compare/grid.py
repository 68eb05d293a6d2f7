"""Every policy on the world of every seed of every scenario, in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nodewise.core.errors import UserError
from nodewise_simulator import lab
from nodewise_simulator.compare.kept import Kept
from nodewise_simulator.compare.rows import Row, rows_of
from nodewise_simulator.metrics import Result
from nodewise_simulator.run import AUTO
from nodewise_simulator.workers import Workers

ALL = "all"
"""As a policy: every one that the scenario has."""
ENGINES = ("local", "ray")
Progress = Callable[[int, int, int], None]
"""Called with the units of work done, all that are to be done, and those that were kept from before."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is to be run. `baseline` (default: the first policy) is what ratios are to."""

    scenarios: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str = ""
    bundle: Path | None = None
    simulator: str = AUTO
    """Who plays, of `nodewise_simulator.run.SIMULATORS`."""

    def of(self, scenario: str) -> tuple[str, ...]:
        """The policies that run in a scenario."""
        return lab.policies_of(scenario) if self.policies == (ALL,) else self.policies

    def baseline_of(self, scenario: str) -> str:
        """What ratios are to in a scenario."""
        return self.baseline or self.of(scenario)[0]

    def check(self) -> None:
        """Refuse what could not be run to its end. Raises UserError."""
        if ALL in self.policies and self.policies != (ALL,):
            raise UserError(f"--policies {ALL} stands alone, for every policy of the scenario; write {ALL}, or names")
        if len(set(self.policies)) != len(self.policies):
            raise UserError("--policies names a policy twice; name each once")
        if len(set(self.scenarios)) != len(self.scenarios):
            raise UserError("--scenario is given twice with the same value; give each once")
        for scenario in self.scenarios:
            if self.baseline_of(scenario) not in self.of(scenario):
                raise UserError(f"baseline {self.baseline!r} is not among the compared policies; add it to --policies")
            lab.check(scenario, self.seeds[0], self.of(scenario), self.bundle, self.simulator)

    def rows(self, results: Sequence[Result]) -> list[Row]:
        """The numbers of all scenarios, from the results of the whole grid in any order."""
        found = {(r.scenario, r.policy, r.seed): r for r in results}
        made: list[Row] = []
        for scenario in self.scenarios:
            policies = self.of(scenario)
            by_seed = [[found[scenario, name, seed] for name in policies] for seed in self.seeds]
            units, headline = lab.units_of(scenario), lab.headline_of(scenario)
            made += rows_of(scenario, policies, by_seed, self.baseline_of(scenario), units, headline)
        return made


def run(
    grid: Grid, *, jobs: int = 1, engine: str = "local", kept: Kept | None = None, progress: Progress | None = None
) -> list[Result]:
    """Run what `kept` does not hold yet, and keep it there at once; all results of the grid.

    A unit of work is one seed of one scenario, whose world is made once; `progress` is called before the first and
    after each. Raises UserError before anything runs if an argument is wrong.
    """
    grid.check()
    results = kept.take(grid) if kept else []
    done = {(r.scenario, r.policy, r.seed) for r in results}
    work: list[tuple[str, int, tuple[str, ...], Path | None, str]] = []
    for scenario in grid.scenarios:
        for seed in grid.seeds:
            left = tuple(name for name in grid.of(scenario) if (scenario, name, seed) not in done)
            if left:
                work.append((scenario, seed, left, grid.bundle, grid.simulator))
    before = len(grid.scenarios) * len(grid.seeds) - len(work)
    if progress:
        progress(0, len(work), before)
    if engine == "ray":
        made = _on_ray(work)
    elif engine == "local":
        made = _here(work, min(jobs, len(work)))
    else:
        raise UserError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    for k, fresh in enumerate(made):
        if kept:
            kept.add(fresh, grid.bundle)
        results += fresh
        if progress:
            progress(k + 1, len(work), before)
    return results


def simulators(results: Sequence[Result]) -> list[dict[str, str]]:
    """Which engine played what: {scenario, policy, simulator}; both, with a comma, where seeds differ."""
    found: dict[tuple[str, str], set[str]] = {}
    for r in results:
        if r.simulator:
            found.setdefault((r.scenario, r.policy), set()).add(r.simulator)
    return [{"scenario": s, "policy": p, "simulator": ",".join(sorted(by))} for (s, p), by in sorted(found.items())]


def compare(
    scenario: str,
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    baseline: str = "",
    bundle: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    simulator: str = AUTO,
) -> list[Row]:
    """The numbers of one scenario; see `run`. Raises UserError."""
    grid = Grid((scenario,), tuple(policies), tuple(seeds), baseline, bundle, simulator)
    return grid.rows(run(grid, jobs=jobs, progress=progress))


def _named(scenario: str, seed: int, policies: Sequence[str], bundle: Path | None, simulator: str) -> list[Result]:
    """As `lab.play_seed`, by the names that were asked for: a learned policy calls itself as its card does."""
    played = lab.play_seed(scenario, seed, policies, bundle, simulator)
    return [replace(r, scenario=scenario, policy=name, seed=seed) for name, r in zip(policies, played, strict=True)]


def _here(work: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[list[Result]]:
    if jobs <= 1:
        for unit in work:
            yield _named(*unit)
        return
    with Workers(jobs) as workers:
        for future in as_completed([workers.submit(_named, *unit) for unit in work]):
            yield future.result()


def _on_ray(work: Sequence[tuple[Any, ...]]) -> Iterator[list[Result]]:
    import ray

    # RAY_ADDRESS names a cluster; without it Ray starts one on this machine, which ends with this process.
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        remote = ray.remote(_named)
        waiting = [remote.remote(*unit) for unit in work]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    finally:
        ray.shutdown()
