"""Environments for learners, by the compiled engine; see this folder's README.

Those of gymnasium and PettingZoo are imported when they are asked for, and raise UserError where these are missing; any
of their names registers `ENV_ID` with gymnasium, and so does that name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodewise_simulator.envs.bidding import BiddingEnv
    from nodewise_simulator.envs.episode import Episode
    from nodewise_simulator.envs.single import ENV_ID, NodewiseEnv
    from nodewise_simulator.envs.vector import VecEnv

__all__ = ["ENV_ID", "BiddingEnv", "Episode", "NodewiseEnv", "VecEnv"]

_FILES = {
    "ENV_ID": "single", "BiddingEnv": "bidding", "Episode": "episode", "NodewiseEnv": "single", "VecEnv": "vector"
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
