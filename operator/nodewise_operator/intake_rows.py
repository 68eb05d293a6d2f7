"""What the intake knows of each pod: in memory without its manifest, and in full as it waits or in the store."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from nodewise_operator.intake_writer import Writer
from nodewise_operator.outcomes import Facts
from nodewise_operator.store import Store
from nodewise_operator.store.rows import Fate, PodRow

CLOSED = 20_000
"""Pods that are over and still remembered, so that late events about them need not be looked up."""
OPEN = (Fate.WAITING, Fate.RUNNING)
_NO_MANIFEST: dict[str, Any] = {}


class PodRows:
    """Owned by the intake's thread. What looks up raises StoreUnavailable, and has changed nothing then."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self.open: dict[str, PodRow] = {}  # of pods that are not over; without manifests
        self._closed: OrderedDict[str, PodRow] = OrderedDict()  # of those that are, the newest last; the same
        self._store, self._writer = store, writer

    def remember(self, row: PodRow) -> None:
        """The store has it, of a pod that is not over."""
        self.open[row.uid] = replace(row, manifest=_NO_MANIFEST)

    def drop(self, uid: str) -> None:
        """Whatever is known of it is not."""
        self.open.pop(uid, None)
        self._closed.pop(uid, None)

    def get(self, uid: str) -> PodRow | None:
        """What is known of a pod; its manifest may be left out."""
        row = self.open.get(uid) or self._closed.get(uid)
        if row is None:
            row = self._store.pod(uid)
            if row is not None:
                self._closed[uid] = replace(row, manifest=_NO_MANIFEST)
                self._trim_closed()
        return row

    def whole(self, uid: str, seen: Facts | None) -> PodRow | None:
        """The same with its manifest, which `seen` may have."""
        before = self.get(uid)
        return None if before is None else self._with_manifest(before, seen)

    def _with_manifest(self, before: PodRow, seen: Facts | None) -> PodRow:
        """The row with its manifest: as it is about to be written, as the object has it, or from the store."""
        if before.manifest:
            return before
        pending = self._writer.pending.pods.get(before.uid)
        if pending is not None:
            return replace(before, manifest=pending.manifest)
        if seen is not None and seen.node == before.node:
            return replace(before, manifest=seen.manifest)
        stored = self._store.pod(before.uid)
        return before if stored is None else replace(before, manifest=stored.manifest)

    def keep(self, made: PodRow) -> None:
        """This is known now, and is written next."""
        self._writer.pending.pods[made.uid] = made
        slim = replace(made, manifest=_NO_MANIFEST)
        if made.fate in OPEN:
            self._closed.pop(made.uid, None)
            self.open[made.uid] = slim
        else:
            self.open.pop(made.uid, None)
            self._closed[made.uid] = slim
            self._trim_closed()
        self._writer.due()

    def _trim_closed(self) -> None:
        if len(self._closed) > CLOSED:
            self._closed.popitem(last=False)


def same(one: PodRow, other: PodRow) -> bool:
    """Whether nothing is new; nan is nan here."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in PodRow.__slots__)
    return all(a == b or (a != a and b != b) for a, b in pairs)
