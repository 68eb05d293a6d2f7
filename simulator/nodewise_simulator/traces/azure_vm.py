"""Azure VM trace V1 (2017) as flavours and lifetimes: tenants' batches of VMs, 5 minutes apart.

Read are the files of `huaweicloud/trace_generation_rnn:resources/`: `flav_map.txt`, `v1.interval_map.txt`,
`v1.{train,dev}.txt[.gz]` and, where there is one, `v1.{train,dev}.c2100000.txt[.gz]` with the lifetimes. How they are
read:

- A line is a time in seconds and its VMs, `|` behind each tenant's batch. A flavour is cores and GiB.
- Lifetimes come as numbers of bins: `U4` ended in bin 4, `C38` was still running when the trace ended, in bin 38. A
  VM that ended has the mean of its bin's times (bins are 5 minutes wide for short lives and days for long ones); one
  that was running has the bin's least time and `running` set: at least as long. Without a lifetime file all are nan.
- Five minutes is the trace's resolution: VMs of a line arrive together. There are no hosts, priorities or usage.
- A core is 1,000 CPU milli.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.traces.table import Array, read_lines, refuse


@dataclass(frozen=True, slots=True)
class Machines:
    """VMs in order of arrival."""

    arrival_s: Floats  # [V]
    batch: Array  # [V] number of the tenant's batch
    cpu_milli: Array  # [V]
    memory_mib: Array  # [V]
    life_s: Floats  # [V], nan: not known
    running: Array  # [V] bool, the lifetime is a lower bound
    dropped: dict[str, int]


def load(folder: Path, part: str = "dev") -> Machines:
    """Read one part, `train` (no lifetimes) or `dev`. Raises UserError for bad files."""
    flavours = _flavours(folder / "flav_map.txt")
    path = _there(folder, f"v1.{part}.txt")
    if path is None:
        raise UserError(f"{folder}: there is no v1.{part}.txt or v1.{part}.txt.gz; give the folder of Azure's VM trace")
    arrival: list[float] = []
    batch, cpu, memory, starts = [], [], [], []
    number, before = 0, -np.inf
    for row, line in read_lines(path, "a flavour trace of Azure"):
        time, items = _cut(path, row, line)
        if time < before:
            refuse(path, f"time {time:g} comes after {before:g}; sort the file by time", row)
        before = time
        starts.append(len(arrival))
        for item in items:
            if item == "|":
                number += 1
            elif item in flavours:
                arrival.append(time)
                batch.append(number)
                cpu.append(flavours[item][0])
                memory.append(flavours[item][1])
            else:
                refuse(path, f"flavour {item!r} is not in flav_map.txt; take the map that belongs to the trace", row)
    if not arrival:
        refuse(path, "there are 0 VMs; give a trace with at least one")
    life_s, running = np.full(len(arrival), np.nan), np.zeros(len(arrival), bool)
    lives = _there(folder, f"v1.{part}.c2100000.txt")
    if lives is not None:
        _lives(lives, folder / "v1.interval_map.txt", [*starts, len(arrival)], life_s, running)
    return Machines(np.array(arrival), np.array(batch), np.array(cpu), np.array(memory), life_s, running, {})


def _there(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _cut(path: Path, row: int, line: str) -> tuple[float, list[str]]:
    time, space, rest = line.partition(" ")
    try:
        at = float(time)
    except ValueError:
        at = np.nan
    if not space or not 0 <= at < np.inf:
        refuse(path, f"{line[:20]!r} does not start with a time; a line is SECONDS ITEM,ITEM,|,", row)
    return at, [item for item in rest.strip().split(",") if item]


def _flavours(path: Path) -> dict[str, tuple[int, int]]:
    out = {}
    for row, line in read_lines(path, "Azure's map of flavours"):
        try:
            sizes, letter = line.split()
            cores, gib = map(float, sizes.split(","))
        except ValueError:
            refuse(path, f"{line!r} is no flavour; a line is CORES,GIB LETTER", row)
        if not (0 < cores < np.inf and 0 < gib < np.inf):
            refuse(path, f"a flavour of {cores:g} cores and {gib:g} GiB; sizes must be above 0", row)
        out[letter] = round(cores * 1000), round(gib * 1024)
    return out


def _bins(path: Path) -> dict[int, tuple[float, float]]:
    """Least and mean time of each bin."""
    times: dict[int, list[float]] = {}
    for row, line in read_lines(path, "Azure's map of intervals"):
        try:
            seconds, number = line.split()
            times.setdefault(int(number), []).append(float(seconds))
        except ValueError:
            refuse(path, f"{line!r} is no interval; a line is SECONDS BIN", row)
    return {number: (min(found), sum(found) / len(found)) for number, found in times.items()}


def _lives(path: Path, map_path: Path, starts: list[int], life_s: Floats, running: Array) -> None:
    bins = _bins(map_path)
    lines = 0
    for row, line in read_lines(path, "a lifetime trace of Azure"):
        items = [item for item in _cut(path, row, line)[1] if item != "|"]
        if row >= len(starts):
            refuse(path, f"there are more lines than the {len(starts) - 1} of flavours; the files do not match", row)
        due = starts[row] - starts[row - 1]
        if len(items) != due:
            refuse(path, f"{len(items)} lifetimes for {due} VMs; give the two files of the same trace", row)
        for at, item in enumerate(items, starts[row - 1]):
            kind, number = item[:1], item[1:]
            if kind not in "UC" or not number.isdecimal() or int(number) not in bins:
                refuse(path, f"{item!r} is no lifetime; write U or C and a bin of {map_path.name}", row)
            running[at] = kind == "C"
            life_s[at] = bins[int(number)][0 if kind == "C" else 1]
        lines = row
    if lines != len(starts) - 1:
        refuse(path, f"it ends after {lines} of {len(starts) - 1} lines; fetch it again", lines)
