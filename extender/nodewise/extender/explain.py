"""Why a pod went where it went: the numbers that decided, and a sentence. Pure, for HTTP, CLI and demo alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nodewise.core.columns import COLUMNS, arguments, features
from nodewise.core.decide import REFUSED, WHY
from nodewise.core.raw import raw
from nodewise.core.reply import best
from nodewise.core.types import ClusterView, Decision, Fallback, Floats, Rows, Weights
from nodewise.kube.placement import Mode
from nodewise.policies.economic import ECONOMIC, TERMS

SHOWN = 10
"""Candidates shown, best first; the bound node and what `economic` would choose are added if not among them."""

_REASONS = {
    "architecture-unknown": "architecture-unknown: the candidates are of several architectures and the pod does not "
    "say which it runs on; let it, with a required node affinity kubernetes.io/arch In [amd64, arm64]",
    "pins-a-volume-or-device": "pins-a-volume-or-device: where it runs would also decide where its claims are",
}
"""What to do about reasons that are not plain."""


def explain(
    decision: Decision, view: ClusterView | None, names: Sequence[str], bound: str = "", columns: Sequence[str] = (),
    mode: Mode = Mode.ACTIVE, placement_policy: str = "", passed_over: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """What `/explain` answers, as plain JSON.

    `names` gives the name of each row, `bound` the node that the scheduler chose (empty: not seen), `columns` are those
    that a learned policy looks at. Without a `view` (a decision too old to be recomputed) there are scores only.
    `believed_cents` is the believed cost of each candidate whatever policy scored: for `economic` it is the score.
    `correction_cents` is what a learned policy adds to it: score = correction - believed cost. It may add anything to
    all candidates alike, so only differences of corrections mean something. All cents are weighted by `weights`, which
    are told where they are not all 1: those of the `placement_policy` that applied, if one did. `passed_over` are
    candidates whose room is held for another pod.
    """
    weights = view.rates.weights if view is not None else Weights()
    winner = names[decision.winner] if decision.winner >= 0 else None
    economic = _economic_winner(decision, view, names)
    order = np.lexsort((decision.candidates != decision.winner, -decision.scores))
    by_rank = _candidates(decision, view, names, columns, _shown(decision, order, names, (bound, economic)))
    return {
        "pod": decision.pod.name,
        "namespace": decision.pod.namespace,
        "uid": decision.pod.uid,
        "workload": decision.pod.workload,
        "winner": winner,
        "bound": bound or None,
        "agreed": bound == winner if bound and winner else None,
        "mode": mode.value,
        "placement_policy": placement_policy or None,
        "weights": asdict(weights) if weights != Weights() else None,
        "policy": decision.policy,
        "digest": decision.digest,
        "economic_winner": economic,
        "fallback": decision.fallback.value or None,
        "refused_by": decision.notes.get(REFUSED),
        "why": decision.notes.get(WHY) or None,
        "neutral": decision.neutral or None,
        "reply": dict(decision.reply),
        "candidates_seen": len(decision.candidates),
        "passed_over": list(passed_over),
        "candidates": by_rank,
        "words": _words(decision, by_rank, bound, economic, weights, mode, placement_policy, passed_over),
    }


def believed_cents(decision: Decision, view: ClusterView) -> dict[str, Floats]:
    """Each term of the believed cost of each candidate, in cents [M]."""
    values = raw(decision.pod, view, decision.candidates)
    m = len(decision.candidates)
    return {name: np.broadcast_to(COLUMNS[name].fn(*arguments(COLUMNS[name], values)), (m,)) for name in TERMS}


def _economic_winner(decision: Decision, view: ClusterView | None, names: Sequence[str]) -> str | None:
    """The candidate that `economic` would have chosen; None if that cannot be told."""
    if view is None or decision.winner < 0:
        return None
    scores = ECONOMIC.score(decision.pod, view, decision.candidates)
    return names[int(decision.candidates[best(decision.pod, view.nodes, decision.candidates, scores)])]


def _shown(decision: Decision, order: Rows, names: Sequence[str], also: Sequence[str | None]) -> list[int]:
    """Positions of the candidates that are told of, best first; `order` has those of all."""
    rows: list[int] = decision.candidates.tolist()
    by_rank: list[int] = order.tolist()
    return by_rank[:SHOWN] + [k for k in by_rank[SHOWN:] if names[rows[k]] in also]


def _candidates(
    decision: Decision, view: ClusterView | None, names: Sequence[str], columns: Sequence[str], shown: Sequence[int]
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [
        {"node": names[decision.candidates[k]], "score": float(decision.scores[k])} for k in shown
    ]
    if view is None or not out:
        return out
    terms = believed_cents(decision, view)
    seen = features(columns, decision.pod, view, decision.candidates) if columns else None
    for k, candidate in zip(shown, out, strict=True):
        own = {name: float(values[k]) for name, values in terms.items()}
        candidate["believed_cents"] = sum(own.values())
        candidate["cents"] = own
        if set(TERMS) <= set(columns):
            candidate["correction_cents"] = candidate["score"] + candidate["believed_cents"]
        if seen is not None:
            candidate["columns"] = dict(zip(columns, map(float, seen[k]), strict=True))
    return out


def _words(
    decision: Decision, by_rank: Sequence[Mapping[str, Any]], bound: str, economic: str | None, weights: Weights,
    mode: Mode, placement_policy: str, passed_over: Sequence[str],
) -> str:  # fmt: skip
    pod = decision.pod.name
    whose = f"PlacementPolicy {placement_policy}" if placement_policy else "--default-mode"
    if decision.neutral or not by_rank:
        reason = _REASONS.get(decision.neutral, decision.neutral or "no candidate")
        if not mode.decides:
            reason = f"{whose} says {mode}"
        return f"{pod}: no opinion ({reason}); the scheduler's own ranking decided" + (
            f" for {bound}." if bound else "."
        )
    first, second = by_rank[0], by_rank[1] if len(by_rank) > 1 else None
    text = f"{pod} goes to {first['node']}: "
    if "cents" not in first:
        text += _by_score(decision.policy, first, second)
    elif decision.policy == ECONOMIC.name:
        text += f"least believed cost {_cost(first)}" + _runner_up(first, second)
    else:
        instead = next((c for c in by_rank if c["node"] == economic), first)
        text += f"best score {first['score']:.4g} by {decision.policy}, believed cost {_cost(first)}"
        text += _beside_economic(decision.policy, first, second, instead)
    if decision.fallback:
        refused = decision.notes.get(REFUSED, "the policy")
        text += f" ({decision.policy} decided, because {refused} did not: {decision.fallback.value}"
        text += f", {decision.notes[WHY]}" if decision.notes.get(WHY) else ""
        if decision.fallback is Fallback.OUT_OF_RANGE and weights != Weights():
            text += " with all weights 1"
        text += ".)"
    if passed_over:
        text += f" {_some(passed_over)} passed over, for a preemption holds room there that this pod would have taken."
    if mode is Mode.SHADOW:
        text += f" The scheduler was not told ({whose} says shadow)"
        return text + (f", and bound it to {'the same node' if bound == first['node'] else bound}." if bound else ".")
    if placement_policy:
        text += f" PlacementPolicy {placement_policy} applied."
    if bound and bound != first["node"]:
        text += f" The scheduler bound it to {bound} instead: what the pod's author prefers, or room, outweighed us."
    return text


def _some(nodes: Sequence[str]) -> str:
    """The first of them by name, as a subject."""
    shown = ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
    return f"{shown} {'was' if len(nodes) == 1 else 'were'}"


def _by_score(policy: str, first: Mapping[str, Any], second: Mapping[str, Any] | None) -> str:
    text = f"best score {first['score']:.4g} by {policy}"
    return text + (f"; runner-up {second['node']} has {second['score']:.4g}." if second else ", the only candidate.")


def _runner_up(first: Mapping[str, Any], second: Mapping[str, Any] | None) -> str:
    """How far the second of `economic` is behind."""
    if second is None:
        return "; the only candidate."
    text = f"; runner-up {second['node']} would cost {_cents(second['believed_cents'])} cents"
    return text + (f", {_mostly(first, second)}." if _differ(first, second) else ", the same.")


def _beside_economic(
    policy: str, first: Mapping[str, Any], second: Mapping[str, Any] | None, instead: Mapping[str, Any]
) -> str:
    """What `economic` would have done, and why the policy did not."""
    if second is None:
        return "; the only candidate."
    if instead is first:
        cost = f"{_cents(second['believed_cents'])} cents" if _differ(first, second) else "the same"
        text = f". The rule {ECONOMIC.name} would choose it too; runner-up {second['node']} scores "
        return text + f"{_points(first['score'] - second['score'])} less and would cost {cost}."
    text = f". The rule {ECONOMIC.name} would choose {instead['node']}, believed to cost "
    if _differ(first, instead):
        less = _cents(first["believed_cents"] - instead["believed_cents"])
        text += f"{less} cents less, {_mostly(first, instead)}"
    else:
        text += "the same"
    text += f"; {policy} scores it {_points(first['score'] - instead['score'])} less"
    if "correction_cents" in first:
        more = first["correction_cents"] - instead["correction_cents"]
        text += f", for what it learned beyond that cost favours {first['node']} by {_cents(more)} cents"
    return text + "."


def _differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the believed costs of two candidates do, beyond rounding."""
    ours, theirs = float(a["believed_cents"]), float(b["believed_cents"])
    return abs(theirs - ours) > 1e-6 * max(abs(ours), 1e-9)


def _mostly(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The part of the believed cost that does most of the difference."""
    sign = np.sign(other["believed_cents"] - first["believed_cents"])
    name, by = max(((t, other["cents"][t] - first["cents"][t]) for t in TERMS), key=lambda part: part[1] * sign)
    return f"mostly because of {_short(name)} ({'+' if by > 0 else '-'}{_cents(abs(by))})"


def _cost(candidate: Mapping[str, Any]) -> str:
    return f"{_cents(candidate['believed_cents'])} cents" + _parts(candidate["cents"])


def _parts(cents: Mapping[str, float]) -> str:
    """The largest terms, those that make up less than a hundredth left out."""
    total = sum(map(abs, cents.values()))
    parts = [(name, value) for name, value in cents.items() if abs(value) > 0.01 * total]
    parts.sort(key=lambda part: -abs(part[1]))
    return ", of which " + ", ".join(f"{_short(n)} {_cents(v)}" for n, v in parts) if parts else ""


def _short(term: str) -> str:
    return term.removesuffix("_cents")


def _points(value: float) -> str:
    """A difference of scores; not of any scale, for a rule's may be seconds or shares."""
    return f"{value:.3g}"


def _cents(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2g}"
