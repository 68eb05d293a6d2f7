"""One estimator on both sides of the channel: whoever is away in between, both believe the same in the end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodewise.channel import follower as following
from nodewise.channel.follower import MOST, OVERDUE_S, STALE_S, Follower, Told, read
from nodewise.channel.messages import PredictorUpdate
from nodewise.core.estimator import EstimatorSettings, Observation, RunTimeEstimator
from nodewise_operator.predictor import SENT, Predictor

COUNTING = EstimatorSettings(decay=1.0)  # then `observations` are whole numbers of pods


class Kept:
    """A store behind a queue: what was written before a crash is there, what waited is not."""

    def __init__(self) -> None:
        self.waiting: list[Observation | tuple[int, dict[str, Any]]] = []
        self.written: list[Observation] = []
        self.saved: tuple[int, dict[str, Any]] | None = None

    def save(self, revision: int, state: dict[str, Any]) -> None:
        self.waiting.append((revision, json.loads(json.dumps(state))))

    def write(self) -> None:
        for each in self.waiting:
            if isinstance(each, Observation):
                self.written.append(each)
            else:
                assert each[0] == len(self.written)  # a state is never ahead of its observations
                self.saved = each
        self.waiting.clear()

    def estimator(self) -> tuple[int, dict[str, Any]] | None:
        return self.saved

    def observations(self, after: int = 0) -> Iterable[tuple[int, Observation]]:
        return list(enumerate(self.written, 1))[after:]


def pod(k: int) -> Observation:
    """Each pod has a run time, workload and node class of its own number."""
    rng = random.Random(k)
    return Observation(
        f"uid-{k}", f"w{rng.randrange(5)}", rng.random() < 0.3, f"c{rng.randrange(4)}", rng.lognormvariate(3, 1),
        1.0 + rng.random(),
    )  # fmt: skip


def believed(estimator: RunTimeEstimator, names: RunTimeEstimator) -> dict[tuple[tuple[str, bool], str], list[float]]:
    """What `estimator` believes of everything that `names` has a name for."""
    beliefs, rows, columns = estimator.beliefs(), estimator.workloads, estimator.node_classes
    return {
        (w, c): [float(t[rows.index(w), columns.index(c)]) for t in (beliefs.run_mean, beliefs.run_std)]
        for w in names.workloads
        for c in names.node_classes
    }


def wire(update: PredictorUpdate) -> Told:
    return read(msgspec.json.encode(update), COUNTING)


def settle(follower: Follower) -> None:
    """Learn everything that there is to learn now."""
    while (make := follower.rebuild()) or follower.tick():
        if make:
            follower.adopt(make())


def counted(follower: Follower) -> float:
    settle(follower)
    return float(follower.estimator.beliefs().observations.sum())


def predictor(kept: Kept) -> Predictor:
    made = Predictor(RunTimeEstimator(COUNTING), save=kept.save, save_every=7, logged=9)
    made.restore(kept)
    return made


class Side:
    """One extender: its follower, and a table whose indices were given out in an order of its own."""

    def __init__(self, clock: list[float], asked: list[int]) -> None:
        estimator = RunTimeEstimator(COUNTING)
        self.rows = {f"w{k}": estimator._row_of(f"w{k}", False) for k in asked}
        self.columns = {f"c{k}": estimator.column(f"c{k}") for k in reversed(asked)}
        self.follower = Follower(estimator, lambda: clock[0], self.replaced)
        self.held = estimator  # by the state of the cluster
        self.made: tuple[Callable[[], RunTimeEstimator], RunTimeEstimator] | None = None

    def replaced(self, by: RunTimeEstimator) -> None:
        self.held = by

    def settle(self) -> None:
        while self.made:
            self.work()
        settle(self.follower)

    def work(self) -> None:
        """One moment of learning: what is made elsewhere is made in one and comes back in the next."""
        if self.made:
            self.follower.adopt(self.made[1])
            self.made = None
        elif make := self.follower.rebuild():
            self.made = make, make()
        else:
            self.follower.tick()


class World:
    """Two extenders and an operator that watch the same pods finish, if they live; links are cut and mended."""

    def __init__(self) -> None:
        self.clock = [0.0]
        self.kept = Kept()
        self.operator: Predictor | None = predictor(self.kept)
        self.sides = [Side(self.clock, [3, 1, 7]), Side(self.clock, [0, 2, 4, 6])]
        self.linked = [True, True]
        self.finished = 0

    def finish(self, seen_by_operator: bool) -> None:
        seen = pod(self.finished)
        self.finished += 1
        if self.operator and seen_by_operator:
            self.taught(seen)
        for side in self.sides:
            side.follower.learn(seen)

    def taught(self, seen: Observation) -> bool:
        assert self.operator is not None
        new = self.operator.learn(seen)
        if new:
            self.kept.waiting.append(seen)
            if len(self.kept.waiting) >= 3 or self.finished % 2:
                self.kept.write()
        return new

    def crash(self) -> None:
        self.operator = None
        self.kept.waiting.clear()

    def start(self) -> None:
        if self.operator is None:
            self.operator = predictor(self.kept)

    def exchange(self, which: int) -> None:
        side = self.sides[which].follower
        if self.operator and self.linked[which]:
            due = side.overdue()
            side.known([row.uid for row in due if not self.taught(row.observation())])
            side.heard(wire(self.operator.update(*side.asked)))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("finish"), st.booleans()),
        st.tuples(st.just("link"), st.integers(0, 1)),
        st.tuples(st.just("exchange"), st.integers(0, 1)),
        st.tuples(st.just("work"), st.integers(0, 1)),
        st.tuples(st.just("settle"), st.integers(0, 1)),
        st.tuples(st.just("name"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, STALE_S + 1.0, OVERDUE_S + 1.0])),
        st.just(("crash", 0)),
        st.just(("start", 0)),
    ),
    max_size=80,
)


ALONE: list[tuple[str, Any]] = [("finish", False), ("wait", STALE_S + 1.0), ("settle", 0)]


@example([("exchange", 0), ("settle", 0), *ALONE, ("exchange", 0), ("work", 0)])  # told of what is on top
@example([("finish", True), ("exchange", 0), ("work", 0), ("name", 8), ("work", 0)])  # indices given out meanwhile
@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_after_any_cuts_and_crashes_both_sides_believe_the_same_and_every_pod_taught_once(
    steps: list[tuple[str, Any]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "SLICE_S", 0.0)  # one observation in each moment
        play(steps)


def play(steps: list[tuple[str, Any]]) -> None:
    world = World()
    for what, how in steps:
        match what:
            case "finish":
                world.finish(how)
            case "link":
                world.linked[how] = not world.linked[how]
            case "exchange":
                world.exchange(how)
            case "wait":
                world.clock[0] += how
            case "work":
                world.sides[how].work()
            case "settle":
                world.sides[how].settle()
            case "name":
                for side in world.sides:
                    side.rows[f"w{how}"] = side.held._row_of(f"w{how}", False)
            case "crash":
                world.crash()
            case "start":
                world.start()
        for side in world.sides:
            assert side.held is side.follower.estimator
            assert side.held.beliefs().observations.sum() <= world.finished
    world.start()
    world.linked = [True, True]
    for _ in range(6):
        world.clock[0] += OVERDUE_S + 1.0
        for which in (0, 1):
            for _ in range(4):  # the operator tells of a few at a time
                world.exchange(which)
            world.sides[which].settle()
    assert world.operator is not None
    theirs = world.operator.estimator
    assert theirs.beliefs().observations.sum() == world.finished
    for side in world.sides:
        ours = side.follower.estimator
        assert believed(ours, theirs) == believed(theirs, theirs)
        assert ours.beliefs().observations.sum() == world.finished
        assert side.follower.own == 0
        for name, row in side.rows.items():
            assert ours.workloads[row] == (name, False)
        for name, column in side.columns.items():
            assert ours.node_classes[column] == name
    world.kept.write()
    again = predictor(world.kept)
    assert believed(again.estimator, theirs) == believed(theirs, theirs)
    assert again.revision == world.operator.revision


def test_an_extender_alone_learns_after_the_operator_was_silent_for_long_and_not_before() -> None:
    clock = [0.0]
    follower = Follower(RunTimeEstimator(COUNTING), lambda: clock[0])
    follower.learn(pod(1))
    assert counted(follower) == 0
    clock[0] = STALE_S + 1.0
    assert counted(follower) == 1
    follower.learn(pod(2))
    assert counted(follower) == 2


def test_on_return_what_the_operator_has_is_counted_once_and_the_rest_is_kept_and_given_to_it() -> None:
    clock = [0.0]
    operator, follower = Predictor(RunTimeEstimator(COUNTING)), Follower(RunTimeEstimator(COUNTING), lambda: clock[0])
    clock[0] = STALE_S + 1.0
    for k in range(5):
        follower.learn(pod(k))
    assert counted(follower) == 5
    for k in (4, 1, 9):
        operator.learn(pod(k))
    follower.heard(wire(operator.update(*follower.asked)))
    assert counted(follower) == 6  # 4, 1, 9 of the operator; 0, 2, 3 of our own
    assert [row.uid for row in follower.overdue()] == ["uid-0", "uid-2", "uid-3"]


def test_a_follower_that_is_a_little_behind_is_sent_observations_and_one_far_behind_everything() -> None:
    operator = Predictor(logged=3)
    for k in range(10):
        operator.learn(pod(k))
    near, far = operator.update(operator.epoch, 7), operator.update(operator.epoch, 6)
    assert [row.uid for row in near.observations] == ["uid-7", "uid-8", "uid-9"]
    assert near.state is None
    assert far.state is not None
    assert set(far.recent) == {f"uid-{k}" for k in range(10)}
    assert operator.update("another life", 9).state is not None
    assert operator.update(operator.epoch, 11).state is not None  # a revision that never was


def test_a_follower_far_behind_is_told_of_a_few_at_a_time_and_gets_to_the_end() -> None:
    operator, follower = Predictor(RunTimeEstimator(COUNTING)), Follower(RunTimeEstimator(COUNTING))
    follower.heard(wire(operator.update(*follower.asked)))
    for k in range(2 * SENT + 5):
        operator.learn(pod(k))
    sizes = []
    while follower.asked != (operator.epoch, operator.revision):
        update = operator.update(*follower.asked)
        sizes.append(len(update.observations))
        follower.heard(wire(update))
    assert sizes == [SENT, SENT, 5]
    settle(follower)
    assert follower.revision == operator.revision
    assert believed(follower.estimator, operator.estimator) == believed(operator.estimator, operator.estimator)


class Counting(RunTimeEstimator):
    """Counts what it learns; `adopted` counts the copies of large tables."""

    learned = adopted = 0

    def learn(self, seen: Observation) -> None:
        type(self).learned += 1
        super().learn(seen)

    def adopt(self, source: RunTimeEstimator) -> None:
        type(self).adopted += 1
        super().adopt(source)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr(Counting, "learned", 0)
    monkeypatch.setattr(Counting, "adopted", 0)
    monkeypatch.setattr(following, "RunTimeEstimator", Counting)
    monkeypatch.setattr(following, "SLICE_S", 0.0)
    return Counting


def test_whatever_arrives_is_learned_by_tick_alone_one_observation_after_the_other(counting: type[Counting]) -> None:
    """The event loop that owns the follower has a guard that kills it when it is silent for 0.7 s."""
    clock, operator = [0.0], Predictor(RunTimeEstimator(COUNTING))
    follower = Follower(counting(COUNTING), lambda: clock[0])
    for k in range(MOST):  # the first list, the operator away
        follower.learn(pod(k))
    clock[0] = STALE_S + 1.0
    assert follower.tick()
    assert counting.learned == 1
    settle(follower)
    for k in range(500):
        operator.learn(pod(k))
    counting.learned = 0
    follower.heard(wire(operator.update(*follower.asked)))
    follower.known([row.uid for row in follower.overdue()])
    follower.learn(pod(MOST))
    assert (counting.learned, counting.adopted) == (0, 0)


def test_while_an_operator_that_was_away_learns_what_it_missed_nothing_is_learned_anew(
    counting: type[Counting],
) -> None:
    clock, operator = [0.0], Predictor(RunTimeEstimator(COUNTING))
    follower = Follower(counting(COUNTING), lambda: clock[0])
    follower.heard(wire(operator.update(*follower.asked)))
    settle(follower)
    clock[0] = STALE_S + 1.0
    for k in range(2_000):
        follower.learn(pod(k))
    settle(follower)
    counting.learned = counting.adopted = 0
    while follower.own:
        for row in follower.overdue():
            operator.learn(row.observation())
        follower.heard(wire(operator.update(*follower.asked)))
        settle(follower)
    while follower.asked[1] < operator.revision:
        follower.heard(wire(operator.update(*follower.asked)))
    settle(follower)
    assert (counting.learned, counting.adopted) == (2_000, 1)  # what the operator believes, once; and its copy
    assert believed(follower.estimator, operator.estimator) == believed(operator.estimator, operator.estimator)


@pytest.mark.parametrize("run", [0.0, -1.0, float("nan"), float("inf")])
def test_a_run_that_says_nothing_gets_no_revision_and_is_not_kept(run: float) -> None:
    seen = Observation("u", "w", False, "c", run, 1.0)
    operator, follower = Predictor(), Follower(RunTimeEstimator())
    follower.learn(seen)
    assert (operator.learn(seen), operator.revision, follower.own) == (False, 0, 0)


def test_names_that_come_when_the_table_is_full_share_a_row_on_both_sides() -> None:
    small = EstimatorSettings(most_workloads=3)
    operator, follower = Predictor(RunTimeEstimator(small)), Follower(RunTimeEstimator())
    for k in range(60):
        operator.learn(pod(k))
        follower.heard(wire(operator.update(*follower.asked)))
        settle(follower)
    assert believed(follower.estimator, operator.estimator) == believed(operator.estimator, operator.estimator)


def test_adopted_beliefs_do_not_depend_on_how_rows_and_columns_are_numbered() -> None:
    """With 300 workloads on 30 classes sums are long enough to round differently in another order."""
    rng = np.random.default_rng(1)
    seen = [
        Observation(f"u{k}", f"w{w}", False, f"c{c}", float(r), 1.0)
        for k, (w, c, r) in enumerate(
            zip(rng.integers(0, 300, 1500), rng.integers(0, 30, 1500), rng.lognormal(3, 1, 1500), strict=True)
        )
    ]
    source, other = RunTimeEstimator(), RunTimeEstimator()
    for k in rng.permutation(400):
        other._row_of(f"w{k}", False)
    for k in rng.permutation(40):
        other.column(f"c{k}")
    for s in seen[:1000]:
        source.learn(s)
    other.adopt(RunTimeEstimator.restore(json.loads(json.dumps(source.state()))))
    assert believed(other, source) == believed(source, source)
    for s in seen[1000:]:
        source.learn(s)
        other.learn(s)
    assert believed(other, source) == believed(source, source)
