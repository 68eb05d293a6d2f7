"""What a column is, and the list of all of them, which `nodewise.core.columns` fills: import from there.

The rules that a column's function follows stand at its top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Scope = Literal["node", "pod", "pair", "cluster"]


def select(when: Any, then: Any, otherwise: Any) -> Any:
    """`then` where `when` holds, else `otherwise`; the one conditional that numpy and numba both take."""
    return np.where(when, then, otherwise)


@dataclass(frozen=True, slots=True)
class Column:
    """One number that a policy may look at."""

    name: str
    unit: str
    low: float
    high: float
    scope: Scope
    fn: Callable[..., Any]
    says: str


COLUMNS: dict[str, Column] = {}


def column(scope: Scope, *, unit: str, low: float, high: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a column under its function's name; the docstring's first line is what `explain` prints."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        if fn.__name__ in COLUMNS:
            raise ValueError(f"column {fn.__name__} is defined twice")
        says = (fn.__doc__ or "").strip().split("\n")[0].rstrip(".")
        COLUMNS[fn.__name__] = Column(fn.__name__, unit, low, high, scope, fn, says)
        return fn

    return register


def in_scope(scope: Scope) -> tuple[Column, ...]:
    """The columns of one scope, in the order of their definition."""
    return tuple(c for c in COLUMNS.values() if c.scope == scope)
