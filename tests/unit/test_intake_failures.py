"""The intake loses and repeats no row, whatever fails on the way."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodewise.channel.messages import Segment
from nodewise_operator import outcomes
from nodewise_operator.intake import TRIES
from nodewise_operator.store import Fate, Store
from nodewise_operator.store.errors import Fenced, StoreUnavailable, Unstorable
from nodewise_operator.store.rows import Batch, PodRow

from .intake_objects import Operated, a_pod, lived, operated, told

__all__ = ["operated"]


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
