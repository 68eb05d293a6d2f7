"""The advice as text that can be forwarded: no terms that its reader would have to look up."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nodewise.policies import DEFAULT
from nodewise_simulator.advise.advice import RECORDED, Advice
from nodewise_simulator.advise.gains import FEW, Gain, Group, Verdict
from nodewise_simulator.advise.outcomes import METRICS, UNITS

_WIDTH = 110
_MOST_ROWS = 25
_NAME = 44
_HEADINGS = {
    "completion": "sooner, s", "sla_misses": "deadlines kept", "energy": "saved, Wh", "cost": "saved, cents"
}  # fmt: skip


def text(advice: Advice, schedulers: Mapping[str, int]) -> str:
    """A few paragraphs and a table."""
    return "\n\n".join(
        [
            *(
                _filled(part)
                for part in (_what(advice, schedulers), _answer(advice), *_doubts(advice), *_stood_in(advice))
            ),
            _table(advice),
            *(_filled(part) for part in (*_unknown(advice), _reading(advice), _how(advice))),
        ]
    )


def rows(advice: Advice) -> list[dict[str, Any]]:
    """A row for each group and metric, as every `--output json` document holds them."""
    scopes = [("total", advice.total)]
    scopes += [("namespace", group) for group in advice.namespaces]
    scopes += [("workload", group) for group in advice.workloads]
    return [
        {
            "scenario": "recording", "policy": advice.policy, "baseline": advice.baseline, "scope": scope,
            "namespace": group.namespace, "workload": group.workload, "decisions": group.decisions,
            "metric": f"{gain.metric}_gain", "unit": UNITS[gain.metric], "before": gain.before, "mean": gain.mean,
            "low": gain.low, "high": gain.high, "verdict": group.verdict.value,
            "unknown_cells": [
                {"workload": c.workload, "node_class": c.node_class, "share": c.share, "observations": c.observations}
                for c in group.thin
            ],
        }
        for scope, group in scopes
        for gain in group.gains.values()
    ]  # fmt: skip


def _filled(part: str) -> str:
    return textwrap.fill(" ".join(part.split()), _WIDTH)


def _what(advice: Advice, schedulers: Mapping[str, int]) -> str:
    made = advice.recording
    by = ", ".join(f"{name} ({count})" for name, count in sorted(schedulers.items(), key=lambda s: -s[1]))
    said = (
        f"In {span(made.length_s)}, {advice.total.decisions} pods that end by themselves came to {len(made.nodes)} "
        f"nodes of {len({n.node_class for n in made.nodes})} kinds. Asked to place pods: {by}. The question is what "
        f"the same pods would have done had {advice.policy} placed them, knowing what is known today of how long each "
        "kind of work runs on each kind of node."
    )
    others = sum(not p.counted and not p.stays for p in made.pods)
    if others:
        said += f" {others} others (services, pods that failed or were deleted) take their room and are not judged."
    if made.source == "cluster":
        said += " This is what the cluster itself still remembers: pods that were deleted since are missing."
    if made.left_out:
        said += f" {made.left_out} are left out: nobody saw where or how long they ran."
    return said


def _answer(advice: Advice) -> str:
    gains, who = advice.total.gains, advice.policy
    cost, time = gains["cost"], gains["completion"]
    before = (
        "as they were placed"
        if advice.baseline == RECORDED
        else f"placed by {advice.baseline}, the rules of a stock Kubernetes scheduler"
    )
    match advice.total.verdict:
        case Verdict.GAINS:
            said = f"{who} would have gained"
        case Verdict.LOSES:
            said = f"{who} would have made things worse. Its gain, where minus is a loss"
        case Verdict.NOTHING:
            said = f"{who} would have gained nothing that matters"
        case _:
            said = f"Too little is known to say whether {who} would have gained anything. Best guess"
    kept, saved = gains["sla_misses"], gains["energy"]
    return (
        f"{said}: pods would have been done {interval(time)} s sooner on average (of {number(time.before)} s "
        f"{before}), {interval(kept)} of {number(kept.before)} missed deadlines would have been kept, "
        f"{interval(saved)} of {number(saved.before)} Wh and {interval(cost)} of {number(cost.before)} cents would "
        f"have been saved ({cost.mean / max(cost.before, 1e-9):.0%} of the cost). In brackets: the range that holds "
        "the real result in 19 of 20 cases, as long as the load stays as it was."
    )


def _doubts(advice: Advice) -> list[str]:
    doubts = advice.calibration.doubts
    return [f"DO NOT TRUST THIS YET: {'; '.join(doubts)}."] if doubts else []


def _stood_in(advice: Advice) -> list[str]:
    share = advice.fallback_share
    if math.isnan(share):
        return []
    asked = sum(advice.decided.values())
    if share == 0.0:
        return [f"{advice.policy} itself took all of the {asked:,} decisions that were replayed."]
    reasons = sorted(((n, why) for why, n in advice.decided.items() if why), reverse=True)
    named = ", ".join(f"{why} {n:,}" for n, why in reasons)
    said = (
        f"In {share:.1%} of the {asked:,} decisions that were replayed {advice.policy} did not decide, and the rule "
        f"{DEFAULT.name} stood in ({named}): so much of the gain is that rule's."
    )
    return [said]


def _unknown(advice: Advice) -> list[str]:
    cells = {(c.workload, c.node_class): c for group in (advice.total, *advice.workloads) for c in group.thin}
    if not cells:
        return []
    named = "; ".join(f"{short(c.workload)} on {c.node_class} ({c.observations:.0f})" for c in list(cells.values())[:8])
    more = f" and {len(cells) - 8} more" if len(cells) > 8 else ""
    few = f"Too little is known (fewer than {FEW} finished runs, their number in brackets) of: {named}{more}."
    return [f"{few} {advice.policy} would send pods there, and learn from them."]


def _reading(advice: Advice) -> str:
    middle, low, high = advice.contention
    neighbours = (
        "show no slowdown of pods by their neighbours"
        if middle == 0.0
        else f"are explained best if a pod slows by {middle:.0%} ({low:.0%} to {high:.0%}) when its neighbours request "
        "all of its node's CPU"
    )
    return (
        "How to read it: a cent is a cent of the cost of delay, missed deadlines, energy and rented room together, at "
        "the prices that Nodewise was given; energy is what pods draw above an idle machine. 'Gains' means that the "
        "whole range of the saving in cents lies above zero; 'gains nothing' that at most 3 % of the cost can be "
        f"saved. The recorded run times {neighbours}."
    )


def _how(advice: Advice) -> str:
    c = advice.calibration
    cost = c.recorded["cost"]
    gap = f" For {span(advice.recording.gap_s)} of it nobody watched." if advice.recording.gap_s else ""
    starting = f" and {number(c.starting_s)} s to start" if c.starting_s > 0.01 * c.seen_s else ""
    nodes = (
        f" {advice.recording.changed_nodes} nodes came or went meanwhile; the replay has them all the time."
        if advice.recording.changed_nodes
        else ""
    )
    return (
        f"How it was found: all pods were placed again in a simulated cluster, {advice.draws} times, each with run "
        "times that agree with what was recorded and differ where it says nothing. (Comparing how single pods fared "
        "would mislead: where one goes decides what is left for the next.) Check: the recorded placements, played "
        f"again, take {number(c.played_s)} s a pod{starting} where {number(c.seen_s)} s were seen, and cost "
        f"{interval(cost)} cents more than a simulated stock scheduler's {number(cost.before - cost.mean)}.{gap}{nodes}"
    )


def _table(advice: Advice) -> str:
    groups = [advice.total]
    for namespace in advice.namespaces:
        groups.append(namespace)
        groups += [g for g in advice.workloads if g.namespace == namespace.namespace]
    lines = [("", "pods", *(_HEADINGS[m] for m in METRICS), "verdict")]
    lines += [
        (_label(g), str(g.decisions), *(interval(g.gains[m]) for m in METRICS), g.verdict.value)
        for g in groups[:_MOST_ROWS]
    ]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    made = [
        "  ".join([line[0].ljust(widths[0]), *_right(line[1:-1], widths[1:-1]), line[-1]]).rstrip() for line in lines
    ]
    if len(groups) > _MOST_ROWS:
        made.append(f"… and {len(groups) - _MOST_ROWS} more (--output json)")
    return "\n".join(made)


def _right(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]


def _label(group: Group) -> str:
    if not group.namespace:
        return "all"
    return f"    {short(group.workload)}" if group.workload else f"  {group.namespace}"


def short(name: str) -> str:
    """A workload's name as far as it fits."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def interval(gain: Gain) -> str:
    """As `12 [9, 15]`."""
    return f"{number(gain.mean)} [{number(gain.low)}, {number(gain.high)}]"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if not math.isfinite(value):
        return "–"
    digits = 2 - math.floor(math.log10(abs(value))) if abs(value) >= 5e-3 else 2
    return f"{round(value, digits) + 0.0:,.{min(max(digits, 0), 2)}f}"


def span(seconds: float) -> str:
    """A time in the two units that matter."""
    for unit, size, below, rest in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= 2 * size or (seconds >= size and unit == "h"):
            whole, left = divmod(round(seconds / rest), size // rest)
            return f"{whole} {unit} {left} {below}" if left else f"{whole} {unit}"
    return f"{seconds:.0f} s"
