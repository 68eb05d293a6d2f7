"""For each alert of charts/nodewise/files/rules.yaml, series that make it fire and series that must not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Series = dict[str, str]
"""Values by series, in promtool's notation: one a minute, `1+2x3` is 1 3 5 7 and `5x3` is 5 5 5 5."""

POD = 'namespace="s",pod="p"'
BUSY = {f'nodewise_extender_decisions_total{{{POD},policy="learned"}}': "0+60x60"}  # one a second


@dataclass(frozen=True)
class Case:
    """What Prometheus has seen at minute `at_min`."""

    alert: str
    fires: Series
    silent: tuple[Series, ...]
    labels: Json = field(default_factory=lambda: {"namespace": "s", "pod": "p"})
    value: str = ""
    """As its annotations show it."""
    severity: str = "warning"
    at_min: int = 45

    def tests(self, rule: Json) -> list[Json]:
        """For `promtool test rules`; `rule` is the alert's own."""
        told = {key: self._told(text) for key, text in rule["annotations"].items()}
        firing = {"exp_labels": {"severity": self.severity, **self.labels}, "exp_annotations": told}
        return [self._test(self.fires, [firing]), *(self._test(series, []) for series in self.silent)]

    def _test(self, series: Series, expected: list[Json]) -> Json:
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {"eval_time": f"{self.at_min}m", "alertname": self.alert, "exp_alerts": expected},
            ],
        }

    def _told(self, text: str) -> str:
        def expanded(found: re.Match[str]) -> str:
            what = found[1].split("|")[0].strip()
            return self.value if what == "$value" else str(self.labels.get(what.removeprefix("$labels."), ""))

        return re.sub(r"\{\{\s*(.*?)\s*\}\}", expanded, text, flags=re.DOTALL)


def age(of: str, values: str) -> Series:
    return {f"nodewise_extender_{of}_age_seconds{{{POD}}}": values}


def waiting(pods: str, held: str) -> Series:
    lease = {f"nodewise_operator_scheduler_lease_held{{{POD}}}": held} if held else {}
    return {f'nodewise_operator_waiting_pods{{{POD},older_than_seconds="60"}}': pods} | lease


def fallbacks(reason: str, values: str) -> Series:
    return {f'nodewise_extender_fallbacks_total{{{POD},reason="{reason}"}}': values}


def bound(winner: str, other: str, mode: str = "active") -> Series:
    of = f'nodewise_extender_placement_bound_total{{{POD},placement_policy="",mode="{mode}",as='
    return {f'{of}"winner"}}': winner, f'{of}"other"}}': other}


def watch_age(values: str, synced: str) -> Series:
    return {
        f'nodewise_operator_last_event_age_seconds{{{POD},resource="pods"}}': values,
        f"nodewise_operator_synced{{{POD}}}": synced,
    }


SYNCED = f"nodewise_operator_synced{{{POD}}}"
UNAVAILABLE = f"nodewise_operator_store_unavailable{{{POD}}}"
UNREAD = f"nodewise_operator_scheduler_lease_unread{{{POD}}}"
REFUSED = f"nodewise_extender_bundle_refused{{{POD}}}"
UP = f'up{{job="nodewise-extender",{POD}}}'
SPOOL, DROPPED = f"nodewise_extender_spool_bytes{{{POD}}}", f"nodewise_extender_spool_dropped{{{POD}}}"

CASES = (
    Case("NodewiseOperatorDown", {"nodewise_operator_unknown": "1x60"}, ({SYNCED: "0x60"},), labels={}),
    # one that went away a moment ago, at a restart, is no alert yet
    Case("NodewiseOperatorDown", {SYNCED: "1x30 stale"}, ({SYNCED: "1x42 stale"},), labels={}),
    Case("NodewiseOperatorNotSynced", {SYNCED: "0x60"}, ({SYNCED: "1x60"}, {SYNCED: "1x40 0x20"})),
    Case(
        "NodewiseOperatorWatchStale",
        watch_age("300+60x60", "1x60"),
        (watch_age("350x60", "1x60"), watch_age("Inf+0x60", "0x60"), watch_age("1x44 450x20", "1x60")),
        labels={"namespace": "s", "pod": "p", "resource": "pods"},
        value="50m 0s",
    ),
    Case(
        "NodewiseStoreUnavailable",
        {UNAVAILABLE: "1x60"},
        ({UNAVAILABLE: "0x60"}, {UNAVAILABLE: "0x43 1x20"}),
        severity="critical",
    ),
    Case(
        "NodewisePodsWithoutScheduler",
        waiting("3x60", "0x60"),
        # a scheduler holds the Lease; nobody waits; it is not known (twice); nobody has held it for a minute
        (
            waiting("3x60", "1x60"),
            waiting("0x60", "0x60"),
            waiting("3x60", "NaN+0x60"),
            waiting("3x60", ""),
            waiting("3x60", "1x43 0x20"),
        ),
        labels={"namespace": "s"},
        value="3",
        severity="critical",
    ),
    Case("NodewiseSchedulerLeaseUnread", {UNREAD: "1x60"}, ({UNREAD: "0x60"}, {UNREAD: "0x38 1x30"})),
    Case(
        "NodewiseExtenderDown",
        {UP: "0x60"},
        ({UP: "1x60"}, {UP: "1x43 0x20"}),
        labels={"namespace": "s", "pod": "p", "job": "nodewise-extender"},
    ),
    Case(
        "NodewiseExtenderDown",
        {f'up{{job="nodewise-operator",{POD}}}': "1x60"},
        ({UP: "1x60"},),
        labels={"job": "nodewise-extender"},
    ),
    Case("NodewiseExtenderNotReady", age("pods", "Inf+0x60"), (age("pods", "1000x60"), age("pods", "1x42 Inf+0x20"))),
    Case("NodewiseExtenderNotReady", age("nodes", "Inf+0x60"), (age("nodes", "1x60"),)),
    Case(
        "NodewiseExtenderViewStale",
        age("nodes", "1x60") | age("pods", "1x40 100+60x20"),
        (age("pods", "65x60"), age("pods", "Inf+0x60"), age("pods", "1x44 130x20")),
        value="5m 40s",
    ),
    Case(
        "NodewiseExtenderViewStale",
        age("nodes", "180x60") | age("pods", "1x60"),
        (age("nodes", "1x60"),),
        value="3m 0s",
    ),
    Case(
        "NodewiseFallbacks",
        BUSY | fallbacks("policy-error", "0+6x60"),
        (
            BUSY | fallbacks("policy-error", "0+2x60"),
            BUSY | fallbacks("deadline", "0+60x60"),
            # two decisions in ten minutes say nothing
            dict.fromkeys(BUSY, "0+0.2x60") | fallbacks("policy-error", "0+0.2x60"),
            BUSY | fallbacks("policy-error", "0x40 30+30x20"),
        ),
        labels={"namespace": "s", "reason": "policy-error"},
        value="10%",
    ),
    Case(
        "NodewiseDeadlineMisses",
        BUSY | fallbacks("deadline", "0+3x60"),
        (
            BUSY | fallbacks("deadline", "0+0.3x60"),
            BUSY | fallbacks("policy-error", "0+60x60"),
            dict.fromkeys(BUSY, "0+0.2x60") | fallbacks("deadline", "0+0.2x60"),
            BUSY | fallbacks("deadline", "0x40 3+3x20"),
        ),
        labels={"namespace": "s", "reason": "deadline"},
        value="5%",
    ),
    Case(
        "NodewiseAgreementLow",
        bound("0+6x120", "0+6x120"),
        (
            bound("0+6x120", "0+1x120"),
            bound("0+6x120", "0+6x120", mode="shadow"),
            bound("0+0.1x120", "0+0.1x120"),
            bound("0+6x120", "0x80 60+60x40"),
        ),
        labels={"namespace": "s"},
        value="50%",
        at_min=100,
    ),
    Case("NodewiseBundleRefused", {REFUSED: "1x60"}, ({REFUSED: "0x60"}, {REFUSED: "0x38 1x30"})),
    Case(
        "NodewiseChannelRefused",
        age("operator", "1x30 60+60x30"),
        (age("operator", "6x60"), age("operator", "6x43 70x20")),
        value="15m 0s",
    ),
    Case(
        "NodewiseSpoolFillsUp",
        {SPOOL: "60000000x60"},
        ({SPOOL: "50000000x60"}, {SPOOL: "0x42 60000000x20"}),
        value="57.22Mi",
    ),
    Case("NodewiseDecisionsDropped", {DROPPED: "0x40 15x20"}, ({DROPPED: "15x60"},), value="15"),
    Case(
        "NodewiseDecisionsDropped",
        {DROPPED.replace("spool", "journal"): "0x40 15x20"},
        ({DROPPED.replace("spool", "journal"): "15x20 0x40"},),
        value="15",
    ),
)
