"""`nodewise data`: what a platform engineer sees of the operator's store."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewise.core.errors import UserError
from nodewise_operator.store import Batch, Downtime, Fate, Store

from .stored import decision_row, pod_row

Run = Callable[..., tuple[int, str, str]]

DAY_S = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store of six pods, and somebody who writes it."""
    path = tmp_path / "store.db"
    store = Store.open(str(path))
    store.take_over("nodewise-operator-0")
    pods = (
        pod_row("a", started_s=100.0, finished_s=110.0, late=False, cents=1.5),
        pod_row("b", started_s=100.0, finished_s=130.0, late=True, cents=2.5),
        pod_row("c", node_class="new", late=False),
        pod_row("d", Fate.FAILED, reason="OOMKilled", cents=1.0),
        pod_row("e", Fate.CENSORED, reason="deleted", namespace="other", finished_s=3 * DAY_S),
        pod_row("f", Fate.RUNNING),
    )
    store.write(
        Batch(
            pods, decisions=tuple(decision_row(pod.uid) for pod in pods),
            downtimes=(Downtime(200.0, 230.0, "watch cut"),), segment=("extender-a", 1, 7), seen_s=DAY_S,
        )
    )  # fmt: skip
    store.close()
    return str(path)


def line(out: str, *words: str) -> bool:
    return any(all(word in said for word in words) for said in out.splitlines())


def test_inspect_says_what_the_store_is(run: Run, path: str) -> None:
    status, out, _ = run("data", "inspect", path)
    assert status == 0
    for words in (
        ("store", path[-20:]), ("schema", "2"), ("from", "1970-01-01 00:01:40Z"), ("to", "1970-01-04 00:00:00Z"),
        ("last watched", "1970-01-02 00:00:00Z"), ("held by", "nodewise-operator-0"), ("decisions", "6"), ("pods", "6"),
        ("00:03:20Z", "00:03:50Z", "30", "watch cut"), ("extender-a", "1", "7"),
    ):  # fmt: skip
        assert line(out, *words), words
    told = json.loads(run("data", "inspect", path, "-o", "json")[1])
    assert {row["table"]: row["rows"] for row in told["rows"]}["pods"] == 6
    assert told["extenders"][0]["dropped"] == 7
    assert told["downtimes"][0]["seconds"] == 30.0


def test_stats_are_told_by_workload_and_node_class(run: Run, path: str, tmp_path: Path) -> None:
    status, out, _ = run("data", "stats", path)
    assert status == 0
    for words in (
        ("default", "w", "old", " 4 ", " 2 ", " 1 ", "20.00", "50.0%", "5.0"),
        ("default", "w", "new", " 1 ", "20.00", "100.0%"), ("other", "w", "old", "–"),
        ("failed", "OOMKilled", "1"), ("censored", "deleted", "1"), ("succeeded", "3"),
    ):  # fmt: skip
        assert line(out, *words), words
    told = json.loads(run("data", "stats", path, "-o", "json")[1])
    assert told["rows"][1] == {
        "namespace": "default", "workload": "w", "node_class": "old", "pods": 4, "succeeded": 2, "failed": 1,
        "running": 1, "censored": 0, "median_run_s": 20.0, "could_be_late": 2, "met": 1, "cents": 5.0,
    }  # fmt: skip
    assert run("data", "export", path, str(tmp_path / "out"))[0] == 0
    exported = json.loads(run("data", "stats", str(tmp_path / "out"), "-o", "json")[1])
    assert (exported["rows"], exported["endings"]) == (told["rows"], told["endings"])


def test_check_passes_and_fails(run: Run, path: str) -> None:
    adds_up = "6 decided = 4 outcomes + 1 running + 1 censored"
    assert run("data", "check", path) == (0, f"{adds_up}\n", "")
    assert json.loads(run("data", "check", path, "-o", "json")[1])["ok"] is True
    store = Store.open(path)
    store.write(Batch(pods=(pod_row("x"),), segment=("extender-a", 3, 0)))
    says = "the store does not add up: 1 with a fate but no decision (x); 1 segments have not come (of extender-a)"
    assert run("data", "check", path) == (1, f"{path}: {says}\n", "")
    status, out, _ = run("data", "check", path, "-o", "json")
    assert (status, json.loads(out)["ok"], json.loads(out)["says"]) == (1, False, says)
    store.close()


def test_check_fails_on_a_row_that_is_not_what_was_written(run: Run, path: str) -> None:
    import sqlite3

    with sqlite3.connect(path) as behind:
        behind.execute("UPDATE decisions SET propensity = 0.25 WHERE uid = 'c'")
    behind.close()
    status, out, _ = run("data", "check", path)
    assert (status, out) == (1, f"{path}: 1 rows are not what was written (decisions 1)\n")


def test_export_writes_a_folder_that_inspect_reads(run: Run, path: str, tmp_path: Path) -> None:
    status, out, _ = run("data", "export", path, str(tmp_path / "out"))
    assert (status, line(out, "pods", "6"), line(out, "written to")) == (0, True, True)
    status, out, _ = run("data", "inspect", str(tmp_path / "out"))
    assert (status, line(out, "out", "2", "6")) == (0, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("melt", "{path}"), "nothing can be done to a store by 'melt'; choose one of inspect, stats, check, export"),
        (("inspect",), "no store is named; write `nodewise data inspect FILE` or a postgresql:// URL"),
        (("export", "{path}"), "no folder to export to is named; write `nodewise data export {path} DIR`"),
        (("check", "{path}", "x"), "`data check` reads one store; leave x away"),
        (("check", "{path}.no"), "there is no store {path}.no; the operator makes it when it starts"),
        (("stats", "{tmp}"), "{tmp} is no export of a store: there is no nodewise.json; "),
        (("prune", "{path}"), "how old is old? Write `nodewise data prune {path} --older-than-days 90`"),
        (("check", "{path}", "--yes"), "--older-than-days and --yes are for `data prune`; leave them away from `data "),
        (("prune", "{path}.no", "--older-than-days", "90", "--yes"), "there is no store {path}.no; the operator makes"),
        (("check", "{tmp}"), "the store {tmp} is a folder; name a file"),
    ],
)
def test_bad_use_is_told_in_a_sentence(run: Run, path: str, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    status, out, err = run("data", *(word.format(path=path, tmp=tmp_path) for word in words))
    assert (status, out) == (2, "")
    assert err.startswith("nodewise: " + says.format(path=path, tmp=tmp_path))


def test_without_an_action_it_lists_them(run: Run) -> None:
    status, out, _ = run("data")
    assert (status, len(out.splitlines())) == (0, 5)


def test_prune_says_what_would_go_and_deletes_it_when_told(run: Run, path: str) -> None:
    line_90 = ("data", "prune", path, "--older-than-days", "90")
    store = Store.open(path)
    now_s = time.time()
    new = pod_row("new", created_s=now_s - 60.0, finished_s=now_s)
    store.write(Batch(pods=(new,), decisions=(decision_row("new"),)))
    status, out, _ = run(*line_90)
    assert (status, line(out, "pods", "5"), line(out, "decisions", "5")) == (0, True, True)
    assert line(out, "over for 90 days: nothing was changed; --yes deletes them")
    status, out, err = run(*line_90, "--yes")
    assert (status, out) == (2, "")
    assert err.startswith(f"nodewise: nodewise-operator-0 has the store {path} open")
    store.close()
    status, out, _ = run(*line_90, "--yes", "-o", "json")
    assert (status, json.loads(out)["deleted"]) == (0, True)
    assert {row["table"]: row["rows"] for row in json.loads(out)["rows"]} == {"pods": 5, "decisions": 5, "nodes": 0}
    store = Store.open(path, create=False)
    assert {row.uid for row in store.pods()} == {"f", "new"}  # one runs still
    assert store.conservation().ok
    store.close()


def test_check_says_of_a_file_that_is_no_store_what_the_operator_says(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("buy milk\n" * 100)
    status, _, err = run("data", "check", str(file))
    with pytest.raises(UserError) as refused:
        Store.open(str(file))
    assert (status, err) == (2, f"nodewise: {refused.value}\n")
    assert str(refused.value).startswith(f"{file} is no store, or nothing of it is left")
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
