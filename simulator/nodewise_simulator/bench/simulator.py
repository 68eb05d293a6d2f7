"""What a decision takes: compiled engine, reference engine and SimPy on the same worlds; collecting; cost by size.

CPU time of this process, one thread; all sides in turn in each round, on a new world. What is compiled is compiled
before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial

import numpy as np

from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.policies import rule
from nodewise_simulator.bench.common_model import common, longer, pods_per_node
from nodewise_simulator.compare import Row, interval, ratio_interval
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, Ints, flatten
from nodewise_simulator.compiled.late import Late, Seen, collect
from nodewise_simulator.compiled.run import State, simulate
from nodewise_simulator.run import play
from nodewise_simulator.world import World

RULES = ("kube-default", "best-fit", "least-work-remaining", "economic")
"""Two that look at requests, two that look at beliefs; SimPy's model has the first two."""
NODES = 100
SIZES = (100, 1000, 10_000)
COLLECTED = (100, 1000)
HIDDEN = 64
SHARPNESS = 2.0

_STILL = ("cpu_pressure", "memory_pressure", "cpu_requested_share", "memory_requested_share", "gpu_requested_share",
          "has_gpu", "empty", "price_per_core", "dynamic_w_per_core", "production_share",
          "resident_delay_rate")  # fmt: skip
LATE = (
    *_STILL,
    *(name for name, col in COLUMNS.items() if col.scope in ("pod", "cluster")),
    *("log_slower_than_best", "run_uncertainty", "log_observations"),
)
"""What the scorer with a kept node half looks at: all that it can, but for two columns that are always zero here."""
COLLECTORS = {"beliefs learned meanwhile": True, "beliefs frozen": False}

REBUILT = "the record as dense minibatches"

_MINIBATCH = 256
_WARM, _COUNTED = 1.5, 20_000
"""Residents' worth of pods that only fill the cluster, and pods that are counted."""

Progress = Callable[[str, int, int], None]
_Side = Callable[[], int]


def bench_simulator(
    *, rounds: int = 5, pods: int = 1500, sizes: tuple[int, ...] = SIZES, progress: Progress = lambda *_: None
) -> list[Row]:
    """Rows of heuristics and of collecting, decisions/s with ratios, and of µs per decision by number of nodes.

    Raises UserError if a number makes no sense or simpy is missing.
    """
    if rounds < 1 or pods < 200:
        raise UserError("bench simulator needs at least 1 round and 200 pods")
    try:
        from nodewise_simulator.bench.simpy_model import RULES as MODELLED
    except ImportError as error:
        raise UserError("bench simulator needs simpy: run pip install simpy") from error
    took_s: dict[tuple[str, str], list[float]] = {}
    for k in range(-1, rounds):  # the first is not counted: it compiles
        placed: dict[tuple[str, str], Sequence[str]] = {}
        sides = _heuristics(common(NODES, pods if k >= 0 else 200, k + 1), MODELLED, placed)
        for size in COLLECTED if k >= 0 else COLLECTED[:1]:
            sides |= _collecting(size, k + 1)
        for size in sizes if k >= 0 else ():
            sides |= _by_size(size, k + 1)
        for at, key in enumerate(list(sides) if k % 2 == 0 else list(sides)[::-1]):
            per_decision_s = _timed(sides[key])
            if k >= 0:
                took_s.setdefault(key, []).append(per_decision_s)
            progress("rounds, after one that compiles", (k + 1) * len(sides) + at + 1, (rounds + 1) * len(sides))
        _check(placed)
    return [row for key in sides for row in _rows(key, took_s)]


def _heuristics(
    made: World, modelled: Mapping[str, object], placed: dict[tuple[str, str], Sequence[str]]
) -> dict[tuple[str, str], _Side]:
    """The sides; each tells `placed` where it put the pods."""
    from nodewise_simulator.bench.simpy_model import Model

    flat = flatten(made)
    names = np.array([*flat.names, ""])

    def compiled(name: str) -> int:
        state = simulate(flat, name)
        placed[name, "compiled"] = names[state.pod_node].tolist()
        return int(state.number[kn.ASKED])

    def reference(name: str) -> int:
        result, direct = play(made, rule(name))
        placed[name, "reference"] = list(result.placements)
        return len(direct.took_s)

    def by_simpy(name: str) -> int:
        model = Model(made, name)
        placed[name, "simpy"] = model.run()
        return model.asked

    sides: dict[tuple[str, str], _Side] = {}
    for name in RULES:
        where = f"{NODES} nodes, {name}"
        sides |= {(where, "compiled"): partial(compiled, name), (where, "reference"): partial(reference, name)}
        if name in modelled:
            sides[where, "simpy"] = partial(by_simpy, name)
    return sides


def _check(placed: Mapping[tuple[str, str], Sequence[str]]) -> None:
    """What is not the same work is not compared."""
    for (name, who), nodes in placed.items():
        if list(nodes) != list(placed[name, "compiled"]):
            raise AssertionError(f"by {name}, {who} and the compiled engine place pods otherwise")


def _filled(nodes: int, seed: int) -> tuple[Flat, State, int]:
    """A cluster that is as full as it gets, and up to which pod it was played."""
    warm = int(_WARM * nodes * pods_per_node())
    flat = longer(flatten(common(nodes, 400, seed)), warm + _COUNTED, seed)
    return flat, simulate(flat, "random", warm), warm


def _counted(played: Callable[[State], object], state: State) -> int:
    before = int(state.number[kn.ASKED])
    played(state)
    return int(state.number[kn.ASKED]) - before


def _collecting(nodes: int, seed: int) -> dict[tuple[str, str], _Side]:
    """Sampling and recording, and what a learner pays to have decisions as dense arrays again."""
    flat, state, warm = _filled(nodes, seed)
    counted = _COUNTED // 4
    rng = np.random.default_rng(seed)
    uniforms, late = rng.random(len(flat.pod_f)), Late.drawn(LATE, HIDDEN, 1)
    sides: dict[tuple[str, str], _Side] = {}

    def played(learns: bool, seen: Seen, own: State) -> None:
        collect(flat, own, late, SHARPNESS, uniforms, seen, warm + counted, learns=learns)

    for says, learns in COLLECTORS.items():
        seen = Seen.room(counted, flat, late)
        for f in fields(seen):
            getattr(seen, f.name).fill(0)  # the first look at memory that is new costs more than a decision
        where = f"{nodes} nodes, sampled and recorded, {HIDDEN} wide, {says}"
        sides[where, "compiled"] = partial(_counted, partial(played, learns, seen), state.copy())
    recorded, own = Seen.room(counted, flat, late), state.copy()
    played(True, recorded, own)
    order = rng.permutation(own.number[kn.RECORDED])
    sides[f"{nodes} nodes, {HIDDEN} wide", REBUILT] = partial(_rebuilt, recorded, nodes, order)
    return sides


def _rebuilt(seen: Seen, nodes: int, order: Ints) -> int:
    versions = seen.versions(len(order), nodes)
    for begin in range(0, len(order), _MINIBATCH):
        seen.dense(versions, order[begin : begin + _MINIBATCH])
    return len(order)


def _by_size(nodes: int, seed: int) -> dict[tuple[str, str], _Side]:
    flat, state, warm = _filled(nodes, seed)
    until = warm + _COUNTED // 4
    return {
        (f"{nodes} nodes", name): partial(
            _counted, lambda own, name=name: simulate(flat, name, until, own), state.copy()  # type: ignore[misc]
        )
        for name in ("kube-default", "economic")
    }  # fmt: skip


def _timed(side: _Side) -> float:
    """CPU seconds of this process for each decision."""
    before_s = time.process_time()
    number = side()
    return (time.process_time() - before_s) / number


def _rows(key: tuple[str, str], took_s: Mapping[tuple[str, str], list[float]]) -> list[Row]:
    (where, who), own_s = key, np.array(took_s[key])
    rounds = len(own_s)
    if who in RULES or who == REBUILT:
        return [Row(where, who, "cost", "µs per decision", float(own_s.mean() * 1e6), *interval(own_s * 1e6), rounds)]
    rate = 1.0 / own_s
    made = [Row(where, who, "decide", "decisions/s", float(rate.mean()), *interval(rate), rounds)]
    for peer in ("reference", "simpy"):
        if who == "compiled" and (where, peer) in took_s:
            other_s = np.array(took_s[where, peer])
            ratio = float(other_s.sum() / own_s.sum())
            made.append(Row(where, who, "decide_ratio", f"to {peer}", ratio, *ratio_interval(other_s, own_s), rounds))
    return made
