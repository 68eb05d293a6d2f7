"""The PettingZoo environment: every node bids for the pod, as a scheduler extender would score it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.reply import TOP, tie_break
from nodewise_simulator.compiled import wide as wd
from nodewise_simulator.envs.episode import OVER, Episode, begin, limits
from nodewise_simulator.envs.look import NODE_COLUMNS, PAIR_COLUMNS, REQUEST_COLUMNS, Seen
from nodewise_simulator.envs.single import WORLDS, rows_of

try:
    from gymnasium import spaces
    from gymnasium.error import ResetNeeded
    from gymnasium.utils.seeding import np_random
    from pettingzoo import ParallelEnv  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise UserError("the environment of bidding nodes needs pettingzoo; pip install 'nodewise[envs]'") from error

Observations = dict[str, dict[str, Any]]
Infos = dict[str, dict[str, Any]]
BIDS = TOP + 1


class BiddingEnv(ParallelEnv):  # type: ignore[misc]
    """Agents `node_0`, `node_1`, …, by row; each bids 0 to 10, and the pod goes to the highest bid that is feasible.

    Equal bids are told apart as `nodewise.core.reply.best` does. All get the same reward, that of `NodewiseEnv`;
    arguments and errors are its, too. A bid of a node that is not feasible, or is missing in a smaller world, counts
    for nothing.
    """

    metadata: dict[str, Any] = {"name": "nodewise_bidding_v0", "render_modes": [], "is_parallelizable": True}

    def __init__(self, scenario: str = "hetero", *, nodes: int | None = None, render_mode: str | None = None) -> None:
        if render_mode is not None:
            raise UserError(f"the environment draws nothing; leave out render_mode={render_mode!r}")
        self.render_mode = render_mode
        self.scenario, self._seen = scenario, Seen.room(rows_of(scenario, nodes))
        self.possible_agents = [f"node_{row}" for row in range(len(self._seen.mask))]
        self.agents: list[str] = []
        low, high = limits((*NODE_COLUMNS, *PAIR_COLUMNS, *REQUEST_COLUMNS))
        self.observation_spaces = {
            agent: spaces.Dict({"observation": spaces.Box(low, high), "action_mask": spaces.MultiBinary(BIDS)})
            for agent in self.possible_agents
        }
        self.action_spaces = {agent: spaces.Discrete(BIDS) for agent in self.possible_agents}
        self.episode: Episode | None = None
        self._random: np.random.Generator = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Dict:
        """Columns [Kn + Kr + Kq] of node, pair and request; and which bids count [11]: only 0 if it is not feasible."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """The bid."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:  # noqa: ARG002
        """As `NodewiseEnv.reset`."""
        if seed is not None:
            self._random = np_random(seed)[0]
        number = int(self._random.integers(WORLDS)) if seed is None else seed
        self.episode = begin(self.scenario, number, self._seen)
        self.agents = self.possible_agents[:]
        return self._observed(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Bind the pod that asks to the highest bidder; who does not bid bids 0. Raises UserError for no bid."""
        episode = self.episode
        if episode is None:
            raise ResetNeeded("call reset() before step()")
        bids = np.zeros(len(self._seen.mask), np.int64)
        for row, agent in enumerate(self.possible_agents):
            bid = actions.get(agent, 0)
            if bid not in range(BIDS):
                raise UserError(f"{agent} bids {bid}; a bid is a whole number from 0 to {TOP}")
            bids[row] = bid
        reward = episode.place(highest(episode, bids))
        agents = self.agents
        if episode.over:
            self.agents = []
        return (
            self._observed(), dict.fromkeys(agents, reward), dict.fromkeys(agents, episode.over),
            dict.fromkeys(agents, False), {agent: {} for agent in agents},
        )  # fmt: skip

    def _observed(self) -> Observations:
        seen = self._seen
        request = np.broadcast_to(seen.request, (len(seen.mask), len(seen.request)))
        rows = np.concatenate([seen.node, seen.pair, request], axis=1)
        counts = np.repeat(seen.mask[:, None], BIDS, axis=1).astype(np.int8)
        counts[:, 0] = 1
        return {
            agent: {"observation": rows[row], "action_mask": counts[row]}
            for row, agent in enumerate(self.possible_agents)
        }


def highest(episode: Episode, bids: Any) -> int:
    """Row of the highest bid [N] among feasible nodes; among equals as `nodewise.core.reply.best`.

    Raises UserError where nobody asks.
    """
    if episode.over:
        raise UserError(OVER)
    allowed = np.flatnonzero(episode.seen.mask)
    top = allowed[bids[allowed] == bids[allowed].max()]
    p, nodes = episode.pod, episode.world.nodes
    life = int(episode.played.books.fate[p, wd.LIFE])
    uid = episode.world.pods[p].request.uid + (f"-{life}" if life > 1 else "")
    return int(min(top, key=lambda row: (tie_break(uid + nodes[row].name), nodes[row].name)))
