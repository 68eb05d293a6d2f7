"""Four parametric workloads that feel a machine differently: matrix product, primes, sort, file I/O.

The parameter p in [0, 1] is a size between two ends. Sizes and reference times are those of "Distributed Task Scheduler
with Learned Embeddings" (github.com/lluisvalerodelai/distributed-scheduling), which describes its programs in words
only, so these are ours: seconds compare machines with each other, and with the reference times only in their order.

Run one as `python -m nodewise_operator.workloads NAME P`: it prints one JSON line. Only numpy and the standard library.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from nodewise.core.errors import UserError

_SEED = 1
_BLOCK_BYTES = 4096
_FILE_BLOCKS = 16384
"""File I/O goes over 64 MiB, so that its room does not depend on p."""
_SYNC_EVERY = 10_000
"""Operations between two fsyncs: without any, the page cache alone would be measured."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work."""

    says: str
    unit: str
    """What its size counts."""
    low: int
    high: int
    """Size at p = 0 and at p = 1."""
    reference_s: Callable[[int], float]
    """Seconds on the source's reference machine, a formula of its simulator."""
    run: Callable[[int], tuple[float, str]]
    """Size → seconds of the work itself, without preparing its input; checksum of its result."""
    memory_bytes: Callable[[int], int]
    """What a process that runs it needs, generously."""

    def size(self, p: float) -> int:
        """The parameter at p, cut to a whole number as in the source. Raises UserError for p outside [0, 1]."""
        if not 0.0 <= p <= 1.0:
            raise UserError(f"the size of a workload is a number from 0 to 1, not {p:g}")
        return int(self.low + p * (self.high - self.low))


def _matmul(size: int) -> tuple[float, str]:
    rng = np.random.default_rng(_SEED)
    a, b = rng.random((size, size)), rng.random((size, size))
    started_s = time.perf_counter()
    product = a @ b
    total = float(product.sum())
    # Six digits: libraries and processors add in different orders.
    return time.perf_counter() - started_s, f"{total:.6g}"


def _primes(size: int) -> tuple[float, str]:
    """Trial division by the primes found before: integer arithmetic on one core, hardly any memory."""
    started_s = time.perf_counter()
    found = [2]
    for candidate in range(3, size, 2):
        root = math.isqrt(candidate)
        for prime in found:
            if prime > root:
                found.append(candidate)
                break
            if candidate % prime == 0:
                break
        else:
            found.append(candidate)
    return time.perf_counter() - started_s, str(len(found))


def _sort(size: int) -> tuple[float, str]:
    """A list of numbers that lie all over the heap: what it waits for is memory."""
    values = np.random.default_rng(_SEED).random(size).tolist()
    started_s = time.perf_counter()
    values.sort()
    took_s = time.perf_counter() - started_s
    return took_s, f"{zlib.crc32(np.array(values[:: max(size // 1000, 1)]).tobytes()):08x}"


def _file_io(size: int) -> tuple[float, str]:
    """Writes and reads of 4 KiB by turns, all over a file in the temporary folder (`TMPDIR`), which is removed."""
    block = np.random.default_rng(_SEED).bytes(_BLOCK_BYTES)
    checksum = 0
    with tempfile.TemporaryDirectory(prefix="nodewise-io-") as folder:
        file = os.open(Path(folder) / "blocks", os.O_RDWR | os.O_CREAT)
        try:
            os.truncate(file, _FILE_BLOCKS * _BLOCK_BYTES)
            started_s = time.perf_counter()
            for k in range(size):
                # An odd step meets every block before it meets one again, and neighbours in time are far apart.
                at = (k // 2 * 7919 % _FILE_BLOCKS) * _BLOCK_BYTES
                if k % 2:
                    checksum = zlib.crc32(os.pread(file, _BLOCK_BYTES, at)[:64], checksum)
                else:
                    os.pwrite(file, block, at)
                if k % _SYNC_EVERY == 0:
                    os.fsync(file)
            os.fsync(file)
            took_s = time.perf_counter() - started_s
        finally:
            os.close(file)
    return took_s, f"{checksum:08x}"


_BASE_BYTES = 128 << 20
"""The interpreter, numpy and its threads."""

WORKLOADS: Mapping[str, Workload] = {
    "matmul": Workload(
        "matrix product: all cores, floating point", "rows", 250, 5000,
        lambda n: (n / 1000) ** 2.5, _matmul, lambda n: _BASE_BYTES + 4 * 8 * n * n,
    ),
    "primes": Workload(
        "primes below a number: one core, integers", "numbers", 240_000, 4_800_000,
        lambda n: 2.0 * n / 1e6, _primes, lambda n: _BASE_BYTES + 8 * n,
    ),
    "sort": Workload(
        "sort of an array: one core, memory", "items", 500_000, 10_000_000,
        lambda n: 1.5 * n / 1e6, _sort, lambda n: _BASE_BYTES + 64 * n,
    ),
    "file-io": Workload(
        "writes and reads of 4 KiB: disk and system calls", "operations", 100_000, 2_000_000,
        lambda n: 0.8 * n / 1e5, _file_io, lambda _: _BASE_BYTES + _FILE_BLOCKS * _BLOCK_BYTES,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """What one machine took for one workload."""

    workload: str
    p: float
    size: int
    seconds: float
    """Median of the runs."""
    runs: tuple[float, ...]
    """Seconds of each run, in order."""
    checksum: str


def workload(name: str) -> Workload:
    """The workload of this name. Raises UserError if there is none."""
    if name not in WORKLOADS:
        raise UserError(f"there is no workload {name!r}; choose among {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def measure(name: str, p: float, runs: int = 1) -> Measured:
    """Run one workload here, `runs` times. Raises UserError for a name or size that makes no sense."""
    size = workload(name).size(p)
    done = [WORKLOADS[name].run(size) for _ in range(runs)]
    seconds = tuple(took_s for took_s, _ in done)
    return Measured(name, p, size, median(seconds), seconds, done[0][1])


def main(words: list[str]) -> None:
    """Measure and print one JSON line; `--to FILE` writes it there as well, such as a pod's termination message."""
    parser = argparse.ArgumentParser(prog="python -m nodewise_operator.workloads")
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument("p", type=float, help="size, from 0 to 1")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--to", type=Path, help="a file that gets the same line")
    asked = parser.parse_args(words)
    if not 0.0 <= asked.p <= 1.0 or asked.runs < 1:
        parser.error("p must be from 0 to 1, and --runs at least 1")
    line = json.dumps(asdict(measure(asked.name, asked.p, asked.runs)))
    print(line, flush=True)  # noqa: T201  it is the product
    if asked.to is not None:
        asked.to.write_text(line + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
