"""All that `full` plays with, behind one pointer: fifty arrays as arguments take minutes to compile, and are copied."""

from __future__ import annotations

from typing import Any

import numba as nb
from numba.experimental import structref

from nodewise_simulator.compiled import changes
from nodewise_simulator.compiled.fuse import borrowed, spliced
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


@spliced
def gathered(flat: Any, state: Any, desk: Any, ok: Any, w: Any, b: Any) -> Any:
    """All of it behind one pointer, borrowed from the kernel's caller, who holds it; `desk` and `ok` as they come."""
    pod_f, pod_i, true_s, node_f, _, masks, settings, _, _ = borrowed(flat)
    node, node_i, slot_i, slot_f, pod, pod_node, _, queued, number = borrowed(state)[:9]
    resident, tree, totals, _, _, present, ended, here = desk[:8]
    h: Any = Whole(  # type: ignore[no-untyped-call]
        pod_f, pod_i, true_s, node_f, masks, settings, node, node_i, slot_i, slot_f, pod, pod_node, queued, number,
        resident, tree, totals, present, ended, here, ok, *borrowed(w), *borrowed(b),
    )  # fmt: skip
    changes.classes(h)
    return h
