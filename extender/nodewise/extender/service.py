"""Requests in, replies out: decode, look, decide, assume, remember. No sockets here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from nodewise.core.pods import pod_request
from nodewise.core.state import ClusterState
from nodewise.core.types import Decision, Fallback, PodRequest, Policy
from nodewise.extender import wire
from nodewise.extender.ask import Asker
from nodewise.extender.journal import Journal
from nodewise.extender.records import Record, Records
from nodewise.extender.settings import ExtenderSettings
from nodewise.extender.telemetry import Telemetry
from nodewise.kube.cache import Cache, is_ours, without_claims

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and body of an HTTP reply."""

    status: int
    body: bytes


NEUTRAL = Reply(200, wire.NEUTRAL)


class Service:
    """One extender without its transport: whoever watches the cluster feeds `cache` and sets `unready`."""

    def __init__(
        self,
        settings: ExtenderSettings,
        policy: Policy,
        rule: Policy,
        state: ClusterState,
        journal: Journal | None = None,
    ) -> None:
        self.settings, self.journal = settings, journal
        self.telemetry = Telemetry()
        self.records = Records()
        self.cache = Cache(state, self._bound)
        self.unready: Callable[[], str] = lambda: "starting"  # why no opinion may be given now; empty if it may
        self.refused = ""  # why the bundle that should decide does not; empty if it does
        self._asker = Asker(policy, rule, settings.deadline_ms / 1000.0)
        self.telemetry.decides(policy)
        self._gauges()

    @property
    def policy(self) -> Policy:
        """What decides now."""
        return self._asker.policy

    def use(self, policy: Policy) -> None:
        """Let `policy` decide from the next request on."""
        self._asker.use(policy)
        self.telemetry.decides(policy)

    async def prioritize(self, body: bytes, now_s: float) -> Reply:
        """Reply to a prioritize request at `now_s` (epoch seconds). Never an error: no opinion costs nothing."""
        begin_s = time.perf_counter()
        try:
            args = wire.read_prioritize(body)
            ours = is_ours(args.pod.get("spec") or {}, self.settings.scheduler_name)
            request, hints = pod_request(args.pod)
            request = without_claims(request, args.pod.get("spec") or {})
        except Exception:  # noqa: BLE001  whatever arrives: it is theirs to be wrong and ours to stay up
            self._count("prioritize", "malformed", begin_s)
            return NEUTRAL
        if not ours:
            self._count("prioritize", "not-ours", begin_s)
            return NEUTRAL
        for reason in hints.ignored:
            self.telemetry.ignored_hints.labels(reason).inc()
        try:
            record = await self._decide(request, args.names(), now_s)
            body = wire.write_prioritize(record.decision.reply)
            record.latency_us = (time.perf_counter() - begin_s) * 1e6
            self._remember(record)
        except Exception:
            self._count("prioritize", "error", begin_s)
            log.exception("no opinion on pod %s/%s, because of an error of ours", request.namespace, request.name)
            return NEUTRAL
        self._count("prioritize", "neutral" if record.decision.neutral else "scored", begin_s)
        return Reply(200, body)

    def filter(self, body: bytes) -> Reply:
        """Reply to a filter request: every node is kept.

        A body that cannot be read is answered with status 400, an error to kube-scheduler; any JSON with status 200
        would read as "no feasible node".
        """
        begin_s = time.perf_counter()
        try:
            reply, outcome = Reply(200, wire.pass_all(body)), "passed"
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            reply, outcome = Reply(400, b'{"error":"the body is not ExtenderArgs"}'), "malformed"
        self._count("filter", outcome, begin_s)
        return reply

    def refuse(self, verb: str, outcome: str) -> Reply:
        """Reply to a request that is not looked at: too long, or too early for a replay."""
        self.telemetry.requests.labels(verb, outcome).inc()
        return NEUTRAL if verb == "prioritize" else Reply(413, b'{"error":"the body is too long"}')

    async def _decide(self, request: PodRequest, names: Sequence[str], now_s: float) -> Record:
        unready = self.unready()
        if unready:
            return Record(self._silent(request, unready), None, (), now_s)
        state = self.cache.state
        self.cache.expire(now_s)
        self.cache.ask(request)
        rows = state.rows(names)
        if len(rows) < len(names):
            self.telemetry.unknown_nodes.inc(len(set(names)) - len(rows))
        view = state.view(request, now_s)
        state.sequence += 1
        winner = ""
        try:
            decision = await self._asker.decide(request, view, rows)
            winner = view.nodes.name[decision.winner] if decision.winner >= 0 else ""
        finally:
            if self.cache.settle(request, winner, now_s + self.settings.assumed_ttl_s):
                self.telemetry.assumed.inc()
        return Record(decision, view, view.nodes.name, now_s, view.sequence)

    def _silent(self, request: PodRequest, reason: str) -> Decision:
        return Decision(
            pod=request, candidates=np.zeros(0, np.int64), scores=np.zeros(0, np.float32), reply=(), winner=-1,
            propensities=np.zeros(0), policy=self.policy.name, digest=self.policy.digest, fallback=Fallback.NONE,
            neutral=reason,
        )  # fmt: skip

    def _remember(self, record: Record) -> None:
        decision = record.decision
        if decision.neutral:
            self.telemetry.neutral.labels(decision.neutral).inc()
        else:
            self.telemetry.decisions.labels(decision.policy).inc()
        if decision.fallback:
            self.telemetry.fallbacks.labels(decision.fallback.value).inc()
        self.records.add(record)
        if self.journal is not None:
            self.journal.append(record)

    def _bound(self, request: PodRequest, node: str) -> None:
        record = self.records.bound(request, node)
        if record is None:
            how = "not-asked"  # one feasible node only, or decided before we started
        elif record.decision.neutral:
            how = "neutral"
        else:
            how = "winner" if record.names[record.decision.winner] == node else "other"
        self.telemetry.bound.labels(how).inc()

    def _count(self, verb: str, outcome: str, begin_s: float) -> None:
        self.telemetry.requests.labels(verb, outcome).inc()
        self.telemetry.latency.labels(verb).observe(time.perf_counter() - begin_s)

    def _gauges(self) -> None:
        gauge, cache, journal = self.telemetry.gauge, self.cache, self.journal
        gauge("nodes", "Nodes in the cache", lambda: cache.nodes)
        gauge("pods_bound", "Pods that hold a node", lambda: cache.bound)
        gauge("pods_waiting", "Pods of ours that want a node", lambda: cache.waiting)
        gauge("runs_learned", "Pods seen to succeed", lambda: cache.learned)
        gauge("assumed_expired", "Assumed pods whose binding was never seen", lambda: cache.expired)
        gauge("bundle_refused", "1 while the bundle that should decide is refused", lambda: float(bool(self.refused)))
        if journal is not None:
            gauge("journal_dropped", "Decisions that were not journaled", lambda: journal.dropped)
            gauge("journal_waiting", "Decisions that wait for the journal's writer", lambda: journal.waiting)

    def close(self) -> None:
        """Write what is still to be journaled."""
        self._asker.close()
        if self.journal is not None:
            self.journal.close()
