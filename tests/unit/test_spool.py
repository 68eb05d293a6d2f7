"""What waits for the operator survives restarts and stays within its bound."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from nodewise.channel.messages import DecisionRow, Segment
from nodewise.channel.spool import Spool
from nodewise.core.errors import UserError

FIRST, SECOND, KILLED = "first-0000000a", "second-0000000b", "killed-0000000c"


def row(uid: str, weight: int = 0) -> bytes:
    """A row that `weight` random bytes of features keep from being compressed."""
    return msgspec.json.encode(
        DecisionRow(
            uid=uid, namespace="n", pod="p", time_s=1.0, source="extender", mode="active", policy="p", digest="d",
            features=os.urandom(weight),
        )
    )  # fmt: skip


def taken(spool: Spool) -> list[tuple[str, int, list[str]]]:
    """Everything that waits, in the order in which it is sent: extender, sequence, uids."""
    out = []
    while waiting := spool.oldest():
        segment = msgspec.json.decode(gzip.decompress(spool.read(waiting)), type=Segment)
        assert (segment.extender, segment.sequence) == (waiting.extender, waiting.sequence)
        assert len(segment.rows) == waiting.rows
        out.append((segment.extender, segment.sequence, [r.uid for r in segment.rows]))
        spool.done(waiting)
    return out


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.gz"))


def test_segments_of_an_earlier_life_are_sent_first_and_under_its_name(tmp_path: Path) -> None:
    first = Spool(tmp_path, extender=FIRST)
    first.add([row("a"), row("b")])
    first.add([row("c")])
    first.close()
    second = Spool(tmp_path, extender=SECOND)
    second.add([row("d")])
    assert taken(second) == [(FIRST, 1, ["a", "b"]), (FIRST, 2, ["c"]), (SECOND, 1, ["d"])]
    assert (second.size, on_disk(tmp_path)) == (0, 0)
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_life_that_goes_on_keeps_its_segments_and_one_that_ended_since_is_taken_over(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, extender=FIRST), Spool(tmp_path, extender=SECOND)
    first.add([row("a")])
    second.adopt()
    assert second.oldest() is None
    first.close()
    second.add([row("b")])
    second.adopt()
    assert taken(second) == [(FIRST, 1, ["a"]), (SECOND, 1, ["b"])]


@pytest.mark.parametrize("kept_in", ["folder", "memory"])
def test_a_full_spool_drops_the_oldest_and_counts_its_rows(tmp_path: Path, kept_in: str) -> None:
    spool = Spool(tmp_path if kept_in == "folder" else None, most_bytes=10_000, extender="e")
    for k in range(30):
        spool.add([row(f"{k}a", 500), row(f"{k}b", 500)])
        assert spool.size <= 10_000
        assert on_disk(tmp_path) <= 10_000
    sent = taken(spool)
    assert [sequence for _, sequence, _ in sent] == list(range(31 - len(sent), 31))
    assert spool.dropped == 60 - 2 * len(sent)
    assert 4 <= len(sent) <= 9
    assert len(list(tmp_path.rglob("*.json.gz"))) == 0


def test_what_a_segment_says_was_dropped_is_what_was_dropped_before_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=3_000)
    for k in range(9):
        spool.add([row(str(k), 800)])
    waiting = spool.oldest()
    assert waiting
    last = spool._waiting[-1]
    said = msgspec.json.decode(gzip.decompress(spool.read(last)), type=Segment).dropped
    assert 0 < said <= spool.dropped
    assert spool.dropped + spool.segments == 9


def test_the_segment_under_way_is_not_dropped_and_one_that_never_fits_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=5_000)
    spool.add([row("under way", 1_000)])
    under_way = spool.oldest()
    assert under_way
    for _ in range(10):
        spool.add([row("later", 1_000)])
    assert spool.read(under_way)
    assert spool.oldest() is under_way
    before = spool.dropped
    spool.add([row("too large", 6_000)])
    assert spool.dropped >= before + 1
    assert [uids for _, _, uids in taken(spool)][:1] == [["under way"]]


def test_a_smaller_bound_after_a_restart_holds_for_what_is_left_too(tmp_path: Path) -> None:
    first = Spool(tmp_path, extender=FIRST)
    for k in range(10):
        first.add([row(str(k), 1_000)])
    first.close()
    second = Spool(tmp_path, most_bytes=4_000)
    assert on_disk(tmp_path) <= 4_000
    assert second.dropped == 10 - second.segments > 0


def test_what_the_disk_refuses_waits_in_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path, extender="e")
    spool.add([row("a")])
    (tmp_path / "e").rename(tmp_path / "moved")
    spool.add([row("b")])
    (tmp_path / "moved").rename(tmp_path / "e")
    spool.add([row("c")])
    assert taken(spool) == [("e", 1, ["a"]), ("e", 2, ["b"]), ("e", 3, ["c"])]


def test_a_file_that_was_being_written_when_its_extender_died_is_removed(tmp_path: Path) -> None:
    first = Spool(tmp_path, extender=FIRST)
    first.add([row("a")])
    (tmp_path / FIRST / "0000000002-1.json.part").write_bytes(b"half")
    first.close()
    assert taken(Spool(tmp_path)) == [(FIRST, 1, ["a"])]
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize(
    "name", ["photos", "photos-0000000a", ".git", f"{FIRST}/mine.txt", f"{FIRST}/mine.part", "loose.part"]
)
def test_what_is_not_ours_is_left_alone(tmp_path: Path, name: str) -> None:
    """A folder that holds other things, too, may be named by mistake."""
    before = Spool(tmp_path, extender=FIRST)
    before.add([row("a")])
    mine = tmp_path / name
    if mine.suffix in (".txt", ".part"):
        mine.write_text("mine")
    else:
        mine.mkdir()
        mine = mine / "0000000001-1.json.part"
        mine.write_text("mine")
    kept = sorted(mine.parent.iterdir()) if mine.parent not in (tmp_path, tmp_path / FIRST) else [mine]
    before.close()
    spool = Spool(tmp_path)
    assert taken(spool) == [(FIRST, 1, ["a"])]
    spool.adopt()
    spool.close()
    Spool(tmp_path).close()
    assert all(path.exists() for path in kept)
    assert mine.read_text() == "mine"


def test_files_are_removed_while_nobody_waits_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk must not hold up those who ask what is next."""
    unlink = Path.unlink
    removed: list[Path] = []

    def slow(path: Path, missing_ok: bool = False) -> None:
        assert not spool._lock.locked()
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    earlier = Spool(tmp_path, extender=FIRST)
    for k in range(5):
        earlier.add([row(str(k), 1_000)])
    earlier.close()
    spool = Spool(tmp_path, most_bytes=10_000)
    monkeypatch.setattr(Path, "unlink", slow)
    for k in range(9):
        spool.add([row(str(k), 1_000)])
    taken(spool)
    assert len(removed) == 14


def test_a_segment_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(fd: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    def renamed(path: Path, to: Path) -> Path:
        done.append("rename")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    Spool(tmp_path, extender="e").add([row("a")])
    assert done == [str(tmp_path / "e" / "0000000001-1.json.part"), "rename", str(tmp_path / "e")]


def test_a_folder_that_cannot_be_used_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the spool .*file cannot be used \(Not a directory\): name a folder"):
        Spool(tmp_path / "file")


def test_an_extender_that_was_killed_leaves_everything_it_counted_as_kept(tmp_path: Path) -> None:
    """No orderly end: the process dies after its adds returned."""
    child = os.fork()
    if child == 0:
        spool = Spool(tmp_path, extender=KILLED)
        for k in range(20):
            spool.add([row(str(k))])
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    sent = taken(Spool(tmp_path))
    assert [uids for _, _, uids in sent] == [[str(k)] for k in range(20)]
    shutil.rmtree(tmp_path)
