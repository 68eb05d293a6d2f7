"""`nodewise bundle`: the card in a table, and every check in a line."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nodewise.core.card import column_now
from nodewise.policies.bundle import write_bundle
from nodewise.policies.learned import load

from .bundles import NAMES, card_of, golden, models, written

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    columns = (column_now(NAMES[0], 0.0, 12.5), *map(column_now, NAMES[1:]))
    card = replace(
        card_of(), columns=columns, scenarios=("hetero",), seeds=(1, 2000), results={"cost_ratio": {"mean": 0.93}}
    )
    write_bundle(tmp_path / "b", models(), card, golden())
    return tmp_path / "b"


def test_inspect_shows_the_card_and_the_files(run: Run, folder: Path) -> None:
    status, out, _ = run("bundle", "inspect", str(folder))
    assert status == 0
    head = f"{(folder / 'head.onnx').stat().st_size:,}"
    for words in (
        ("digest", load(folder).digest), ("commit", "abc"), ("scenarios", "hetero"), ("seeds", "1, 2000"),
        ("delay_cents", "pair", "cents", "0 to 1,000", "0 to 12.50"), ("log_queued", "cluster", "–"),
        ("cost_ratio", "0.93"), ("head.onnx", head), ("encoder.onnx",), ("golden.npz",), ("card.json",),
    ):  # fmt: skip
        assert any(all(word in line for word in words) for line in out.splitlines()), words


def test_inspect_gives_programs_the_whole_card(run: Run, folder: Path) -> None:
    told = json.loads(run("bundle", "inspect", str(folder), "--output", "json")[1])
    assert told["card"] == json.loads((folder / "card.json").read_text())
    assert told["digest"] == load(folder).digest
    assert [row["scope"] for row in told["rows"]] == ["pair", "node", "pod", "pair", "cluster"]
    assert {f["file"]: f["bytes"] for f in told["files"]} == {p.name: p.stat().st_size for p in folder.iterdir()}


def test_inspect_shows_also_what_verify_refuses_and_marks_it(run: Run, folder: Path) -> None:
    (folder / "head.onnx").unlink()
    (folder / "encoder.onnx").write_bytes(b"another")
    status, out, err = run("bundle", "inspect", str(folder))
    assert status == 2
    for words in (("head.onnx", "–", "NO"), ("encoder.onnx", "7", "NO"), ("golden.npz", "yes"), ("delay_cents",)):
        assert any(all(word in line for word in words) for line in out.splitlines()), words
    assert err.startswith(f"nodewise: {folder}/")
    assert all(file in err for file in ("head.onnx", "encoder.onnx"))
    assert "golden.npz" not in err
    status, out, _ = run("bundle", "inspect", str(folder), "-o", "json")
    assert status == 2
    assert {f["file"]: f["matches"] for f in json.loads(out)["files"]} == {
        "head.onnx": False, "encoder.onnx": False, "golden.npz": True, "card.json": None,
    }  # fmt: skip


def test_results_of_one_shape_are_a_table_of_rounded_numbers(run: Run, tmp_path: Path) -> None:
    rows = [{"departed": 0.5998965148885032, "scenario": "hetero", "worlds": 12}]
    write_bundle(tmp_path / "b", models(), replace(card_of(), results={"validation": rows, "note": "x"}), golden())
    lines = run("bundle", "inspect", str(tmp_path / "b"))[1].splitlines()
    assert any(re.search(r"scenario\s+┃\s+departed\s+┃\s+worlds", line) for line in lines)
    assert any(re.search(r"hetero\s+│\s+0\.5999\s+│\s+12", line) for line in lines)
    assert not any("0.59989" in line or '"' in line for line in lines)


def test_a_card_that_cannot_be_read_is_named_with_its_path(run: Run, folder: Path) -> None:
    card = folder / "card.json"
    card.write_text(card.read_text().replace('"format": 2', '"format": 3'))
    told = f"nodewise: the card is of format 3 and this version reads 2; a newer Nodewise made it: .* \\({card}\\)\n"
    for action in ("inspect", "verify"):
        status, out, err = run("bundle", action, str(folder))
        assert (status, out) == (2, "")
        assert re.fullmatch(told, err)


def test_verify_tells_each_check_and_ends_with_the_first_that_is_not_passed(run: Run, folder: Path) -> None:
    status, out, err = run("bundle", "verify", str(folder))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["passed"] * 7 + ["linear"]
    assert load(folder).digest in lines[-1]
    told = json.loads(run("bundle", "verify", str(folder), "--output", "json")[1])
    assert [f"passed  {row['passed']}" for row in told["rows"]] == lines[:-1]

    (folder / "head.onnx").write_bytes(b"")
    status, out, err = run("bundle", "verify", str(folder))
    assert (status, out.splitlines()) == (2, lines[:2])
    assert err == f"nodewise: {folder}/head.onnx is not the file that the card was written for; copy the bundle again\n"


def test_without_a_folder_it_is_the_one_built_in(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodewise.policies._BUNDLES", tmp_path)
    monkeypatch.setattr("nodewise.policies.BUILT_IN", "own")
    written(tmp_path / "own", name="built-in")
    assert "built-in of digest" in run("bundle", "verify")[1]


def test_the_bundle_that_ships_passes_every_check_of_serving(run: Run) -> None:
    status, out, err = run("bundle", "verify")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ["passed"] * 7
