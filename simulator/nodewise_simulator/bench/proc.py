"""Other processes: their CPU time, their children. Linux only."""

from __future__ import annotations

import time
from pathlib import Path

from nodewise.core.errors import UserError


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its threads so far, in nanoseconds' steps, not in ticks.

    Source: `clock_getcpuclockid(3)`, whose id of another process's clock is this (linux/posix-timers.h,
    make_process_cpuclock with CPUCLOCK_SCHED). Raises UserError where the kernel does not tell.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError as error:
        raise UserError(f"the CPU time of process {pid} cannot be read ({error}): run this on Linux") from error


def only_child(pid: int, patience_s: float = 10.0) -> int:
    """The process that a guard guards. Raises UserError if there is none."""
    give_up_s = time.monotonic() + patience_s
    while time.monotonic() < give_up_s:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            if children:
                return int(children[0])
        time.sleep(0.05)
    raise UserError(f"process {pid} has no child that serves: see its log")
