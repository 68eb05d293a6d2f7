"""What Prometheus is told. Labels take values from small fixed sets only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nodewise_operator.intake import Intake

_PREFIX = "nodewise_operator_"


class Telemetry(Collector):
    """All metrics of one operator, read off its parts when somebody asks."""

    def __init__(self, intake: Intake) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{_PREFIX}api_requests", "Requests to the API server", ("verb", "resource"), registry=self.registry
        )
        self._intake = intake
        self._ages: dict[str, Callable[[], float]] = {}
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._labelled: list[tuple[str, str, str, Callable[[], Mapping[str, float]]]] = []
        self.registry.register(self)

    def age(self, resource: str, age_s: Callable[[], float]) -> None:
        """Tell how long ago the API server said something of a resource."""
        self._ages[resource] = age_s

    def gauge(self, name: str, says: str, value: Callable[[], float]) -> None:
        """A number that is read when somebody asks for metrics."""
        self._gauges.append((name, says, value))

    def gauges(self, name: str, says: str, label: str, values: Callable[[], Mapping[str, float]]) -> None:
        """Numbers that are read when somebody asks for metrics, by the value of a label; few, and always the same."""
        self._labelled.append((name, says, label, values))

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        intake, counts = self._intake, self._intake.counts
        ages = GaugeMetricFamily(f"{_PREFIX}last_event_age_seconds", "Time since the watch spoke", labels=["resource"])
        for resource, age_s in self._ages.items():
            ages.add_metric([resource], age_s())
        yield ages
        rows = CounterMetricFamily(f"{_PREFIX}rows_written", "Rows written to the store", labels=["table"])
        for table in ("pods", "nodes", "decisions", "observations"):
            rows.add_metric([table], getattr(counts, f"{table}_written"))
        yield rows
        decided = CounterMetricFamily(f"{_PREFIX}bindings", "Bindings seen, by whether they were scored", labels=["as"])
        decided.add_metric(["scored"], counts.scored)
        decided.add_metric(["unseen"], counts.unscored)
        yield decided
        for name, says, value in (
            ("events", "Events taken in", counts.events),
            ("events_stale", "Events older than what was known", counts.stale),
            ("events_retried", "Events that were tried again", counts.retried),
            ("events_parked", "Events left out after several tries", counts.parked),
            ("downtimes", "Times in which events may have been missed", counts.downtimes),
            ("pods_vanished", "Pods that went while nobody looked", counts.vanished),
            ("store_failures", "Times that the store could not be used", counts.store_failures),
            ("held_seconds", "Time in which events waited because the store was away", counts.held_s),
        ):
            yield CounterMetricFamily(_PREFIX + name, says, value)
        for name, says, value in (
            ("queue", "Events that wait", intake.waiting),
            ("unwritten", "Rows that are not in the store yet", intake.unwritten),
            ("pods", "Pods there are", intake.pods),
            ("nodes", "Nodes there are", intake.nodes),
            ("synced", "1 once both first lists are taken in", float(intake.synced.is_set())),
            ("store_unavailable", "1 while the store cannot be used", float(bool(intake.unavailable))),
            *((name, says, value()) for name, says, value in self._gauges),
        ):
            yield GaugeMetricFamily(_PREFIX + name, says, value)
        for name, says, label, values in self._labelled:
            told = GaugeMetricFamily(_PREFIX + name, says, labels=[label])
            for of, value in values().items():
                told.add_metric([of], value)
            yield told

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
