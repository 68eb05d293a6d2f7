"""What an author of pods is warned of by a real API server: what the extender would ignore."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from nodewise.core.annotations import SLA_CLASS, hints
from nodewise_simulator.controlplane import ControlPlane

from .admission import KINDS, Cluster, helm, need, pod, pods, workload

Json = dict[str, Any]
LABEL = "nodewise.dev/scheduling"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With the policy of the chart as it is installed without any values."""
    need()
    with ControlPlane() as plane:
        made = Cluster(plane)
        plane.create_namespace("warn")
        for thing in helm("scheduling.enabled=false", files=("annotations",)):
            made.apply(thing)
        wrong = pod("probe", {"annotations": {SLA_CLASS: "prod"}})
        made.wait(lambda: made.ask("POST", f"{pods('warn')}?dryRun=All", wrong)[2], "the policy is at work")
        yield made


HINTS = {SLA_CLASS: "batch", "nodewise.dev/deadline-seconds": "600", "nodewise.dev/expected-seconds": " 1.5e2 ",
         "nodewise.dev/workload": "etl"}  # fmt: skip


def warnings(cluster: Cluster, annotations: Json, labels: Json | None = None) -> list[str]:
    thing = pod("probe", {"annotations": annotations, "labels": labels or {}})
    status, answer, told = cluster.ask("POST", f"{pods('warn')}?dryRun=All", thing)
    assert status == 201, answer
    return [re.sub(r"^Validation failed for .* with binding '[^']*': ", "", text) for text in told]


@pytest.mark.parametrize(
    ("short", "value"),
    [
        ("sla-class", ""), ("sla-class", "prod"), ("sla-class", "best effort"), ("sla-class", "line\nfeed \u202e"),
        ("deadline-seconds", ""), ("deadline-seconds", "10m"), ("deadline-seconds", "0"), ("deadline-seconds", "-5"),
        ("deadline-seconds", "nan"), ("deadline-seconds", "inf"), ("deadline-seconds", "315360001"),
        ("deadline-seconds", "1e400"), ("deadline-seconds", "1,000"), ("expected-seconds", "soon"),
        ("expected-seconds", "0x10"), ("expected-seconds", "9" * 400), ("workload", "  "), ("workload", "w" * 254),
    ],
)  # fmt: skip
def test_a_hint_that_the_extender_ignores_is_warned_of_by_name(cluster: Cluster, short: str, value: str) -> None:
    annotations = {**HINTS, f"nodewise.dev/{short}": value}
    assert [reason.partition(":")[0] for reason in hints(annotations, 0, False).ignored] == [short]
    (told,) = warnings(cluster, annotations)
    assert told.startswith(f"annotation nodewise.dev/{short} is ignored: ")
    print(f"\n{told}")


@pytest.mark.parametrize(
    ("short", "value"),
    [
        ("sla-class", "production"), ("sla-class", " Best-Effort "), ("deadline-seconds", "1"),
        ("deadline-seconds", "+.5"), ("deadline-seconds", "315360000"), ("deadline-seconds", "1_000"),
        ("expected-seconds", "5."), ("expected-seconds", "1E-3"), ("workload", "w" * 253), ("workload", " ünïcode "),
    ],
)  # fmt: skip
def test_a_hint_that_the_extender_reads_is_not_warned_of(cluster: Cluster, short: str, value: str) -> None:
    annotations = {**HINTS, f"nodewise.dev/{short}": value, "example.com/sla-class": "gold"}
    assert not hints(annotations, 0, False).ignored
    assert warnings(cluster, annotations) == []


def test_a_key_that_nobody_reads_and_an_opt_in_on_a_pod_are_warned_of(cluster: Cluster) -> None:
    (told,) = warnings(cluster, {"nodewise.dev/sla-clas": "batch"})
    assert told.startswith("annotation nodewise.dev/sla-clas is not known: Nodewise reads nodewise.dev/sla-class, ")
    (told,) = warnings(cluster, {}, {LABEL: "enabled"})
    assert told.endswith('"enabled" belongs on the namespace')
    assert warnings(cluster, {LABEL: "disabled"}, {LABEL: "disabled"}) == []


@pytest.mark.parametrize("kind", KINDS)
def test_who_writes_a_workload_is_warned_of_what_its_pods_would_not_be_read_for(cluster: Cluster, kind: str) -> None:
    path, thing = workload(kind, "probe", {SLA_CLASS: "prod"}, own={"nodewise.dev/deadline-seconds": "60"})
    _, _, told = cluster.ask("POST", f"{path.format('warn')}?dryRun=All", thing)
    wrong, misplaced = (text.partition("': ")[2] for text in told)
    assert wrong.startswith('annotation nodewise.dev/sla-class is ignored: "prod" is not one of ')
    assert misplaced.startswith("annotation nodewise.dev/deadline-seconds is ignored here: it belongs to the pods")
    assert misplaced.endswith(("spec.template.metadata.annotations",))
    _, _, told = cluster.ask("POST", f"{path.format('warn')}?dryRun=All", workload(kind, "probe", HINTS, own=HINTS)[1])
    assert told == []
