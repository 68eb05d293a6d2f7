"""Damaged, full and read-only SQLite stores: no bad row is ever given out, and the operator goes on."""

import math
import os
import random
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodewise.core.errors import UserError
from nodewise_operator.store import Batch, Store, StoreUnavailable
from nodewise_operator.store import salvage as salvaging

from .stored import batch, batches, changed, contents, expected, to_version_1

BATCHES = 15
FLIPS = 100


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one store twice: `closed.db`, and `killed.db`, as a SIGKILL leaves it, with most in its log."""
    folder = tmp_path_factory.mktemp("stores")
    store = Store.open(str(folder / "closed.db"))
    store.take_over("operator-1")
    for one in batches(BATCHES):
        store.write(one)
    store.save_estimator(3, {"a": [1.5]})
    for side in ("", "-wal"):
        shutil.copy(folder / f"closed.db{side}", folder / f"killed.db{side}")
    store.close()
    assert not (folder / "closed.db-wal").exists()
    return folder


def copied(stores: Path, name: str, tmp_path: Path) -> Path:
    for file in stores.glob(f"{name}.db*"):
        shutil.copy(file, tmp_path / file.name.replace(name, "store"))
    return tmp_path / "store.db"


def flip(path: Path, seed: int, count: int = FLIPS) -> None:
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(count):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def no_bad_row(store: Store) -> dict[str, int]:
    """How many rows each table has; every one of them is one that was written, and none is there twice."""
    was = {name: set(rows) for name, rows in expected([*batches(BATCHES)]).items()}
    for known in range(BATCHES):  # what is overwritten may be saved as it was
        was["segments"].update(expected([*batches(known)])["segments"])
    found = contents(store)
    for name, rows in found.items():
        assert set(rows) <= was[name], name
        assert len(set(rows)) == len(rows), name
    return {name: len(rows) for name, rows in found.items()}


@pytest.mark.parametrize("seed", range(12))
def test_of_a_file_with_flipped_bytes_every_good_row_is_saved(
    stores: Path, tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied(stores, "closed", tmp_path)
    flip(path, seed)
    store = Store.open(str(path))
    found = no_bad_row(store)
    rows = sum(len(held) for held in expected([*batches(BATCHES)]).values())
    assert sum(found.values()) >= rows - FLIPS
    assert store.damaged or store.salvages() or sum(found.values()) == rows
    goes_on(store)


@pytest.mark.parametrize("seed", range(12))
def test_of_a_log_with_flipped_bytes_every_good_row_is_saved(stores: Path, tmp_path: Path, seed: int) -> None:
    path = copied(stores, "killed", tmp_path)
    flip(path.with_name("store.db-wal"), seed)
    store = Store.open(str(path))
    found = no_bad_row(store)
    rows = sum(len(held) for held in expected([*batches(BATCHES)]).values())
    assert sum(found.values()) >= rows - FLIPS
    assert store.salvages(), "SQLite alone would have dropped the end of the log without a word"
    goes_on(store)


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1, 0.003])
@pytest.mark.parametrize("side", ["", "-wal"])
def test_of_a_truncated_store_the_rest_is_saved(stores: Path, tmp_path: Path, part: float, side: str) -> None:
    path = copied(stores, "killed" if side else "closed", tmp_path)
    cut = path.with_name(path.name + side)
    os.truncate(cut, int(cut.stat().st_size * part))
    store = Store.open(str(path))
    found = no_bad_row(store)
    # Of a log that is cut off SQLite keeps what was committed before the cut; that is what a crash leaves, too.
    assert bool(store.salvages()) is (side == "")
    assert found["decisions"] >= BATCHES * 8 * (part - 0.3)
    goes_on(store)


def goes_on(store: Store) -> None:
    """It takes everything again, and then adds up."""
    for one in batches(BATCHES):
        store.write(one)
    for one in batches(BATCHES):
        assert {row.uid for row in one.pods} <= {row.uid for row in store.pods()}
    assert not store.verify()
    found = store.conservation()
    assert (found.double, found.without_pod, found.without_decision) == (0, 0, 0)
    store.close()


def test_one_sentence_says_what_was_lost_and_a_copy_is_kept(
    stores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied(stores, "closed", tmp_path)
    content = bytearray(path.read_bytes())
    content[:100] = bytes(100)  # the header and the schema with it
    middle = len(content) // 2
    content[middle : middle + 20_000] = random.Random(1).randbytes(20_000)
    path.write_bytes(content)
    store = Store.open(str(path))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    (copy,) = [file for file in tmp_path.glob("store.db.damaged-*") if not file.name.endswith("-wal")]
    (salvage,) = store.salvages()
    saved, lost = sum(salvage["saved"].values()), sum(salvage["lost"].values())
    assert f"{saved:,} rows were saved into a new file and {lost:,} rows were lost" in said
    assert copy.name in said
    assert copy.name == salvage["copy"]
    assert copy.read_bytes() == content
    assert lost > 0
    found = contents(store)
    for name, rows in expected([*batches(BATCHES)]).items():
        assert len(found[name]) + salvage["lost"][name] == len(rows), name
    assert store.conservation().ok, "what is known to be lost is accounted for"
    assert store.conservation().lost_pods + store.conservation().lost_decisions > 0
    assert (store.meta()["holder"], store.estimator()) == ("operator-1", (3, {"a": [1.5]}))
    store.close()
    caplog.clear()
    Store.open(str(path)).close()
    assert not caplog.records


@pytest.mark.parametrize("word", [b"CREATE INDEX pods_by_fate", b"propensity", b"tablepodspods"])
def test_a_schema_that_is_no_text_any_more_is_damage(stores: Path, tmp_path: Path, word: bytes) -> None:
    path = copied(stores, "closed", tmp_path)
    content = path.read_bytes()
    assert word in content
    path.write_bytes(content.replace(word, b"\xdc" * len(word)))
    store = Store.open(str(path))
    assert contents(store) == expected([*batches(BATCHES)])
    assert len(store.salvages()) == 1
    store.close()


def test_rows_of_an_older_schema_are_saved_as_well(stores: Path, tmp_path: Path) -> None:
    path = copied(stores, "closed", tmp_path)
    changed(str(path), to_version_1)
    with path.open("r+b") as file:
        file.write(bytes(100))
    store = Store.open(str(path))
    assert contents(store) == expected([*batches(BATCHES)])
    assert len(store.salvages()) == 1
    store.close()
    Store.open(str(path)).close()


def test_a_file_that_is_damaged_under_an_open_store_is_salvaged_when_it_is_read(stores: Path, tmp_path: Path) -> None:
    path = copied(stores, "closed", tmp_path)
    store = Store.open(str(path))
    epoch, generation = store.epoch, store.take_over("operator-2")
    other = Store.open(str(path))
    other.write(Batch(seen_s=1.0))  # so that the first does not believe what it has in its cache
    other.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096 * 24))  # the roots of all trees
    found = no_bad_row(store)
    assert found["decisions"] > 80
    assert len(store.salvages()) == 1
    assert store.epoch != epoch, "revisions may be missing"
    assert store.meta()["generation"] == generation
    store.write(batch(BATCHES + 1))
    store.close()


def test_a_kill_while_salvaging_loses_nothing(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied(stores, "killed", tmp_path)
    flip(path.with_name("store.db-wal"), 3)
    for step in ("_rebuild", "sync", "_keep", "_put"):

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(salvaging, step, killed)
            with pytest.raises(KeyboardInterrupt):
                Store.open(str(path))
    assert not path.with_name("store.db.salvaging").exists()
    store = Store.open(str(path))
    assert no_bad_row(store)["pods"] > 100
    assert len(store.salvages()) == 1
    store.close()


def test_a_damaged_store_that_another_process_holds_is_left_alone(stores: Path, tmp_path: Path) -> None:
    path = copied(stores, "closed", tmp_path)
    other = Store.open(str(path))
    flip(path, 1, count=5000)
    with pytest.raises(UserError, match=r"is damaged .* another process holds it; stop that process first"):
        Store.open(str(path))
    other.close()
    assert not list(tmp_path.glob("*.damaged-*"))


def test_who_only_reads_leaves_a_damaged_store_as_it_is(stores: Path, tmp_path: Path) -> None:
    path = copied(stores, "killed", tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    Store.open(str(path), create=False).close()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before, "not even its log is folded in"
    flip(path.with_name("store.db-wal"), 1, 3)
    Store.open(str(path), create=False).close()
    copy = copied(stores, "closed", tmp_path)
    copy.with_name("store.db-wal").unlink()
    flip(copy, 1, 20_000)
    content = copy.read_bytes()
    with pytest.raises(UserError, match=r"is damaged: .*; the operator salvages it when it starts"):
        Store.open(str(copy), create=False)
    assert copy.read_bytes() == content


@pytest.mark.parametrize("kind", ["text", "tables of another program", "damaged tables of another program"])
def test_files_of_others_are_refused_and_not_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "text":
        path.write_text("hello " * 5000)
    else:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE letters (a)")
        other.close()
    if kind.startswith("damaged"):
        os.truncate(path, 6000)
    content = path.read_bytes()
    with pytest.raises(UserError, match=rf"{path} (is no store|holds tables of another program).*name another file"):
        Store.open(str(path))
    assert path.read_bytes() == content
    assert {file.name for file in tmp_path.iterdir()} == {"file"}


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """What a full disk is to a process that writes more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_on_the_disk_is_not_written_by_halves_and_can_be_written_later(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store.open(str(path))
    wal = path.with_name("store.db-wal")
    written = 0
    with no_file_above(wal.stat().st_size + 400_000):
        try:
            for one in batches(100):
                store.write(one)
                written += 1
        except StoreUnavailable:
            pass
        with pytest.raises(StoreUnavailable, match=rf"^the store {path} cannot be used now: "):
            store.write(batch(written + 1))
        assert contents(store) == expected([*batches(written)])
    assert 0 < written < 100
    store.write(batch(written + 1))
    assert contents(store) == expected([*batches(written + 1)])
    store.close()
    again = Store.open(str(path))
    assert contents(again) == expected([*batches(written + 1)])
    assert not again.salvages()
    again.close()


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store.open(str(path))
    store.write(batch(1))
    store.close()
    reader = Store.open(str(path), create=False)
    with pytest.raises(StoreUnavailable, match="cannot be used now: attempt to write a readonly database"):
        reader.write(Batch(seen_s=math.pi))
    assert contents(reader) == expected([batch(1)])
    reader.close()
