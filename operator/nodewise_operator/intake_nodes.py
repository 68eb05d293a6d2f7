"""What the intake knows of the nodes: who is there, since when, and who left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import UNKNOWN_S
from nodewise.kube.cache import SeenNode, seen_node
from nodewise.kube.snapshot import trimmed_node
from nodewise_operator.intake_writer import Writer
from nodewise_operator.store import Store
from nodewise_operator.store.rows import NodeRow


@dataclass(frozen=True, slots=True)
class NodeItem:
    """One v1.Node as it waits in the queue."""

    node: SeenNode
    version: int
    trimmed: bytes


def node_item(node: dict[str, Any]) -> NodeItem:
    """Project a v1.Node; raises as `node_spec` does."""
    version = int(node["metadata"].get("resourceVersion") or 0)
    return NodeItem(seen_node(node), version, msgspec.json.encode(trimmed_node(node)))


class Nodes:
    """Owned by the intake's thread."""

    def __init__(self, store: Store, writer: Writer, state: ClusterState) -> None:
        self.known: dict[str, tuple[NodeItem, float]] = {}  # by uid, with first_seen_s
        self.last_seen_s = UNKNOWN_S  # when the operator that ran before saw anything last
        self._store, self._writer, self._state = store, writer, state
        self._specs: dict[str, NodeSpec] = {}  # by name, of the nodes in `_specs_of`
        self._specs_of: tuple[NodeSpec, ...] = ()
        self._first_seen: dict[str, float] = {}  # of the nodes that the store takes to be there, until they are listed

    def restore(self) -> None:
        """Before anything is listed."""
        self._first_seen = {n.uid: n.first_seen_s for n in self._store.nodes() if math.isinf(n.last_seen_s)}
        self.last_seen_s = self._store.last_seen_s()

    def listed(self, uids: AbstractSet[str], now_s: float) -> None:
        """There are no others."""
        self.gone((self.known.keys() | self._first_seen.keys()) - uids, now_s)
        self._first_seen.clear()

    def note(self, item: NodeItem, now_s: float) -> None:
        """It is there, and is so."""
        uid = item.node.uid
        known = self.known.get(uid)
        first_seen_s = known[1] if known else self._first_seen.get(uid, now_s)
        if known is not None and known[0].node == item.node:
            return
        self.known[uid] = item, first_seen_s
        self._writer.pending.nodes[uid] = _node_row(item, first_seen_s, math.inf)
        self._writer.due()

    def gone(self, uids: AbstractSet[str], now_s: float) -> None:
        """They are there no more."""
        unseen = {uid for uid in uids if uid not in self.known and uid in self._first_seen}
        if unseen:  # they went while we were not running
            at_s = now_s if math.isnan(self.last_seen_s) else self.last_seen_s
            rows = {row.uid: row for row in self._store.nodes() if row.uid in unseen}
            self._writer.pending.nodes |= {uid: replace(row, last_seen_s=at_s) for uid, row in rows.items()}
        for uid in uids:
            if (known := self.known.pop(uid, None)) is not None:
                self._writer.pending.nodes[uid] = _node_row(*known, now_s)
        self._writer.due()

    def spec(self, name: str) -> NodeSpec | None:
        """The node as the state has it, with what its owner says of its price."""
        nodes = self._state.nodes()
        if nodes != self._specs_of:
            self._specs_of, self._specs = nodes, {spec.name: spec for spec in nodes}
        return self._specs.get(name)


def _node_row(item: NodeItem, first_seen_s: float, last_seen_s: float) -> NodeRow:
    spec = item.node.spec
    manifest: Mapping[str, Any] = msgspec.json.decode(item.trimmed)
    return NodeRow(item.node.uid, spec.name, spec.node_class, dict(manifest), first_seen_s, last_seen_s)
