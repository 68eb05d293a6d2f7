"""What became of a pod is read from what its kubelet wrote; the order in which it is heard does not matter."""

import copy
import math
import random
from typing import Any

import pytest

from nodewise.core.pods import NodeSpec
from nodewise.core.types import CostRates
from nodewise_operator import outcomes
from nodewise_operator.store.rows import Fate, PodRow

Json = dict[str, Any]

T0 = 1_767_225_600  # 2026-01-01T00:00:00Z
RATES = CostRates()
NODE = NodeSpec(
    "n1", "fast", "amd64", "", 8000.0, 32 * 2.0**30, 0.0, 110.0, {}, price_usd_per_h=0.36, idle_w=100.0, peak_w=300.0
)


def stamp(after_s: int) -> str:
    return f"2026-01-01T00:{after_s // 60:02d}:{after_s % 60:02d}Z"


def a_pod(uid: str = "u1", node: str = "n1", **annotations: str) -> Json:
    return {
        "metadata": {
            "uid": uid, "name": "p", "namespace": "a", "resourceVersion": "1", "creationTimestamp": stamp(0),
            "annotations": {f"nodewise.dev/{key.replace('_', '-')}": value for key, value in annotations.items()},
        },
        "spec": {
            "nodeName": node, "restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}],
        },
        "status": {"phase": "Pending"},
    }  # fmt: skip


def bound(made: Json, at_s: int = 2) -> Json:
    made["status"]["conditions"] = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(at_s)}]
    return made


def runs(made: Json, at_s: int = 4, ready_s: int = 5) -> Json:
    made = copy.deepcopy(made)
    made["status"]["phase"] = "Running"
    made["status"]["conditions"].append({"type": "Ready", "status": "True", "lastTransitionTime": stamp(ready_s)})
    made["status"]["containerStatuses"] = [
        {"name": "c", "restartCount": 0, "state": {"running": {"startedAt": stamp(at_s)}}}
    ]
    return made


def ends(made: Json, at_s: int = 14, exit_code: int = 0, reason: str = "Completed", started_s: int = 4) -> Json:
    made = copy.deepcopy(made)
    made["status"]["phase"] = "Failed" if exit_code else "Succeeded"
    for condition in made["status"]["conditions"]:
        if condition["type"] == "Ready":
            condition.update(status="False", lastTransitionTime=stamp(at_s))
    ended = {"exitCode": exit_code, "reason": reason, "startedAt": stamp(started_s), "finishedAt": stamp(at_s)}
    made["status"]["containerStatuses"] = [{"name": "c", "restartCount": 0, "state": {"terminated": ended}}]
    return made


def deletes(made: Json, at_s: int, grace_s: int = 30) -> Json:
    made = copy.deepcopy(made)
    made["metadata"] |= {"deletionTimestamp": stamp(at_s + grace_s), "deletionGracePeriodSeconds": grace_s}
    return made


def told(made: Json, before: PodRow | None = None, now_s: float = T0 + 100.0) -> PodRow:
    return outcomes.pod_row(made, before, now_s, NODE, 1.1, RATES)


def test_a_pod_that_succeeds_has_all_its_times_and_costs_what_the_cost_function_says() -> None:
    row = told(ends(runs(bound(a_pod(sla_class="batch", deadline_seconds="10")))))
    assert (row.fate, row.reason, row.exit_code) == (Fate.SUCCEEDED, "", 0)
    assert (row.created_s, row.bound_s, row.started_s, row.finished_s) == (T0, T0 + 2, T0 + 4, T0 + 14)
    assert outcomes.queue_delay_s(row) == 2.0
    assert outcomes.run_s(row) == 10.0
    assert row.late  # 14 s after creation, and 10 s were allowed
    assert row.joules == pytest.approx(2000 / 8000 * 200.0 * 10.0)
    energy = 500.0 / 3.6e6 * 12.0 * 1.2
    assert row.cents == pytest.approx(3.0 * 0.1 * 14 / 60 + 3.0 + energy + 0.25 * 36.0 * 10 / 3600)


def test_a_pod_that_may_not_be_late_and_is_not_over_has_no_cost_and_no_verdict() -> None:
    row = told(runs(bound(a_pod())))
    assert row.fate is Fate.RUNNING
    assert row.late is None
    assert math.isnan(row.cents)
    assert row.exit_code is None
    assert row.ready_s == T0 + 5


@pytest.mark.parametrize(
    ("exit_code", "reason", "said"),
    [(1, "Error", "Error"), (137, "OOMKilled", "OOMKilled"), (128, "StartError", "StartError")],
)
def test_a_pod_that_fails_by_itself_is_an_outcome_with_the_kubelets_reason(
    exit_code: int, reason: str, said: str
) -> None:
    row = told(ends(runs(bound(a_pod())), exit_code=exit_code, reason=reason))
    assert (row.fate, row.reason, row.exit_code) == (Fate.FAILED, said, exit_code)


@pytest.mark.parametrize("reason", ["OutOfcpu", "OutOfpods", "NodeAffinity", "UnexpectedAdmissionError"])
def test_a_pod_that_the_node_refuses_is_a_failure_of_its_placement(reason: str) -> None:
    made = bound(a_pod())
    made["status"] |= {"phase": "Failed", "reason": reason, "startTime": stamp(3)}
    row = told(made)
    assert (row.fate, row.reason) == (Fate.FAILED, reason)
    assert row.finished_s == T0 + 3
    assert math.isnan(row.started_s)


@pytest.mark.parametrize(
    ("reason", "disruption", "said"),
    [
        ("Evicted", "TerminationByKubelet", "evicted"),
        ("Preempting", "TerminationByKubelet", "preempted"),
        ("Terminated", "TerminationByKubelet", "node-lost"),
        ("", "PreemptionByScheduler", "preempted"),
        ("", "EvictionByEvictionAPI", "evicted"),
        ("", "DeletionByPodGC", "node-lost"),
    ],
)
def test_what_was_taken_away_is_censored(reason: str, disruption: str, said: str) -> None:
    made = ends(runs(bound(a_pod())), exit_code=137, reason="Error")
    made["status"]["reason"] = reason
    made["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": disruption})
    row = told(made)
    assert (row.fate, row.reason) == (Fate.CENSORED, said)
    assert math.isnan(row.cents)


def test_a_pod_that_ends_because_it_was_deleted_is_censored_and_one_that_ended_before_is_not() -> None:
    over = ends(runs(bound(a_pod())), at_s=14, exit_code=143, reason="Error")
    assert told(deletes(over, at_s=10)).fate is Fate.CENSORED
    assert told(deletes(over, at_s=14)).fate is Fate.CENSORED  # the same second: the signal tells
    assert told(deletes(over, at_s=15)).fate is Fate.FAILED
    done = ends(runs(bound(a_pod())), at_s=14)
    assert told(deletes(done, at_s=14)).fate is Fate.SUCCEEDED
    assert told(deletes(done, at_s=13)).fate is Fate.CENSORED


def test_a_removal_censors_what_was_going_on_and_changes_no_outcome() -> None:
    going = told(runs(bound(a_pod())))
    gone = outcomes.gone(going, T0 + 20.0, "deleted")
    assert (gone.fate, gone.reason, gone.finished_s) == (Fate.CENSORED, "deleted", T0 + 20.0)
    over = told(ends(runs(bound(a_pod()))))
    assert outcomes.gone(over, T0 + 20.0, "deleted") is over


def test_a_pod_that_was_thought_gone_and_is_seen_again_goes_on() -> None:
    thought = outcomes.gone(told(bound(a_pod())), T0 + 20.0, outcomes.DOWNTIME)
    assert told(runs(bound(a_pod())), thought).fate is Fate.RUNNING
    assert outcomes.gone(thought, T0 + 21.0, "deleted").reason == "deleted"


def test_a_service_is_late_if_it_started_late_and_an_outcome_only_if_it_ends_by_itself() -> None:
    made = runs(bound(a_pod(deadline_seconds="3")))
    made["spec"]["restartPolicy"] = "Always"
    going = told(made)
    assert going.kind == "service"
    assert going.late is True
    assert outcomes.gone(going, T0 + 50.0, "deleted").fate is Fate.CENSORED
    assert outcomes.gone(going, T0 + 50.0, "deleted").late is True


Event = tuple[str, Json, float]


def table(events: list[Event]) -> dict[str, PodRow]:
    rows: dict[str, PodRow] = {}
    for kind, made, now_s in events:
        uid = made["metadata"]["uid"]
        rows[uid] = told(made, rows.get(uid), now_s)
        if kind == "DELETED":
            rows[uid] = outcomes.gone(rows[uid], now_s, outcomes.facts(made).gone_reason)
    return rows


def history() -> list[Event]:
    """Ten pods; some share a name with another."""
    events: list[Event] = []
    for k in range(10):
        waiting = a_pod(f"u{k}", node="", deadline_seconds="12")
        placed = bound(a_pod(f"u{k}", deadline_seconds="12"), 2 + k)
        going = runs(placed, 4 + k, 5 + k)
        over = [
            ends(going, 14 + k, started_s=4 + k),
            ends(going, 14 + k, 1, "Error", started_s=4 + k),
            deletes(going, 13),
            deletes(ends(going, 14 + k, 143, "Error", started_s=4 + k), 13),
            going,
        ][k % 5]
        versions = [("ADDED", waiting), ("MODIFIED", placed), ("MODIFIED", going), ("MODIFIED", over)]
        if k % 5 != 4:
            versions.append(("DELETED", over))
        events += [(kind, made, T0 + 20.0 + k) for kind, made in versions]
    return events


def test_events_that_come_twice_or_in_another_order_make_the_same_table() -> None:
    clean = table(history())
    assert {row.fate for row in clean.values()} == {Fate.SUCCEEDED, Fate.FAILED, Fate.CENSORED, Fate.RUNNING}
    for seed in range(20):
        events = history() * 3
        random.Random(seed).shuffle(events)
        assert repr(dict(sorted(table(events).items()))) == repr(clean)
