"""The Gymnasium environment: one pod after another asks for a node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise_simulator import scenarios
from nodewise_simulator.envs.episode import Episode, begin, limits
from nodewise_simulator.envs.look import NODE_COLUMNS, PAIR_COLUMNS, REQUEST_COLUMNS, Seen

try:
    import gymnasium as gym
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise UserError("the environments need gymnasium; pip install 'nodewise[envs]'") from error

ENV_ID = "Nodewise/Place-v0"
"""For `gymnasium.make` and `gymnasium.make_vec`, once this module is imported."""
Observation = dict[str, NDArray[Any]]
WORLDS = 2**31
"""Worlds that a reset without a seed draws from."""


def rows_of(scenario: str, nodes: int | None) -> int:
    """How many nodes an environment has room for: those of world 0 unless told. Raises UserError for less than 2."""
    if nodes is None:
        return max(len(scenarios.make(scenario, 0).nodes), 2)
    if nodes < 2:
        raise UserError(f"an environment of nodes={nodes} has nothing to decide; take 2 or more")
    return nodes


def space_of(nodes: int) -> Any:
    """What is observed of `nodes` nodes: a `spaces.Dict`."""
    (node_low, node_high), (pair_low, pair_high), request = map(limits, (NODE_COLUMNS, PAIR_COLUMNS, REQUEST_COLUMNS))
    return spaces.Dict(
        {
            "node": spaces.Box(np.tile(node_low, (nodes, 1)), np.tile(node_high, (nodes, 1))),
            "pair": spaces.Box(np.tile(pair_low, (nodes, 1)), np.tile(pair_high, (nodes, 1))),
            "request": spaces.Box(*request),
            "action_mask": spaces.MultiBinary(nodes),
        }
    )


def told(seen: Seen) -> Observation:
    """An observation of its own, whatever becomes of `seen`."""
    return {
        "node": seen.node.copy(), "pair": seen.pair.copy(), "request": seen.request.copy(),
        "action_mask": seen.mask.astype(np.int8),
    }  # fmt: skip


class NodewiseEnv(gym.Env[Observation, Any]):
    """`scenario` as `nodewise simulate` takes it; `reset(seed=k)` begins its world k, without a seed a random one.

    `nodes`: rows of an observation, for scenarios whose worlds differ in size; those of world 0 unless told.
    Raises UserError for what does not exist, or is not modelled by the compiled engine.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, scenario: str = "hetero", *, nodes: int | None = None, render_mode: str | None = None) -> None:
        if render_mode is not None:
            raise UserError(f"the environment draws nothing; leave out render_mode={render_mode!r}")
        self.render_mode = render_mode
        self.scenario, self._seen = scenario, Seen.room(rows_of(scenario, nodes))
        rows = len(self._seen.mask)
        self.observation_space = space_of(rows)
        self.action_space = spaces.Discrete(rows)
        self.episode: Episode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin another world; there are no options."""
        super().reset(seed=seed, options=options)
        number = int(self.np_random.integers(WORLDS)) if seed is None else seed
        self.episode = begin(self.scenario, number, self._seen)
        seen = told(self._seen)
        return seen, self._info(self.episode, seen)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Bind the pod that asks; minus the cents that fell due until the next asks. Never truncates."""
        episode = self.episode
        if episode is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        row = int(action)
        if row != action:
            raise UserError(f"action {action} is no node; take a whole number")
        reward = episode.place(episode.feasible(row))
        seen = told(self._seen)
        return seen, reward, episode.over, False, self._info(episode, seen)

    @staticmethod
    def _info(episode: Episode, seen: Observation) -> dict[str, Any]:
        made = {"action_mask": seen["action_mask"].copy(), "now_s": episode.now_s, "replaced": episode.replaced}
        return made | {"cents_per_pod": episode.cents_per_pod} if episode.over else made


gym.register(ENV_ID, f"{__name__}:NodewiseEnv", vector_entry_point=f"{__package__}.vector:VecEnv")
