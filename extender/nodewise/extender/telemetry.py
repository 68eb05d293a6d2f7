"""What Prometheus is told. Labels take values from small fixed sets only."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from nodewise.core.types import Policy
from nodewise.extender.records import Record

_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


_NAMED = 50
"""PlacementPolicies with a label of their own; those that come later share `other`."""


class PlacementMetrics:
    """Decisions by PlacementPolicy (the label is empty where none applied) and mode."""

    def __init__(self, counter: Callable[..., Counter]) -> None:
        of = ("placement_policy", "mode")
        self._decisions = counter("placement_decisions", "Decisions by PlacementPolicy", *of)
        self._bound = counter("placement_bound", "Pods bound, by how that compares with our winner", *of, "as")
        self._fallbacks = counter("placement_fallbacks", "Decisions that the rule took", *of, "reason")
        self._neutral = counter("placement_neutral", "Decisions without an opinion", *of, "reason")
        self._named: set[str] = set()

    def decided(self, record: Record) -> None:
        """Count a decision."""
        decision, of = record.decision, (self._name(record.placement_policy), record.mode.value)
        if decision.neutral:
            self._neutral.labels(*of, decision.neutral).inc()
        else:
            self._decisions.labels(*of).inc()
        if decision.fallback:
            self._fallbacks.labels(*of, decision.fallback.value).inc()

    def bound(self, record: Record, *, as_said: bool) -> None:
        """Count a binding of a pod that was decided on."""
        of = (self._name(record.placement_policy), record.mode.value)
        self._bound.labels(*of, "winner" if as_said else "other").inc()

    def _name(self, policy: str) -> str:
        if policy and policy not in self._named:
            if len(self._named) >= _NAMED:
                return "other"
            self._named.add(policy)
        return policy


class Telemetry:
    """All metrics of one extender, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"nodewise_extender_{name}", says, labels, registry=self.registry)

        self.requests = counter("requests", "Requests of kube-scheduler", "verb", "outcome")
        self.latency = Histogram(
            "nodewise_extender_request_seconds", "Time from the whole request to its reply", ("verb",),
            buckets=_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self.decisions = counter("decisions", "Decisions on pods of ours, by what scored", "policy")
        self.fallbacks = counter("fallbacks", "Decisions that the rule took because the policy failed", "reason")
        self.neutral = counter("neutral", "Decisions without an opinion", "reason")
        self.ignored_hints = counter("ignored_annotations", "Malformed annotations, at every request", "reason")
        self.unknown_nodes = counter("unknown_nodes", "Candidates that our cache does not know")
        self.claimed_nodes = counter(
            "claimed_nodes", "Candidates passed over: a preemption holds their room for another"
        )
        self.assumed = counter("assumed", "Nodes charged for a pod before its binding was seen")
        self.bundles = counter("bundles", "New bundles in the watched folder, by what became of them", "outcome")
        self._policy = Info("nodewise_extender_policy", "What decides now", registry=self.registry)
        self.bound = counter("bound", "Pods of ours that were bound, by how that compares with our winner", "as")
        self.placement = PlacementMetrics(counter)

    def decides(self, policy: Policy) -> None:
        """Tell which policy decides now."""
        self._policy.info({"name": policy.name, "digest": policy.digest})

    def gauge(self, name: str, says: str, value: Callable[[], float]) -> None:
        """A number that is read when somebody asks for metrics."""
        Gauge(f"nodewise_extender_{name}", says, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
