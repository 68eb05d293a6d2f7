"""Requests in, replies out: decode, look, decide, assume, remember. No sockets here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from nodewise.channel.messages import Report
from nodewise.core import cost
from nodewise.core.pods import pod_request
from nodewise.core.state import ClusterState
from nodewise.core.types import Decision, Fallback, PodRequest, Policy
from nodewise.extender import wire
from nodewise.extender.ask import Asker
from nodewise.extender.journal import Journal
from nodewise.extender.modes import Applied, Modes
from nodewise.extender.placement import Courses
from nodewise.extender.records import Record, Records
from nodewise.extender.rows import columns_of
from nodewise.extender.settings import ExtenderSettings
from nodewise.extender.telemetry import Telemetry
from nodewise.kube.cache import Cache, is_ours, without_claims
from nodewise.kube.placement import Mode

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
        self.courses = Courses(settings, self._asker, self.telemetry)
        self.modes = Modes(Mode(settings.default_mode), lambda: self.courses.follow(self.modes.policies))
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
        try:
            applied = self.modes.of(request.namespace, args.pod["metadata"].get("labels") or {})
            if not applied.mode.decides:
                self._stand_aside(request, applied, now_s)
                self._count("prioritize", applied.mode.value, begin_s)
                return NEUTRAL
            for reason in hints.ignored:
                self.telemetry.ignored_hints.labels(reason).inc()
            record = await self._decide(request, args.names(), now_s, applied)
            shadow = applied.mode is Mode.SHADOW
            body = wire.NEUTRAL if shadow else wire.write_prioritize(record.decision.reply)
            record.latency_us = (time.perf_counter() - begin_s) * 1e6
            self._remember(record)
        except Exception:
            self._count("prioritize", "error", begin_s)
            log.exception("no opinion on pod %s/%s, because of an error of ours", request.namespace, request.name)
            return NEUTRAL
        said = "shadow" if shadow else "scored"
        self._count("prioritize", "neutral" if record.decision.neutral else said, begin_s)
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

    async def _decide(self, request: PodRequest, names: Sequence[str], now_s: float, applied: Applied) -> Record:
        told = applied.policy
        course = self.courses.get(told.name) if told else None
        asker = course.asker if course else self._asker
        name = told.name if told else ""
        unready = self.unready() or applied.unsure
        if unready:
            silent = self._silent(request, unready, asker.policy)
            return Record(silent, None, (), now_s, mode=applied.mode, placement_policy=name)
        state = self.cache.state
        self.cache.expire(now_s)
        self.cache.ask(request)
        rows = state.rows(names)
        if len(rows) < len(names):
            self.telemetry.unknown_nodes.inc(len(set(names)) - len(rows))
        view = state.view(request, now_s)
        unclaimed = self.cache.unclaimed(request, view, rows)
        self.telemetry.claimed_nodes.inc(len(rows) - len(unclaimed))
        claimed = np.setdiff1d(rows, unclaimed) if len(unclaimed) < len(rows) else ()
        rows = unclaimed
        if told:
            view = cost.weighted(view, told.weights)
        state.sequence += 1
        winner = ""
        try:
            decision = await asker.decide(request, view, rows)
            if applied.mode is Mode.ACTIVE and decision.winner >= 0:
                winner = view.nodes.name[decision.winner]
        finally:
            if self.cache.settle(request, winner, now_s + self.settings.assumed_ttl_s):
                self.telemetry.assumed.inc()
        record = Record(decision, view, view.nodes.name, now_s, view.sequence, mode=applied.mode, placement_policy=name)
        record.columns = columns_of(asker.policy)
        record.passed_over = tuple(view.nodes.name[row] for row in claimed)
        return record

    def _stand_aside(self, request: PodRequest, applied: Applied, now_s: float) -> None:
        """Nothing is decided, counted or journaled; `explain` can say why."""
        self.cache.ask(request)  # it is nowhere now, whatever was assumed before
        self.cache.settle(request, "", now_s)
        silent, name = self._silent(request, f"mode:{applied.mode}", self.policy), applied.policy
        self.records.add(Record(silent, None, (), now_s, mode=applied.mode, placement_policy=name.name if name else ""))

    def _silent(self, request: PodRequest, reason: str, policy: Policy) -> Decision:
        return Decision(
            pod=request, candidates=np.zeros(0, np.int64), scores=np.zeros(0, np.float32), reply=(), winner=-1,
            propensities=np.zeros(0), policy=policy.name, digest=policy.digest, fallback=Fallback.NONE,
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
        self.courses.decided(record)
        self.records.add(record)
        if self.journal is not None:
            self.journal.append(record)

    def _bound(self, request: PodRequest, node: str) -> None:
        record = self.records.bound(request, node)
        if record is None or not record.mode.decides:
            how = "not-asked"  # one feasible node only, or decided before we started, or none of our business
        elif record.decision.neutral:
            how = "neutral"
        else:
            as_said = record.names[record.decision.winner] == node
            how = "winner" if as_said else "other"
            self.courses.bound(record, as_said=as_said)
        self.telemetry.bound.labels(how).inc()

    def _count(self, verb: str, outcome: str, begin_s: float) -> None:
        self.telemetry.requests.labels(verb, outcome).inc()
        self.telemetry.latency.labels(verb).observe(time.perf_counter() - begin_s)

    def _gauges(self) -> None:
        gauge, cache, journal = self.telemetry.gauge, self.cache, self.journal
        gauge("nodes", "Nodes in the cache", lambda: cache.nodes)
        gauge("pods_bound", "Pods that hold a node", lambda: cache.bound)
        gauge("pods_waiting", "Pods of ours that want a node", lambda: cache.waiting)
        gauge("pods_nominated", "Pods charged to a node that a preemption holds for them", lambda: cache.nominated)
        gauge("runs_learned", "Pods seen to succeed", lambda: cache.learned)
        gauge("assumed_expired", "Assumed pods whose binding was never seen", lambda: cache.expired)
        gauge("bundle_refused", "1 while the bundle that should decide is refused", lambda: float(bool(self.refused)))
        if journal is not None:
            gauge("journal_dropped", "Decisions that were not journaled", lambda: journal.dropped)
            gauge("journal_waiting", "Decisions that wait for the journal's writer", lambda: journal.waiting)

    def report(self, extender: str = "", time_s: float | None = None) -> Report:
        """What this extender says of itself; `extender` is the name that it has on the channel."""
        return Report(
            extender=extender,
            time_s=time.time() if time_s is None else time_s,
            policy=self.policy.name,
            digest=self.policy.digest,
            refused=self.refused,
            placement_policies=self.courses.reports(),
            dropped=self.journal.dropped if self.journal else 0,
        )

    def close(self) -> None:
        """Write what is still to be journaled."""
        self.courses.close()
        self._asker.close()
        if self.journal is not None:
            self.journal.close()
