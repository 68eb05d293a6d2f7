"""What the store holds as the one file that `nodewise advise` reads: whole, or in pieces that fit into memory."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.kube.snapshot import Snapshot, SnapshotGap, SnapshotNode, SnapshotPod
from nodewise_operator.store import PodRow, Store

_PODS = 500
"""In a piece: some 500 kB, encoded in a few milliseconds."""


def recorded(store: Store, since_s: float | None = None) -> Snapshot:
    """Everything at once. Raises UserError if the store has seen no node yet."""
    pods = [*_pods(store)]  # before the rest: what is told of them holds at its end
    return msgspec.structs.replace(_rest(store, since_s), pods=pods)


def pieces(store: Store) -> Iterator[bytes]:
    """The same, encoded. Raises UserError at the first piece if the store has seen no node yet."""
    _require_nodes(store)
    between = b'{"pods":['
    pods = _pods(store)
    while some := [*islice(pods, _PODS)]:
        yield between + msgspec.json.encode(some)[1:-1]
        between = b","
    rest = _rest(store, None)
    told = {name: getattr(rest, name) for name in rest.__struct_fields__ if name != "pods"}
    yield (between if between != b"," else b"") + b"]," + msgspec.json.encode(told)[1:] + b"\n"


def gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same as a gzip file. zlib lets go of the interpreter while it compresses."""
    squeeze = zlib.compressobj(6, wbits=31)
    for part in parts:
        if made := squeeze.compress(part):
            yield made
    yield squeeze.flush()


def _rest(store: Store, since_s: float | None) -> Snapshot:
    """All but the pods."""
    _require_nodes(store)
    nodes = [*store.nodes()]
    learned = store.estimator()
    estimator = RunTimeEstimator.restore(learned[1]) if learned else RunTimeEstimator()
    for _, seen in store.observations(learned[0] if learned else 0):
        estimator.learn(seen)
    return Snapshot(
        made_s=time.time(),
        source="store",
        # Of what ran before the operator came only the survivors were seen, which says nothing of their kind.
        begin_s=max(min(n.first_seen_s for n in nodes), since_s or 0.0),
        end_s=store.last_seen_s(),
        nodes=[
            SnapshotNode(manifest=n.manifest, first_seen_s=_time(n.first_seen_s), last_seen_s=_time(n.last_seen_s))
            for n in nodes
        ],
        pods=[],
        estimator=estimator.state(),
        downtimes=[SnapshotGap(begin_s=d.begin_s, end_s=d.end_s, why=d.why) for d in store.downtimes()],
    )


def _require_nodes(store: Store) -> None:
    if next(store.nodes(), None) is None or math.isnan(store.last_seen_s()):
        raise UserError(f"the store {store.where} has seen no node yet: let the operator run for a while")


def _pods(store: Store) -> Iterator[SnapshotPod]:
    return (_pod(row) for row in store.pods() if row.manifest)


def _pod(row: PodRow) -> SnapshotPod:
    return SnapshotPod(
        manifest=row.manifest, fate=row.fate.value, reason=row.reason, node=row.node, bound_s=_time(row.bound_s),
        started_s=_time(row.started_s), finished_s=_time(row.finished_s), slowdown=_time(row.slowdown),
    )  # fmt: skip


def _time(value: float) -> float | None:
    return value if math.isfinite(value) else None
