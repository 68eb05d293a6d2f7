"""Environments for learners, by the compiled engine; see this folder's README.

Those of gymnasium and PettingZoo are imported when they are asked for, and raise UserError where these are missing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodewise_simulator.envs.bidding import BiddingEnv
    from nodewise_simulator.envs.episode import Episode
    from nodewise_simulator.envs.single import NodewiseEnv
    from nodewise_simulator.envs.vector import VecEnv

__all__ = ["ENV_ID", "BiddingEnv", "Episode", "NodewiseEnv", "VecEnv"]

ENV_ID = "Nodewise/Place-v0"
"""For `gymnasium.make` and `gymnasium.make_vec`, once this module is imported."""
_FILES = {"BiddingEnv": "bidding", "Episode": "episode", "NodewiseEnv": "single", "VecEnv": "vector"}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


if find_spec("gymnasium") is not None:
    from gymnasium import register

    register(ENV_ID, f"{__name__}.single:NodewiseEnv", vector_entry_point=f"{__name__}.vector:VecEnv")
