"""`elastic`: the pods of `hetero` on a cluster whose size follows them, and that loses machines.

Part of the nodes are on demand and stay; an autoscaler launches and removes the rest, a third of which are spot
machines that their cloud takes back at two minutes' notice; now and then a node is drained for maintenance. Images are
pulled, containers take time to start. Constants and where they come from: `README.md` of `engine/`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.machines import SPOT_PRICE_FACTOR
from nodewise.core.types import SlaClass
from nodewise_simulator.physics import Autoscaler, Change, NodeChange
from nodewise_simulator.scenarios.hetero import hetero
from nodewise_simulator.world import SimPod, World, quantised

NOTICE_S = 120.0
_PULL_S = (5.0, 60.0)
_START_S = (0.5, 3.0)
_BUDGET = "production"


def elastic(
    seed: int, load: float = 0.5, pods: int = 2000, warm: int = 1000, mix: str = "rotate", base: float = 0.4,
    spot: float = 0.33, interruptions: float = 0.5, drains: float = 4.0, budget: int = 5, pace: float = 0.2,
) -> World:  # fmt: skip
    """60 nodes of which the share `base` is always there; the rest is the autoscaler's, the share `spot` of it spot.

    `interruptions` and `drains` per hour: of each spot machine, and of the whole cluster. At most `budget` production
    pods may be down by eviction at once. `pace` as in `hetero`: at 0.2 runs last minutes, as nodes take to come.
    Raises UserError for shares out of 0..1, and as `hetero` does.
    """
    if not (0.0 < base <= 1.0 and 0.0 <= spot <= 1.0 and interruptions >= 0.0 and drains >= 0.0):
        raise UserError("scenario elastic needs 0 < base <= 1, 0 <= spot <= 1, and interruptions and drains >= 0")
    made = hetero(seed, load=load, mix=mix, pods=pods, warm=warm, pace=pace)
    rng = np.random.default_rng([seed, 13])
    # Every class keeps its share, so that each pod has somewhere to go at once.
    order = [int(k) for k in rng.permutation(len(made.nodes))]
    stay: set[int] = set()
    for node_class in made.classes:
        of_class = [k for k in order if made.nodes[k].node_class == node_class]
        stay |= set(of_class[: max(round(base * len(of_class)), 1)])
    pool = [k for k in order if k not in stay]
    spots = pool[: round(spot * len(pool))]
    nodes, manifests = list(made.nodes), list(made.node_manifests)
    for k in spots:
        price = nodes[k].price_usd_per_h * SPOT_PRICE_FACTOR
        nodes[k] = replace(nodes[k], price_usd_per_h=price)
        meta = manifests[k]["metadata"]
        told = {**meta["annotations"], "nodewise.dev/price-usd-per-hour": repr(price)}
        manifests[k] = {**manifests[k], "metadata": {**meta, "annotations": told}}
    end_s = made.pods[-1].request.created_s
    changes = _interrupted([nodes[k].name for k in spots], interruptions, end_s, rng)
    changes += _drained([nodes[k].name for k in sorted(stay)], drains, end_s, rng)
    return replace(
        made, scenario="elastic", nodes=tuple(nodes), node_manifests=tuple(manifests),
        pods=tuple(_started(p, seed, rng) for p in made.pods), changes=tuple(sorted(changes, key=lambda c: c.at_s)),
        autoscaler=Autoscaler(tuple(nodes[k].name for k in pool)),
        budgets={_BUDGET: budget},
    )  # fmt: skip


def _interrupted(names: list[str], per_h: float, end_s: float, rng: np.random.Generator) -> list[NodeChange]:
    """Each spot machine goes after an exponential time, whenever it is there: drained at the notice, then removed."""
    made: list[NodeChange] = []
    for name in names:
        at_s = 0.0
        while per_h > 0.0:
            at_s += rng.exponential(3600.0 / per_h)
            if at_s >= end_s:
                break
            notice_s = quantised(at_s)
            made += [NodeChange(notice_s, Change.DRAIN, name), NodeChange(notice_s + NOTICE_S, Change.REMOVE, name)]
    return made


def _drained(names: list[str], per_h: float, end_s: float, rng: np.random.Generator) -> list[NodeChange]:
    """A node that stays is drained and is back ten minutes later."""
    count = math.floor(per_h * end_s / 3600.0)
    at = np.sort(rng.uniform(0.0, end_s, count))
    made: list[NodeChange] = []
    for at_s in at:
        name = str(rng.choice(names))
        made += [NodeChange(quantised(at_s), Change.DRAIN, name)]
        made += [NodeChange(quantised(at_s) + 600.0, Change.UNCORDON, name)]
    return made


def _started(pod: SimPod, seed: int, rng: np.random.Generator) -> SimPod:
    """Its workload's image, its own time to start."""
    image = pod.request.workload
    of_image = np.random.default_rng([seed, zlib.crc32(image.encode())])  # it is as large for every pod
    pull_s = math.exp(of_image.uniform(*np.log(_PULL_S)))
    budget = _BUDGET if pod.request.sla is SlaClass.PRODUCTION else ""
    return replace(pod, image=image, pull_s=pull_s, start_s=float(rng.uniform(*_START_S)), budget=budget)
