"""Training runs small enough for tests, and how their processes are waited for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodewise_training.ppo import Settings
from nodewise_training.rollout import Plan

WORLD = "hetero@load=0.85,pods=200,warm=220"
"""No pod more than the plan needs."""
TINY = Settings(
    plan=Plan(worlds=1, segments=1, rollouts=2, decisions=60, tail=60), hidden=16, minibatch=64, microbatch=24,
    validate_every=2, validation=(901,),
)  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]


def waited_for(what: Callable[[], Any], patience_s: float = 120.0) -> Any:
    give_up_s = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    return found
