"""Conditions of an object, from what is so now and what was said before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from nodewise_operator.resources.base import Condition, ConditionStatus, whole_second

Json = Mapping[str, Any]


class Fact(NamedTuple):
    """One condition without its time; `holds` is None where nobody can tell."""

    type: str
    holds: bool | None
    reason: str
    message: str


def conditions(facts: Iterable[Fact], before: Json, now_s: float) -> list[Condition]:
    """As the object's status is to have them; the time of a status that is what it was in `before` stays."""
    since = {
        (c["type"], c["status"]): c["lastTransitionTime"] for c in (before.get("status") or {}).get("conditions") or ()
    }
    generation = (before.get("metadata") or {}).get("generation")
    made = []
    for fact in facts:
        status = {True: "True", False: "False", None: "Unknown"}[fact.holds]
        made.append(
            Condition(
                type=fact.type,
                status=ConditionStatus(status).value,
                observed_generation=generation,
                last_transition_time=since.get((fact.type, status)) or whole_second(now_s),
                reason=fact.reason,
                message=fact.message,
            )
        )
    return made
