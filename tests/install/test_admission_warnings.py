"""What an author of pods is warned of by a real API server: what the extender would ignore."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from nodewise.core.annotations import SLA_CLASS, hints
from nodewise_simulator.controlplane import ControlPlane

from .admission import KINDS, MERGE, Cluster, helm, need, pod, pods, workload

Json = dict[str, Any]
LABEL = "nodewise.dev/scheduling"
DRY_NAMESPACE = "/api/v1/namespaces?dryRun=All"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """With the policies of the chart that warn."""
    need()
    with ControlPlane() as plane:
        made = Cluster(plane)
        plane.create_namespace("warn")
        for thing in helm(files=("annotations", "namespaces")):
            made.apply(thing)
        wrong = pod("probe", {"annotations": {SLA_CLASS: "prod"}})
        made.wait(lambda: made.ask("POST", f"{pods('warn')}?dryRun=All", wrong)[2], "the policy on pods is at work")
        joined = {"metadata": {"name": "probe", "labels": {LABEL: "yes"}}}
        made.wait(lambda: made.ask("POST", DRY_NAMESPACE, joined)[2], "the policy on namespaces is at work")
        yield made


HINTS = {SLA_CLASS: "batch", "nodewise.dev/deadline-seconds": "600", "nodewise.dev/expected-seconds": " 1.5e2 ",
         "nodewise.dev/workload": "etl"}  # fmt: skip


def warnings(cluster: Cluster, annotations: Json, labels: Json | None = None) -> list[str]:
    thing = pod("probe", {"annotations": annotations, "labels": labels or {}})
    return warned_of(cluster, f"{pods('warn')}?dryRun=All", thing)


def warned_of(cluster: Cluster, path: str, thing: Json) -> list[str]:
    status, answer, told = cluster.ask("POST", path, thing)
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


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_on_a_workload_alone_is_warned_of_with_the_place_where_it_belongs(
    cluster: Cluster, kind: str
) -> None:
    """Whether the template says something of its own, or has no metadata but labels."""
    path, thing = workload(kind, "probe", own=HINTS)
    template = (thing["spec"]["jobTemplate"] if kind == "CronJob" else thing)["spec"]["template"]
    where = ("spec.jobTemplate." if kind == "CronJob" else "") + "spec.template.metadata"
    del template["metadata"]["annotations"]
    if kind in ("Job", "CronJob"):
        del template["metadata"]
    (told,) = warned_of(cluster, f"{path.format('warn')}?dryRun=All", thing)
    assert told == f"annotation {', '.join(HINTS)} is ignored here: it belongs to the pods, in {where}.annotations"
    for field in ("labels", "annotations"):
        thing["metadata"] = {"name": "probe", field: {LABEL: "disabled"}}
        (told,) = warned_of(cluster, f"{path.format('warn')}?dryRun=All", thing)
        assert told == (
            f'nodewise.dev/scheduling is ignored here: "disabled" belongs to the pods, in {where}.labels, and '
            '"enabled" on the namespace'
        )
    template.setdefault("metadata", {}).setdefault("labels", {})[LABEL] = "disabled"
    assert warned_of(cluster, f"{path.format('warn')}?dryRun=All", thing) == []
    thing["metadata"] = {"name": "probe", "annotations": {"nodewise.dev/sla-clas": "batch"}}
    (told,) = warned_of(cluster, f"{path.format('warn')}?dryRun=All", thing)
    assert told.startswith("annotation nodewise.dev/sla-clas is not known: ")


def test_the_jobs_of_a_cron_job_are_not_its_pods(cluster: Cluster) -> None:
    path, thing = workload("CronJob", "probe")
    thing["spec"]["jobTemplate"]["metadata"] = {"annotations": {SLA_CLASS: "batch"}, "labels": {LABEL: "disabled"}}
    misplaced, opt_out = warned_of(cluster, f"{path.format('warn')}?dryRun=All", thing)
    assert misplaced.endswith("in spec.jobTemplate.spec.template.metadata.annotations")
    assert "in spec.jobTemplate.spec.template.metadata.labels" in opt_out


def test_a_hint_that_is_a_label_is_warned_of(cluster: Cluster) -> None:
    assert warnings(cluster, {}, {SLA_CLASS: "batch"}) == [f"label {SLA_CLASS} is ignored: make it an annotation"]


@pytest.mark.parametrize(
    ("name", "meta", "says"),
    [
        ("team", {"labels": {LABEL: "true"}}, '"true" does not bring a namespace under Nodewise, only enabled does'),
        ("team", {"annotations": {LABEL: "enabled"}}, "on a namespace it has to be a label"),
        ("nodewise-system", {"labels": {LABEL: "enabled"}}, "stay with the default scheduler"),
        ("team", {"labels": {LABEL: "enabled"}}, ""),
        ("team", {"labels": {LABEL: "disabled"}}, ""),
        ("nodewise-system", {"labels": {"team": "platform"}}, ""),
    ],
)
def test_a_namespace_that_does_not_join_though_somebody_thinks_so_is_warned_of(
    cluster: Cluster, name: str, meta: Json, says: str
) -> None:
    told = warned_of(cluster, DRY_NAMESPACE, {"metadata": {"name": name, **meta}})
    assert len(told) == bool(says)
    assert not told or told[0].endswith(says) or says in told[0]


def test_a_label_that_is_changed_later_is_looked_at_too(cluster: Cluster) -> None:
    path = "/api/v1/namespaces/warn?dryRun=All"
    for value, most in (("true", 1), ("enabled", 0)):
        patch = {"metadata": {"labels": {LABEL: value}}}
        status, answer, told = cluster.ask("PATCH", path, patch, content_type=MERGE)
        assert status == 200, answer
        assert len(told) == most
