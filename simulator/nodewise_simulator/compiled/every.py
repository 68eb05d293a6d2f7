"""Rules on every world that the reference engine plays: the Python face of `full`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.policies import rule
from nodewise.policies.defer import DeferSettings, split
from nodewise.policies.rule import Rule
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import rules, waiting
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.flat import Flat, flatten
from nodewise_simulator.compiled.full import PAUSE
from nodewise_simulator.compiled.run import State
from nodewise_simulator.engine import Attempt, Log, Outcome
from nodewise_simulator.world import World


class Played:
    """One world that is, or was, played: `state` and `books`, and what the reference engine would tell of it."""

    def __init__(self, world: World, settings: DeferSettings | None = None, *, ordered: bool = False) -> None:
        """`settings`, `ordered`: how pods are held, as `policies.waiting.Waiting` takes them."""
        self.world = world
        flat = flatten(world, everything=True)
        self.wide = wd.wide(world, flat)
        pod_i = flat.pod_i.copy()
        pod_i[:, kn.RANK] *= wd.LIVES + 1  # room for the lives of each pod
        # A pod that is made again has another age, deadline and uid.
        self.flat: Flat = replace(flat, pod_f=flat.pod_f.copy(), pod_i=pod_i)
        self.state = State.start(self.flat, queues=world.fifo)
        self.books = wd.books(world, flat, self.wide)
        residents = self.state.slot_i.shape[2]
        self.waiting = waiting.books(
            self.flat, self.wide, self.books.machine_i, residents, settings, ordered=ordered
        )  # fmt: skip
        """Who is held for what."""

    def play(self, kernel: Any, policy: Any, *, learns: bool) -> bool:
        """Play on until all is over or a decision is wanted; whether all is over."""
        while True:
            wide, books = tuple(self.wide), tuple(self.books)
            kernel(self.flat.arrays(), self.state.arrays(), policy, wide, books, self.waiting, learns)
            # Nobody loses a life where nodes stay, and all pods at each decision of an environment are many.
            if self.wide.flags[wd.CHANGES] and (self.books.fate[:, wd.LIFE] >= wd.LIVES).any():
                raise UserError(
                    f"scenario {self.world.scenario} loses one pod {wd.LIVES} times; the reference engine plays it"
                )
            if self.books.no[wd.ENDED] != wd.FULL:
                return bool(self.books.no[wd.ENDED] == wd.OVER)
            self.books = wd.grown(self.books)

    def outcomes(self) -> list[Outcome]:
        """As the reference engine gives them."""
        made = self.state.outcomes(self.flat.names)
        for outcome, (created_s, deadline_s) in zip(made, self.books.own_s.tolist(), strict=True):
            outcome.created_s, outcome.deadline_s = created_s, deadline_s
        return made

    def log(self) -> Log:
        """As the reference engine keeps it."""
        no, names = self.books.no, self.flat.names
        lost = [
            Attempt(int(p), names[int(row)], bound_s, started_s, ended_s, bool(evicted))
            for p, row, bound_s, started_s, ended_s, evicted in self.books.lost[: no[wd.LOST]].tolist()
        ]
        up = [(names[int(row)], since_s, until_s) for row, since_s, until_s in self.books.up[: no[wd.UPS]].tolist()]
        return Log(lost=lost, up=up, cycles=int(no[wd.CYCLES]), held=int(no[wd.HELD]))


def play(world: World, policy: str | Rule, settings: DeferSettings | None = None) -> Played:
    """Play a rule to the end; one named NAME-defer, NAME-cmu or NAME-defer-cmu holds pods, as `settings` say.

    Raises UserError for a world that is not modelled or a rule that cannot be compiled.
    """
    base, deferring, ordered = ("", False, False) if isinstance(policy, Rule) else split(policy)
    found = policy if isinstance(policy, Rule) else rule(base)
    if found.takes == "place" and (world.changes or world.autoscaler):
        raise UserError(f"the compiled engine does not play {found.name!r} where nodes come and go")
    kernel, number = rules.player_full(found)
    played = Played(world, (settings or DeferSettings()) if deferring else None, ordered=ordered)
    n, c = len(played.flat.node_f), len(played.flat.col_factor)
    scratch = (np.zeros(n, np.bool_), np.zeros((3, c)), np.zeros(n), np.zeros(n, np.float32), np.full(1, PAUSE))
    timed = found.uses_run_times
    played.play(kernel, (number, timed, *scratch), learns=timed or deferring or ordered)
    return played
