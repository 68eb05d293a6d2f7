"""`nodewise compare`: what it keeps, what it goes on from, and what it writes."""

import csv
import gc
import json
import re
import resource
from pathlib import Path
from typing import Any

import duckdb
import pytest

from nodewise.cli.main import main
from nodewise.core.errors import UserError
from nodewise_simulator import lab
from nodewise_simulator.compare import Grid, Kept, Row, check, run, write
from nodewise_simulator.compare import kept as kept_module
from nodewise_simulator.metrics import Result
from nodewise_simulator.run import SIMULATORS
from nodewise_simulator.studies import Study

SMALL = "S0q@pods=20,warm=5"
GRID = Grid((SMALL, "S0q@pods=20,warm=5,rho=0.5"), ("kube-default", "earliest-finish-time"), (1, 2, 3))


def costs(results: list[Result]) -> dict[tuple[str, str, int], float]:
    return {(r.scenario, r.policy, r.seed): r.metrics["cost"] for r in results}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What was really run, by scenario, policy and seed."""
    seen: list[tuple[str, str, int]] = []
    real = lab.play_seed

    def noted(scenario: str, seed: int, policies: tuple[str, ...], *given: Any) -> list[Result]:
        seen.extend((scenario, name, seed) for name in policies)
        return real(scenario, seed, policies, *given)

    monkeypatch.setattr(lab, "play_seed", noted)
    return seen


def resumed(folder: Path, grid: Grid = GRID) -> list[Result]:
    return run(grid, kept=Kept(folder, "x", resume=True))


def test_a_run_that_was_killed_goes_on_where_it_was_and_ends_with_the_same_numbers(
    tmp_path: Path, played: list[tuple[str, str, int]]
) -> None:
    whole = run(GRID, kept=Kept(tmp_path, "x", resume=False))
    assert len(played) == len(set(played)) == 12
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:8]) + "\n" + lines[8][:50])  # the ninth line was being written
    played.clear()
    told: list[tuple[int, ...]] = []
    kept = Kept(tmp_path, "x", resume=True)
    again = run(GRID, kept=kept, progress=lambda *counts: told.append(counts))
    assert len(played) == 5
    assert told == [(0, 3, 3), (1, 3, 3), (2, 3, 3), (3, 3, 3)]  # half of a world was there
    assert costs(again) == costs(whole)
    means = [[r.mean for r in GRID.rows(results) if r.metric == "cost"] for results in (whole, again)]
    assert means[0] == means[1]
    del kept
    played.clear()
    assert costs(resumed(tmp_path)) == costs(whole)
    assert played == []


@pytest.mark.parametrize("cut", ["at its end", "behind a brace", "in the head"])
def test_wherever_the_file_was_cut_it_can_be_gone_on_from(
    cut: str, tmp_path: Path, played: list[tuple[str, str, int]]
) -> None:
    few = Grid((SMALL,), ("index",), (1, 2))
    whole = run(few, kept=Kept(tmp_path, "x", resume=False))
    path = tmp_path / "results.jsonl"
    data = path.read_bytes()
    ends = {"at its end": len(data) - 1, "behind a brace": data.rfind(b"},") + 1, "in the head": 20}
    path.write_bytes(data[: ends[cut]])
    played.clear()
    assert costs(resumed(tmp_path, few)) == costs(whole)
    assert len(played) == (2 if cut == "in the head" else 1)
    assert len(path.read_bytes().splitlines()) == 3
    played.clear()
    resumed(tmp_path, few)
    assert played == []


def test_results_are_never_written_over_nor_put_together_with_what_other_code_or_policies_made(
    tmp_path: Path, played: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Grid((SMALL,), ("index", "learned"), (1,))
    first = Kept(tmp_path, "x", resume=False)
    with pytest.raises(UserError, match="another nodewise compare"):
        Kept(tmp_path, "x", resume=True)
    run(few, kept=first)
    del first
    with pytest.raises(UserError, match="--resume"):
        Kept(tmp_path, "x", resume=False)
    played.clear()
    identity = lab.identity
    other = lambda s, p, b=None: "another bundle" if p == "learned" else identity(s, p, b)  # noqa: E731
    monkeypatch.setattr(lab, "identity", other)
    resumed(tmp_path, few)
    assert played == [(SMALL, "learned", 1)]
    monkeypatch.setattr(kept_module, "code", lambda: "other")
    with pytest.raises(UserError, match="unlike code"):
        Kept(tmp_path, "x", resume=True)
    (tmp_path / "results.jsonl").write_bytes(b"\xff{}\n")
    with pytest.raises(UserError, match="not what nodewise compare writes"):
        Kept(tmp_path, "x", resume=True)
    (tmp_path / "other" / "results.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        Kept(tmp_path / "other", "x", resume=True)
    (tmp_path / "runs.parquet").mkdir()
    with pytest.raises(UserError, match=r"runs\.parquet would be written"):
        check(tmp_path)


def test_of_results_of_another_engine_only_those_of_baselines_which_choose_their_own_are_taken(tmp_path: Path) -> None:
    first, names = Kept(tmp_path, "x", resume=False), ("index", "rollout-oracle")
    first.add([Result(SMALL, name, 1, {"cost": 1.0}, (), simulator="compiled") for name in names], None)
    del first
    kept = Kept(tmp_path, "x", resume=True)
    taken = {s: [r.policy for r in kept.take(Grid((SMALL,), names, (1,), simulator=s))] for s in SIMULATORS}
    assert taken == {"auto": [*names], "compiled": [*names], "reference": ["rollout-oracle"]}


def test_the_trace_of_a_result_is_part_of_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text("a")
    text = f"snapshot@trace={file}"
    before = lab.identity(text, "economic")
    file.write_text("ab")
    lab.identity.cache_clear()
    assert before != lab.identity(text, "economic") != ""
    assert lab.identity("hetero", "economic") == ""
    assert lab.identity("hetero", "learned") != ""


def test_all_files_hold_the_same_numbers_and_the_report_needs_nothing_else(tmp_path: Path) -> None:
    results = run(GRID)
    rows = GRID.rows(results)
    write(tmp_path, GRID, results, rows, {"command": "nodewise compare '<script>'", "commit": "abc"})
    made = json.loads((tmp_path / "rows.json").read_text())
    assert (made["commit"], made["seeds"]) == ("abc", [1, 2, 3])
    assert [Row(**row) for row in made["rows"]] == rows
    with (tmp_path / "rows.csv").open() as read:
        assert [float(row["mean"]) for row in csv.DictReader(read)] == [row.mean for row in rows]
    means = (
        duckdb.connect()
        .execute(
            f"SELECT scenario, policy, avg(value) FROM '{tmp_path}/runs.parquet' WHERE metric = 'cost' GROUP BY ALL"
        )
        .fetchall()
    )
    assert {(s, p): pytest.approx(v) for s, p, v in means} == {
        (row.scenario, row.policy): row.mean for row in rows if row.metric == "cost"
    }
    report = (tmp_path / "report.html").read_text()
    assert "<script" not in report
    assert "&lt;script&gt;" in report
    assert not re.search(r"(src|href)=[\"'](?!#)", report)  # an SVG names parts of itself
    assert report.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]+)"', report)
    assert len(ids) == len(set(ids)) > 10
    assert set(re.findall(r'href="#([^"]+)"', report)) <= set(ids)
    assert all(name in report for name in (*GRID.scenarios, *GRID.policies))


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "runs.parquet", "ratios.svg", "report.html"])
def test_a_full_disk_is_told_with_the_file_that_did_not_fit(name: str, tmp_path: Path) -> None:
    few = Grid((SMALL,), ("index", "kube-default"), (1,))
    results = run(few)
    path = tmp_path / name
    path.symlink_to("/dev/full")  # opens, and has no room
    if name == "runs.parquet":  # which replaces what is there
        path.unlink()
        (path / "in-the-way").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} cannot be written \([A-Z][a-z ]+\)"):
        write(tmp_path, few, results, few.rows(results), {"command": "x", "commit": "y"})


def test_a_file_size_limit_is_told_with_the_file(tmp_path: Path) -> None:
    made = (Row("S", "p", "m", "u", 1.0, 1.0, 1.0, 1),)
    results = [Result("S", "p", seed, {f"m{k}": seed + k / 70 for k in range(60)}, ()) for seed in range(20)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(UserError, match=r"runs\.parquet cannot be written \(File too large\); name another"):
            write(tmp_path, Grid(("S",), ("p",), (1,)), results, made, {"command": "x", "commit": "y"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_broken_line_is_told_by_its_number_and_the_rest_is_gone_on_from_without_it(
    tmp_path: Path, played: list[tuple[str, str, int]]
) -> None:
    few = Grid((SMALL,), ("index",), (1, 2))
    whole = run(few, kept=Kept(tmp_path, "x", resume=False))
    path = tmp_path / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (b"{broken\n", b"[]\n", b"\n", b'{"made_of": ""}\n'):
        path.write_bytes(b"".join((*lines[:2], broken, *lines[2:])))
        said = f"line 3 of {path} is not what nodewise compare writes; delete that line, or name another folder"
        with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
            Kept(tmp_path, "x", resume=True)
        gc.collect()  # its lock
    path.write_bytes(b"".join(lines))
    played.clear()
    assert costs(resumed(tmp_path, few)) == costs(whole)
    assert played == []


def test_after_ctrl_c_it_is_said_what_was_kept_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, until = lab.play_seed, 2

    def pressed(scenario: str, seed: int, *given: Any) -> list[Result]:
        if seed > until:
            raise KeyboardInterrupt
        return real(scenario, seed, *given)

    monkeypatch.setattr(lab, "play_seed", pressed)
    line = ["nodewise", "compare", "--scenario", SMALL, "--policies", "index", "--seeds", "1-4"]
    out = ["--out", str(tmp_path / "F")]
    for more, last, said in (
        ([], 2, "interrupted; nothing was kept, --out FOLDER keeps what is done"),
        (out, 1, f"interrupted: 1 of 4 worlds is kept in {tmp_path}/F; go on with --resume"),
        ([*out, "--resume"], 3, f"interrupted: 3 of 4 worlds are kept in {tmp_path}/F; go on with --resume"),
    ):
        until = last
        gc.collect()  # the lock of the line before, which a process would have left
        monkeypatch.setattr("sys.argv", [*line, "--simulator", "reference", *more])
        assert exited() == 130
        assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_ray_cluster_gives_the_numbers_of_this_process() -> None:
    few = Grid((SMALL,), ("kube-default", "index"), (1, 2))
    assert costs(run(few, engine="ray")) == costs(run(few))


def exited() -> object:
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_every_scenario_is_listed_with_what_it_is_and_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["nodewise", "scenarios", "-o", "json"])
    assert exited() == 0
    rows = {row["scenario"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert tuple(rows) == lab.known()
    assert all(row["says"] for row in rows.values())
    assert "load=0.7" in rows["hetero"]["parameters"]
    assert rows["S1"]["source"]
    assert all(lab.policies_of(name) and lab.headline_of(name) in lab.units_of(name) for name in rows)


def half(policy: str, seed: int, size: float = 1.0) -> dict[str, float]:
    return {"makespan": size * seed * (0.5 if policy == "good" else 1.0)}


def test_a_study_brings_its_own_policies_and_is_compared_by_its_headline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study("toy", "", "", {"bad": "", "good": ""}, {"makespan": "s"}, "makespan", half)
    monkeypatch.setattr(lab, "_STUDIES", {"toy": study})
    argv = ["compare", "--scenario", "toy@size=4", "--policies", "all", "--seeds", "1-3", "-o", "json"]
    monkeypatch.setattr("sys.argv", ["nodewise", *argv])
    assert exited() == 0
    rows = {(r["policy"], r["metric"]): r for r in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["good", "makespan"]["mean"] == 4.0
    assert (rows["good", "makespan_ratio"]["mean"], rows["good", "makespan_ratio"]["unit"]) == (0.5, "to bad")
    for line, word in (("toy@nope=1", "nope"), ("toy", "scenario toy has no policy 'index'")):
        monkeypatch.setattr("sys.argv", ["nodewise", "compare", "--scenario", line, "--policies", "index"])
        assert exited() == 2
        assert word in capsys.readouterr().err
