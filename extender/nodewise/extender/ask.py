"""Ask a policy in a worker thread, for as long as its deadline and no longer."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from nodewise.core.decide import PolicyRefusalError, decide
from nodewise.core.types import ClusterView, Decision, Fallback, PodRequest, Policy, Rows, Scores


class _Asked:
    """A policy that is asked now, and remembers what it said and for which candidates."""

    def __init__(self, policy: Policy) -> None:
        self.name, self.digest = policy.name, policy.digest
        self.rows: Rows | None = None
        self.said: Scores | BaseException | None = None
        self._policy = policy

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        self.rows = rows
        try:
            self.said = self._policy.score(pod, view, rows)
        except Exception as error:
            self.said = error
            raise
        return self.said


class _Said:
    """A policy that has said already what it will: scores, or why there are none."""

    def __init__(self, policy: Policy, said: Scores | BaseException | None) -> None:
        self.name, self.digest = policy.name, policy.digest
        self._said = said

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:  # noqa: ARG002
        if self._said is None or isinstance(self._said, BaseException):
            raise self._said if isinstance(self._said, Exception) else RuntimeError(f"no scores: {self._said!r}")
        return self._said


class Asker:
    """Decides with `policy`, or with `rule` where the policy is late; see `nodewise.core.decide`.

    A thread cannot be stopped: while a late call has not come back, no other is made, and the rule answers at once.
    """

    def __init__(self, policy: Policy, rule: Policy, deadline_s: float) -> None:
        self.policy, self.rule, self.deadline_s = policy, rule, deadline_s
        self._late: Future[Scores] | None = None
        self._threads = self._pool(policy)

    async def decide(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Decision:
        """The decision; `deadline_s` later at most if the policy hangs. Never raises."""
        asked = _Asked(self.rule)
        decision = decide(pod, view, rows, asked, asked)
        if self._threads is None or asked.rows is None:  # the rule is the policy, or there is nothing to say
            return decision
        own = await self._own(self._threads, self.policy, pod, view, asked.rows)
        return decide(pod, view, rows, own, _Said(self.rule, asked.said))

    def use(self, policy: Policy) -> None:
        """Ask `policy` from the next decision on; one under way ends with the policy that it was begun with."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)  # a call that hangs there must not take a thread of the next policy's
        self.policy, self._late, self._threads = policy, None, self._pool(policy)

    async def _own(
        self, threads: ThreadPoolExecutor, policy: Policy, pod: PodRequest, view: ClusterView, rows: Rows
    ) -> _Said:
        if self._late is not None and not self._late.done():
            return _Said(policy, PolicyRefusalError(Fallback.DEADLINE, "a call before this one has not come back"))
        call = threads.submit(policy.score, pod, view, rows)
        ended = asyncio.wrap_future(call)
        ended.add_done_callback(_retrieve)
        done, _ = await asyncio.wait((ended,), timeout=self.deadline_s)
        if not done:
            if policy is self.policy:  # what hangs in a policy that was exchanged holds up nobody
                self._late = call
            return _Said(policy, PolicyRefusalError(Fallback.DEADLINE, "no scores in time"))
        return _Said(policy, call.exception() or call.result())

    def _pool(self, policy: Policy) -> ThreadPoolExecutor | None:
        return None if policy is self.rule else ThreadPoolExecutor(2, thread_name_prefix="policy")

    def close(self) -> None:
        """Wait for nothing: a hung call must not hold up the end of the process."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _retrieve(ended: asyncio.Future[Scores]) -> None:
    """Look at its exception, or asyncio would log each refusal as an error."""
    if not ended.cancelled():
        ended.exception()
