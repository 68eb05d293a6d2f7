"""Other orders of pending pods: the generalised c-mu rule, `NAME-gcmu`, beside `NAME-cmu`; and why there is no Gittins.

**Generalised c-mu** (van Mieghem, Annals of Applied Probability 1995): who waits goes by C'(age) ÷ E[run], the slope of
its cost of delay at its age. Here C is the expected cost of a pod that starts at that age on its best node, delay plus
P(late); with a log-normal run time X, C' = delay rate + late cents × density of X at the slack left. The slope rises
while there is still something to save and falls back once the deadline is lost, so C is not convex there, and the
heavy-traffic optimality of the paper does not carry over: it is a heuristic (compare Kanet and Li's deadline indices).

**Gittins order** is c-mu here, so it has no code. A pod that has started is never preempted, so an index may only be
compared when a pod is taken: its attained service is 0 and it is served to its end. The Gittins index of a job is the
greatest of E[reward by stopping time τ] ÷ E[service until τ] over stopping times τ > 0; without preemption the only
one is τ = X, the whole run, and a job's reward is the cost rate c that its completion ends, so the index is c ÷ E[X]:
c-mu, whatever the law of X, log-normal or not. (Interchange: let i and j be served next to each other, i first. Then
j waits E[X_i] longer than the other way round, and i E[X_j] less, which costs c_j E[X_i] − c_i E[X_j]; nobody else sees
the order, so i goes first if and only if c_i ÷ E[X_i] ≥ c_j ÷ E[X_j]. Cox and Smith, Queues, 1961; for arrivals of
independent classes at a single server, Gittins, Glazebrook and Weber 2011, §4.) With preemption a log-normal job's
index would fall with attained service; Kubernetes does not pause pods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nodewise.core import cost
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.policies.waiting import Bools, Waiting, WaitingPolicy

GCMU = "-gcmu"


class ByAge(Waiting):
    """Books that weigh everybody anew whenever somebody asks."""

    def __init__(self, policy: WaitingPolicy) -> None:
        super().__init__(policy.settings, ordered=True)
        self._std_s: dict[str, float] = {}

    def queued(self, pod: PodRequest, view: ClusterView, allowed: Bools) -> None:
        """See `Waiting`."""
        super().queued(pod, view, allowed)
        row, classes = view.belief_row, view.nodes.node_class
        best = classes[view.beliefs.run_mean[row, classes].argmin()]
        scale = 1.0 if math.isnan(pod.expected_run_s) else pod.expected_run_s
        self._std_s[pod.uid] = float(view.beliefs.run_std[row, best]) * scale

    def ask(self, pod: PodRequest, view: ClusterView, rows: Rows) -> tuple[Rows, float]:
        """See `Waiting`."""
        for uid, entry in self._entries.items():
            if 0.0 < entry.run_s < math.inf:
                index = slope(entry.pod, view, entry.run_s, self._std_s[uid]) / entry.run_s
                entry.key = (entry.key[0], index, entry.key[2])
        return super().ask(pod, view, rows)

    def gone(self, uid: str) -> None:
        """See `Waiting`."""
        super().gone(uid)
        self._std_s.pop(uid, None)


def slope(pod: PodRequest, view: ClusterView, run_s: float, std_s: float) -> float:
    """Cents that one more second of waiting is expected to cost the pod now; its run has this mean and deviation."""
    rate = cost.delay_cents_per_s(view.rates, pod.sla)
    slack_s = pod.deadline_s - view.now_s
    if not 0.0 < slack_s < math.inf or not (run_s > 0.0 and std_s > 0.0):
        return rate
    var = math.log1p((std_s / run_s) ** 2)
    z = (math.log(slack_s / run_s) + 0.5 * var) / math.sqrt(var)
    density = math.exp(-0.5 * z * z) / (slack_s * math.sqrt(2.0 * math.pi * var))
    return rate + cost.late_cents(view.rates, pod.sla) * density


@dataclass(frozen=True, slots=True)
class ByAgePolicy(WaitingPolicy):
    """A policy whose pods wait in generalised c-mu order."""

    def deferral(self) -> Waiting:
        """Books for one run."""
        return ByAge(self)
