"""The store of the operator, in SQLite and in a real PostgreSQL: the same statements, the same rows."""

import math
import random
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from tests.postgres import create_database, postgres_server, server, skip_or_fail, store_url

from nodewise.channel.messages import DecisionRow
from nodewise.core.errors import UserError
from nodewise.core.estimator import Observation
from nodewise_operator.store import Batch, Downtime, Fate, Fenced, NodeRow, PodRow, Store, StoreUnavailable, Unstorable
from nodewise_operator.store.ranges import arrived, missing
from nodewise_operator.store.schema import DECISIONS, DOWNTIMES, NODES, OBSERVATIONS, PODS, TABLES

from .stored import batch, batches, changed, contents, decision_row, expected, pod_row

__all__ = ["postgres_server", "store_url"]


def sql(url: str, *statements: str) -> None:
    """Behind the store's back."""
    changed(url, lambda connection: [connection.execute(text(statement)) for statement in statements])


def kept(*uids: str, fate: Fate = Fate.SUCCEEDED) -> Batch:
    """Pods with a decision each."""
    return Batch(tuple(pod_row(uid, fate) for uid in uids), decisions=tuple(map(decision_row, uids)))


def test_what_is_written_is_read_again_after_a_restart(store_url: str) -> None:
    store = Store.open(store_url)
    for one in batches(12):
        store.write(one)
    assert contents(store) == expected([*batches(12)])
    store.close()
    again = Store.open(store_url)
    assert contents(again) == expected([*batches(12)])
    assert again.last_seen_s() == 1200.0
    assert again.conservation().ok
    assert again.verify() == {}
    again.close()


def test_batches_that_come_again_change_nothing(store_url: str) -> None:
    rng = random.Random(5)
    store = Store.open(store_url)
    for number in range(1, 9):
        for repeated in (number, *rng.sample(range(1, number + 1), k=min(number, 2))):
            store.write(batch(repeated))
    assert contents(store) == expected([*batches(8)])
    store.close()


def test_a_pod_is_read_by_uid_by_fate_and_by_arrival(store_url: str) -> None:
    store = Store.open(store_url)
    waits = pod_row("a", Fate.WAITING, created_s=5.0)
    store.write(Batch(pods=(waits, pod_row("b", created_s=1.0), pod_row("c", created_s=math.nan, bound_s=3.0))))
    assert [row.uid for row in store.pods()] == ["b", "c", "a"]
    assert [row.uid for row in store.pods(since_s=1.5, until_s=5.0)] == ["c"]
    assert [row.uid for row in store.open_pods()] == ["a"]
    assert (store.knows("a"), store.knows("b"), store.knows("z")) == (Fate.WAITING, Fate.SUCCEEDED, None)
    store.write(Batch(pods=(replace(waits, fate=Fate.CENSORED, reason="deleted"),)))
    assert (store.open_pods(), store.knows("a")) == ([], Fate.CENSORED)
    found = store.pod("a")
    assert found is not None
    assert (found.reason, found.deadline_s, found.late, found.sla) == ("deleted", math.inf, None, 1)
    assert math.isnan(found.cents)
    store.close()


def test_decisions_are_read_by_time_source_and_pod(store_url: str) -> None:
    store = Store.open(store_url)
    rows = [("a", 3.0, "observed"), ("a", 2.0, "extender"), ("b", 2.0, "extender"), ("c", 9.0, "observed")]
    store.write(Batch(decisions=tuple(decision_row(*row) for row in rows)))

    def read(**which: object) -> list[tuple[str, float]]:
        return [(row.uid, row.time_s) for row in store.decisions(**which)]  # type: ignore[arg-type]

    assert read() == [("a", 2.0), ("b", 2.0), ("a", 3.0), ("c", 9.0)]
    assert read(since_s=2.5, until_s=9.0) == [("a", 3.0)]
    assert read(source="extender", uid="a") == [("a", 2.0)]
    store.close()


def test_observations_are_numbered_in_the_order_of_learning(store_url: str) -> None:
    store = Store.open(store_url)

    def learn(*uids: str) -> None:
        store.write(Batch(observations=tuple(Observation(uid, "w", False, "c", len(uid) / 3, 1.0) for uid in uids)))

    learn("b", "a")
    learn("a", "c", "c", "b")
    learn("d")
    assert [(revision, seen.uid) for revision, seen in store.observations()] == [(1, "b"), (2, "a"), (3, "c"), (4, "d")]
    assert [revision for revision, _ in store.observations(after=2)] == [3, 4]
    assert store.estimator() is None
    for revision in (1, 3, 4):
        store.save_estimator(revision, {"count": [[revision / 3]]})
    assert store.estimator() == (4, {"count": [[4 / 3]]})
    epoch = store.epoch
    store.close()
    again = Store.open(store_url)
    assert (again.epoch, again.estimator()) == (epoch, (4, {"count": [[4 / 3]]}))
    again.close()


def test_long_tables_are_read_whole(store_url: str) -> None:
    store = Store.open(store_url)
    rows = tuple(Observation(f"{k}", "w", False, "c", 1.0, 1.0) for k in range(1501))
    store.write(Batch(observations=rows))
    assert [seen for _, seen in store.observations()] == [*rows]
    store.close()


def test_segments_are_acknowledged_up_to_the_first_that_is_missing(store_url: str) -> None:
    store = Store.open(store_url)
    said = []
    for sequence in (1, 3, 3, 5, 2, 1, 4):
        store.write(Batch(segment=("e", sequence, 0)))
        said.append((store.acknowledged("e"), store.conservation().gaps))
    assert said == [(1, 0), (1, 1), (1, 1), (1, 2), (3, 1), (3, 1), (5, 0)]
    store.write(Batch(segment=("e", 6, 9)))
    assert store.segments()[0]["repeated"] == 2
    assert store.conservation().dropped == 9
    assert store.acknowledged("another") == 0
    store.close()


@given(st.lists(st.integers(1, 30), max_size=60))
def test_ranges_say_what_a_set_says(numbers: list[int]) -> None:
    contiguous, beyond, seen = 0, list[list[int]](), set[int]()
    for number in numbers:
        contiguous, beyond, new = arrived(number, contiguous, beyond)
        assert new is (number not in seen)
        seen.add(number)
        assert contiguous == next(k for k in range(32) if k + 1 not in seen)
        assert missing(contiguous, beyond) == max(max(seen), contiguous) - len(seen)


def test_who_was_taken_over_writes_no_more(store_url: str) -> None:
    first = Store.open(store_url)
    first.take_over("pod-a")
    first.write(kept("a"))
    second = Store.open(store_url)
    generation = second.take_over("pod-b")
    for write in (lambda: first.write(kept("b")), lambda: first.save_estimator(1, {}), lambda: first.prune(0.0)):
        with pytest.raises(Fenced, match=rf"taken over by pod-b \(generation {generation}, ours is {generation - 1}\)"):
            write()
    second.write(kept("c"))
    assert [row.uid for row in first.pods()] == ["a", "c"]
    first.close()
    second.close()


def test_who_still_seems_to_write_is_known_by_name_until_it_says_goodbye(store_url: str) -> None:
    first = Store.open(store_url)
    first.take_over("pod-a")
    first.write(Batch(seen_s=1000.0))
    second = Store.open(store_url)
    assert second.rival("pod-b", now_s=1009.0) == "pod-a"
    file = store_url.startswith("sqlite")
    assert second.rival("pod-b", now_s=1011.0) == ("pod-a" if file else "")  # a lock is held, whatever the time
    assert second.rival("pod-a", now_s=1009.0) == ("another process" if file else "")  # the same name, started again
    first.release()
    first.close()
    assert second.rival("pod-b", now_s=1009.0) == ""
    assert second.meta()["holder"] == ""
    second.take_over("pod-b")
    with pytest.raises(Fenced):
        first.release()
    second.close()


@pytest.mark.parametrize(
    ("table", "change", "left"),
    [
        ("pods", "cents = cents + 1", {"pods": 1, "lost_pods": 1}),
        ("pods", "fate = 'failed'", {"pods": 1, "lost_pods": 1}),
        ("decisions", "scores = '[1.0]'", {"decided": 1, "lost_decisions": 1}),
        ("decisions", "features = NULL", None),
        ("observations", "run = run * 2", {"pods": 2}),
    ],
)  # fmt: skip
def test_a_row_that_is_not_what_was_written_is_left_out_and_put_aside(
    store_url: str, table: str, change: str, left: dict[str, int] | None
) -> None:
    if left is None:
        left = {"decided": 1, "lost_decisions": 1}
        change = "features = decode('00', 'hex')" if store_url.startswith("postgresql") else "features = x'00'"
    store = Store.open(store_url)
    store.write(kept("a", "b"))
    store.write(Batch(observations=tuple(Observation(uid, "w", False, "c", 1.0, 1.0) for uid in "ab")))
    sql(store_url, f"UPDATE {table} SET {change} WHERE uid = 'a'")
    assert store.verify() == {table: 1}
    assert all("'a'" not in row for row in contents(store)[table])
    assert len(contents(store)[table]) == 1
    assert (store.damaged, store.knows("a") is None) == (1, table == "pods")
    store.write(Batch(seen_s=1.0))  # moves it out
    found = store.conservation()
    assert found.ok
    assert {name: getattr(found, name) for name in left} == left
    assert [(row["origin"], row["key"]) for row in store.columns(TABLES["quarantine"])] == [(table, "a")]
    store.close()
    again = Store.open(store_url)
    assert again.verify() == {}
    again.close()


def test_a_damaged_row_that_is_written_again_stays(store_url: str) -> None:
    store = Store.open(store_url)
    store.write(kept("a"))
    sql(store_url, "UPDATE pods SET cents = 7")
    assert store.pod("a") is None
    store.write(kept("a"))
    assert store.pod("a") is not None
    assert store.conservation().ok
    store.close()


def test_an_older_estimator_state_stands_in_for_a_damaged_one(store_url: str) -> None:
    store = Store.open(store_url)
    store.save_estimator(1, {"a": 1})
    store.save_estimator(2, {"a": 2})
    sql(store_url, "UPDATE estimator SET state = '{}' WHERE revision = 2")
    assert store.estimator() == (1, {"a": 1})
    store.close()


def test_conservation_holds_and_can_fail_in_every_way(store_url: str) -> None:
    store = Store.open(store_url)
    store.write(Batch(segment=("e", 1, 0)))
    for fate in Fate:
        store.write(kept(f"{fate}-1", f"{fate}-2", fate=fate))
    store.write(Batch(decisions=(decision_row("failed-1", 400.0, "extender"),)))
    found = store.conservation()
    assert (found.ok, str(found)) == (True, "10 decided = 4 outcomes + 4 running + 2 censored")
    assert found.decisions == 11

    store.write(Batch(decisions=(decision_row("x"),)))
    said = "the store does not add up: 1 decided without a fate (x)"
    assert (store.conservation().ok, str(store.conservation())) == (False, said)
    store.write(Batch(pods=(pod_row("x"), pod_row("y"))))
    assert str(store.conservation()) == "the store does not add up: 1 with a fate but no decision (y)"
    store.write(Batch(decisions=(decision_row("y"),), segment=("e", 4, 0)))
    assert str(store.conservation()) == "the store does not add up: 2 segments have not come (of e)"
    for sequence in (2, 3):
        store.write(Batch(segment=("e", sequence, 0)))
    assert store.conservation().ok
    sql(
        store_url, "ALTER TABLE decisions RENAME TO keyed", "CREATE TABLE decisions AS SELECT * FROM keyed",
        "INSERT INTO decisions SELECT * FROM keyed WHERE uid = 'y'",
    )  # fmt: skip
    assert str(store.conservation()) == "the store does not add up: 1 there twice (y)"
    store.close()


def test_conservation_names_some_and_counts_all(store_url: str) -> None:
    store = Store.open(store_url)
    store.write(Batch(pods=tuple(pod_row(f"{k:03d}") for k in range(100))))
    found = store.conservation()
    assert (found.without_decision, len(found.without_decision_uids)) == (100, 20)
    assert str(found).endswith(" …)")
    store.close()


def test_of_a_batch_that_is_refused_nothing_is_written(store_url: str) -> None:
    store = Store.open(store_url)
    for wrong in (decision_row("b", sequence=2**63), decision_row("b", policy="\ud800")):
        with pytest.raises(Unstorable, match="refuses a value"):
            store.write(replace(kept("a"), decisions=(decision_row("a"), wrong)))
    assert ([*store.pods()], [*store.decisions()]) == ([], [])
    store.write(kept("a"))
    assert store.conservation().ok
    store.close()


def test_retention_takes_pods_with_all_that_belongs_to_them(store_url: str) -> None:
    store = Store.open(store_url)
    for one in batches(10):
        store.write(one)
    store.save_estimator(4, {})
    learned = dict(store.observations())
    gone = store.prune(1000.0, now_s=1121.0 + 0.5)  # they all end at 121 s, running ones do not
    open_pods = [row for one in batches(10) for row in one.pods if row.fate in (Fate.WAITING, Fate.RUNNING)]
    assert sorted(row.uid for row in store.pods()) == sorted(row.uid for row in open_pods)
    assert gone.pods == gone.decisions == 80 - len(open_pods)
    assert dict(store.observations()) == {revision: seen for revision, seen in learned.items() if revision > 4}
    assert gone.nodes == 0
    found = store.conservation()
    assert (found.ok, found.running, found.decided) == (True, len(open_pods), len(open_pods))
    assert store.prune(0.0, now_s=800.0).nodes == 1  # one of three left, at 600
    assert [row.end_s for row in store.downtimes()] == [801.0]
    store.write(Batch(observations=(Observation("new", "w", False, "c", 1.0, 1.0),)))
    assert max(revision for revision, _ in store.observations()) == len(learned) + 1
    counts = store.meta()["counts"]
    assert {name: counts[name] for name in ("pods", "decisions", "nodes", "downtimes")} == {
        "pods": len(open_pods), "decisions": len(open_pods), "nodes": 2, "downtimes": 1,
    }  # fmt: skip
    store.close()


def test_every_field_of_a_row_has_a_column() -> None:
    kinds = {PODS: PodRow, NODES: NodeRow, OBSERVATIONS: Observation, DOWNTIMES: Downtime}
    names = {table: {field.name for field in fields(kind)} for table, kind in kinds.items()}
    names[DECISIONS] = {field.name for field in msgspec.structs.fields(DecisionRow)}
    more = {PODS: {"arrived_s"}, OBSERVATIONS: {"revision"}}
    for table, named in names.items():
        assert named | more.get(table, set()) | {"tick", "sum"} == set(table.c.keys()), (
            "a change of rows is a new version"
        )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://a/b", "SQLite or PostgreSQL, not in 'mysql'"), ("sqlite://", "names no file"),
        ("{tmp}", "is a folder"), ("{tmp}/no/store.db", "does not exist; make it"),
        ("{tmp}/store.db", "there is no store"), ("sqlite:///{tmp}/store.db", "there is no store"),
        ("://x", "URL of a store"),
    ],
)  # fmt: skip
def test_what_is_no_store_is_told_in_a_sentence(tmp_path: object, url: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Store.open(url.format(tmp=tmp_path), create=False)


def test_a_server_that_goes_away_holds_writing_up_and_no_more(postgres_server: str) -> None:
    url = create_database(postgres_server, "away")
    store = Store.open(url)
    store.write(kept("a"))
    other = f"{postgres_server}/postgres"
    drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'away'"
    sql(other, "ALTER DATABASE away ALLOW_CONNECTIONS false", drop)
    with pytest.raises(StoreUnavailable, match=r"cannot be used now: .*not currently accepting connections"):
        store.write(kept("b"))
    with pytest.raises(StoreUnavailable, match=r"cannot be used now"):
        store.knows("a")
    sql(other, "ALTER DATABASE away ALLOW_CONNECTIONS true")
    assert store.knows("b") is None
    store.write(kept("b"))
    sql(other, drop)  # a connection that died unseen is replaced
    store.write(kept("c"))
    assert [row.uid for row in store.pods()] == ["a", "b", "c"]
    store.close()


def test_a_url_says_how_far_the_server_is_trusted(tmp_path: Path) -> None:
    programs = skip_or_fail()
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nodewise",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True)
    with server(programs, (certificate, key)) as at:
        url = create_database(at, "store")
        trusted = f"sslrootcert={certificate}"
        encrypted = {
            "": True,
            "?sslmode=disable": False,
            "?sslmode=require": True,
            f"?sslmode=verify-full&{trusted}": True,
        }
        used: list[bool] = []
        look = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        for query in encrypted:
            Store.open(url + query).close()
            changed(url + query, lambda connection: used.append(connection.execute(look).scalar()))
        assert used == [*encrypted.values()]
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            Store.open(url + "?sslmode=verify-full")
        elsewhere = url.replace("127.0.0.1", "localhost")
        with pytest.raises(StoreUnavailable, match="certificate is not valid for 'localhost'"):
            Store.open(f"{elsewhere}?sslmode=verify-full&{trusted}")
        Store.open(f"{elsewhere}?sslmode=verify-ca&{trusted}").close()
    with pytest.raises(UserError, match=r"sslmode is one of .* and not 'on'"):
        Store.open("postgresql://a@127.0.0.1/b?sslmode=on")
    with pytest.raises(UserError, match="cannot read the certificates of sslrootcert=/no"):
        Store.open("postgresql://a@127.0.0.1/b?sslmode=verify-ca&sslrootcert=/no")
