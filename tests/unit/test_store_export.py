"""The store as Parquet."""

import json
import math
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from tests.postgres import postgres_server, store_url

from nodewise.core.errors import UserError
from nodewise_operator.store import Batch, Fate, Store
from nodewise_operator.store.export import EXPORTED, FACTS, read
from nodewise_operator.store.schema import DECISIONS, OBSERVATIONS, PODS

from .stored import batches, decision_row, pod_row

__all__ = ["postgres_server", "store_url"]

DAY_S = 86400.0


def test_an_export_holds_every_row_by_day(store_url: str, tmp_path: Path) -> None:
    store = Store.open(store_url)
    for one in batches(5):
        store.write(one)
    store.write(Batch((pod_row("late", created_s=3 * DAY_S),), decisions=(decision_row("late", 2 * DAY_S, seed=4),)))
    folder = tmp_path / "it's out"
    written = store.export(folder)
    assert written == json.loads((folder / FACTS).read_text())["rows"]
    assert {table.name: len([*read(folder, table)]) for table in EXPORTED} == written
    assert written["pods"] == written["decisions"] == 41
    assert sorted(path.name for path in (folder / "decisions").iterdir()) == ["dt=1970-01-01", "dt=1970-01-03"]
    row = next(row for row in read(folder, DECISIONS) if row["uid"] == "late")
    was = decision_row("late", 2 * DAY_S, seed=4)
    assert (row["candidates"], row["columns"], row["featured"]) == (was.candidates, was.columns, was.featured)
    assert row["scores"][:-1] == was.scores[:-1]
    assert row["scores"][-1] is None
    assert np.frombuffer(row["features"], "<f4").reshape(16, 37).tobytes() == was.features
    assert json.loads(row["reply"]) == [list(pair) for pair in was.reply]
    pods = {row["uid"]: row for row in read(folder, PODS)}
    for pod in store.pods():
        told = pods[pod.uid]
        assert (told["fate"], told["deadline_s"], told["late"], told["exit_code"]) == (
            pod.fate, pod.deadline_s, pod.late, pod.exit_code,
        )  # fmt: skip
        assert told["cents"] is None if math.isnan(pod.cents) else told["cents"] == pod.cents
        assert json.loads(told["manifest"]) == pod.manifest
    assert [row["uid"] for row in read(folder, OBSERVATIONS)] == [seen.uid for _, seen in store.observations()]
    store.close()


def test_other_programs_read_it_and_it_is_compressed(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store.db"))
    for one in batches(3):
        store.write(one)
    store.export(tmp_path / "out")
    store.close()
    files = f"{tmp_path}/out/decisions/**/*.parquet"
    with duckdb.connect() as other:
        days = "SELECT dt::VARCHAR, count(*) FROM read_parquet(?, hive_partitioning = true) GROUP BY dt"
        assert other.execute(days, [files]).fetchall() == [("1970-01-01", 24)]
        compression = "SELECT DISTINCT compression FROM parquet_metadata(?)"
        assert other.execute(compression, [files]).fetchall() == [("ZSTD",)]


def test_a_store_that_exports_nothing_does_not_load_what_exports() -> None:
    asked = "import sys, nodewise_operator.store, nodewise_operator.main; print('duckdb' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_an_export_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path / "store.db"))
    store.write(next(batches(1)))
    columns = store.columns

    def cut_off(table: object) -> object:
        if table is OBSERVATIONS:
            raise KeyboardInterrupt
        return columns(table)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(store, "columns", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.export(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    store.export(tmp_path / "out")
    with pytest.raises(UserError, match="out exists already; name a folder that does not"):
        store.export(tmp_path / "out")
    with pytest.raises(UserError, match=f"the folder {tmp_path}/no does not exist; make it"):
        store.export(tmp_path / "no" / "out")
    store.close()


def test_what_retention_deletes_can_be_exported_first(store_url: str, tmp_path: Path) -> None:
    store = Store.open(store_url)
    history = tmp_path / "history"
    history.mkdir()
    store.write(Batch((pod_row("runs", Fate.RUNNING),), decisions=(decision_row("runs"),)))
    for day in (1, 2, 3):
        uid, time_s = f"day-{day}", day * DAY_S
        pod = pod_row(uid, created_s=time_s, finished_s=time_s + 60.0)
        store.write(Batch((pod,), decisions=(decision_row(uid, time_s), decision_row(uid, time_s + 1.0, "extender"))))
        gone = store.prune(DAY_S / 2, now_s=(day + 1) * DAY_S, export_to=history)
        assert (gone.pods, gone.decisions) == (1, 2)
    store.prune(DAY_S / 2, now_s=5 * DAY_S, export_to=history)
    assert len([*history.iterdir()]) == 3
    assert sorted(row["uid"] for row in read(history, PODS)) == ["day-1", "day-2", "day-3"]
    assert len([*read(history, DECISIONS)]) == 6
    assert [row.uid for row in store.pods()] == ["runs"]
    assert store.conservation().ok
    store.close()
