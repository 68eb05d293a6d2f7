"""`best-of-three`: of three rules the one that was cheapest on training traces of this very cluster.

No fixed rule is the best everywhere, so this is what a careful operator without learning would do. A scenario that can
draws other arrivals and pods for the same cluster (`World.again`). Elsewhere training traces are made of what was seen
before the first counted pod: blocks of consecutive pods, drawn with replacement, come at the intervals at which they
came, so that bursts, workloads and hidden run times are this cluster's while the counted pods stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise.core.units import stamp
from nodewise_simulator.columns import PodColumns
from nodewise_simulator.metrics import Result
from nodewise_simulator.run import Stage, resolve
from nodewise_simulator.world import SimPod, World, quantised

NAME = "best-of-three"
CHOICES = ("earliest-finish-time", "economic", "economic-defer")
TRACES = 2
_MOST = 1500
"""Counted pods of a training trace."""
_BLOCK = 50
_LEAST = 100
"""Fewer pods before the counted ones are no history."""


def play_best(world: World, progress: Callable[[int], None] | None = None) -> Result:
    """Play a world with the rule chosen for it. Raises UserError if there is no history to choose by."""
    policy, oracle = resolve(chosen(world))
    return replace(Stage(world).play(policy, oracle=oracle, progress=progress), policy=NAME)


def chosen(world: World) -> str:
    """The rule of the least mean cost on the training traces. Raises UserError if there is no history."""
    made = [Stage(training_trace(world, k)) for k in range(TRACES)]
    cents = {name: np.mean([s.play(resolve(name)[0]).metrics["cost"] for s in made]) for name in CHOICES}
    return min(CHOICES, key=lambda name: cents[name])


def training_trace(world: World, number: int) -> World:
    """Another trace of the same cluster, of at most 1,500 counted pods.

    Raises UserError where it has to be made of the pods before the counted ones, and these are fewer than 100 or depend
    on each other.
    """
    size = world.warm + min(_MOST, len(world.pods) - world.warm)
    if world.again is not None:
        other = world.again(number)
        pods = other.pods
        return replace(other, pods=pods.part(size) if isinstance(pods, PodColumns) else pods[:size])
    if world.warm < _LEAST or any(p.parents for p in world.pods):
        raise UserError(
            f"{NAME} learns from the pods before the counted ones, independent of each other and at least {_LEAST};"
            f" scenario {world.scenario} has {world.warm} of them (see its parameter warm)"
        )
    rng = np.random.default_rng([world.seed, 13, number])
    seen = world.pods[: world.warm]
    created_s = np.array([p.request.created_s for p in seen])
    gap_s = np.diff(created_s, prepend=0.0)
    block = min(_BLOCK, world.warm // 2)
    begins = rng.integers(0, world.warm - block + 1, -(-size // block))
    take = (begins[:, None] + np.arange(block)).ravel()[:size]
    at_s = np.cumsum(gap_s[take])
    drawn = tuple(
        _again(seen[k], quantised(float(s)), place) for place, (k, s) in enumerate(zip(take, at_s, strict=True))
    )
    return replace(world, pods=drawn)


def _again(pod: SimPod, now_s: float, number: int) -> SimPod:
    """The pod, created then, with a name and an owner of its own."""
    old = pod.manifest["metadata"]
    metadata = {
        **old, "name": f"t{number}", "uid": f"t{number}-uid", "creationTimestamp": stamp(now_s),
        "ownerReferences": [
            {**o, "name": f"t{number}", "uid": f"t{number}-owner"} for o in old.get("ownerReferences", ())
        ],
    }  # fmt: skip
    manifest = {**pod.manifest, "metadata": metadata}
    request = replace(pod_request(manifest)[0], gpus_milli=pod.request.gpus_milli)
    return replace(pod, manifest=manifest, request=request)
