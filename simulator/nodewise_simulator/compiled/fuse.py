"""The columns of `nodewise.core` as compiled kernels: the very functions that numpy runs, compiled for one node at a
time and linked into one call that writes all of them. There is no second definition of any column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numba as nb
import numpy as np
from numba.extending import overload, register_jitable

from nodewise.core import columns, cost
from nodewise.core.columns import COLUMNS, Column, Scope
from nodewise.core.types import Floats

Kernel = Callable[..., Any]

jit: Callable[[Callable[..., Any]], Kernel] = nb.njit(error_model="numpy", nogil=True)
"""Division as in numpy (by zero: inf or nan), and no lock of the interpreter held."""

for _helper in (
    columns.contended_run_s, columns.flow_s, columns.late_probability, columns.node_share,
    cost.energy_cents, cost.dynamic_joules, cost.node_cents,
):  # fmt: skip
    register_jitable(_helper)


@overload(columns.select)
def _select(when: Any, then: Any, otherwise: Any) -> Any:
    del when, then, otherwise  # types; numba wants the implementation's signature to be the very same
    return _choose


def _choose(when: Any, then: Any, otherwise: Any) -> Any:
    return then if when else otherwise


def of_scope(names: Sequence[str], *scopes: Scope) -> tuple[str, ...]:
    """Those of the named columns that are of these scopes, in the order given."""
    return tuple(name for name in names if COLUMNS[name].scope in scopes)


@cache
def fuse(names: tuple[str, ...]) -> Kernel:
    """`write(out, k, *given)`: the named columns, all of one scope, clipped, into out[k:] (float32 or float64).

    `given` is what the columns of that scope take (`nodewise.core.columns`), as NamedTuples of float64 scalars. Raises
    KeyError for an unknown column.
    """
    write = jit(_nothing)
    for name in reversed(names):
        write = _link(COLUMNS[name], write)
    return write


@cache
def weighted_sum(names: tuple[str, ...]) -> Kernel:
    """`total(weights, k, *given)`: Σ weights[k + j] × column j, float64, unclipped and in order, as rules add them."""
    total = jit(_zero)
    for name in names[::-1]:
        total = _add(COLUMNS[name], total)
    return total


def compiled(name: str) -> Kernel:
    """One column, unclipped."""
    return jit(COLUMNS[name].fn)


def _nothing(out: Floats, k: int, *given: Any) -> None:  # noqa: ARG001  the end of the chain
    pass


def _zero(so_far: float, weights: Floats, k: int, *given: Any) -> float:  # noqa: ARG001  the end of the chain
    return so_far


def _link(col: Column, rest: Kernel) -> Kernel:
    fn, low, high = jit(col.fn), float(col.low), float(col.high)

    @jit
    def write(out: Floats, k: int, *given: Any) -> None:
        out[k] = np.fmin(np.fmax(fn(*given), low), high)
        rest(out, k + 1, *given)

    return write


def _add(col: Column, rest: Kernel) -> Kernel:
    fn = jit(col.fn)

    @jit
    def total(so_far: float, weights: Floats, k: int, *given: Any) -> Any:
        return rest(so_far + weights[k] * fn(*given), weights, k + 1, *given)

    return total
