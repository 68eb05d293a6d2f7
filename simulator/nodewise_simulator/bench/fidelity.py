"""How like the real kube-scheduler the simulator's is: the same nodes and pods through both, one pod at a time.

A pod goes where the real one sends it in both, so that one difference does not make others. Where several nodes have
the highest score the simulator draws one of them: such pods are counted apart, with how many of them went to one of the
nodes that it would have drawn from. The real scheduler of 1.34 draws, too; that of 1.36 mostly takes the same ones, so
that an order of the nodes learned from earlier ties tells later ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise.policies import DEFAULT
from nodewise_simulator.bench.mixes import MIXES, Mix
from nodewise_simulator.cluster_demo import real_cluster
from nodewise_simulator.compare import Row
from nodewise_simulator.controlplane import ControlPlane
from nodewise_simulator.direct import Direct
from nodewise_simulator.scheduler import OUR_WEIGHTS, STOCK_WEIGHTS, KubeScheduler
from nodewise_simulator.world import Json, SimPod, World, world

STOCK, OURS = "stock profile", f"our profile, {DEFAULT.name}"
PROFILES = (STOCK, OURS)
_FLAGS: dict[str, tuple[str, ...]] = {STOCK: (), OURS: ("--policy", DEFAULT.name, "--silence-s", "30")}
"""Of the extender; none: there is none. No guard's kill on a busy machine."""
_PATIENCE_S = 30.0
_FEWEST_TIES = 25

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Agreement:
    """Where pods of one mix went under one profile."""

    agreed: int = 0
    """Where one node alone had the highest score, or was feasible: pods that went there."""
    differed: list[tuple[str, str, str]] = field(default_factory=list)
    """… and those that did not: pod, the node of the simulator, the real one; empty: it fits nowhere."""
    nowhere: int = 0
    """Of the agreed: pods that fit nowhere in either."""
    tied: int = 0
    tied_inside: int = 0
    """Of the tied: those that went to one of the tied nodes."""
    ties: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    """Of the tied: the tied nodes, and where the pod went."""

    @property
    def share(self) -> float:
        """Of the pods whose node was determined, those on which both agree."""
        determined = self.agreed + len(self.differed)
        return self.agreed / determined if determined else float("nan")

    @property
    def told(self) -> tuple[float, float]:
        """Share of the later half of the ties that an order of the nodes tells, and what it would be by chance.

        The order is learned from the earlier half: by how much oftener a node was taken before others than others
        before it. nan if there are too few ties.
        """
        half = len(self.ties) // 2
        if half < _FEWEST_TIES:
            return float("nan"), float("nan")
        lead: Counter[str] = Counter()
        for tied, real in self.ties[:half]:
            lead.update({real: len(tied)})
            lead.subtract(tied)
        later = self.ties[half:]
        right = [max(tied, key=lambda name: lead[name]) == real for tied, real in later]
        return float(np.mean(right)), float(np.mean([1.0 / len(tied) for tied, _ in later]))


class _Ties:
    """In the place of a random generator: keeps what it would have drawn from."""

    def __init__(self) -> None:
        self.rows: Sequence[int] = ()

    def forget(self) -> None:
        self.rows = ()

    def choice(self, rows: Sequence[int]) -> int:
        self.rows = rows
        return int(rows[0])


class _Neutral(Direct):
    """No extender: it has no opinion."""

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        del pod, names, now_s
        return ()


def bench_fidelity(pods: int = 500, *, seed: int = 1, progress: Progress = lambda *_: None) -> list[Row]:
    """Rows of agreement for each mix of nodes under the stock profile and under ours.

    Raises UserError if the control-plane programs are missing or a pod is not bound.
    """
    if pods < 1:
        raise UserError("bench fidelity needs at least 1 pod")
    made: list[Row] = []
    done, total = 0, pods * len(MIXES) * len(PROFILES)
    for mix in MIXES.values():
        for profile in PROFILES:
            told = partial(_tell, progress, done, total)
            made += _rows(mix.name, profile, agreement(mix, profile, pods, seed, told))
            done += pods
    return made


def agreement(
    mix: Mix, profile: str, pods: int, seed: int, progress: Callable[[int], None] = lambda _: None
) -> Agreement:
    """Bind pods of a mix one after the other through both schedulers."""
    nodes, manifests = mix.make(pods, np.random.default_rng([seed, 17]))
    made = world(mix.name, seed, nodes, mix.classes, [], warm=0)
    found = Agreement()
    with real_cluster(made, _FLAGS[profile], objects=mix.objects(), timeout_ms=5000) as (plane, _):
        simulated = _Simulated(made, profile)
        for k, manifest in enumerate(manifests):
            stored, real = _bound(plane, manifest)
            simulated.step(stored, real, found)
            progress(k + 1)
    return found


def _tell(progress: Progress, before: int, total: int, bound: int) -> None:
    progress("pods through the real scheduler and ours", before + bound, total)


class _Simulated:
    """The simulator's scheduler, which goes on from where the real one put each pod."""

    def __init__(self, made: World, profile: str) -> None:
        self._direct = (Direct if profile == OURS else _Neutral)(made, DEFAULT, DEFAULT)
        self._ties = _Ties()
        weights = OUR_WEIGHTS if profile == OURS else STOCK_WEIGHTS
        rng = cast("np.random.Generator", self._ties)
        view = self._direct.state.view
        self._scheduler = KubeScheduler(
            made.nodes, self._direct, view, rng, preferences=weights, default_spread=profile == STOCK
        )

    def step(self, manifest: Json, real: str, found: Agreement) -> None:
        pod = SimPod(manifest, pod_request(manifest)[0], np.zeros(0), 0.0)
        now_s = pod.request.created_s
        self._direct.created(pod)
        self._ties.forget()
        own = self._scheduler.schedule(pod, now_s) or ""
        tied = [self._scheduler.nodes[k].name for k in self._ties.rows] or [own]
        if len(tied) > 1:
            found.tied += 1
            found.tied_inside += real in tied
            found.ties.append((tuple(tied), real))
        elif own == real:
            found.agreed += 1
            found.nowhere += not own
        else:
            found.differed.append((pod.request.name, own, real))
        if own:
            self._scheduler.forget(pod.request, own)
        if real:
            self._scheduler.place(pod, real)
            self._direct.bound(pod, real, now_s, float("nan"))
        else:
            self._direct.state.remove(pod.request.uid)


def _bound(plane: ControlPlane, manifest: Json) -> tuple[Json, str]:
    """The pod as stored before it had a node, and the node that it was bound to; empty, and it is deleted, if none."""
    (stored,) = plane.create_pods([manifest])
    path = f"/api/v1/namespaces/{stored['metadata']['namespace']}/pods/{stored['metadata']['name']}"
    give_up_s = time.monotonic() + _PATIENCE_S
    while True:
        now: Any = plane.call("GET", path)
        if node := now["spec"].get("nodeName"):
            return stored, str(node)
        if any(c["type"] == "PodScheduled" and c["status"] == "False" for c in now["status"].get("conditions", ())):
            plane.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
            return stored, ""
        if time.monotonic() > give_up_s:
            raise UserError(f"pod {stored['metadata']['name']} was not bound within {_PATIENCE_S:g} s")
        time.sleep(0.002)


def _rows(mix: str, profile: str, found: Agreement) -> list[Row]:
    values = {
        ("agreement", "share of determined"): found.share,
        ("determined", "pods"): float(found.agreed + len(found.differed)),
        ("nowhere", "of the determined"): float(found.nowhere),
        ("tied", "pods"): float(found.tied),
        ("tied_inside", "share of tied"): found.tied_inside / found.tied if found.tied else float("nan"),
        ("tie_size", "nodes, median"): float(np.median([len(t) for t, _ in found.ties])) if found.ties else np.nan,
        ("tie_told", "share by an order of nodes"): found.told[0],
        ("tie_told_by_chance", "share"): found.told[1],
    }
    return [Row(mix, profile, metric, unit, value, value, value, 1) for (metric, unit), value in values.items()]
