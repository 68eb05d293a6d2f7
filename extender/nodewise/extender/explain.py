"""Why a pod went where it went: the numbers that decided, and a sentence. Pure, for HTTP, CLI and demo alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nodewise.core.columns import COLUMNS, arguments, features
from nodewise.core.raw import raw
from nodewise.core.types import ClusterView, Decision, Floats
from nodewise.policies.economic import ECONOMIC, TERMS

SHOWN = 10
"""Candidates shown, best first; the bound node is added if it is not among them."""

_REASONS = {
    "architecture-unknown": "architecture-unknown: the candidates are of several architectures and the pod does not "
    "say which it runs on; let it, with a required node affinity kubernetes.io/arch In [amd64, arm64]",
    "pins-a-volume-or-device": "pins-a-volume-or-device: where it runs would also decide where its claims are",
}
"""What to do about reasons that are not plain."""


def explain(
    decision: Decision, view: ClusterView | None, names: Sequence[str], bound: str = "", columns: Sequence[str] = ()
) -> dict[str, Any]:
    """What `/explain` answers, as plain JSON.

    `names` gives the name of each row, `bound` the node that the scheduler chose (empty: not seen), `columns` are those
    that a learned policy looks at. Without a `view` (a decision too old to be recomputed) there are scores only.
    `believed_cents` is the believed cost of each candidate whatever policy scored: for `economic` it is the score.
    """
    winner = names[decision.winner] if decision.winner >= 0 else None
    candidates = _candidates(decision, view, names, columns)
    by_rank = sorted(candidates, key=lambda c: (-c["score"], c["node"] != winner))
    return {
        "pod": decision.pod.name,
        "namespace": decision.pod.namespace,
        "uid": decision.pod.uid,
        "workload": decision.pod.workload,
        "winner": winner,
        "bound": bound or None,
        "agreed": bound == winner if bound and winner else None,
        "policy": decision.policy,
        "digest": decision.digest,
        "fallback": decision.fallback.value or None,
        "neutral": decision.neutral or None,
        "reply": dict(decision.reply),
        "candidates_seen": len(candidates),
        "candidates": by_rank[:SHOWN] + [c for c in by_rank[SHOWN:] if c["node"] == bound],
        "words": _words(decision, by_rank, bound),
    }


def believed_cents(decision: Decision, view: ClusterView) -> dict[str, Floats]:
    """Each term of the believed cost of each candidate, in cents [M]."""
    values = raw(decision.pod, view, decision.candidates)
    m = len(decision.candidates)
    return {name: np.broadcast_to(COLUMNS[name].fn(*arguments(COLUMNS[name], values)), (m,)) for name in TERMS}


def _candidates(
    decision: Decision, view: ClusterView | None, names: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [
        {"node": names[row], "score": float(score)}
        for row, score in zip(decision.candidates, decision.scores, strict=True)
    ]
    if view is None or not out:
        return out
    terms = believed_cents(decision, view)
    seen = features(columns, decision.pod, view, decision.candidates) if columns else None
    for k, candidate in enumerate(out):
        own = {name: float(values[k]) for name, values in terms.items()}
        candidate["believed_cents"] = sum(own.values())
        candidate["cents"] = own
        if seen is not None:
            candidate["columns"] = dict(zip(columns, map(float, seen[k]), strict=True))
    return out


def _words(decision: Decision, by_rank: Sequence[Mapping[str, Any]], bound: str) -> str:
    pod = decision.pod.name
    if decision.neutral or not by_rank:
        reason = _REASONS.get(decision.neutral, decision.neutral or "no candidate")
        return f"{pod}: no opinion ({reason}); the scheduler's own ranking decided" + (
            f" for {bound}." if bound else "."
        )
    best, second = by_rank[0], by_rank[1] if len(by_rank) > 1 else None
    text = f"{pod} goes to {best['node']}: " + _why(decision, best, second)
    if decision.fallback:
        text += f" (The rule decided: {decision.fallback.value}.)"
    if bound and bound != best["node"]:
        text += f" The scheduler bound it to {bound} instead: what the pod's author prefers, or room, outweighed us."
    return text


def _why(decision: Decision, best: Mapping[str, Any], second: Mapping[str, Any] | None) -> str:
    by_cost = decision.policy == ECONOMIC.name
    if "cents" not in best:
        text = f"best score {best['score']:.4g} by {decision.policy}"
        return text + (
            f"; runner-up {second['node']} has {second['score']:.4g}." if second else ", the only candidate."
        )
    cost = best["believed_cents"]
    text = "least believed cost" if by_cost else f"best score {best['score']:.4g} by {decision.policy}, believed cost"
    text += f" {_cents(cost)} cents" + _parts(best["cents"])
    if second is None:
        return text + "; the only candidate."
    more = second["believed_cents"] - cost
    text += f"; runner-up {second['node']} would cost {_cents(second['believed_cents'])} cents"
    if abs(more) <= 1e-6 * max(abs(cost), 1e-9):
        return text + ", the same."
    name, by = max(
        ((t, second["cents"][t] - best["cents"][t]) for t in TERMS), key=lambda part: part[1] * np.sign(more)
    )
    return text + f", mostly because of {_short(name)} ({'+' if by > 0 else '-'}{_cents(abs(by))})."


def _parts(cents: Mapping[str, float]) -> str:
    """The largest terms, those that make up less than a hundredth left out."""
    total = sum(map(abs, cents.values()))
    parts = [(name, value) for name, value in cents.items() if abs(value) > 0.01 * total]
    parts.sort(key=lambda part: -abs(part[1]))
    return ", of which " + ", ".join(f"{_short(n)} {_cents(v)}" for n, v in parts) if parts else ""


def _short(term: str) -> str:
    return term.removesuffix("_cents")


def _cents(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2g}"
