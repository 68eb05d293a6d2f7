"""Checks of our kube-scheduler and the extender beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.config import started_s
from nodewise.cli.kubectl.facts import Facts, known
from nodewise.cli.kubectl.findings import Finding, fail, ok, warn
from nodewise.core.errors import UserError

_MOST_TIMEOUT_S = 1.0
_MOST_FALLBACKS = 0.05
_MIN_DECISIONS = 20
"""Below, a share says nothing."""
_STALE_S = 120.0
_PREFERENCES = ("NodeAffinity", "InterPodAffinity", "TaintToleration", "PodTopologySpread")
"""Plugins that score what somebody wrote."""
_IN_TREE = 1400
"""Points that the in-tree scores total at most; a step of the extender is its weight x 10, and its best ten steps."""


def scheduler_config(facts: Facts) -> Iterator[Finding]:
    """The configuration has us decide, never lets us block a pod, and is the one that runs."""
    if not facts.parts.schedulers:
        return
    config = facts.parts.config
    if config is None:
        raise UserError(facts.parts.config_refused or "no ConfigMap of the scheduler's pods holds its configuration")
    findings = [*_another_runs(facts), *_wrong(config, _upgrade(facts))]
    yield from findings
    if not findings:
        yield ok("weights, time-out and the extender's settings are as they must be")


def _upgrade(facts: Facts) -> str:
    """How the chart's configuration comes back, which is right."""
    where = facts.parts.config_map
    edited = f" ConfigMap {where.name}" if where else " the configuration"
    again = f"helm upgrade the release with --force-conflicts, which makes{edited} the chart's again"
    return f"{again}; then {_restart(facts)}"


def _restart(facts: Facts) -> str:
    """kube-scheduler reads its configuration at its start only."""
    chosen = f"{found.PART_OF},{found.COMPONENT}={found.SCHEDULER}"
    return f"kubectl rollout restart deployment -n {facts.parts.namespace} -l {chosen}"


def _another_runs(facts: Facts) -> Iterator[Finding]:
    """Schedulers that were started before their ConfigMap was changed do what it said before."""
    where = facts.parts.config_map
    if where is None:
        return
    older: list[str] = []
    for pod in facts.parts.schedulers:
        names = [c["name"] for c in found.containers(pod) if found.is_image(c, "kube-scheduler")]
        began_s = started_s(pod, next(iter(names), ""))
        if began_s is not None and began_s < where.changed_s:
            older.append(found.full_name(pod))
    if older:
        yield warn(
            f"{', '.join(older)} started before ConfigMap {where.name} was changed, and kube-scheduler reads it at its "
            "start only: what runs is another configuration than the one that is looked at here",
            f"{_restart(facts)}; or, if nobody should have changed it, helm upgrade the release with --force-conflicts "
            "first",
        )


def _wrong(config: Mapping[str, Any], upgrade: str) -> Iterator[Finding]:
    extenders = config.get("extenders") or []
    if not extenders:
        yield fail("the scheduler's configuration names no extender: Nodewise is not asked", upgrade)
        return
    ours = extenders[0]
    weight = int(ours.get("weight") or 1)
    if not ours.get("prioritizeVerb"):
        yield fail("the extender has no prioritizeVerb: it is not asked where a pod should go", upgrade)
    if not ours.get("ignorable"):
        yield fail("the extender is not ignorable: pods wait while it is down", upgrade)
    if not ours.get("nodeCacheCapable"):
        yield warn("nodeCacheCapable is off: whole nodes are sent with every pod, some 17 KB each", upgrade)
    if weight * 10 <= _IN_TREE:
        yield warn(
            f"the extender's weight is {weight}: in-tree scores can outvote it, so that it only influences",
            f"if Nodewise shall decide, extenders[0].weight must be 150: {upgrade}",
        )
    timeout_s = duration_s(str(ours.get("httpTimeout") or "5s"))
    if timeout_s is None or timeout_s > _MOST_TIMEOUT_S:
        told = ours.get("httpTimeout") or "5s, by default"
        yield warn(
            f"httpTimeout is {told}: a hung extender costs so much for every pod",
            f"the chart's value scheduling.httpTimeoutMs should be 250: {upgrade}",
        )
    url = str(ours.get("urlPrefix") or "")
    if not re.match(r"^https?://(127\.0\.0\.1|localhost|\[::1\])[:/]", url) and url.startswith("http://"):
        yield warn(f"the extender is called at {url}, in the open", "run it in the scheduler's pod, or use https")
    yield from _wrong_profiles(config, weight, upgrade)


def _wrong_profiles(config: Mapping[str, Any], weight: int, upgrade: str) -> Iterator[Finding]:
    for profile in config.get("profiles") or ():
        name = profile.get("schedulerName") or "default-scheduler"
        enabled = ((profile.get("plugins") or {}).get("score") or {}).get("enabled") or ()
        weights = {plugin.get("name"): int(plugin.get("weight") or 1) for plugin in enabled}
        low = [plugin for plugin in _PREFERENCES if weights.get(plugin, 1) <= weight * 100]
        if low and weight * 10 > _IN_TREE:
            yield warn(
                f"profile {name} weighs {', '.join(low)} no more than the extender's best: preferences that somebody "
                "wrote into a pod lose against it",
                upgrade,
            )


def duration_s(text: str) -> float | None:
    """Seconds of a Go duration such as 250ms or 1m30s; None for anything else."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    found_ = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not found_ or "".join(value + unit for value, unit in found_) != text:
        return None
    return sum(float(value) * units[unit] for value, unit in found_)


def lease(facts: Facts) -> Iterator[Finding]:
    """One of our schedulers leads, by a Lease that is ours alone."""
    if not facts.parts.schedulers:
        return
    if facts.parts.lease is None:
        raise UserError(
            facts.parts.config_refused or "the scheduler's configuration, which names its Lease, is not here"
        )
    namespace, name = facts.parts.lease
    if not name:
        if len(facts.parts.schedulers) > 1:
            yield fail("several schedulers run without electing a leader", "set leaderElection.leaderElect: true")
        return
    if (namespace, name) == ("kube-system", "kube-scheduler"):
        yield fail(
            "our scheduler elects its leader by the Lease of the default scheduler: one of the two never works",
            "give leaderElection.resourceName and resourceNamespace of its own, as the chart does",
        )
    holder = known(facts.holder)
    if holder is None or not holder.name:
        yield fail(f"nobody holds the Lease {namespace}/{name}: pods that name us wait", _look(namespace))
    elif not holder.held:
        age = f"{holder.age_s:.0f} s" if holder.age_s < 1e9 else "ever"
        yield fail(f"{holder.name} has not renewed the Lease {namespace}/{name} for {age}", _look(namespace))
    else:
        yield ok(f"{holder.name} leads")


def _look(namespace: str) -> str:
    return f"kubectl logs -n {namespace} -l {found.PART_OF},{found.COMPONENT}=scheduler -c scheduler"


def extender(facts: Facts) -> Iterator[Finding]:
    """Each is ready, sees the cluster as it is, and its policy decides."""
    unknown: UserError | None = None
    for told in facts.extenders:
        name = found.full_name(told.pod)
        logs = f"kubectl logs -n {name.replace('/', ' ')} -c extender"
        try:
            status, answer = known(told.ready)
            samples = known(told.metrics)
        except UserError as error:
            unknown = error
            continue
        if status != 200:
            yield fail(f"{name} is not ready: {answer.get('status')}; kube-scheduler decides alone", logs)
            continue
        wrong = [*_extender_wrong(name, samples, logs)]
        yield from wrong
        if not wrong:
            yield ok(f"{name} is ready; {answer.get('policy')} decides")
    if unknown is not None:
        raise unknown


def _extender_wrong(name: str, samples: dict[str, float], logs: str) -> Iterator[Finding]:
    ages = [samples.get(f"nodewise_extender_{what}_age_seconds", 0.0) for what in ("nodes", "pods")]
    if max(ages) > _STALE_S:
        yield warn(f"{name} has heard nothing of the API server for {max(ages):.0f} s", logs)
    if found.total(samples, "nodewise_extender_bundle_refused"):
        yield warn(f"{name} refuses the policy that should decide; another one does", logs)
    decisions = found.total(samples, "nodewise_extender_decisions_total")
    fallbacks = found.total(samples, "nodewise_extender_fallbacks_total")
    if decisions >= _MIN_DECISIONS and fallbacks / decisions > _MOST_FALLBACKS:
        yield warn(
            f"{name}: the rule had to decide {fallbacks / decisions:.0%} of {decisions:.0f} times",
            f"{logs}; the metric nodewise_extender_fallbacks_total tells the reasons",
        )
