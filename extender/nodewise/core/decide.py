"""One decision: which node, and what is said to the scheduler. The only path; there is no mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nodewise.core import reply as rp
from nodewise.core.kinds import TREATMENTS
from nodewise.core.types import ClusterView, Decision, Fallback, PodRequest, Policy, Rows, Scores

REFUSED, WHY = "refused", "why"
"""Notes of a decision that the rule took: the policy that did not, and why not, in a sentence."""

_NO_ROWS = np.zeros(0, np.int64)
_NO_SCORES = np.zeros(0, np.float32)


class PolicyRefusalError(Exception):
    """A policy that knows it should not decide here; says which fallback to count."""

    def __init__(self, fallback: Fallback, why: str) -> None:
        super().__init__(why)
        self.fallback = fallback


def decide(pod: PodRequest, view: ClusterView, rows: Rows, policy: Policy, rule: Policy) -> Decision:
    """Place `pod` on one of the candidate `rows` [M].

    `rule` scores on every request, whatever happens to `policy`; it stands in where the policy fails, refuses, or gives
    scores that are not finite. If the rule fails too, and for pods that are none of our business, the decision is
    neutral (an empty reply) and the scheduler's own ranking stands. Never raises.
    """
    reason, allowed = _eligible(pod, view, rows)
    if reason:
        return _neutral(pod, policy, reason)
    fallback, notes = Fallback.NONE, {}
    scores, failed, _ = _scores(pod, view, allowed, rule)
    if policy is not rule:
        own, fallback, why = _scores(pod, view, allowed, policy)
        if fallback is Fallback.NONE:
            scores, failed = own, Fallback.NONE
        else:
            notes = {REFUSED: policy.name, WHY: why}
    if failed is not Fallback.NONE:
        return _neutral(pod, policy, f"rule-failed:{failed}")
    try:
        return _decision(pod, view, allowed, scores, policy if fallback is Fallback.NONE else rule, fallback, notes)
    except Exception:  # noqa: BLE001  a preference that cannot be read must not cost the pod its record
        return _neutral(pod, policy, "reply-failed")


def _decision(
    pod: PodRequest, view: ClusterView, rows: Rows, scores: Scores, by: Policy, fallback: Fallback,
    notes: Mapping[str, Any],
) -> Decision:  # fmt: skip
    winner = rp.best(pod, view.nodes, rows, scores)
    if rp.prefers(pod, view.nodes, rows):
        reply = rp.ranked(pod, view, rows, scores)
    else:
        reply = rp.winner_only(view.nodes.name[rows[winner]])
    propensities = np.zeros(len(rows))
    propensities[winner] = 1.0
    return Decision(
        pod=pod, candidates=rows, scores=scores, reply=reply, winner=int(rows[winner]), propensities=propensities,
        policy=by.name, digest=by.digest, fallback=fallback, neutral="", notes=notes,
    )  # fmt: skip


def _neutral(pod: PodRequest, policy: Policy, reason: str) -> Decision:
    return Decision(
        pod=pod, candidates=_NO_ROWS, scores=_NO_SCORES, reply=(), winner=-1, propensities=np.zeros(0),
        policy=policy.name, digest=policy.digest, fallback=Fallback.NONE, neutral=reason,
    )  # fmt: skip


def _eligible(pod: PodRequest, view: ClusterView, rows: Rows) -> tuple[str, Rows]:
    """Why there is nothing to say (empty if there is), and the candidates that are safe to recommend."""
    treatment = TREATMENTS[pod.kind]
    if not treatment.scored:
        return f"kind:{pod.kind.value}", _NO_ROWS
    if pod.pinned:
        return "pins-a-volume-or-device", _NO_ROWS
    if len(rows) == 0:
        return "no-known-candidate", _NO_ROWS
    if not pod.archs:
        archs = view.nodes.arch[rows]
        if (archs != archs[0]).any():
            # An image of unknown architectures may crash on a node that the stock ranking would never favour.
            rows = rows[view.arch_starts[archs] > 0]
            if len(rows) == 0:
                return "architecture-unknown", _NO_ROWS
    return "", rows


def _scores(pod: PodRequest, view: ClusterView, rows: Rows, policy: Policy) -> tuple[Scores, Fallback, str]:
    """The scores, or why there are none: as it is counted, and in a sentence."""
    try:
        scores = np.asarray(policy.score(pod, view, rows), np.float32)
    except PolicyRefusalError as refusal:
        return _NO_SCORES, refusal.fallback or Fallback.ERROR, str(refusal)
    except Exception as error:  # noqa: BLE001  whatever a policy does, the pod is placed; the reason is counted
        return _NO_SCORES, Fallback.ERROR, _told(error)
    if scores.shape != (len(rows),):
        return _NO_SCORES, Fallback.WRONG_SHAPE, f"its scores have shape {scores.shape} for {len(rows)} candidates"
    finite = np.isfinite(scores)
    if not finite.all():
        return _NO_SCORES, Fallback.NON_FINITE, f"{np.sum(~finite)} of its {len(rows)} scores are not finite"
    return scores, Fallback.NONE, ""


def _told(error: Exception) -> str:
    """Kind and first line; str(error) is foreign code, which may fail as well."""
    said = next((arg for arg in error.args if isinstance(arg, str)), "").strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
