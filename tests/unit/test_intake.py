"""The intake turns what was seen into rows, once each."""

import math
import random
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from nodewise.channel.messages import Segment
from nodewise.core.units import epoch_s
from nodewise_operator.intake import node_item, pod_item
from nodewise_operator.observed import UNSEEN
from nodewise_operator.store import Fate
from nodewise_operator.store.rows import NodeRow

from .intake_objects import Operated, a_node, a_pod, lived, operated, told

__all__ = ["operated"]


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
