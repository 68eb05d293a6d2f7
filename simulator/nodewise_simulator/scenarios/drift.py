"""`drift`: as `hetero`, until half of the workloads change their speed on half of the node classes.

The pods before the change are the warm-up and the first third that is counted; then a workload that liked a class may
like it no longer. Who has learned the old speeds must unlearn them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nodewise.core.errors import UserError
from nodewise_simulator.physics import Drift
from nodewise_simulator.podtable import forms
from nodewise_simulator.scenarios.hetero import hetero
from nodewise_simulator.world import World


def drift(
    seed: int, load: float = 0.7, pods: int = 3000, warm: int = 3000, factor: float = 3.0, mix: str = "rotate"
) -> World:
    """From a third of the counted pods on, half of the (workload, class) pairs run `factor` times slower or faster.

    Either as often, so that the load stays about the same. Raises UserError for a factor that is not above
    1, and as `hetero` does.
    """
    if not factor > 1.0:
        raise UserError("scenario drift needs factor > 1")
    made = hetero(seed, load=load, mix=mix, pods=pods, warm=warm)
    at_s = made.pods[warm + pods // 3].request.created_s
    rng = np.random.default_rng([seed, 11])
    workloads = sorted({r.workload for r in forms(made.pods).requests})
    pairs = [(w, c) for w in workloads for c in made.classes]
    chosen = rng.permutation(len(pairs))[: len(pairs) // 2]
    drifts = [Drift(at_s, factor if k % 2 else 1.0 / factor, *pairs[at]) for k, at in enumerate(chosen)]
    return replace(made, scenario="drift", drifts=tuple(drifts))
