"""One drawn world, placed by a policy, by the stock kube-scheduler, or as it was recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView, CostRates, PodRequest, Policy
from nodewise.policies import DEFAULT
from nodewise_simulator.advise.record import Recording, Seen
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.scheduler import Extender, KubeScheduler
from nodewise_simulator.world import SimPod, World

View = Callable[[PodRequest, float], ClusterView]


class Pinned(KubeScheduler):
    """kube-scheduler, but for pods whose node is given by uid."""

    def __init__(self, nodes: Sequence[NodeSpec], extender: Extender, view: View, rng: np.random.Generator) -> None:
        super().__init__(nodes, extender, view, rng)
        self.pins: dict[str, int] = {}
        """Row of the node by uid."""

    def _passes(self, pod: SimPod) -> NDArray[np.bool_]:
        row = self.pins.get(pod.request.uid)
        if row is None:
            return super()._passes(pod)
        wants = self._wants(pod.request)
        fits = np.zeros(len(self.nodes), bool)
        fits[row] = ((self._free[row] >= wants) | (wants == 0.0)).all()
        return fits


class Advised(Direct):
    """The extender with what it had learned by the end of the recording; it learns on as it would have."""

    def __init__(
        self, world: World, policy: Policy, recording: Recording, rates: CostRates, *, resumed: bool = True
    ) -> None:
        """`resumed`: pods that were there as the window began have run for as long as was seen."""
        super().__init__(world, policy, DEFAULT)
        self.state = ClusterState(recording.estimator, rates)
        for node in world.nodes:
            self.state.put_node(node)
        self._before = {p.request.uid: p.started_s for p in recording.pods if resumed and p.stays and p.started_s < 0.0}
        for pod in worked(recording):
            self.state.place(pod.request, recording.nodes[pod.node].name)
            self.state.ran(pod.request.uid)
            self.state.remove(pod.request.uid)

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """See `engine.Observer`; what was there before has run for a while."""
        super().bound(pod, node, now_s, self._before.get(pod.request.uid, started_s))

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """See `engine.Observer`."""
        super().finished(pod, self._before.get(pod.request.uid, started_s), finished_s)


def worked(recording: Recording) -> Sequence[Seen]:
    """A pod of each workload on each architecture where it was seen to succeed."""
    found: dict[tuple[str, str], Seen] = {}
    for pod in (*recording.past, *recording.pods):
        if pod.fate == "succeeded" and pod.node >= 0:
            found.setdefault((pod.request.workload, recording.nodes[pod.node].arch), pod)
    return list(found.values())


class Stock:
    """Nobody to ask: the in-tree scores decide. Keeps of the cluster what they look at, which is little."""

    def __init__(self, world: World) -> None:
        empty = ClusterState(RunTimeEstimator())
        for node in world.nodes:
            empty.put_node(node)
        self._view = empty.view(world.pods[0].request, 0.0)
        self._row = self._view.nodes.row
        self._requested = np.zeros((4, len(world.nodes)))
        self._on: dict[str, int] = {}

    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        """Neutral."""
        del pod, names, now_s
        return ()

    def view(self, pod: PodRequest, now_s: float) -> ClusterView:
        """What the in-tree scores look at."""
        del pod, now_s
        cpu, cpu_nonzero, memory, memory_nonzero = self._requested.copy()
        nodes = replace(
            self._view.nodes, cpu_requested_milli=cpu, cpu_nonzero_milli=cpu_nonzero,
            memory_requested_bytes=memory, memory_nonzero_bytes=memory_nonzero,
        )  # fmt: skip
        return replace(self._view, nodes=nodes)

    def created(self, pod: SimPod) -> None:
        """See `engine.Observer`."""

    def started(self, pod: SimPod, started_s: float) -> None:
        """See `engine.Observer`."""

    def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
        """See `engine.Observer`."""
        del now_s, started_s
        row = self._on[pod.request.uid] = self._row[node]
        self._requested[:, row] += _amounts(pod.request)

    def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
        """See `engine.Observer`."""
        del started_s, finished_s
        self._requested[:, self._on.pop(pod.request.uid)] -= _amounts(pod.request)


def _amounts(r: PodRequest) -> tuple[float, float, float, float]:
    return r.cpu_milli, r.cpu_nonzero_milli, r.memory_bytes, r.memory_nonzero_bytes


def replayed(
    world: World, recording: Recording, policy: Policy | None, rates: CostRates, seed: int, *,
    as_recorded: bool = False, decided: Counter[str] | None = None,
) -> list[Outcome]:  # fmt: skip
    """The fate of every pod under `policy`; None: the stock kube-scheduler.

    `as_recorded` puts every pod whose node is known where it was. `seed` breaks ties, as kube-scheduler does at random.
    Into `decided` go the decisions as `Direct.decided` counts them.
    """
    observer = Stock(world) if policy is None else Advised(world, policy, recording, rates)
    view = observer.view if isinstance(observer, Stock) else observer.state.view
    scheduler = Pinned(world.nodes, observer, view, np.random.default_rng([seed, 99]))
    scheduler.pins = {p.request.uid: p.node for p in recording.pods if p.node >= 0 and (p.stays or as_recorded)}
    outcomes = Engine(world, scheduler, observer).run()
    if decided is not None and isinstance(observer, Advised):
        decided.update(observer.decided)
    return outcomes
