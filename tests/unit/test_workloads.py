"""The four parametric workloads: sizes as in their source, work that is really done."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise_operator.workloads import WORKLOADS, measure, workload

SHIPPED = {
    "matmul": (0.1, 0.2, 0.4, 0.5, 0.8, 0.9),
    "primes": (0.05, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    "sort": (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95),
    "file-io": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
"""The queue of the source."""


def reference_s(name: str, p: float) -> float:
    return WORKLOADS[name].reference_s(WORKLOADS[name].size(p))


def test_the_queue_of_the_source_takes_what_its_simulator_says() -> None:
    tasks = [reference_s(name, p) for name, sizes in SHIPPED.items() for p in sizes]
    assert len(tasks) == 33
    assert sum(tasks) == pytest.approx(314.38, abs=0.005)
    assert max(tasks) == pytest.approx(43.56, abs=0.005)


@pytest.mark.parametrize(
    ("name", "p", "size"),
    [
        ("matmul", 0.0, 250), ("matmul", 0.5, 2625), ("matmul", 0.333, 1831), ("matmul", 1.0, 5000),
        ("primes", 0.0, 240_000), ("primes", 1.0, 4_800_000), ("sort", 0.0, 500_000), ("sort", 1.0, 10_000_000),
        ("file-io", 0.0, 100_000), ("file-io", 1.0, 2_000_000),
    ],
)  # fmt: skip
def test_the_parameter_grows_from_end_to_end_and_is_cut(name: str, p: float, size: int) -> None:
    assert workload(name).size(p) == size


@pytest.mark.parametrize(("name", "p"), [("matmul", -0.1), ("matmul", 1.1), ("matmul", float("nan")), ("fft", 0.5)])
def test_what_makes_no_sense_is_told(name: str, p: float) -> None:
    with pytest.raises(UserError, match=r"from 0 to 1|choose among matmul, primes, sort, file-io"):
        measure(name, p)


@pytest.mark.parametrize(("below", "count"), [(3, 1), (4, 2), (10, 4), (100, 25), (10_000, 1229)])
def test_primes_are_counted(below: int, count: int) -> None:
    assert WORKLOADS["primes"].run(below)[1] == str(count)


def test_a_product_is_summed() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((20, 20)), rng.random((20, 20))
    assert float(WORKLOADS["matmul"].run(20)[1]) == pytest.approx(float(a.sum(0) @ b.sum(1)), rel=1e-5)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_size_has_the_same_result_and_another_has_not(name: str) -> None:
    first, again, other = (WORKLOADS[name].run(size) for size in (2000, 2000, 3000))
    assert first[1] == again[1] != other[1]
    assert first[0] > 0.0


def test_file_io_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    WORKLOADS["file-io"].run(10)
    assert [*tmp_path.iterdir()] == []


def test_a_run_as_a_program_prints_one_json_line(tmp_path: Path) -> None:
    called = [sys.executable, "-m", "nodewise_operator.workloads"]
    told = tmp_path / "message"
    done = subprocess.run([*called, "primes", "0", "--runs", "3", "--to", told], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == told.read_text()
    made = json.loads(done.stdout)
    assert (made["workload"], made["p"], made["size"], made["checksum"]) == ("primes", 0.0, 240_000, "21221")
    assert made["seconds"] == sorted(made["runs"])[1]
    for wrong in (["primes", "2"], ["fft", "0"], ["primes", "0", "--runs", "0"]):
        assert subprocess.run([*called, *wrong], capture_output=True, check=False).returncode == 2
