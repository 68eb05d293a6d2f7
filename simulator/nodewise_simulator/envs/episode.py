"""One world that is played until a decision is wanted, by the compiled engine: what all environments are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.policies import DEFAULT
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import rules
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.compiled.every import Played
from nodewise_simulator.compiled.full import PAUSE
from nodewise_simulator.envs.look import Ledger, Seen, looker
from nodewise_simulator.metrics import measure
from nodewise_simulator.podtable import asked
from nodewise_simulator.world import World

OVER = "the episode is over; reset the environment"


class Episode:
    """A world from its first decision to its last; each is a pod that at least two nodes could take.

    `seen` is the observation of the decision that is wanted, written into the arrays that were given, if any, and
    zeros when all is over. Raises UserError for a world that is not modelled, or of more nodes than `seen` has rows.
    """

    def __init__(self, world: World, seen: Seen | None = None) -> None:
        nodes = len(world.nodes)
        self.seen = seen or Seen.room(nodes)
        if nodes > len(self.seen.mask):
            raise UserError(
                f"scenario {world.scenario}, seed {world.seed}, has {nodes} nodes and the environment has room for "
                f"{len(self.seen.mask)}; give it nodes={nodes} or more"
            )
        self.world, self.over, self.due_cents = world, False, 0.0
        self.replaced = 0
        """How many actions were no feasible node, so that another node was taken; see `feasible`."""
        self.played = Played(world)
        of = asked(world.pods)
        self._ledger = Ledger.opened(np.stack([of.created_s, of.deadline_s]), world.warm)
        self._kernel = rules.player_full(DEFAULT)[0]
        self._answer = np.full(1, PAUSE)
        classes = len(self.played.flat.col_factor)
        scratch = (np.zeros(nodes, np.bool_), np.zeros((3, classes)), np.zeros(nodes), np.zeros(nodes, np.float32))
        self._policy = (rules.OUTSIDE, True, *scratch, self._answer)
        self._own = self.seen.first(nodes)
        self.seen.clear()
        self._told_cents = 0.0
        self._go_on()

    @property
    def pod(self) -> int:
        """Which pod asks: its index in `world.pods`."""
        return int(self.played.books.no[wd.CURRENT])

    @property
    def now_s(self) -> float:
        """The simulated time of the decision, or of the end."""
        return float(self.played.books.clock[wd.NOW])

    @property
    def counted(self) -> int:
        """How many pods count; those of the warm-up do not."""
        return len(self.world.pods) - self.world.warm

    @property
    def cents_per_pod(self) -> float:
        """What has fallen due for each counted pod; when all is over, the `cost` of `metrics.measure`."""
        return self.due_cents / self.counted

    def feasible(self, row: int) -> int:
        """This row if it is feasible, else the next that is, from the first again behind the last.

        Raises UserError for a number that is no row.
        """
        mask = self.seen.mask
        if self.over:
            raise UserError(OVER)
        if not 0 <= row < len(mask):
            raise UserError(f"action {row} is no node; take one from 0 to {len(mask) - 1}")
        if mask[row]:
            return row
        self.replaced += 1
        allowed = np.flatnonzero(mask)
        return int(allowed[np.searchsorted(allowed, row) % len(allowed)])

    def place(self, row: int) -> float:
        """Bind the pod that asks to a node, and play on; minus the cents that fell due until the next decision.

        The sum over an episode is minus what the counted pods cost by `metrics.measure`: the first reward also has
        what fell due before the first decision, the last what does after the last. Raises UserError where nobody asks
        or the node is not feasible.
        """
        if self.over:
            raise UserError(OVER)
        if not (0 <= row < len(self.seen.mask) and self.seen.mask[row]):
            raise UserError(f"row {row} is no feasible node for the pod that asks")
        self._answer[0] = row
        told = self._told_cents
        self._go_on()
        self._told_cents = self.due_cents
        return told - self.due_cents

    def _go_on(self) -> None:
        played = self.played
        self.over = played.play(self._kernel, self._policy, learns=True)
        if self.over:
            self.seen.clear()
            self.due_cents = measure(self.world, played.outcomes())["cost"] * self.counted
            return
        self.due_cents = looker()(
            played.flat.arrays(), played.state.arrays(), tuple(played.wide), tuple(played.books), tuple(self._ledger),
            tuple(self._own),
        )  # fmt: skip


def begin(scenario: str, seed: int, seen: Seen | None = None) -> Episode:
    """An episode of a scenario's world. Raises UserError also for a world that asks for no decision."""
    made = Episode(scenarios.make(scenario, seed), seen)
    if made.over:
        raise UserError(f"scenario {scenario}, seed {seed}, asks for no decision: no pod ever had two feasible nodes")
    return made


def limits(names: tuple[str, ...]) -> tuple[Any, Any]:
    """Least and greatest values [K] of columns, float32; rows of nodes that are not feasible are zeros."""
    low = np.array([min(COLUMNS[name].low, 0.0) for name in names], np.float32)
    high = np.array([max(COLUMNS[name].high, 0.0) for name in names], np.float32)
    return low, high
