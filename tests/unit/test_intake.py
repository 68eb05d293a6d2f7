"""The intake turns what was seen into rows, once each, whatever fails on the way."""

import contextlib
import copy
import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodewise import policies
from nodewise.channel.messages import DecisionRow, Segment
from nodewise.core.state import ClusterState
from nodewise.core.units import epoch_s
from nodewise_operator import outcomes
from nodewise_operator.intake import TRIES, Intake, node_item, pod_item
from nodewise_operator.observed import UNSEEN, Observer
from nodewise_operator.predictor import Predictor
from nodewise_operator.store import Fate, Store
from nodewise_operator.store.errors import Fenced, StoreUnavailable, Unstorable
from nodewise_operator.store.rows import Batch, NodeRow, PodRow
from nodewise_simulator.controlplane import node, pod

Json = dict[str, Any]
GIB = 1 << 30
_version = iter(range(1, 1 << 30))


def versioned(made: Json, uid: str) -> Json:
    made = copy.deepcopy(made)
    made["metadata"] |= {
        "uid": uid,
        "resourceVersion": str(next(_version)),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return made


def a_node(name: str, **more: Any) -> Json:
    return versioned(
        node(name, cpu_milli=4000, memory_bytes=16 * GIB, instance_type=f"type-{name}", **more), f"node-{name}"
    )


def a_pod(uid: str, on: str = "", phase: str = "Pending", **more: Any) -> Json:
    made = versioned(pod(f"pod-{uid}", cpu_milli=1000, memory_bytes=GIB, scheduler_name="any", **more), uid)
    made["status"] = {"phase": phase, "conditions": []}
    if on:
        made["spec"]["nodeName"] = on
        when = "2026-01-01T00:00:02Z"
        made["status"]["conditions"].append({"type": "PodScheduled", "status": "True", "lastTransitionTime": when})
    ended = {"exitCode": 0, "startedAt": "2026-01-01T00:00:03Z", "finishedAt": "2026-01-01T00:00:13Z"}
    state = {"running": {"startedAt": ended["startedAt"]}} if phase == "Running" else {"terminated": ended}
    if phase in ("Running", "Succeeded"):
        made["status"]["containerStatuses"] = [{"name": "main", "restartCount": 0, "state": state}]
    return made


class Operated:
    """An intake on a store of its own, run in this thread until it has taken in all that it was given."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.store = Store.open(str(path))
        self.store.take_over("test")
        saves: list[Any] = []
        predictor = Predictor(save=lambda revision, state: saves[0](revision, state))
        predictor.restore(self.store)
        state = ClusterState(predictor.estimator)
        self.intake = Intake(self.store, predictor, Observer(policies.DEFAULT, policies.DEFAULT), state, **more)
        saves.append(self.intake.save_estimator)

    def begin(self, *pods: Json) -> "Operated":
        self.intake.replaced("nodes", [node_item(a_node(name)) for name in ("n1", "n2", "n3")])
        self.intake.replaced("pods", [pod_item(made) for made in pods])
        return self

    def event(self, kind: str, made: Json) -> None:
        self.intake.event("pods", kind, pod_item(made))

    def end(self) -> "Operated":
        self.intake.stop()
        self.intake.run()
        if self.intake.failed is not None:
            raise self.intake.failed
        return self

    def until(self, done: Callable[[], bool]) -> None:
        """Run it in a thread until then."""
        thread = threading.Thread(target=self.intake.run, daemon=True)
        thread.start()
        give_up_s = time.monotonic() + 20.0
        while not done() and thread.is_alive() and time.monotonic() < give_up_s:
            time.sleep(0.05)
        self.intake.stop()
        thread.join(10.0)
        if self.intake.failed is not None:
            raise self.intake.failed

    def idle(self) -> bool:
        return not self.intake.waiting and not self.intake.unwritten and self.intake.counts.events > 0

    def rows(self) -> dict[str, PodRow]:
        return {row.uid: row for row in self.store.pods()}

    def decisions(self) -> dict[str, list[DecisionRow]]:
        made: dict[str, list[DecisionRow]] = {}
        for decision in self.store.decisions():
            made.setdefault(decision.uid, []).append(decision)
        return made


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Callable[..., Operated]]:
    made: list[Operated] = []

    def make(**more: Any) -> Operated:
        if made:
            made[-1].store.close()
        made.append(Operated(tmp_path / "store.db", **more))
        return made[-1]

    yield make
    made[-1].store.close()


def lived(uid: str, on: str = "n1") -> list[tuple[str, Json]]:
    return [
        ("ADDED", a_pod(uid)),
        ("MODIFIED", a_pod(uid, on)),
        ("MODIFIED", a_pod(uid, on, "Running")),
        ("MODIFIED", a_pod(uid, on, "Succeeded")),
    ]


def test_a_binding_is_scored_against_the_state_just_before_it_and_written_with_its_row(
    operated: Callable[..., Operated],
) -> None:
    one = operated().begin()
    for kind, made in lived("u1", "n2"):
        one.event(kind, made)
    one.end()
    (decision,) = one.decisions()["u1"]
    assert (decision.bound, decision.neutral, decision.source, decision.mode) == ("n2", "", "observed", "advise")
    assert sorted(decision.candidates) == ["n1", "n2", "n3"]
    # Alike nodes cost alike only as long as the pod is on none of them; the arrival is counted after it is scored.
    assert len(set(decision.scores)) == 1
    row = one.rows()["u1"]
    assert (row.fate, row.node, row.slowdown) == (Fate.SUCCEEDED, "n2", 1.0)
    assert [seen.uid for _, seen in one.store.observations()] == ["u1"]


def test_a_node_without_room_or_with_a_taint_is_no_candidate_but_the_bound_one_is(
    operated: Callable[..., Operated],
) -> None:
    one = operated().begin(*(a_pod(f"full-{k}", "n1", "Running") for k in range(4)))
    tainted = a_node("n3")
    tainted["spec"]["taints"] = [{"key": "k", "effect": "NoSchedule"}]
    one.intake.event("nodes", "MODIFIED", node_item(tainted))
    one.event("ADDED", a_pod("u1"))
    one.event("MODIFIED", a_pod("u1", "n2"))
    one.event("ADDED", a_pod("u2", "n3"))
    one.end()
    assert one.decisions()["u1"][0].candidates == ["n2"]
    assert sorted(one.decisions()["u2"][0].candidates) == ["n2", "n3"]


def test_a_pod_found_bound_has_a_decision_that_says_nothing_and_daemons_and_waiting_pods_have_no_row(
    operated: Callable[..., Operated],
) -> None:
    daemon = a_pod("d1", "n1", "Running", owner={"kind": "DaemonSet", "name": "d", "uid": "o", "controller": True})
    one = operated().begin(a_pod("u1", "n1", "Running"), a_pod("u2"), daemon)
    one.event("ADDED", daemon)
    one.end()
    assert one.rows().keys() == one.decisions().keys() == {"u1"}
    assert one.decisions()["u1"][0].neutral == UNSEEN


def test_what_left_while_nobody_looked_is_censored_and_the_time_is_written_down(
    operated: Callable[..., Operated],
) -> None:
    one = operated(seen_every_s=0.0).begin()
    one.event("ADDED", a_pod("stays", "n1"))
    one.event("ADDED", a_pod("goes", "n1"))
    one.event("ADDED", a_pod("ends", "n2"))
    until_s = time.time()
    one.intake.seen(until_s)
    one.end()
    two = operated().begin(a_pod("stays", "n1"), a_pod("ends", "n2", "Succeeded"), a_pod("new", "n3")).end()
    rows = two.rows()
    assert {uid: (row.fate, row.reason) for uid, row in rows.items()} == {
        "stays": (Fate.RUNNING, ""),
        "goes": (Fate.CENSORED, "downtime"),
        "ends": (Fate.SUCCEEDED, ""),
        "new": (Fate.RUNNING, ""),
    }
    assert rows["goes"].manifest["metadata"]["name"] == "pod-goes"
    (downtime,) = two.store.downtimes()
    assert downtime.begin_s == until_s
    assert downtime.begin_s <= rows["goes"].finished_s <= downtime.end_s
    assert {uid: [d.neutral for d in of] for uid, of in two.decisions().items()} == {
        "stays": [""], "goes": [""], "ends": [""], "new": [UNSEEN],
    }  # fmt: skip


def test_a_list_after_a_gap_ends_who_is_missing_and_scores_nobody(operated: Callable[..., Operated]) -> None:
    one = operated().begin(a_pod("stays", "n1"), a_pod("goes", "n1"))
    one.intake.replaced("nodes", [node_item(a_node(name)) for name in ("n1", "n3")], 10.0)
    one.intake.replaced("pods", [pod_item(a_pod("stays", "n1")), pod_item(a_pod("new", "n3"))], 10.0)
    one.event("ADDED", a_pod("later", "n3"))
    one.end()
    assert {uid: (row.fate, row.reason) for uid, row in one.rows().items()} == {
        "stays": (Fate.RUNNING, ""),
        "goes": (Fate.CENSORED, "downtime"),
        "new": (Fate.RUNNING, ""),
        "later": (Fate.RUNNING, ""),
    }
    assert {uid: of[0].neutral for uid, of in one.decisions().items() if uid in ("new", "later")} == {
        "new": UNSEEN, "later": "",
    }  # fmt: skip
    assert [gap.begin_s for gap in one.store.downtimes()] == [10.0]
    assert {row.name for row in one.store.nodes() if row.last_seen_s < math.inf} == {"n2"}


def test_who_a_census_misses_is_censored_unless_the_watch_tells_how_it_ended(operated: Callable[..., Operated]) -> None:
    one = operated().begin(a_pod("one", "n1"), a_pod("two", "n1"))
    one.intake.gap(10.0, "the watch of pods was cut")
    one.intake.vanished("pods", ["one", "two"])
    one.event("DELETED", a_pod("two", "n1", "Succeeded"))
    one.end()
    assert {uid: (row.fate, row.reason) for uid, row in one.rows().items()} == {
        "one": (Fate.CENSORED, "downtime"),
        "two": (Fate.SUCCEEDED, ""),
    }
    assert [*one.intake.state.pods()] == []


def test_a_restart_repeats_nothing(operated: Callable[..., Operated]) -> None:
    one = operated().begin()
    for k in range(5):
        for kind, made in lived(f"u{k}"):
            one.event(kind, made)
    one.end()
    before = (repr(one.rows()), one.decisions(), list(one.store.observations()))
    two = operated().begin(*(a_pod(f"u{k}", "n1", "Succeeded") for k in range(5))).end()
    assert (repr(two.rows()), two.decisions(), list(two.store.observations())) == before


def test_events_shuffled_and_repeated_give_the_same_rows_and_one_decision_a_pod(
    operated: Callable[..., Operated],
) -> None:
    one = operated().begin()
    events = [
        event for k in range(20) for event in [*lived(f"u{k}"), ("DELETED", a_pod(f"u{k}", "n1", "Succeeded"))]
    ] * 3
    random.Random(3).shuffle(events)
    for kind, made in events:
        one.event(kind, made)
    one.end()
    assert {row.fate for row in one.rows().values()} == {Fate.SUCCEEDED}
    assert {uid: len(of) for uid, of in one.decisions().items()} == {f"u{k}": 1 for k in range(20)}
    assert [*one.intake.state.pods()] == []  # an old event brings nobody back


def test_a_pod_that_only_an_extender_told_of_waits_for_the_watch_and_is_censored_if_it_never_comes(
    operated: Callable[..., Operated],
) -> None:
    one = operated(unknown_after_s=0.0).begin(a_pod("waits"))
    rows = [told(uid) for uid in ("waits", "comes", "never")]
    one.intake.call(lambda: one.intake.take_segment(Segment(extender="e", sequence=1, rows=rows)))
    one.event("ADDED", a_pod("comes"))
    one.until(lambda: one.store.knows("never") is Fate.CENSORED)
    assert {uid: (row.fate, row.reason) for uid, row in one.rows().items()} == {
        "waits": (Fate.WAITING, ""),
        "comes": (Fate.WAITING, ""),
        "never": (Fate.CENSORED, "downtime"),
    }
    assert one.rows()["comes"].kind == "bare"


def test_an_event_that_fails_now_and_then_is_not_lost_and_one_that_always_fails_is_parked(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated().begin()
    chance, take, tries = random.Random(5), one.intake._pod, []

    def moody(kind: str, item: Any, now_s: float) -> None:
        if item.facts.request.uid == "poison":
            tries.append(kind)
            raise ValueError("no")
        if chance.random() < 0.05:
            raise ValueError("not now")
        take(kind, item, now_s)
        if chance.random() < 0.05:
            raise ValueError("nearly")

    monkeypatch.setattr(one.intake, "_pod", moody)
    for k in range(100):
        for kind, made in lived(f"u{k}"):
            one.event(kind, made)
    one.event("ADDED", a_pod("poison", "n1"))
    one.until(one.idle)
    assert {row.fate for row in one.rows().values()} == {Fate.SUCCEEDED}
    assert len(one.rows()) == 100
    assert {len(of) for of in one.decisions().values()} == {1}
    assert (one.intake.counts.parked, len(tries)) == (1, TRIES)
    assert "poison" in one.intake.parked[0][0]


def test_while_the_store_is_away_nothing_is_lost(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated(batch_s=0.0)
    write, look, calls = one.store.write, one.store.pod, []

    def away(batch: Batch) -> None:
        calls.append(1)
        if len(calls) <= 3:
            raise StoreUnavailable("the disk is full")
        write(batch)

    def looks(uid: str) -> PodRow | None:
        if len(calls) < 3:
            calls.append(1)
            raise StoreUnavailable("the disk is full")
        return look(uid)

    monkeypatch.setattr(one.store, "write", away)
    monkeypatch.setattr(one.store, "pod", looks)
    one.begin()
    for kind, made in lived("u1"):
        one.event(kind, made)
    one.until(one.idle)
    assert one.rows()["u1"].fate is Fate.SUCCEEDED
    assert len(one.decisions()["u1"]) == 1
    assert one.intake.counts.store_failures >= 3
    assert one.intake.unavailable == ""


def test_a_row_that_the_store_refuses_is_left_out_and_named_and_the_others_are_written(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated().begin()
    write, away = one.store.write, iter([True])

    def refuses(batch: Batch) -> None:
        if any(row.uid == "bad" for row in batch.pods):
            raise Unstorable("no database takes this")
        if len(batch.pods) == 1 and next(away, False):
            raise StoreUnavailable("the disk is full")  # in the midst of the rest
        write(batch)

    monkeypatch.setattr(one.store, "write", refuses)
    for uid in ("u1", "bad", "u2"):
        one.event("ADDED", a_pod(uid, "n1"))
    one.until(lambda: one.idle() and len(one.rows()) == 2)
    assert one.rows().keys() == one.decisions().keys() == {"u1", "u2"}
    assert one.intake.counts.parked == 1
    assert "bad" in one.intake.parked[0][0]
    assert len(list(one.store.nodes())) == 3


def test_who_lost_the_store_to_another_ends(operated: Callable[..., Operated], tmp_path: Path) -> None:
    one = operated().begin()
    one.event("ADDED", a_pod("u1", "n1"))
    with contextlib.closing(Store.open(str(tmp_path / "store.db"))) as other:
        other.take_over("another")
        with pytest.raises(Fenced):
            one.end()
    assert one.rows() == {}


def told(uid: str, policy: str = "p") -> DecisionRow:
    return DecisionRow(
        uid=uid, namespace="default", pod=f"pod-{uid}", time_s=1.0, source="extender", mode="shadow", policy=policy,
        digest="d",
    )  # fmt: skip


def fails_once(
    monkeypatch: pytest.MonkeyPatch, of: Any, name: str, error: Exception, when: Callable[..., bool]
) -> None:
    whole, once = getattr(of, name), iter([True])

    def moody(*given: Any) -> Any:
        if when(*given) and next(once, False):
            raise error
        return whole(*given)

    monkeypatch.setattr(of, name, moody)


def test_a_store_that_is_away_when_a_pod_is_given_up_ends_nothing(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated().begin()
    one.intake.call(lambda: one.intake.take_segment(Segment(extender="e", sequence=1, rows=[told("never")])))
    one.end()
    two = operated(unknown_after_s=0.0).begin()  # only the store has the manifest now
    fails_once(monkeypatch, two.store, "pod", StoreUnavailable("locked"), lambda uid: uid == "never")
    two.until(lambda: two.intake.counts.store_failures > 0 and two.store.knows("never") is Fate.CENSORED)
    assert two.intake.counts.store_failures == 1
    assert two.store.conservation().ok


def test_a_list_that_fails_once_is_not_overtaken_by_newer_events(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated()
    fails_once(monkeypatch, one.intake.cache, "replace_pods", ValueError("not now"), lambda pods: True)
    one.begin(a_pod("old", "n1"))
    one.event("ADDED", a_pod("new", "n2"))
    one.end()
    assert {uid: row.fate for uid, row in one.rows().items()} == {"old": Fate.RUNNING, "new": Fate.RUNNING}
    assert one.intake.state.node_of("new") == "n2"


def test_of_a_list_only_the_pod_that_cannot_be_taken_in_is_parked(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = outcomes.row

    def odd(seen: outcomes.Facts, *given: Any) -> PodRow:
        if seen.request.uid == "poison":
            raise ValueError("no")
        return row(seen, *given)

    monkeypatch.setattr(outcomes, "row", odd)
    one = operated().begin(a_pod("u1", "n1"), a_pod("poison", "n1"), a_pod("u2", "n1")).end()
    assert one.intake.synced.is_set()
    assert one.rows().keys() == one.decisions().keys() == {"u1", "u2"}
    assert [named for named, _ in one.intake.parked] == ["pod default/pod-poison (poison)"]


def test_a_binding_is_scored_though_the_store_is_away_when_it_is_seen(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated().begin()
    one.intake.call(lambda: one.intake.take_segment(Segment(extender="e", sequence=1, rows=[told("decided")])))
    fails_once(monkeypatch, one.store, "pod", StoreUnavailable("locked"), lambda uid: uid == "found")
    one.event("ADDED", a_pod("found", "n1"))
    one.end()
    two = operated(unknown_after_s=60.0).begin(a_pod("found", "n1"), a_pod("decided"))
    # its row is known, but not the manifest
    fails_once(monkeypatch, two.store, "pod", StoreUnavailable("locked"), lambda uid: uid == "decided")
    two.event("MODIFIED", a_pod("decided", "n2"))
    two.end()
    seen = {uid: [d.neutral for d in of if d.source == "observed"] for uid, of in two.decisions().items()}
    assert seen == {"found": [""], "decided": [""]}


def test_nodes_that_went_meanwhile_are_looked_up_together(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    operated(seen_every_s=0.0).begin().end()
    two = operated()
    nodes, calls = two.store.nodes, list[int]()

    def counted() -> Iterator[NodeRow]:
        calls.append(1)
        return nodes()

    monkeypatch.setattr(two.store, "nodes", counted)
    two.intake.replaced("nodes", [node_item(a_node("n1"))])
    two.end()
    assert len(calls) == 2  # once to remember who was there
    assert {row.name for row in two.store.nodes() if row.last_seen_s < math.inf} == {"n2", "n3"}


def test_a_segment_is_written_with_its_pods_and_what_the_store_refuses_of_it_is_left_out(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated(unknown_after_s=0.0).begin(a_pod("waits"))
    write, batches = one.store.write, []

    def refuses(batch: Batch) -> None:
        batches.append(batch)
        if any(decision.policy == "bad" for decision in batch.decisions):
            raise Unstorable("no database takes this")
        write(batch)

    monkeypatch.setattr(one.store, "write", refuses)
    rows = [told("waits"), told("gone"), told("odd", "bad")]
    done = one.intake.call(lambda: one.intake.take_segment(Segment(extender="e", sequence=1, rows=rows)))
    one.until(lambda: one.store.knows("gone") is Fate.CENSORED)
    assert done.exception() is None
    assert one.store.acknowledged("e") == 1
    whole = next(batch for batch in batches if batch.segment)
    assert {row.uid for row in whole.pods} >= {d.uid for d in whole.decisions} == {"waits", "gone", "odd"}
    assert one.rows().keys() == one.decisions().keys() == {"waits", "gone"}
    assert one.store.conservation().ok


def test_a_segment_that_comes_while_the_store_is_away_is_written_once_it_is_back(
    operated: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = operated().begin()
    fails_once(monkeypatch, one.store, "write", StoreUnavailable("locked"), lambda batch: batch.segment is not None)
    done = one.intake.call(lambda: one.intake.take_segment(Segment(extender="e", sequence=1, rows=[told("u1")])))
    one.until(lambda: one.store.acknowledged("e") == 1)
    assert isinstance(done.exception(), StoreUnavailable)
    assert len(one.decisions()["u1"]) == 1


def test_a_call_that_is_cancelled_before_its_turn_holds_nothing(operated: Callable[..., Operated]) -> None:
    class Large:
        def __call__(self) -> None:
            raise AssertionError("it was cancelled")

    one, large = operated().begin(), Large()
    gone, future = weakref.ref(large), one.intake.call(large)
    assert one.intake.calls == 1
    del large
    assert future.cancel()
    assert (gone(), one.intake.calls) == (None, 0)
    one.end()


def test_a_pod_that_was_pruned_and_is_still_there_is_recorded_and_learned_from_once(
    operated: Callable[..., Operated],
) -> None:
    ended_s = epoch_s("2026-01-01T00:00:13Z")
    first = operated(retain_s=90 * 86400.0, clock=lambda: ended_s + 60.0)
    first.begin(a_pod("old", "n1", "Succeeded")).end()
    assert (set(first.rows()), first.intake.predictor.revision) == ({"old"}, 1)
    first.store.prune(0.0, now_s=ended_s + 100.0)
    assert not first.rows()
    again = operated(retain_s=90 * 86400.0, clock=lambda: ended_s + 91 * 86400.0)
    again.begin(a_pod("old", "n1", "Succeeded"), a_pod("runs", "n1", "Running"))
    again.event("MODIFIED", a_pod("old", "n1", "Succeeded"))
    again.event("DELETED", a_pod("old", "n1", "Succeeded"))
    again.end()
    assert (set(again.rows()), again.intake.predictor.revision) == ({"runs"}, 1)
    assert again.store.conservation().ok
