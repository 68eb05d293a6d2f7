"""One thread owns the cluster state, the store and the estimator; all others put what they saw into its queue.

It is level-triggered: an event says what a pod is now, not what happened, so one that comes twice changes nothing, and
one that is lost is made up for by the next, or by a whole list.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from nodewise.channel.messages import DecisionRow
from nodewise.core.estimator import Observation
from nodewise.core.kinds import TREATMENTS
from nodewise.core.pods import NodeSpec, PodState
from nodewise.core.state import ClusterState
from nodewise.core.types import UNKNOWN_S, PodRequest
from nodewise.kube.cache import Cache, SeenNode, SeenPod, seen_node, seen_pod
from nodewise.kube.snapshot import trimmed_node
from nodewise_operator import outcomes
from nodewise_operator.intake_writer import Counts, Writer
from nodewise_operator.observed import Observer
from nodewise_operator.outcomes import Facts
from nodewise_operator.predictor import Predictor
from nodewise_operator.store import Store
from nodewise_operator.store.errors import Fenced, StoreUnavailable
from nodewise_operator.store.rows import Downtime, Fate, NodeRow, PodRow

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 5
"""An event that cannot be taken in is tried so often, then parked."""
CLOSED = 20_000
"""Pods that are over and still remembered, so that late events about them need not be looked up."""
_OPEN = (Fate.WAITING, Fate.RUNNING)
_NO_MANIFEST: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class PodItem:
    """One v1.Pod as it waits in the queue."""

    pod: SeenPod
    facts: Facts


@dataclass(frozen=True, slots=True)
class NodeItem:
    """One v1.Node as it waits in the queue."""

    node: SeenNode
    version: int
    trimmed: bytes


def pod_item(pod: dict[str, Any]) -> PodItem:
    """Project a v1.Pod; raises as `pod_request` does."""
    seen = seen_pod(pod, "")
    return PodItem(seen, outcomes.facts(pod, seen.state.request))


def node_item(node: dict[str, Any]) -> NodeItem:
    """Project a v1.Node; raises as `node_spec` does."""
    version = int(node["metadata"].get("resourceVersion") or 0)
    return NodeItem(seen_node(node), version, msgspec.json.encode(trimmed_node(node)))


class Intake:
    """`event`, `replaced`, `vanished`, `seen` and `call` from any thread; everything else from the thread of `run`."""

    def __init__(
        self,
        store: Store,
        predictor: Predictor,
        observer: Observer,
        state: ClusterState,
        *,
        batch_s: float = 0.2,
        batch_rows: int = 500,
        seen_every_s: float = 2.0,
        unknown_after_s: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.predictor, self.observer, self.state = store, predictor, observer, state
        self.counts = Counts()
        self.failed: BaseException | None = None  # what ended the thread
        self.synced = threading.Event()  # both first lists are taken in
        self._writer = Writer(store, self.counts, batch_s, batch_rows)
        self._seen_every_s, self._unknown_after_s, self._clock = seen_every_s, unknown_after_s, clock
        self._queue: queue.SimpleQueue[tuple[str, tuple[Any, ...], int]] = queue.SimpleQueue()
        self._seen_written_s = 0.0
        self._again: tuple[str, tuple[Any, ...], int] | None = None  # what the store's absence interrupted
        self.cache = Cache(state, self._bound)
        self._nodes: dict[str, tuple[NodeItem, float]] = {}  # by uid, with first_seen_s
        self._specs: dict[str, NodeSpec] = {}  # by name, of the nodes in `_specs_of`
        self._specs_of: tuple[NodeSpec, ...] = ()
        self._alive: dict[str, Facts] = {}  # the newest of every pod there is
        self._rows: dict[str, PodRow] = {}  # of pods that are not over; without manifests
        self._closed: OrderedDict[str, PodRow] = OrderedDict()  # of those that are, the newest last; the same
        self._undelivered: dict[str, float] = {}  # pods that only an extender told of: since when
        self._current: Facts | None = None
        self._decided: tuple[DecisionRow, float] | None = None  # of the pod in `_current`, with the slowdown
        self._listed: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()  # uids of pods that are away for good
        self._first_seen: dict[str, float] = {}  # of the nodes that the store takes to be there, until they are listed
        self._last_seen_s = UNKNOWN_S
        state.learn = self._learn

    # --- from any thread

    def event(self, resource: str, kind: str, item: PodItem | NodeItem) -> None:
        """One object of `pods` or `nodes` as it is now: kind ADDED, MODIFIED or DELETED.

        LISTED if it was found in a list after a gap: then nobody saw what it went through.
        """
        self._queue.put(("event", (resource, kind, item, self._clock()), 0))

    def replaced(self, resource: str, items: list[Any], begin_s: float = math.nan) -> None:
        """All objects there are; what is missing went unseen.

        `begin_s` (epoch) is when something was last heard of them, nan on the first list.
        """
        self._queue.put(("replaced", (resource, items, begin_s, self._clock()), 0))

    def vanished(self, resource: str, uids: Iterable[str]) -> None:
        """These objects are gone, though no event said so."""
        self._queue.put(("vanished", (resource, tuple(uids), self._clock()), 0))

    def gap(self, begin_s: float, why: str) -> None:
        """Nothing was seen from `begin_s` (epoch) until now."""
        self._queue.put(("gap", (begin_s, self._clock(), why), 0))

    def seen(self, until_s: float) -> None:
        """Everything that happened before `until_s` (epoch) was put into the queue."""
        self._queue.put(("seen", (until_s,), 0))

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in the thread, between two events; it may use all that the thread owns."""
        future: Future[T] = Future()
        self._queue.put(("call", (work, future), 0))
        return future

    def save_estimator(self, revision: int, learned: dict[str, Any]) -> None:
        """Keep the estimator as it is, once the observations that it was made of are written. In the thread."""
        self._writer.save(revision, learned)

    def extender_rows(self, rows: Iterable[DecisionRow]) -> None:
        """Decisions of an extender that are in the store already: give their pods a row. In the thread (`call`)."""
        for decision in rows:
            before = self._before(decision.uid)
            facts = self._alive.get(decision.uid)
            if before is not None:
                continue
            if facts is not None:
                self._take(facts, self._clock(), decided_on=True)
            else:
                self._undelivered[decision.uid] = self._clock()
                self._keep(outcomes.undelivered(decision))

    def stop(self) -> None:
        """Write what is there and end `run`."""
        self._queue.put(("stop", (), 0))

    @property
    def waiting(self) -> int:
        """Things in the queue."""
        return self._queue.qsize()

    @property
    def unwritten(self) -> int:
        """Rows that are not in the store yet."""
        return self._writer.pending.rows()

    @property
    def unavailable(self) -> str:
        """Why the store cannot be used; empty if it can."""
        return self._writer.unavailable

    @property
    def parked(self) -> deque[tuple[str, str]]:
        """What was left out, and why."""
        return self._writer.parked

    @property
    def on_written(self) -> list[Callable[[], None]]:
        """Called in the thread after every transaction: something may have changed."""
        return self._writer.on_written

    @property
    def pods(self) -> int:
        """Pods there are."""
        return len(self._alive)

    @property
    def nodes(self) -> int:
        """Nodes there are."""
        return len(self._nodes)

    # --- the thread

    def run(self) -> None:
        """Until `stop`, or until the store belongs to another (`failed` says so)."""
        try:
            self._restore()
            while self._turn():
                pass
            self._writer.flush(last=True)
            self.predictor.save()
            self._writer.save_now()
        except BaseException as error:
            self.failed = error
            if not isinstance(error, Fenced):
                log.exception("the intake has ended")

    def _restore(self) -> None:
        for row in self.store.open_pods():
            self._rows[row.uid] = replace(row, manifest=_NO_MANIFEST)
            if not row.kind:
                self._undelivered[row.uid] = self._clock()
        self._first_seen = {n.uid: n.first_seen_s for n in self.store.nodes() if math.isinf(n.last_seen_s)}
        self._last_seen_s = self.store.last_seen_s()

    def _turn(self) -> bool:
        """Take in what is there, for one batch at most; False if it was told to stop."""
        writer = self._writer
        held_s = min(writer.back_off_s(), 0.5) if writer.overfull or self._again is not None else 0.0
        if held_s > 0.0:
            time.sleep(held_s)
            self.counts.held_s += held_s
        if writer.overfull:
            writer.flush()
            return True
        wait_s = max(min(writer.due_s - time.monotonic(), 1.0), 0.0)
        try:
            what, given, tries = self._again or self._queue.get(timeout=wait_s)
            self._again = None
        except queue.Empty:
            self._settle_undelivered()
            writer.flush()
            return True
        if what == "stop":
            return False
        self._handle(what, given, tries)
        if writer.full or time.monotonic() >= writer.due_s:
            writer.flush()
        return True

    def _handle(self, what: str, given: tuple[Any, ...], tries: int) -> None:
        if what == "call":
            work, future = given
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001  it is the caller's
                    future.set_exception(error)
            return
        self._current = self._decided = None
        try:
            getattr(self, f"_on_{what}")(*given)
        except Fenced:
            raise
        except StoreUnavailable as error:  # a row could not be looked up; nothing behind this may overtake it
            self._writer.failed(error)
            self._again = what, given, tries
        except Exception as error:
            if tries + 1 < TRIES:
                self.counts.retried += 1
                self._queue.put((what, given, tries + 1))
                return
            self.counts.parked += 1
            named = self._named(what, given)
            self.parked.append((named, f"{type(error).__name__}: {error}"))
            log.exception("%s is left out after %d tries", named, TRIES)

    def _named(self, what: str, given: tuple[Any, ...]) -> str:
        if what == "event" and given[0] == "pods":
            request = given[2].facts.request
            return f"{given[1]} of pod {request.namespace}/{request.name} ({request.uid})"
        return f"{what} of {given[0]}" if given else what

    # --- events

    def _on_event(self, resource: str, kind: str, item: Any, now_s: float) -> None:
        self.counts.events += 1
        if resource == "nodes":
            self._node(kind, item, now_s)
        else:
            self._pod(kind, item, now_s)

    def _on_seen(self, until_s: float) -> None:
        if until_s - self._seen_written_s >= self._seen_every_s:
            self._seen_written_s = until_s
            self._writer.pending.seen_s = until_s
            self._writer.due()

    def _on_gap(self, begin_s: float, end_s: float, why: str) -> None:
        self.counts.downtimes += 1
        self._writer.pending.downtimes.append(Downtime(begin_s, end_s, why))
        self._writer.due()

    def _on_replaced(self, resource: str, items: list[Any], begin_s: float, now_s: float) -> None:
        if resource == "nodes":
            self.cache.replace_nodes([item.node for item in items])
            for item in items:
                self._note_node(item, now_s)
                self._writer.flush_full()
            for uid in (self._nodes.keys() | self._first_seen.keys()) - {item.node.uid for item in items}:
                self._node_gone(uid, now_s)
            self._first_seen.clear()
            self.observer.nodes_changed()
        else:
            first = "pods" not in self._listed
            if first and self._last_seen_s > 0.0:  # nan in a new store
                self._on_gap(self._last_seen_s, now_s, "the operator was not running")
            elif not first:
                self._on_gap(begin_s, now_s, "the watch of pods was cut")
            self.cache.replace_pods([item.pod for item in items])  # scores nothing: `_current` is not set
            self._writer.pending.seen_s = now_s  # at once: should we die now, the next downtime begins here
            here = {item.facts.request.uid for item in items}
            missing = (self._alive.keys() | self._rows.keys()) - here - self._undelivered.keys()
            for item in items:
                self._alive[item.facts.request.uid] = item.facts
                self._take(item.facts, now_s)
                self._writer.flush_full()
            for uid in missing:
                self._pod_vanished(uid, now_s)
                self._writer.flush_full()
        self._listed.add(resource)
        if self._listed >= {"pods", "nodes"}:
            self.synced.set()

    def _on_vanished(self, resource: str, uids: tuple[str, ...], now_s: float) -> None:
        if resource == "nodes":
            for uid in uids:
                if (known := self._nodes.get(uid)) is not None:
                    self.cache.node_event("DELETED", known[0].node)
                    self._node_gone(uid, now_s)
            self.observer.nodes_changed()
            return
        for uid in uids:
            if uid in self._alive:
                self._pod_vanished(uid, now_s)

    # --- nodes

    def _node(self, kind: str, item: NodeItem, now_s: float) -> None:
        known = self._nodes.get(item.node.uid)
        if kind == "DELETED":
            self.cache.node_event(kind, item.node)
            self._node_gone(item.node.uid, now_s)
        elif known is None or known[0].version <= item.version:
            if known is not None and known[0].node == item.node:
                return  # most changes of a node are its kubelet's signs of life
            self.cache.node_event(kind, item.node)
            self._note_node(item, now_s)
        else:
            return
        self.observer.nodes_changed()

    def _note_node(self, item: NodeItem, now_s: float) -> None:
        uid = item.node.uid
        known = self._nodes.get(uid)
        first_seen_s = known[1] if known else self._first_seen.get(uid, now_s)
        if known is not None and known[0].node == item.node:
            return
        self._nodes[uid] = item, first_seen_s
        self._writer.pending.nodes[uid] = _node_row(item, first_seen_s, math.inf)
        self._writer.due()

    def _node_gone(self, uid: str, now_s: float) -> None:
        known = self._nodes.pop(uid, None)
        if known is not None:
            self._writer.pending.nodes[uid] = _node_row(*known, now_s)
        elif uid in self._first_seen:  # it went while we were not running
            before = next((n for n in self.store.nodes() if n.uid == uid), None)
            if before is not None:
                self._writer.pending.nodes[uid] = replace(before, last_seen_s=self._last_seen_s or now_s)
        self._writer.due()

    def _spec(self, name: str) -> NodeSpec | None:
        """The node as the state has it, with what its owner says of its price."""
        nodes = self.state.nodes()
        if nodes != self._specs_of:
            self._specs_of, self._specs = nodes, {spec.name: spec for spec in nodes}
        return self._specs.get(name)

    # --- pods

    def _pod(self, kind: str, item: PodItem, now_s: float) -> None:
        seen, uid = item.facts, item.facts.request.uid
        stale = self._is_stale(seen)
        self.counts.stale += stale
        if kind != "LISTED":
            self._current = seen
        if not stale or kind == "DELETED":
            self.cache.pod_event(kind, item.pod)
        if kind != "DELETED" and not stale:
            self._alive[uid] = seen
        self._take(seen, now_s)
        if kind == "DELETED":
            before = self._before(uid)
            if before is not None:
                made = outcomes.gone(self._whole(before, seen), now_s, seen.gone_reason)
                if made is not before:
                    self._keep(made)
            self._forget(uid)

    def _is_stale(self, seen: Facts) -> bool:
        """Whether it is older than what is known, or about a pod that is over and away."""
        known = self._alive.get(seen.request.uid)
        if known is not None:
            return 0 < seen.version < known.version
        return seen.request.uid in self._gone

    def _take(self, seen: Facts, now_s: float, *, decided_on: bool = False) -> None:
        """Add what an object says to its row, and give it a decision when it is first seen bound.

        A pod has a row from its first decision on, whose ever that is.
        """
        uid = seen.request.uid
        before = self._before(uid)
        if before is None and not decided_on and not (seen.node and TREATMENTS[seen.request.kind].scored):
            return
        whole = None if before is None else self._whole(before, seen)
        decided = self._decided
        slowdown = decided[1] if decided else UNKNOWN_S
        spec = self._spec(seen.node or (before.node if before else ""))
        made = outcomes.row(seen, whole, now_s, spec, slowdown, self.state.rates)
        if made.node and (before is None or not before.node):
            if decided is None:
                self.counts.unscored += 1
                self._writer.pending.decisions.append(
                    self.observer.unseen(seen.request, made.node, made.bound_s if made.bound_s > 0 else now_s)
                )
            else:
                self.counts.scored += 1
                self._writer.pending.decisions.append(decided[0])
        self._undelivered.pop(uid, None)
        if whole is None or not _same(made, whole):
            self._keep(made)

    def _bound(self, request: PodRequest, node: str) -> None:
        """A pod gets a node, and the state does not hold it there yet."""
        seen = self._current
        if seen is None or seen.request.uid != request.uid or not TREATMENTS[request.kind].scored:
            return
        before = self._before(request.uid)
        if before is not None and before.node:
            return
        spec = seen.manifest.get("spec") or {}
        self._decided = self.observer.score(self.state, request, spec, node, self._clock())

    def _learn(self, seen: Observation) -> None:
        if self.predictor.learn(seen):
            self._writer.pending.observations.append(seen)
            self._writer.due()

    def _pod_vanished(self, uid: str, now_s: float) -> None:
        self.counts.vanished += 1
        seen = self._alive.pop(uid, None)
        if seen is not None:
            self.cache.pod_event("DELETED", _absent(seen))
        before = self._rows.get(uid)
        if before is not None:
            whole = self._whole(before, seen)
            self._keep(outcomes.gone(whole, now_s, outcomes.DOWNTIME))
        self._forget(uid)

    def _settle_undelivered(self) -> None:
        now_s = self._clock()
        if not self.synced.is_set():
            return
        for uid, since_s in list(self._undelivered.items()):
            if now_s - since_s >= self._unknown_after_s:
                del self._undelivered[uid]
                before = self._before(uid)
                if before is not None and before.fate in _OPEN:
                    self._keep(outcomes.gone(self._whole(before, None), now_s, outcomes.DOWNTIME))

    # --- rows

    def _before(self, uid: str) -> PodRow | None:
        """What is known of a pod; its manifest may be left out."""
        row = self._rows.get(uid) or self._closed.get(uid)
        if row is None:
            row = self.store.pod(uid)
            if row is not None:
                self._closed[uid] = replace(row, manifest=_NO_MANIFEST)
                self._trim_closed()
        return row

    def _whole(self, before: PodRow, seen: Facts | None) -> PodRow:
        """The row with its manifest: as it is about to be written, as the object has it, or from the store."""
        if before.manifest:
            return before
        pending = self._writer.pending.pods.get(before.uid)
        if pending is not None:
            return replace(before, manifest=pending.manifest)
        if seen is not None and seen.node == before.node:
            return replace(before, manifest=seen.manifest)
        stored = self.store.pod(before.uid)
        return before if stored is None else replace(before, manifest=stored.manifest)

    def _keep(self, made: PodRow) -> None:
        self._writer.pending.pods[made.uid] = made
        slim = replace(made, manifest=_NO_MANIFEST)
        if made.fate in _OPEN:
            self._closed.pop(made.uid, None)
            self._rows[made.uid] = slim
        else:
            self._rows.pop(made.uid, None)
            self._closed[made.uid] = slim
            self._trim_closed()
        self._writer.due()

    def _forget(self, uid: str) -> None:
        """The pod is away; an old event about it must not bring it back into the state."""
        self._alive.pop(uid, None)
        self._gone[uid] = None
        if len(self._gone) > CLOSED:
            self._gone.popitem(last=False)

    def _trim_closed(self) -> None:
        if len(self._closed) > CLOSED:
            self._closed.popitem(last=False)

    # --- the store

    def _flush(self, *, last: bool = False) -> None:  # the channel wants pods on disk before their decisions
        self._writer.flush(last=last)


def _same(one: PodRow, other: PodRow) -> bool:
    """Whether nothing is new; nan is nan here."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in PodRow.__slots__)
    return all(a == b or (a != a and b != b) for a, b in pairs)


def _node_row(item: NodeItem, first_seen_s: float, last_seen_s: float) -> NodeRow:
    spec = item.node.spec
    manifest: Mapping[str, Any] = msgspec.json.decode(item.trimmed)
    return NodeRow(item.node.uid, spec.name, spec.node_class, dict(manifest), first_seen_s, last_seen_s)


def _absent(seen: Facts) -> SeenPod:
    """The pod as the cache forgets it: by uid, without having ended."""
    nan = UNKNOWN_S
    state = PodState(seen.request, seen.node, nan, nan, succeeded=False, done=False, ready=False)
    return SeenPod(str(seen.version), state, ours=True, waits=False, nominated="")
