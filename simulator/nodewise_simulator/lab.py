"""Everything that can be played by name: scenarios of Kubernetes worlds, and studies that play themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import getmodule, signature
from pathlib import Path

from nodewise.core.errors import UserError
from nodewise.policies import LEARNED, ORACLE, POLICIES
from nodewise_simulator import scenarios
from nodewise_simulator.baselines import BASELINES, bounds
from nodewise_simulator.dag import PLANS
from nodewise_simulator.metrics import UNITS, Result
from nodewise_simulator.named import parameters
from nodewise_simulator.packing.study import STUDY as OPENB_STATIC
from nodewise_simulator.run import AUTO, COMPILED, Stage, check_bundle, resolve
from nodewise_simulator.sources import STUDIES
from nodewise_simulator.studies import Study
from nodewise_simulator.world import World

_STUDIES: Mapping[str, Study] = {study.name: study for study in (*STUDIES, OPENB_STATIC)}


BOUND = "bound"
"""As a policy of a world: what no policy can go below; see `baselines.bound`."""


def known() -> tuple[str, ...]:
    """Every name that `--scenario` takes."""
    return (*scenarios.SCENARIOS, *_STUDIES)


def listed() -> list[dict[str, str]]:
    """What each scenario is and takes: {scenario, says, source, parameters}."""
    worlds = [_line(name, _says(name, made), "", made, ("seed",)) for name, made in scenarios.SCENARIOS.items()]
    return worlds + [_line(s.name, s.says, s.source, s.play, ("policy", "seed")) for s in _STUDIES.values()]


def _says(name: str, factory: Callable[..., object]) -> str:
    """The first line of its module, where that is of this scenario, else of its function."""
    of_module = (getattr(getmodule(factory), "__doc__", "") or "").partition("\n")[0]
    of_function = (factory.__doc__ or "").partition("\n")[0].partition(" Raises ")[0]
    return of_module.partition(": ")[2] if of_module.startswith(f"`{name}`") else of_function


def _line(name: str, says: str, source: str, made_by: Callable[..., object], given: tuple[str, ...]) -> dict[str, str]:
    taken = {k: p.default for k, p in signature(made_by).parameters.items() if k not in given}
    return {
        "scenario": name,
        "says": says,
        "source": source,
        "parameters": ",".join(f"{key}={default}" for key, default in taken.items()),
    }


def policies_of(scenario: str) -> tuple[str, ...]:
    """All policies that can be played in a scenario. Raises UserError if there is no such scenario."""
    study = _study(scenario)
    return (*POLICIES, LEARNED) if study is None else tuple(study.policies)


def only_here() -> dict[str, str]:
    """What worlds are played by besides `POLICIES` and learned ones, with a line on each."""
    told = {**PLANS, BOUND: _bound}
    lines = {name: (made_by.__doc__ or "").partition("\n")[0].rstrip(".") for name, made_by in told.items()}
    return {b.name: b.says for b in BASELINES.values()} | lines


def units_of(scenario: str) -> Mapping[str, str]:
    """Unit of each metric of a scenario."""
    study = _study(scenario)
    return UNITS if study is None else study.units


def headline_of(scenario: str) -> str:
    """The metric that policies are compared by."""
    study = _study(scenario)
    return "cost" if study is None else study.headline


def higher_is_better(scenario: str) -> bool:
    """Whether more of the headline is better."""
    study = _study(scenario)
    return study is not None and study.higher_is_better


def check(scenario: str, seed: int, policies: Sequence[str], bundle: Path | None = None, simulator: str = AUTO) -> None:
    """Refuse what `play_seed` would refuse. Raises UserError."""
    study = _study(scenario)
    if study is None:
        check_bundle(policies, bundle)
        for name in policies:
            _player(name, bundle)
        stage = Stage(scenarios.make(scenario, seed), simulator)
        for name in policies if simulator == COMPILED else ():
            _check_compiled(stage.world, name, bundle)
        return
    _options(study, scenario)
    for name in policies:
        if name not in study.policies:
            raise UserError(
                f"scenario {study.name} has no policy {name!r}; choose of {', '.join(study.policies)}, or write all"
            )


@lru_cache(maxsize=1000)
def identity(scenario: str, policy: str, bundle: Path | None = None) -> str:
    """What a result depends on besides names, seed and code: the digest of a bundle, and the files of a trace."""
    study = _study(scenario)
    made = []
    if study is None and (policy == LEARNED or "/" in policy):
        made.append(resolve(policy, bundle)[0].digest)
    taken = scenarios.parameters_of(scenario) if study is None else _options(study, scenario)
    trace = taken.get("trace") or os.environ.get("NODEWISE_TRACES", "") if takes_trace(scenario) else ""
    if trace:
        root = Path(str(trace))
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        made += [f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files if p.exists()]
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:16] if made else ""


def takes_trace(scenario: str) -> bool:
    """Whether a scenario has a parameter `trace`."""
    study = _study(scenario)
    made_by = scenarios.SCENARIOS[scenario.partition("@")[0]] if study is None else study.play
    return "trace" in signature(made_by).parameters


def play_seed(
    scenario: str, seed: int, policies: Sequence[str], bundle: Path | None = None, simulator: str = AUTO
) -> list[Result]:
    """These policies on the same world of one seed; `simulator`: see `run.Stage`, which baselines choose themselves.

    Raises UserError for an unknown scenario, policy or bundle, and for what the engine that is asked for does not play.
    """
    study = _study(scenario)
    if study is None:
        players = [_player(name, bundle) for name in policies]
        stage = Stage(scenarios.make(scenario, seed), simulator)
        return [player(stage) for player in players]
    options = _options(study, scenario)
    return [Result(scenario, name, seed, study.play(name, seed, **options), ()) for name in policies]


def play_on(stage: Stage, policy: str, bundle: Path | None = None) -> Result:
    """A policy by name on a world that is made. Raises UserError for an unknown policy or bundle."""
    return _player(policy, bundle)(stage)


def _player(name: str, bundle: Path | None) -> Callable[[Stage], Result]:
    base, oracle = name.removesuffix(ORACLE), name.endswith(ORACLE)
    if name == BOUND:
        return _bound
    if name in BASELINES:
        return lambda stage: BASELINES[name].play(stage.world, None)
    if base in PLANS:

        def planned(stage: Stage) -> Result:
            world, policy = PLANS[base](stage.world, oracle=oracle)
            return Stage(world, stage.simulator).play(policy, oracle=oracle)

        return planned
    policy, oracle = resolve(name, bundle)
    return lambda stage: stage.play(policy, oracle=oracle)


def _bound(stage: Stage) -> Result:
    """No policy: a cost and a mean completion that none can go below."""
    least, world = bounds(stage.world), stage.world
    metrics = {"cost": least["cost_bound"], "completion_mean": least["completion_bound"]}
    return Result(world.scenario, BOUND, world.seed, metrics, ())


def _check_compiled(world: World, name: str, bundle: Path | None) -> None:
    """Refuse what the compiled engine does not play, but for baselines, which choose theirs. Raises UserError."""
    from nodewise_simulator.compiled.plays import check as check_plays

    if name == BOUND or name in BASELINES:
        return
    if name.endswith(ORACLE) or name in PLANS:
        raise UserError(f"the compiled engine does not play {name!r}; leave it out, or take --simulator auto")
    check_plays(world, resolve(name, bundle)[0])


def _study(scenario: str) -> Study | None:
    name = scenario.partition("@")[0]
    if name in scenarios.SCENARIOS:
        return None
    if name not in _STUDIES:
        raise UserError(f"there is no scenario {name!r}; choose one of {', '.join(known())}")
    return _STUDIES[name]


def _options(study: Study, scenario: str) -> Mapping[str, object]:
    return parameters(scenario, study.play, ("policy", "seed"))
