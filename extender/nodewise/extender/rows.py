"""From a decision to the row that is kept of it: what was on offer, what was said, and what the policy looked at."""

from __future__ import annotations

import logging
import random
import zlib

import numpy as np
from numpy.typing import NDArray

from nodewise.channel.messages import DecisionRow
from nodewise.core.columns import COLUMNS, features
from nodewise.core.types import ClusterView, Decision, Policy, Scores
from nodewise.extender.records import Record
from nodewise.policies.learned import LearnedPolicy

BEST, OTHERS = 8, 7
"""Candidates whose features are kept beside the winner's: the best, and a sample of the rest."""

log = logging.getLogger(__name__)


def columns_of(policy: Policy) -> tuple[str, ...]:
    """What a policy looks at; a rule may look at anything."""
    return policy.card.column_names if isinstance(policy, LearnedPolicy) else tuple(COLUMNS)


def decision_row(record: Record, view: ClusterView | None) -> DecisionRow:
    """The row of a record; without a view, which is not kept for ever, it has no features."""
    decision = record.decision
    won = np.flatnonzero(decision.candidates == decision.winner)
    featured, values = [], b""
    if view is not None and len(won):
        try:
            featured = featured_candidates(decision, int(won[0]))
            seen = features(record.columns, decision.pod, view, decision.candidates[featured])
            values = seen.astype("<f4").tobytes()
        except Exception:  # the rest of the row is still worth keeping
            featured = []
            log.exception("the features of a decision were not kept")
    return DecisionRow(
        uid=decision.pod.uid,
        namespace=decision.pod.namespace,
        pod=decision.pod.name,
        time_s=record.time_s,
        source="extender",
        mode=record.mode.value,
        placement_policy=record.placement_policy,
        policy=decision.policy,
        digest=decision.digest,
        fallback=decision.fallback.value,
        neutral=decision.neutral,
        candidates=[record.names[row] for row in decision.candidates],
        scores=_in_few_digits(decision.scores),
        winner=record.names[decision.winner] if len(won) else "",
        reply=list(decision.reply),
        propensity=float(decision.propensities[won[0]]) if len(won) else 0.0,
        columns=list(record.columns) if featured else [],
        featured=featured,
        features=values,
        latency_us=round(record.latency_us, 1),
        sequence=record.sequence,
    )


def featured_candidates(decision: Decision, winner: int) -> list[int]:
    """Indices into the candidates [F]: the winner's, the best by score, and a sample that depends on the pod only."""
    order = np.argsort(-decision.scores, kind="stable")
    best = [winner, *(k for k in order[: BEST + 1].tolist() if k != winner)][: BEST + 1]
    taken = set(best)
    rest = [k for k in range(len(order)) if k not in taken]
    chance = random.Random(zlib.crc32(decision.pod.uid.encode()))
    return best + sorted(chance.sample(rest, min(OTHERS, len(rest))))


def _in_few_digits(scores: Scores) -> list[float]:
    """The scores as decimals of nine digits, which are enough to tell any float32 from the next."""
    values = scores.astype(np.float64)
    sized: NDArray[np.bool_] = np.isfinite(values) & (np.abs(values) > 1e-12) & (np.abs(values) < 1e12)
    digits = np.zeros(len(values))
    digits[sized] = 8.0 - np.floor(np.log10(np.abs(values[sized])))
    scale = 10.0 ** np.abs(digits)  # a whole power of ten is exact, and so the quotient is the decimal nearest to it
    short = np.where(digits >= 0.0, np.rint(values * scale) / scale, np.rint(values / scale) * scale)
    kept: list[float] = np.where(sized, short, values).tolist()
    return kept
