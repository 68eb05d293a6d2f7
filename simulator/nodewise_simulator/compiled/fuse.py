"""The columns of `nodewise.core` as compiled kernels, for one node at a time.

They are the very functions that numpy runs, linked into one call that writes all of them. There is no second
definition of any column.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable
from numba.np import arrayobj

from nodewise.core.columns import COLUMNS, Scope, select

Kernel = Callable[..., Any]

njit: Callable[..., Callable[[Callable[..., Any]], Kernel]] = nb.njit

jit: Callable[[Callable[..., Any]], Kernel] = njit(error_model="numpy", nogil=True)
"""Division as in numpy (by zero: inf or nan), and no lock of the interpreter held."""

inlined: Callable[[Callable[..., Any]], Kernel] = njit(error_model="numpy", nogil=True, forceinline=True)
"""As `jit`, and never a call: what takes or gives long tuples is passed through memory otherwise, and only in what is
part of one function is it known that arrays are `borrowed`."""

spliced: Callable[[Callable[..., Any]], Kernel] = nb.njit(error_model="numpy", nogil=True, inline="always")
"""As `inlined`, before anything is compiled: for long functions, which are otherwise optimised once at each level."""


def _lendable(kind: Any) -> bool:
    """Whether nothing in it is counted but arrays: of a list, say, two would believe that they hold it."""
    if isinstance(kind, types.BaseTuple):
        of: Any = kind
        return all(_lendable(of[k]) for k in range(len(of)))
    return isinstance(kind, types.Array | types.Number | types.Boolean | types.NoneType)


@intrinsic
def _borrowed(_: Any, held: Any) -> Any:
    """`borrowed(held)`: the same arrays, which nobody counts."""

    def lent(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        if isinstance(kind, types.Array):
            make: Any = arrayobj.make_array
            populate: Any = arrayobj.populate_array
            own = make(kind)(context, builder, value)
            made = make(kind)(context, builder)
            populate(made, own.data, own.shape, own.strides, own.itemsize, None)
            return made._getvalue()
        if isinstance(kind, types.BaseTuple):
            of: Any = kind
            parts = [lent(context, builder, of[k], builder.extract_value(value, k)) for k in range(len(of))]
            return context.make_tuple(builder, kind, parts)
        return value

    if not _lendable(held):
        raise TypingError(f"only arrays, numbers and tuples of them can be borrowed, not {held}")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return lent(context, builder, signature.args[0], values[0])

    return held(held), generate


borrowed: Kernel = _borrowed
"""To count who holds an array is a locked addition for each look at a row. Arrays that are only borrowed are counted by
nobody. Whoever borrows must use the originals again after the last look through the borrowed ones, or be given them
from outside: numba frees a local at its last use. Raises TypingError for what holds more than arrays and numbers."""


@intrinsic
def _fetch(_: Any, row: Any, at: Any) -> Any:
    """`fetch(row, at)`: begin to load what lies at this place of a row (contiguous), which is wanted soon.

    To fetch beyond the end does nothing.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        make: Any = arrayobj.make_array
        array = make(signature.args[0])(context, builder, values[0])
        place = builder.bitcast(builder.gep(array.data, [values[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(prefetch, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(row, at), generate


fetch: Kernel = _fetch


@overload(select)
def _select(when: Any, then: Any, otherwise: Any) -> Any:
    del when, then, otherwise  # types; numba wants the implementation's signature to be the very same
    return _choose


def _choose(when: Any, then: Any, otherwise: Any) -> Any:
    return then if when else otherwise


OVERLOADS = (_select, _choose)
"""What numba puts in the place of others' functions, and so nobody finds who follows the calls."""


def of_scope(names: Sequence[str], *scopes: Scope) -> tuple[str, ...]:
    """Those of the named columns that are of these scopes, in the order given."""
    return tuple(name for name in names if COLUMNS[name].scope in scopes)


@cache
def fuse(names: tuple[str, ...]) -> Kernel:
    """`write(out, k, *given)`: the named columns, all of one scope, clipped, into out[k:] (float32 or float64).

    `given` is what the columns of that scope take (`nodewise.core.columns`), as NamedTuples of float64 scalars. Returns
    the k behind the last. Raises KeyError for an unknown column.
    """
    lines = [f"value_{k} = column_{k}(*given)" for k in range(len(names))]
    return _written("out, k, *given", [*lines, *_stores(names), f"return k + {len(names)}"], names)


@cache
def priced(names: tuple[str, ...], terms: tuple[str, ...]) -> Kernel:
    """As `fuse`, of scope pair, and the price of the pair: `write(out, k, weights, *given)` returns Σ weights × terms.

    The sum is of unclipped values, added in the order of `terms`, as rules add them; a term that is also among the
    names is computed once.
    """
    needed = (*names, *(name for name in terms if name not in names))
    lines = [f"value_{k} = column_{k}(*given)" for k in range(len(needed))]
    total = " + ".join(["0.0", *(f"weights[{k}] * value_{needed.index(name)}" for k, name in enumerate(terms))])
    return _written("out, k, weights, *given", [*lines, *_stores(names), f"return {total}"], needed)


@cache
def compiled(fn: Callable[..., Any]) -> Kernel:
    """A column's function, unclipped, or a rule's."""
    with _REGISTERING:
        _register(fn)
    return inlined(fn)


_REGISTERING, _REGISTERED = threading.Lock(), {select}


def _register(fn: Any) -> None:
    """Let compiled code call the plain functions of ours that `fn` calls."""
    for name in fn.__code__.co_names:
        found = fn.__globals__.get(name)
        of_module = [getattr(found, other, None) for other in fn.__code__.co_names] if inspect.ismodule(found) else []
        for used in (found, *of_module):
            if isinstance(used, FunctionType) and used.__module__.startswith("nodewise.") and used not in _REGISTERED:
                _REGISTERED.add(used)
                register_jitable(used)
                _register(used)


def _stores(names: Sequence[str]) -> list[str]:
    limits = [(float(COLUMNS[name].low), float(COLUMNS[name].high)) for name in names]
    return [f"out[k + {k}] = fmin(fmax(value_{k}, {low!r}), {high!r})" for k, (low, high) in enumerate(limits)]


def _written(given: str, lines: Sequence[str], names: Sequence[str]) -> Kernel:
    """A kernel of these lines. One long function compiles twice as fast as one that calls another for each column."""
    known: dict[str, Any] = {f"column_{k}": compiled(COLUMNS[name].fn) for k, name in enumerate(names)}
    known |= {"fmin": np.fmin, "fmax": np.fmax, "__name__": __name__}
    text = f"def write({given}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(text, known)  # noqa: S102  of names of columns and numbers of ours
    return inlined(known["write"])
