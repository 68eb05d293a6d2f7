"""What the compiled engine plays, and a run by it as the lab wants it. Imports no numba until something is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.policies import POLICIES
from nodewise.policies.rule import Rule
from nodewise.policies.waiting import WaitingPolicy
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, immediate, modelled
from nodewise_simulator.engine import Log, Outcome
from nodewise_simulator.fates import Fates
from nodewise_simulator.podtable import asked
from nodewise_simulator.world import World

_PARTS = 20
"""How often progress is told."""


def plays(world: World, policy: Policy) -> bool:
    """Whether the compiled engine plays this policy on this world, to the same placements as the reference engine.

    Never without numba, which an image for demonstrations may lack.
    """
    if find_spec("numba") is None:
        return False
    try:
        check(world, policy)
    except UserError:
        return False
    return True


def check(world: World, policy: Policy) -> None:
    """Say what of a run the compiled engine does not model. Raises UserError."""
    rule = policy.base if isinstance(policy, WaitingPolicy) else policy
    if not isinstance(rule, Rule) or rule.takes == "view" or POLICIES.get(rule.name) != rule:
        raise UserError(
            f"the compiled engine does not play {policy.name!r}, which is none of the rules of a node "
            "and a pod that are compiled; take --simulator auto or reference"
        )
    if rule.takes == "place" and (world.changes or world.autoscaler):
        raise UserError(f"the compiled engine does not play {policy.name!r} where nodes come and go")
    modelled(world, everything=True)


def played(
    world: World, arrays: Callable[[], Flat], policy: Policy, progress: Callable[[int], None] | None = None
) -> tuple[Sequence[Outcome] | Fates, Log]:
    """A run of a policy that `plays`; `arrays()` is `flatten(world)`. `progress` gets how many pods have ended."""
    if isinstance(policy, WaitingPolicy) or not immediate(world):
        from nodewise_simulator.compiled.every import play

        run = play(world, policy.name, policy.settings if isinstance(policy, WaitingPolicy) else None)
        if progress:
            progress(len(world.pods))
        return run.outcomes(), run.log()

    from nodewise_simulator.compiled.run import simulate

    assert isinstance(policy, Rule)
    pods, flat, state = len(world.pods), arrays(), None
    for part in range(1, _PARTS) if progress else ():
        state = simulate(flat, policy, pods * part // _PARTS, state)
        assert progress is not None
        progress(int((~np.isnan(state.pod[:, kn.FINISHED_S])).sum()))
    state = simulate(flat, policy, None, state)
    if progress:
        progress(int((~np.isnan(state.pod[:, kn.FINISHED_S])).sum()))
    started_s, finished_s = state.pod[:, kn.STARTED_S].copy(), state.pod[:, kn.FINISHED_S].copy()
    return Fates(asked(world.pods), state.pod_node, started_s, finished_s), Log(cycles=int(state.number[kn.CYCLES]))
