"""How many decisions a second `VecEnv` takes from random feasible actions: `python -m nodewise_simulator.envs`."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from nodewise_simulator.envs.vector import VecEnv


def main() -> None:
    """Step many worlds, whose making is timed apart; CPU time of this thread."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--scenario", default="hetero@pods=2000,warm=0")
    asked.add_argument("--worlds", type=int, default=64)
    asked.add_argument("--steps", type=int, default=1000)
    given = asked.parse_args()
    env, rng = VecEnv(given.worlds, given.scenario), np.random.default_rng(0)
    env.reset(seed=0)  # numba compiles, or loads what is kept
    begin_s = time.thread_time()
    seen, _ = env.reset(seed=0)
    made_s = time.thread_time() - begin_s
    decided, spent_s, rewards = 0, 0.0, 0.0
    for _ in range(given.steps):
        keys = rng.random(seen["action_mask"].shape) * seen["action_mask"]
        actions = keys.argmax(axis=1)
        begin_s = time.thread_time()
        seen, reward, over, _, _ = env.step(actions)
        spent_s += time.thread_time() - begin_s
        decided, rewards = decided + given.worlds, rewards + float(reward.sum())
        if over.any():
            break
    nodes = seen["action_mask"].shape[1]
    sys.stdout.write(
        f"{given.worlds} worlds of {nodes} nodes, {given.scenario}: {decided / spent_s:,.0f} decisions/s "
        f"({decided:,} decisions, mean reward {rewards / decided:.4f} cents); "
        f"making a world takes {made_s / given.worlds * 1e3:.0f} ms\n"
    )


if __name__ == "__main__":
    main()
