"""What becomes of each PlacementPolicy: from the reports of the extenders to its status."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.aio.client import ApiClient
from pydantic import ValidationError

from nodewise import policies
from nodewise.channel.messages import PolicyReport, Report
from nodewise.core.errors import UserError
from nodewise.kube.placement import PlacementPolicy, placement_policy
from nodewise_operator.resources.base import whole_second
from nodewise_operator.resources.conditions import Fact, conditions
from nodewise_operator.resources.live import Live
from nodewise_operator.resources.placement_policy import ExtenderStatus, PlacementPolicyStatus
from nodewise_operator.resources.placement_policy import PlacementPolicy as Resource

Json = dict[str, Any]

SILENT_S = 30.0
"""An extender that reports every few seconds and was not heard for so long is silent."""
FORGOTTEN_S = 300.0
"""A silent extender is then taken to be gone: every life of one has a name of its own."""
LOOK_EVERY_S = 2.0
COUNTS_EVERY_S = 15.0
"""A change of mere counts is written so often at most; anything else at the next look."""
_MOST_EXTENDERS, _MOST_REASONS = 16, 32
_MOST_FALLBACKS, _FEW = 0.5, 20
"""Share of decisions from which on fallbacks are called degraded, once there are not too few to tell."""
_MOST_COUNTED = 1 << 44
"""Of one extender, so that the sum over many stays within what JSON can hold."""
_COUNTS = {"decisions", "fallbacks", "agreement", "extenders"}
_COUNTS_OF_ONE = {"decisions", "boundWinner", "boundOther", "agreement", "fallbacks", "neutral", "reportedAt"}


@dataclass(frozen=True, slots=True)
class Reported:
    """The last report of one extender."""

    report: Report
    received_s: float
    """By the operator's clock, in epoch seconds."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What an operator that heard of no extender may make of it."""

    channel: bool = True
    """Whether extenders can report to it at all."""
    leads: float = math.nan
    """1 while a scheduler of ours holds its Lease, 0 while none does, nan while that is not known."""

    @property
    def nobody(self) -> bool:
        """Whether there is no extender, and not only none that is heard."""
        return self.leads == 0 or (self.channel and math.isnan(self.leads))

    @property
    def why(self) -> str:
        """Why it is not known what the extenders run, where there may be some; with what to do."""
        if self.channel:
            return (
                "a scheduler leads, but no extender reports, so what they run is not known here: see `kubectl nodewise "
                "status` and the extenders' logs"
            )
        return (
            "extenders have no channel to the operator, so what they run is not known here: see `kubectl nodewise "
            "status`, or set the chart's channel.tls.mode"
        )


ALL_EARS = Hearing()
"""There is a channel, and nobody knows of a Lease."""


def policy_status(
    obj: Json, reports: Iterable[Reported], now_s: float, overruled: str = "", hearing: Hearing = ALL_EARS
) -> Json:
    """The status of one PlacementPolicy; `overruled` says why it never applies, if it does not."""
    name, uid = obj["metadata"]["name"], obj["metadata"].get("uid") or ""
    generation, mode = obj["metadata"]["generation"], obj["spec"]["mode"]
    known = sorted((r for r in reports if now_s - r.received_s < FORGOTTEN_S), key=lambda r: r.report.extender)
    heard = [r for r in known if now_s - r.received_s <= SILENT_S]
    told = [(r, _of(name, uid, r.report)) for r in known]
    holding = [one for r, one in told if one and r in heard]
    in_force = sum(one.generation == generation for one in holding)
    decisions, fallbacks = sum(one.decisions for _, one in told if one), sum(_fallbacks(one) for _, one in told if one)
    refused = [(r.report.extender, one.refused) for r, one in told if one and one.refused and r in heard]
    if known:
        ready = _ready(generation, in_force, len(heard), refused)
        facts = (ready, _degraded(refused, decisions, fallbacks, len(heard)), _stale(known, heard))
    else:
        facts = _unheard(obj, mode, hearing)
    if overruled:
        facts = (Fact("Ready", False, "Overruled", overruled[:1024]), *facts[1:])
    return PlacementPolicyStatus(
        observed_generation=generation,
        conditions=conditions(facts, obj, now_s),
        policy=", ".join(sorted({one.policy for one in holding}))[:253] or None,
        in_force=f"{in_force}/{len(heard)}" if known else None,
        agreement=_agreement(one for _, one in told if one),
        decisions=decisions,
        fallbacks=fallbacks,
        extenders=[_extender(r, one) for r, one in told if one][:_MOST_EXTENDERS],
    ).plain()


def overruling(objects: Mapping[str, Json]) -> dict[str, str]:
    """Of the PlacementPolicies that never apply, since another takes all their pods, by name: why not.

    Only policies that are certain to: one whose selectors are those of the loser, or fewer. Of two that overlap
    otherwise each has pods of its own.
    """
    told = sorted((placement_policy(obj) for obj in objects.values()), key=lambda policy: policy.rank)
    made: dict[str, str] = {}
    for k, loser in enumerate(told):
        winner = next((one for one in told[:k] if _takes_all_of(one, loser)), None)
        if winner is not None:
            why = (
                f"priority {winner.priority} is above {loser.priority}"
                if winner.priority != loser.priority
                else "of equal priority, more conditions come first, then the first by name"
            )
            made[loser.name] = (
                f"PlacementPolicy {winner.name} selects all pods of this one and comes before it ({why}): change a "
                "priority or a selector, or delete one of them"
            )
    return made


def _takes_all_of(one: PlacementPolicy, other: PlacementPolicy) -> bool:
    if one.invalid or other.invalid:
        return False
    named = not one.namespaces or (bool(other.namespaces) and set(other.namespaces) <= set(one.namespaces))
    return (
        named
        and (not one.namespace_selector or one.namespace_selector == other.namespace_selector)
        and (not one.pod_selector or one.pod_selector == other.pod_selector)
    )


def senseless(reported: Reported) -> str:
    """Why a report can be no part of any status, in a sentence; empty if it can."""
    report = reported.report
    for one in report.placement_policies:
        try:
            _extender(reported, one)
            if max(one.decisions, _fallbacks(one)) > _MOST_COUNTED:
                raise ValueError(f"more than {_MOST_COUNTED} decisions")
        except (ValueError, OverflowError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            return f"what {report.extender[:253]!r} reports on {one.name[:253]} makes no sense: {why}"
    return ""


def differs(status: Json, before: Json) -> bool:
    """Whether anything but the time of a report is new."""
    return _without(status, set(), {"reportedAt"}) != _without(before, set(), {"reportedAt"})


def differs_at_heart(status: Json, before: Json) -> bool:
    """Whether anything but counts is new: what decides, where, and what is wrong."""
    return _without(status, _COUNTS - {"extenders"}, _COUNTS_OF_ONE) != _without(
        before, _COUNTS - {"extenders"}, _COUNTS_OF_ONE
    )


async def run(
    api: ApiClient,
    source: Callable[[], Iterable[Reported]],
    *,
    hearing: Callable[[], Hearing] = Hearing,
    look_every_s: float = LOOK_EVERY_S,
    counts_every_s: float = COUNTS_EVERY_S,
    again_s: float = 60.0,
    now_s: Callable[[], float] = time.time,
) -> None:
    """Keep the status of the PlacementPolicies up to date for ever; the owner cancels it.

    `source` gives the last report of each extender; it and `hearing` are called in this event loop. What the API
    server refuses is told once and tried again every `again_s` seconds.
    """
    live = Live(api, Resource, again_s=again_s)
    started_s, written_s = now_s(), dict[str, float]()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(live.run())
        await live.answered()
        while True:
            at_s, found = now_s(), [(one, senseless(one)) for one in source()]
            reports = [one for one, why in found if not why]
            if odd := [why for _, why in found if why]:  # extenders of another version, or none
                live.complain("; ".join(odd[:3]))
            # An operator that has just started has not heard of anybody: that is no news of the extenders.
            objects = live.objects if live.readable and (reports or at_s - started_s > SILENT_S) else {}
            overruled = overruling(objects)
            for name, obj in sorted(objects.items()):
                status = policy_status(obj, reports, at_s, overruled.get(name, ""), hearing())
                before = obj.get("status") or {}
                due = at_s - written_s.get(name, 0.0) >= counts_every_s and differs(status, before)
                if due or differs_at_heart(status, before):
                    await live.apply(name, {"status": status}, status=True)
                    written_s[name] = at_s
            await asyncio.sleep(look_every_s)


def _of(name: str, uid: str, report: Report) -> PolicyReport | None:
    """What is reported on it, and not on one that had its name before."""
    told = (one for one in report.placement_policies if one.name == name)
    return next((one for one in told if not one.uid or not uid or one.uid == uid), None)


def _fallbacks(one: PolicyReport) -> int:
    return sum(one.fallbacks.values())


def _ready(generation: int, in_force: int, heard: int, refused: list[tuple[str, str]]) -> Fact:
    if refused:
        where, why = refused[0]
        return Fact("Ready", False, "Refused", f"on {where}: {why}"[:1024])
    if not heard:
        return Fact("Ready", None, "Silent", "no extender was heard lately, so nobody can tell")
    if in_force < heard:
        return Fact(
            "Ready", False, "NotEverywhere", f"generation {generation} is in force on {in_force} of {heard} extenders"
        )
    return Fact("Ready", True, "InForce", f"generation {generation} is in force on every extender")


def _degraded(refused: list[tuple[str, str]], decisions: int, fallbacks: int, heard: int) -> Fact:
    if refused:
        where = ", ".join(extender for extender, _ in refused)
        return Fact("Degraded", True, "Refused", f"something else than was named decides on {where}"[:1024])
    if decisions >= _FEW and fallbacks > _MOST_FALLBACKS * decisions:
        return Fact("Degraded", True, "Fallbacks", "the fallback rule took more than half of the decisions")
    if not heard:
        why = "no extender reports, so nobody can tell whether what was named can decide"
        return Fact("Degraded", None, "Silent", why)
    return Fact("Degraded", False, "AsNamed", "what was named decides")


def _unheard(obj: Json, mode: str, hearing: Hearing) -> tuple[Fact, Fact, Fact]:
    """What can be told where no extender reports: whether there is one at all, and whether the name can be one."""
    reason = "NoExtender" if hearing.nobody else "NotHeard"
    if unknown := _no_such_rule(obj):
        ready = Fact("Ready", False, "UnknownPolicy", unknown)
    elif mode in ("Advise", "Off"):
        ready = Fact("Ready", True, "NoExtenderNeeded", f"no extender reports, and mode {mode} needs none")
    elif hearing.nobody:
        remedy = "install Nodewise's scheduler, see why it does not run, or use mode Advise"
        ready = Fact("Ready", False, reason, f"no extender reports, and mode {mode} needs one: {remedy}")
    else:
        ready = Fact("Ready", None, reason, hearing.why)
    why = "no extender reports, so nobody can tell whether what was named can decide"
    return ready, Fact("Degraded", None, reason, why), Fact("Stale", None, reason, "no extender was ever heard")


def _no_such_rule(obj: Json) -> str:
    """Why what the policy names cannot decide, as far as can be told without an extender; empty if it may.

    Bundles are folders of the extenders: nobody else knows which there are.
    """
    name = placement_policy(obj).policy
    if name in ("", policies.LEARNED):
        return ""
    try:
        policies.rule(name)
    except UserError as error:
        return str(error)
    return ""


def _stale(known: list[Reported], heard: list[Reported]) -> Fact:
    silent = [r for r in known if r not in heard]
    if not silent:
        return Fact("Stale", False, "Heard", "every known extender was heard within half a minute")
    where = ", ".join(f"{r.report.extender} (since {whole_second(r.received_s):%H:%M:%S} UTC)" for r in silent)
    return Fact("Stale", True, "Silent", f"not heard: {where}"[:1024])


def _agreement(told: Iterable[PolicyReport]) -> str | None:
    counts = [(one.bound_winner, one.bound_winner + one.bound_other) for one in told]
    winner, bound = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return f"{1000 * winner // bound / 10:.1f}%" if bound else None  # rounded down: 100.0% means all


def _extender(reported: Reported, one: PolicyReport) -> ExtenderStatus:
    return ExtenderStatus.model_validate(
        {
            "name": reported.report.extender[:253],
            "mode": one.mode.capitalize(),
            "policy": one.policy[:253],
            "digest": one.digest[:128],
            "generation": one.generation,
            "decisions": one.decisions,
            "boundWinner": one.bound_winner,
            "boundOther": one.bound_other,
            "agreement": _agreement([one]),
            "fallbacks": dict(Counter(one.fallbacks).most_common(_MOST_REASONS)) or None,
            "neutral": dict(Counter(one.neutral).most_common(_MOST_REASONS)) or None,
            "refused": one.refused[:1024] or None,
            "reportedAt": whole_second(reported.received_s),
        }
    )


def _without(status: Mapping[str, Any], fields: set[str], of_extenders: set[str]) -> Json:
    made = {key: value for key, value in status.items() if key not in fields}
    made["extenders"] = [
        {key: value for key, value in one.items() if key not in of_extenders} for one in status.get("extenders") or ()
    ]
    return made
