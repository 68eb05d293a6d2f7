"""All that `full` plays with, behind one pointer: fifty arrays as arguments take minutes to compile, and are copied."""

from __future__ import annotations

from typing import Any

import numba as nb
from numba.experimental import structref

from nodewise_simulator.compiled.wide import Books, Wide

_OF_STATE = (
    "pod_f", "pod_i", "true_s", "node_f", "masks", "settings", "node", "node_i", "slot_i", "slot_f", "pod", "pod_node",
    "queued", "number", "resident", "tree", "totals", "present", "ended", "here", "ok",
)  # fmt: skip
FIELDS = (*_OF_STATE, *Wide._fields, *Books._fields)
"""Arrays of `flat.Flat`, `run.State` and `desk.Desk`, then of `wide.Wide` and `wide.Books`, under their names there."""


@structref.register
class _Type(nb.types.StructRef):
    def preprocess_fields(self, fields: Any) -> Any:
        """Numba wants types without values."""
        return tuple((name, nb.types.unliteral(kind)) for name, kind in fields)  # type: ignore[no-untyped-call]


class Whole(structref.StructRefProxy):
    """Made and used in kernels only, as `Whole(*arrays)` in the order of `FIELDS`."""

    _fields = FIELDS
    """So that a kernel that is kept is not that of other fields: see `kept`."""


structref.define_constructor(Whole, _Type, FIELDS)  # type: ignore[no-untyped-call]
