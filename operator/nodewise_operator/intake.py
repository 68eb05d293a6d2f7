"""One thread owns the cluster state, the store and the estimator; all others put what they saw into its queue.

It is level-triggered: an event says what a pod is now, not what happened, so one that comes twice changes nothing, and
one that is lost is made up for by the next, or by a whole list.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from nodewise.channel.messages import DecisionRow, Segment
from nodewise.core.estimator import Observation
from nodewise.core.kinds import TREATMENTS
from nodewise.core.pods import PodState
from nodewise.core.state import ClusterState
from nodewise.core.types import UNKNOWN_S, PodRequest
from nodewise.kube.cache import Cache, SeenPod
from nodewise_operator import outcomes
from nodewise_operator.intake_inbox import MOST_CALLS, TRIES, Inbox, PodItem, pod_item, pod_name
from nodewise_operator.intake_nodes import NodeItem, Nodes, node_item
from nodewise_operator.intake_rows import CLOSED, OPEN, PodRows, same
from nodewise_operator.intake_writer import Counts, Writer
from nodewise_operator.observed import Observer
from nodewise_operator.outcomes import Facts
from nodewise_operator.predictor import Predictor
from nodewise_operator.store import Store
from nodewise_operator.store.errors import Fenced, StoreUnavailable, Unstorable
from nodewise_operator.store.rows import Downtime, Fate, PodRow

__all__ = ["MOST_CALLS", "TRIES", "Intake", "NodeItem", "PodItem", "node_item", "pod_item"]

log = logging.getLogger(__name__)


class Intake(Inbox):
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
        retain_s: float = math.inf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        counts = Counts()
        super().__init__(Writer(store, counts, batch_s, batch_rows), counts, clock)
        self.store, self.predictor, self.observer, self.state = store, predictor, observer, state
        self.failed: BaseException | None = None  # what ended the thread
        self.synced = threading.Event()  # both first lists are taken in
        self._seen_every_s, self._unknown_after_s, self._retain_s = seen_every_s, unknown_after_s, retain_s
        self._seen_written_s = 0.0
        self.cache = Cache(state, self._bound)
        self._nodes = Nodes(store, self._writer, state)
        self._alive: dict[str, Facts] = {}  # the newest of every pod there is
        self._rows = PodRows(store, self._writer)
        self._undelivered: dict[str, float] = {}  # pods that only an extender told of: since when
        self._current: tuple[Facts, PodRow | None] | None = None  # the pod that an event is about, and its row
        self._decided: tuple[DecisionRow, float] | None = None  # of the pod in `_current`, with the slowdown
        self._listed: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()  # uids of pods that are away for good
        state.learn = self.learn
        self._writer.on_parked = self._unknown

    def save_estimator(self, revision: int, learned: dict[str, Any]) -> None:
        """Keep the estimator as it is, once the observations that it was made of are written. In the thread."""
        self._writer.save(revision, learned)

    def take_segment(self, segment: Segment) -> None:
        """Write what an extender sent, each decision with a row for its pod, in one transaction. In the thread.

        Raises StoreUnavailable if that was not possible, Unstorable if it cannot be acknowledged. A row that the store
        refuses is parked, and the segment is acknowledged: sent again, it would be refused again.
        """
        writer = self._writer
        if writer.unavailable:
            raise StoreUnavailable(writer.unavailable)
        for decision in segment.rows:
            self._decided_elsewhere(decision)
        writer.pending.segment = segment.extender, segment.sequence, segment.dropped
        writer.due()
        writer.flush(last=True)
        if writer.unavailable:
            raise StoreUnavailable(writer.unavailable)
        if writer.refused:
            raise Unstorable(writer.refused)

    def learn(self, seen: Observation) -> None:
        """Believe what a pod that ended tells, unless it did before, and write it. In the thread."""
        if self.predictor.learn(seen):
            self._writer.pending.observations.append(seen)
            self._writer.due()

    @property
    def pods(self) -> int:
        """Pods there are."""
        return len(self._alive)

    @property
    def nodes(self) -> int:
        """Nodes there are."""
        return len(self._nodes.known)

    def waiting_since(self, scheduler: str) -> list[float]:
        """When (epoch) the pods were made that want a node from this scheduler and may get one. In the thread."""
        return [
            seen.request.created_s
            for seen in self._alive.values()
            if seen.scheduler == scheduler and seen.fate is Fate.WAITING and not _gated(seen)
        ]

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
            self._rows.remember(row)
            if not row.kind:
                self._undelivered[row.uid] = self._clock()
        self._nodes.restore()

    def _begin(self) -> None:
        self._current = self._decided = None

    # --- events

    def _on_event(self, resource: str, kind: str, item: Any, now_s: float) -> None:
        self.counts.events += 1
        if resource == "nodes":
            self._node(kind, item, now_s)
        else:
            self._pod(kind, item, now_s)

    def _on_seen(self, until_s: float, last: bool) -> None:
        if last or until_s - self._seen_written_s >= self._seen_every_s:
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
                self._try(partial(str, f"node {item.node.spec.name}"), self._nodes.note, item, now_s)
                self._writer.flush_full()
            self._nodes.listed({item.node.uid for item in items}, now_s)
            self.observer.nodes_changed()
        else:
            here = {item.facts.request.uid for item in items}
            items = [item for item in items if not self._outlived(item.facts, now_s)]
            first = "pods" not in self._listed
            if first and self._nodes.last_seen_s > 0.0:  # nan in a new store
                self._on_gap(self._nodes.last_seen_s, now_s, "nobody watched")
            elif not first:
                self._on_gap(begin_s, now_s, "the watch of pods was cut")
            self.cache.replace_pods([item.pod for item in items])  # scores nothing: `_current` is not set
            self._writer.pending.seen_s = now_s  # at once: should we die now, the next downtime begins here
            missing = (self._alive.keys() | self._rows.open.keys()) - here - self._undelivered.keys()
            for item in items:
                self._alive[item.facts.request.uid] = item.facts
                self._try(partial(pod_name, item.facts), self._list_pod, item.facts, now_s)
                self._writer.flush_full()
            for uid in missing:
                self._try(partial(str, f"pod {uid}"), self._pod_vanished, uid, now_s)
                self._writer.flush_full()
        self._listed.add(resource)
        if self._listed >= {"pods", "nodes"}:
            self.synced.set()

    def _on_vanished(self, resource: str, uids: tuple[str, ...], now_s: float) -> None:
        if resource == "nodes":
            for uid in uids:
                if (known := self._nodes.known.get(uid)) is not None:
                    self.cache.node_event("DELETED", known[0].node)
                    self._nodes.gone({uid}, now_s)
            self.observer.nodes_changed()
            return
        for uid in uids:
            if uid in self._alive:
                self._try(partial(str, f"pod {uid}"), self._pod_vanished, uid, now_s)

    # --- nodes

    def _node(self, kind: str, item: NodeItem, now_s: float) -> None:
        known = self._nodes.known.get(item.node.uid)
        if kind == "DELETED":
            self.cache.node_event(kind, item.node)
            self._nodes.gone({item.node.uid}, now_s)
        elif known is None or known[0].version <= item.version:
            if known is not None and known[0].node == item.node:
                return  # most changes of a node are its kubelet's signs of life
            self.cache.node_event(kind, item.node)
            self._nodes.note(item, now_s)
        else:
            return
        self.observer.nodes_changed()

    # --- pods

    def _pod(self, kind: str, item: PodItem, now_s: float) -> None:
        seen, uid = item.facts, item.facts.request.uid
        if uid not in self._alive and self._outlived(seen, now_s):
            return
        stale = self._is_stale(seen)
        self.counts.stale += stale
        before = self._rows.whole(uid, seen)  # may fail, and the cache tells only once that a pod gets a node
        if kind != "LISTED":
            self._current = seen, before
        if not stale or kind == "DELETED":
            self.cache.pod_event(kind, item.pod)
        if kind != "DELETED" and not stale:
            self._alive[uid] = seen
        made = self._take(seen, before, now_s)
        if kind == "DELETED":
            if made is not None:
                over = outcomes.gone(made, now_s, seen.gone_reason)
                if over is not made:
                    self._rows.keep(over)
            self._forget(uid)

    def _outlived(self, seen: Facts, now_s: float) -> bool:
        """Whether it was over for longer than rows are kept, and has none (any more): it is not recorded anew, and not
        learned from a second time.
        """
        over = seen.fate not in OPEN and now_s - seen.ended_s > self._retain_s
        return over and self._rows.get(seen.request.uid) is None

    def _list_pod(self, seen: Facts, now_s: float) -> None:
        self._take(seen, self._rows.whole(seen.request.uid, seen), now_s)

    def _is_stale(self, seen: Facts) -> bool:
        """Whether it is older than what is known, or about a pod that is over and away."""
        known = self._alive.get(seen.request.uid)
        if known is not None:
            return 0 < seen.version < known.version
        return seen.request.uid in self._gone

    def _take(self, seen: Facts, before: PodRow | None, now_s: float, *, decided_on: bool = False) -> PodRow | None:
        """Add what an object says to its row `before`, and give it a decision when it is first seen bound.

        A pod has a row from its first decision on, whose ever that is. Looks nothing up.
        """
        if before is None and not decided_on and not (seen.node and TREATMENTS[seen.request.kind].scored):
            return None
        decided = self._decided
        slowdown = decided[1] if decided else UNKNOWN_S
        spec = self._nodes.spec(seen.node or (before.node if before else ""))
        made = outcomes.row(seen, before, now_s, spec, slowdown, self.state.rates)
        if made.node and (before is None or not before.node):
            if decided is None:
                self.counts.unscored += 1
                self._writer.pending.decisions.append(
                    self.observer.unseen(seen.request, made.node, made.bound_s if made.bound_s > 0 else now_s)
                )
            else:
                self.counts.scored += 1
                self._writer.pending.decisions.append(decided[0])
        self._undelivered.pop(seen.request.uid, None)
        if before is None or not same(made, before):
            self._rows.keep(made)
        return made

    def _bound(self, request: PodRequest, node: str) -> None:
        """A pod gets a node, and the state does not hold it there yet."""
        if self._current is None:
            return
        seen, before = self._current
        if seen.request.uid != request.uid or not TREATMENTS[request.kind].scored:
            return
        if before is not None and before.node:
            return
        spec = seen.manifest.get("spec") or {}
        self._decided = self.observer.score(self.state, request, spec, node, self._clock())

    def _pod_vanished(self, uid: str, now_s: float) -> None:
        seen = self._alive.get(uid)
        self._censor(uid, seen, now_s)
        self.counts.vanished += 1
        if seen is not None:
            self.cache.pod_event("DELETED", _absent(seen))
        self._forget(uid)

    def _censor(self, uid: str, seen: Facts | None, now_s: float) -> None:
        before = self._rows.whole(uid, seen)
        if before is not None and before.fate in OPEN:
            self._rows.keep(outcomes.gone(before, now_s, outcomes.DOWNTIME))

    # --- pods that an extender told of

    def _decided_elsewhere(self, decision: DecisionRow) -> None:
        uid = decision.uid
        if self._rows.get(uid) is None:
            facts = self._alive.get(uid)
            if facts is not None:
                self._take(facts, None, self._clock(), decided_on=True)
            else:
                self._undelivered[uid] = self._clock()
                self._rows.keep(outcomes.undelivered(decision))
        self._writer.pending.decisions.append(decision)  # beside its pod: neither is ever without the other

    def _on_settle(self, now_s: float) -> None:
        if not self.synced.is_set():
            return
        for uid, since_s in list(self._undelivered.items()):
            if now_s - since_s >= self._unknown_after_s:
                self._try(partial(str, f"pod {uid}"), self._censor, uid, None, now_s)
                self._undelivered.pop(uid, None)

    def _unknown(self, uid: str) -> None:
        """The store has refused its row and its decision: when it is seen again, it gets others."""
        self._rows.drop(uid)
        self._undelivered.pop(uid, None)

    def _forget(self, uid: str) -> None:
        """The pod is away; an old event about it must not bring it back into the state."""
        self._alive.pop(uid, None)
        self._gone[uid] = None
        if len(self._gone) > CLOSED:
            self._gone.popitem(last=False)


def _gated(seen: Facts) -> bool:
    return bool(seen.manifest["spec"].get("schedulingGates"))


def _absent(seen: Facts) -> SeenPod:
    """The pod as the cache forgets it: by uid, without having ended."""
    nan = UNKNOWN_S
    state = PodState(seen.request, seen.node, nan, nan, succeeded=False, done=False, ready=False)
    return SeenPod(str(seen.version), state, ours=True, waits=False, nominated="")
