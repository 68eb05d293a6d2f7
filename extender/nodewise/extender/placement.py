"""What decides under each PlacementPolicy, and how it fares: an Asker each, loaded when its mode asks for decisions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from nodewise import policies
from nodewise.channel.messages import PolicyReport
from nodewise.core.errors import UserError
from nodewise.core.types import Policy
from nodewise.extender.ask import Asker
from nodewise.extender.bundle_watch import BundleWatch
from nodewise.extender.records import Record
from nodewise.extender.settings import ExtenderSettings
from nodewise.extender.telemetry import Telemetry
from nodewise.kube.placement import Mode, PlacementPolicy

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """Of one PlacementPolicy in one mode, since the extender started."""

    decisions: int = 0
    bound_winner: int = 0
    bound_other: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    neutral: Counter[str] = field(default_factory=Counter)


class _Load:
    """A bundle on its way to one course; what comes when the course has other aims is not used."""

    def __init__(self, course: Course, folder: Path, poll_s: float, telemetry: Telemetry) -> None:
        self.watch = BundleWatch(folder, poll_s)
        self.telemetry, self.refused, self.began = telemetry, f"{folder} is not loaded yet", False
        self._course = course

    @property
    def policy(self) -> Policy:
        return self._course.asker.policy

    def use(self, policy: Policy) -> None:
        if self._course.load is self:
            self._course.use(policy)


class Course:
    """What decides under one PlacementPolicy: `asker`, which is the extender's own unless the policy names another."""

    def __init__(self, told: PlacementPolicy, settings: ExtenderSettings, start: Asker, telemetry: Telemetry) -> None:
        self.told = told
        self.counts = {mode: Counts() for mode in Mode}
        self.load: _Load | None = None
        self._settings, self._start, self._telemetry = settings, start, telemetry
        self._own: Asker | None = None
        self._refused = ""
        self._aim: tuple[str, str] | None = None
        self.follow(told)

    @property
    def asker(self) -> Asker:
        """Decides now."""
        return self._own or self._start

    @property
    def refused(self) -> str:
        """Why what the policy asks for does not decide; empty if it does."""
        if self.load is None:
            return self.told.invalid or self._refused
        return self.load.refused if self.load.began or self.told.mode.decides else ""  # nobody has asked for it yet

    def follow(self, told: PlacementPolicy) -> None:
        """Take a changed policy; what decided goes on deciding until what it asks for is there."""
        self.told = told
        if self._aim == (told.policy, told.bundle):
            return
        new, self._aim = self._aim is None, (told.policy, told.bundle)
        self.load, self._refused = None, ""
        try:
            found = _wanted(told, self._settings)
        except UserError as error:
            self._refused = str(error)
            log.error("%s", error)
            found = None
        if isinstance(found, Path):
            self.load = _Load(self, found, self._settings.bundle_poll_s, self._telemetry)
        elif found is not None:
            self.use(found)
        elif not self._refused:
            self._end()
        if new and (self.load or self._refused):
            self.use(policies.DEFAULT)

    def use(self, policy: Policy) -> None:
        """Let `policy` decide from the next request on."""
        if self._own is None:
            self._own = Asker(policy, self._start.rule, self._start.deadline_s)
        else:
            self._own.use(policy)

    async def look(self, threads: ThreadPoolExecutor) -> None:
        """Load its bundle, or a new one that took its place; only where decisions are asked for."""
        load = self.load
        if load is None or not self.told.mode.decides:
            return
        if load.began:
            await load.watch.look(load, threads)
        else:
            load.began = True
            await load.watch.begin(load, threads)

    def close(self) -> None:
        """End it."""
        self.load = None
        self._end()

    def _end(self) -> None:
        if self._own is not None:
            self._own.close()
        self._own = None

    def report(self) -> PolicyReport:
        """How it fares, in the mode that it is in."""
        counts, policy = self.counts[self.told.mode], self.asker.policy
        return PolicyReport(
            name=self.told.name,
            uid=self.told.uid,
            generation=self.told.generation,
            mode=self.told.mode.value,
            policy=policy.name,
            digest=policy.digest,
            refused=self.refused,
            decisions=counts.decisions,
            bound_winner=counts.bound_winner,
            bound_other=counts.bound_other,
            fallbacks=dict(counts.fallbacks),
            neutral=dict(counts.neutral),
        )


class Courses:
    """One course for each PlacementPolicy there is; `start` decides where a policy does not say what should."""

    def __init__(self, settings: ExtenderSettings, start: Asker, telemetry: Telemetry) -> None:
        self._settings, self._start, self._telemetry = settings, start, telemetry
        self._courses: dict[str, Course] = {}
        self._changed = asyncio.Event()

    def follow(self, told: Iterable[PlacementPolicy]) -> None:
        """Take the policies there are now."""
        before, self._courses = self._courses, {}
        for each in told:
            course = before.get(each.name)
            if course is None or course.told.uid != each.uid:
                course = Course(each, self._settings, self._start, self._telemetry)
            else:
                course.follow(each)
                del before[each.name]
            self._courses[each.name] = course
        for gone in before.values():
            gone.close()
        self._changed.set()

    def get(self, name: str) -> Course | None:
        """The course of the PlacementPolicy of this name."""
        return self._courses.get(name)

    async def run(self) -> None:
        """Load bundles as they are asked for, and look for new ones in their folders, for ever."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="bundles")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._settings.bundle_poll_s)
                self._changed.clear()
                for course in [*self._courses.values()]:
                    await course.look(threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def decided(self, record: Record) -> None:
        """Count a decision."""
        self._telemetry.placement.decided(record)
        if (course := self._courses.get(record.placement_policy)) is not None:
            counts, decision = course.counts[record.mode], record.decision
            counts.decisions += not decision.neutral
            if decision.neutral:
                counts.neutral[decision.neutral] += 1
            if decision.fallback:
                counts.fallbacks[decision.fallback.value] += 1

    def bound(self, record: Record, *, as_said: bool) -> None:
        """Count where a pod was bound that was decided on."""
        self._telemetry.placement.bound(record, as_said=as_said)
        if (course := self._courses.get(record.placement_policy)) is not None:
            counts = course.counts[record.mode]
            counts.bound_winner += as_said
            counts.bound_other += not as_said

    def reports(self) -> list[PolicyReport]:
        """How each fares."""
        return [course.report() for course in self._courses.values()]

    def close(self) -> None:
        """End all."""
        for course in self._courses.values():
            course.close()


def _wanted(told: PlacementPolicy, settings: ExtenderSettings) -> Policy | Path | None:
    """What should decide: a rule, the folder of a bundle, or None for what the extender was started with.

    Raises UserError.
    """
    if told.bundle:
        return _bundle(told, settings)
    if not told.policy:
        return None
    try:
        if told.policy != policies.LEARNED:
            return policies.rule(told.policy)
        folder = policies.bundle_folder(settings.bundle)
    except UserError as error:
        raise UserError(f"PlacementPolicy {told.name}: {error}") from None
    return None if settings.policy in (None, policies.LEARNED) else folder


def _bundle(told: PlacementPolicy, settings: ExtenderSettings) -> Path:
    if told.policy not in ("", policies.LEARNED):
        raise UserError(
            f"PlacementPolicy {told.name} names both rule {told.policy} and bundle {told.bundle}: leave one out"
        )
    if settings.bundles is None:
        raise UserError(
            f"PlacementPolicy {told.name} names bundle {told.bundle}, but the extender was started without --bundles"
        )
    if Path(told.bundle).name != told.bundle or told.bundle in (".", ".."):
        raise UserError(f"PlacementPolicy {told.name} names bundle {told.bundle}, which is no folder's name")
    return settings.bundles / told.bundle
