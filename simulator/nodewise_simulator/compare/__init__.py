"""Policies side by side on the same worlds: the grid that is run, its numbers, and what is made of them."""

from nodewise_simulator.compare.files import check, write
from nodewise_simulator.compare.grid import Grid, compare, run, simulators
from nodewise_simulator.compare.kept import Kept
from nodewise_simulator.compare.rows import Row, interval, ratio_interval, rows_of

__all__ = [
    "Grid",
    "Kept",
    "Row",
    "check",
    "compare",
    "interval",
    "ratio_interval",
    "rows_of",
    "run",
    "simulators",
    "write",
]
