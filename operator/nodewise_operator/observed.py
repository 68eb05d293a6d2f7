"""A binding that any scheduler made, scored against the cluster as it was just before."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise import policies
from nodewise.channel.messages import DecisionRow
from nodewise.core.columns import features
from nodewise.core.decide import decide
from nodewise.core.errors import UserError
from nodewise.core.feasible import static_filter, static_key
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView, Decision, PodRequest, Policy, Rows
from nodewise.policies.economic import TERMS
from nodewise.policies.learned import LearnedPolicy, load

log = logging.getLogger(__name__)

OBSERVED, ADVISE = "observed", "advise"
UNSEEN = "bound-unseen"
"""Why a binding was not scored: nobody looked, so the state just before it is not known."""

BEST, SAMPLED = 8, 4
"""Candidates whose features are kept: the best, and as many others by chance, beside the winner and the bound node."""
LISTED = 100
"""Candidates that are kept by name and score; 5,000 of them would be 100 kB a pod."""
_KEYS_KEPT = 256


class Observer:
    """Scores bindings by one policy. Owned by the thread that owns the state."""

    def __init__(self, policy: Policy, rule: Policy) -> None:
        self.policy, self.rule = policy, rule
        self._columns = list(policy.card.column_names) if isinstance(policy, LearnedPolicy) else list(TERMS)
        self._random = np.random.default_rng(0)
        self._nodes: tuple[Any, ...] = ()
        self._pods_allocatable = np.zeros(0)
        self._passes: dict[str, NDArray[np.bool_]] = {}

    def nodes_changed(self) -> None:
        """What is known of nodes, pods on them aside, has changed."""
        self._nodes = ()

    def score(
        self, state: ClusterState, request: PodRequest, spec: Mapping[str, Any], node: str, now_s: float
    ) -> tuple[DecisionRow, float]:
        """The decision that we would have taken, and by what its neighbours are believed to slow the pod down.

        `state` must not hold the pod yet. The slowdown is nan where the node is not known.
        """
        begin_s = time.perf_counter()
        state.remove(request.uid)  # an assumption, or room that a preemption made for it
        state.queue(request)
        view = state.view(request, now_s)
        state.sequence += 1
        rows = self._candidates(state, view, request, spec, node)
        decision = decide(request, view, rows, self.policy, self.rule)
        names = view.nodes.name
        bound = view.nodes.row.get(node, -1)
        kept = self._kept(decision, bound)
        featured = self._featured(decision, kept, bound)
        matrix = features(self._columns, request, view, decision.candidates[kept][featured]) if featured else None
        winner = names[decision.winner] if decision.winner >= 0 else ""
        slowdown = 1.0 + view.rates.contention * float(view.nodes.pressure[bound]) if bound >= 0 else float("nan")
        made = DecisionRow(
            uid=request.uid, namespace=request.namespace, pod=request.name, time_s=now_s, source=OBSERVED, mode=ADVISE,
            policy=decision.policy, digest=decision.digest, fallback=decision.fallback.value,
            neutral=decision.neutral, candidates=[names[row] for row in decision.candidates[kept]],
            scores=[float(score) for score in decision.scores[kept]], winner=winner,
            reply=list(decision.reply[:LISTED]), propensity=1.0 if winner else 0.0, bound=node,
            columns=self._columns if matrix is not None else [], featured=featured,
            features=b"" if matrix is None else np.ascontiguousarray(matrix, "<f4").tobytes(),
            latency_us=(time.perf_counter() - begin_s) * 1e6, sequence=view.sequence,
        )  # fmt: skip
        return made, slowdown

    def unseen(self, request: PodRequest, node: str, bound_s: float) -> DecisionRow:
        """The row of a pod that was found bound: no opinion, since nobody saw what there was to choose from."""
        return DecisionRow(
            uid=request.uid, namespace=request.namespace, pod=request.name, time_s=bound_s, source=OBSERVED,
            mode=ADVISE, policy=self.policy.name, digest=self.policy.digest, neutral=UNSEEN, bound=node,
        )  # fmt: skip

    def _candidates(
        self, state: ClusterState, view: ClusterView, request: PodRequest, spec: Mapping[str, Any], node: str
    ) -> Rows:
        """Rows of the nodes that pass the filters and have room; the bound node did, whatever we think of it."""
        if not self._nodes:
            self._nodes = state.nodes()
            self._pods_allocatable = np.array([spec.pods_allocatable for spec in self._nodes])
            self._passes.clear()
        key = static_key(spec)
        passes = self._passes.get(key)
        if passes is None:
            if len(self._passes) >= _KEYS_KEPT:
                del self._passes[next(iter(self._passes))]
            passes = self._passes[key] = static_filter(self._nodes, spec)
        table = view.nodes
        fits = (
            passes
            & (table.cpu_requested_milli + request.cpu_milli <= table.cpu_allocatable_milli)
            & (table.memory_requested_bytes + request.memory_bytes <= table.memory_allocatable_bytes)
            & (table.gpus_requested_milli + request.gpus_milli <= table.gpus_allocatable_milli)
            & (np.diff(table.resident_offsets) < self._pods_allocatable)
        )
        bound = table.row.get(node, -1)
        if bound >= 0:
            fits[bound] = True
        return np.flatnonzero(fits)

    def _kept(self, decision: Decision, bound: int) -> Rows:
        """Indices into the candidates of those that are listed: the best, a sample of the others, the bound node."""
        count = len(decision.candidates)
        if count <= LISTED:
            return np.arange(count)
        best = np.argsort(-decision.scores, kind="stable")
        sample = self._random.choice(best[LISTED // 2 :], LISTED // 2 - 2, replace=False)
        named = np.flatnonzero((decision.candidates == bound) | (decision.candidates == decision.winner))
        return np.unique(np.concatenate([best[: LISTED // 2], sample, named]))

    def _featured(self, decision: Decision, kept: Rows, bound: int) -> list[int]:
        """Indices into what is listed: winner, bound node, the best, and a sample of the rest."""
        if not len(kept):
            return []
        rows, scores = decision.candidates[kept], decision.scores[kept]
        best = np.argsort(-scores, kind="stable")
        named = np.flatnonzero(rows == decision.winner).tolist() + np.flatnonzero(rows == bound).tolist()
        rest = best[BEST:]
        sample = self._random.choice(rest, min(SAMPLED, len(rest)), replace=False).tolist()
        return list(dict.fromkeys([*named, *best[:BEST].tolist(), *sample]))


def builtin_policy() -> Policy:
    """The learned policy that is built in; the rule where there is none, or where it cannot be used."""
    folder = policies.builtin()
    if folder is None:
        return policies.DEFAULT
    try:
        return load(folder)
    except (UserError, ImportError) as error:
        log.warning(
            "the learned policy that is built in cannot be used, so %s scores: %s", policies.DEFAULT.name, error
        )
        return policies.DEFAULT
