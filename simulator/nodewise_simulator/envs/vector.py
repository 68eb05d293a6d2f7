"""Many worlds at a time: what `SyncVectorEnv` makes of `NodewiseEnv`, without its copies and dictionaries per world."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.envs.episode import Episode, begin
from nodewise_simulator.envs.look import Seen
from nodewise_simulator.envs.single import WORLDS, Observation, rows_of, space_of, told

try:
    from gymnasium import spaces
    from gymnasium.error import ResetNeeded
    from gymnasium.utils.seeding import np_random
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ModuleNotFoundError as error:
    raise UserError("the environments need gymnasium; pip install 'nodewise[envs]'") from error

Bools = NDArray[np.bool_]


class VecEnv(VectorEnv[Observation, Any, Any]):
    """`num_envs` worlds of a scenario; `reset(seed=k)` begins worlds k, k + 1, …

    Another world begins where one is over, at the next step (`AutoresetMode.NEXT_STEP`): that step's action, still
    a row, is ignored there, and its reward is 0. Arguments and errors are those of `NodewiseEnv`.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(
        self, num_envs: int = 1, scenario: str = "hetero", *, nodes: int | None = None, render_mode: str | None = None
    ) -> None:
        if num_envs < 1:
            raise UserError(f"there cannot be num_envs={num_envs} worlds; take 1 or more")
        if render_mode is not None:
            raise UserError(f"the environment draws nothing; leave out render_mode={render_mode!r}")
        rows = rows_of(scenario, nodes)
        self.num_envs, self.scenario, self._seen = num_envs, scenario, Seen.room(num_envs, rows)
        self.single_observation_space = space_of(rows)
        self.single_action_space = spaces.Discrete(rows)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.episodes: list[Episode] = []
        self._random = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin other worlds in all places; there are no options."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._random = [np_random(seed + b)[0] for b in range(self.num_envs)]
        self.episodes = [self._begin(b, None if seed is None else seed + b) for b in range(self.num_envs)]
        return self._told({})

    def step(self, actions: Any) -> tuple[Observation, Floats, Bools, Bools, dict[str, Any]]:
        """One decision in each place [B]; never truncates. Raises UserError, before any world goes on, for others."""
        if not self.episodes:
            raise ResetNeeded("call reset() before step()")
        taken = np.asarray(actions)
        if taken.shape != (self.num_envs,):
            raise UserError(f"step wants one action for each of {self.num_envs} worlds, not an array of {taken.shape}")
        if not np.issubdtype(taken.dtype, np.integer):
            raise UserError(f"step wants rows of nodes as whole numbers, not an array of {taken.dtype}")
        rows = self._seen.mask.shape[1]
        wrong = taken[(taken < 0) | (taken >= rows)]
        if len(wrong):
            raise UserError(f"action {wrong[0]} is no node; take one from 0 to {rows - 1}")
        rewards, over = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        ended: dict[int, float] = {}
        for b, (episode, action) in enumerate(zip(self.episodes, taken.tolist(), strict=True)):
            if episode.over:
                self.episodes[b] = self._begin(b, None)
                continue
            rewards[b] = episode.place(episode.feasible(action))
            if episode.over:
                over[b], ended[b] = True, episode.cents_per_pod
        seen, info = self._told(ended)
        return seen, rewards, over, np.zeros_like(over), info

    def _begin(self, b: int, seed: int | None) -> Episode:
        number = int(self._random[b].integers(WORLDS)) if seed is None else seed
        return begin(self.scenario, number, self._seen.of(b))

    def _told(self, ended: dict[int, float]) -> tuple[Observation, dict[str, Any]]:
        """What is seen, and what is told beside it, as gymnasium packs it: a key, and who has it behind `_`."""
        seen, everybody = told(self._seen), np.ones(self.num_envs, np.bool_)
        info: dict[str, Any] = {
            "action_mask": seen["action_mask"].copy(),
            "now_s": np.array([e.now_s for e in self.episodes]),
            "replaced": np.array([e.replaced for e in self.episodes]),
        }
        info |= {f"_{key}": everybody for key in info}
        if ended:
            who = list(ended)
            info["cents_per_pod"], info["_cents_per_pod"] = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
            info["cents_per_pod"][who], info["_cents_per_pod"][who] = list(ended.values()), True
        return seen, info
