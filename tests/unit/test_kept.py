"""Kernels that are kept on disk: found again by the next process, and never when anything in them has changed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.typed import List

from nodewise.core import columns, cost, table
from nodewise.core.columns import COLUMNS
from nodewise_simulator import scorer
from nodewise_simulator.compiled import cycle, fuse
from nodewise_simulator.compiled.kept import digest_of, kept
from nodewise_simulator.compiled.play import linked

USER = """
import sys
from nodewise_made_up import total
from nodewise_simulator.compiled.kept import kept

text = '''
import numba as nb
from nodewise_made_up import total

@nb.njit(cache=True)
def kernel(x):
    return total(x)
'''
kernel = kept(text, total).kernel
print(kernel(10.0), sum(kernel.stats.cache_hits.values()))
"""
MODULE = """
import numba as nb

FACTOR = {factor}

def inner(x):
    return x * FACTOR

compiled = nb.njit(inner)

@nb.njit
def total(x):
    return compiled(x) + {added}
"""
TWO_LOOPS = """
import sys
from nodewise_made_up import loop
from nodewise_simulator.compiled.kept import kept

text = '''
import numba as nb
from nodewise_made_up import loop

inner = loop({added})

@nb.njit(cache=True)
def kernel(n):
    return inner(n)
'''
print(*(kept(text.format(added=added), loop).kernel(4) for added in map(int, sys.argv[1:])))
"""
LOOP = """
import numba as nb

def loop(added):
    @nb.njit
    def inner(n):  # as Fibonacci's: no compiler puts that in the place of a call
        return added if n < 2 else inner(n - 1) + inner(n - 2)

    return inner
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[str]]:
    def run(text: str = USER, *words: str) -> list[str]:
        paths = [str(tmp_path), *(p for p in sys.path if p)]
        env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            [sys.executable, "-B", "-c", text, *words],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


def test_the_next_process_takes_it_from_disk_and_a_change_of_what_it_calls_is_never_missed(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    module = tmp_path / "nodewise_made_up.py"

    def write(factor: float, added: float) -> None:
        module.write_text(MODULE.format(factor=factor, added=added))
        os.utime(module, (1, 1))  # same size, same time: nothing but what it says has changed

    write(2.0, 1.0)
    assert run() == ["21.0", "0"]
    assert run() == ["21.0", "1"]
    write(2.0, 3.0)
    assert run() == ["23.0", "0"]
    write(4.0, 3.0)
    assert run() == ["43.0", "0"]
    write(2.0, 1.0)
    assert run() == ["21.0", "1"]


def test_two_closures_of_one_function_that_two_processes_compiled_are_not_taken_for_each_other(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "nodewise_made_up.py").write_text(LOOP)
    assert run(TWO_LOOPS, "1") == ["5"]
    assert run(TWO_LOOPS, "2") == ["10"]
    assert run(TWO_LOOPS, "1", "2") == ["5", "10"]


def test_of_two_processes_that_ask_at_once_one_compiles_and_the_other_reads(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "nodewise_made_up.py").write_text(MODULE.format(factor=2.0, added=1.0))
    with ThreadPoolExecutor(2) as pool:
        assert sorted(job.result() for job in [pool.submit(run) for _ in range(2)]) == [["21.0", "0"], ["21.0", "1"]]


def test_a_cache_that_may_be_read_only_is_passed_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept("VALUE = 8\n")
    name = next((tmp_path / "nodewise" / "kernels").iterdir()).name
    monkeypatch.delitem(sys.modules, f"nodewise_kernel_{name}")
    monkeypatch.setattr(
        os, "access", lambda path, _: not str(path).startswith(str(tmp_path))
    )  # root may write anywhere
    assert not str(kept("VALUE = 8\n").__file__).startswith(str(tmp_path))


def test_only_what_nobody_counts_can_be_borrowed() -> None:
    @njit
    def borrow(held):  # type: ignore[no-untyped-def]
        return fuse.borrowed(held)[0].sum()

    assert borrow((np.ones(3), 1, (True, np.ones(2)))) == 3.0
    with pytest.raises(TypingError, match=r"only arrays, numbers and tuples of them can be borrowed, not .*List"):
        borrow((np.ones(3), List([1.0])))


def test_what_cannot_be_written_to_the_cache_folder_is_made_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    module = kept("VALUE = 7\n")
    assert module.VALUE == 7
    assert not str(module.__file__).startswith(str(tmp_path))


def test_threads_that_ask_at_once_all_get_the_whole_module() -> None:
    text = "import time\ntime.sleep(0.2)\nVALUE = object()\n"
    with ThreadPoolExecutor(4) as pool:
        made = [job.result() for job in [pool.submit(kept, text) for _ in range(4)]]
    assert len({id(module.VALUE) for module in made}) == 1


NAMES = ("cpu_pressure", "room_cents", "log_queued")


def other_column(name: str, **changes: Any) -> Any:
    col = COLUMNS[name]
    fields = {f: getattr(col, f) for f in col.__slots__} | changes
    return type(col)(**fields)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """The digest of the whole engine, linked anew."""
    cached = (linked, fuse.fuse, fuse.priced, fuse.compiled)

    def digest() -> str:
        for function in cached:
            function.cache_clear()
        return digest_of(linked(NAMES), fuse.OVERLOADS)

    yield digest
    monkeypatch.undo()
    for function in cached:
        function.cache_clear()


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a column's function": lambda m: m.setitem(
        COLUMNS, "cpu_pressure", other_column("cpu_pressure", fn=COLUMNS["cpu_requested_share"].fn)
    ),
    "a column's limit": lambda m: m.setitem(COLUMNS, "log_queued", other_column("log_queued", high=8.5)),
    "a column that is a term": lambda m: m.setitem(
        COLUMNS, "delay_cents", other_column("delay_cents", fn=COLUMNS["late_cents"].fn)
    ),
    "a helper of columns": lambda m: m.setattr(columns, "node_share", columns.contended_run_s),
    "a function of another module": lambda m: m.setattr(cost, "node_cents", cost.energy_cents),
    "a constant of the table": lambda m: m.setattr("nodewise_simulator.compiled.desk.OVERDUE", table.OVERDUE + 0.01),
    "a constant of the scheduler": lambda m: m.setattr(cycle, "MIN_FEASIBLE", 99),
    "a constant of the scorer": lambda m: m.setattr(scorer, "LIMIT", 5.0),
    "an index": lambda m: m.setattr("nodewise_simulator.compiled.kernels.HARM", 5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_the_engine_has_another_digest_after_a_change_of(
    change: Callable[[pytest.MonkeyPatch], None], fresh: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fresh()
    assert fresh() == before
    change(monkeypatch)
    assert fresh() != before


def test_functions_that_differ_only_in_which_of_two_others_they_call_first_differ() -> None:
    def one() -> int:
        return 1

    def two() -> int:
        return 2

    def pair(first: Callable[[], int], then: Callable[[], int]) -> Callable[[], int]:
        return lambda: 10 * first() + then()

    assert digest_of(one, two, pair(one, two)) != digest_of(one, two, pair(two, one))
    assert digest_of(one, two, pair(one, two)) == digest_of(one, two, pair(one, two))


def test_what_an_intrinsic_of_numba_writes_is_part_of_the_digest() -> None:
    def made(constant: int) -> Any:
        @intrinsic
        def five(typing: Any) -> Any:
            return types.int64(), lambda context, builder, signature, args: context.get_constant(types.int64, constant)

        call: Any = five
        return njit(lambda: call())

    assert digest_of(made(5)) == digest_of(made(5)) != digest_of(made(6))


def test_what_has_no_digest_is_refused_by_name() -> None:
    unknown = SimpleNamespace(value=object())
    with pytest.raises(TypeError, match="has no digest"):
        digest_of(lambda: unknown)
    assert digest_of(np.float64(1.0)) != digest_of(np.float32(1.0))
    assert digest_of(np.arange(3000)) != digest_of(np.arange(3000) * (np.arange(3000) != 1500))
