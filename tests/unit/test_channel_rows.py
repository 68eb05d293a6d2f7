"""What an extender keeps and sends of a decision; and an extender with its operator, end to end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from nodewise import policies
from nodewise.channel.messages import DecisionRow
from nodewise.core.columns import COLUMNS, features
from nodewise.core.decide import decide
from nodewise.core.state import ClusterState
from nodewise.core.types import PodRequest
from nodewise.extender.journal import Journal
from nodewise.extender.records import Record
from nodewise.extender.rows import BEST, OTHERS, columns_of, decision_row
from nodewise.extender.server import Running
from nodewise.policies.learned import load
from nodewise_operator.store import Store
from nodewise_simulator.fake_api import FakeApi

from .channel_objects import OperatorEnd, observation
from .extender_objects import eventually, finished, hosts, node, pod, post, request, serving

PodOf = Callable[..., PodRequest]
StateOf = Callable[..., ClusterState]


def decided(state: ClusterState, asked: PodRequest, policy: Any = policies.DEFAULT) -> Record:
    view = state.view(asked, 100.0)
    decision = decide(asked, view, state.rows(view.nodes.name), policy, policies.DEFAULT)
    return Record(decision, view, view.nodes.name, 100.0, 3, columns=columns_of(policy))


def kept(row: DecisionRow) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(row.features, "<f4").reshape(len(row.featured), len(row.columns))


@pytest.mark.parametrize("policy", [policies.DEFAULT, "learned"], ids=["rule", "learned"])
def test_features_are_what_the_policy_looked_at(busy: StateOf, pod_of: PodOf, policy: Any) -> None:
    """Bit for bit: from them alone the learned policy gives the scores again."""
    if policy == "learned":
        policy = load(policies.bundle_folder(None))
    record = decided(busy(nodes=40, pods=100), pod_of("p"), policy)
    row = decision_row(record, record.view)
    names = policy.card.column_names if policy is not policies.DEFAULT else tuple(COLUMNS)
    assert tuple(row.columns) == names
    assert record.view is not None
    seen = features(names, record.decision.pod, record.view, record.decision.candidates)
    assert kept(row).tobytes() == seen[row.featured].tobytes()


def test_features_are_kept_of_the_winner_the_best_and_a_sample_that_depends_on_the_pod_only(
    busy: StateOf, pod_of: PodOf
) -> None:
    state = busy(nodes=60, pods=100)
    record = decided(state, pod_of("p"))
    row = decision_row(record, record.view)
    by_score = np.argsort(-record.decision.scores, kind="stable").tolist()
    assert row.candidates[row.featured[0]] == row.winner
    assert set(by_score[:BEST]) <= set(row.featured)
    assert len(row.featured) == len(set(row.featured)) == 1 + BEST + OTHERS
    assert decision_row(record, record.view).featured == row.featured
    other = decided(state, pod_of("q"))
    assert decision_row(other, other.view).featured[-OTHERS:] != row.featured[-OTHERS:]


@pytest.mark.parametrize("nodes", [1, 3, 12])
def test_of_few_candidates_all_have_features(busy: StateOf, pod_of: PodOf, nodes: int) -> None:
    record = decided(busy(nodes=nodes), pod_of("p"))
    assert sorted(decision_row(record, record.view).featured) == list(range(nodes))


def test_a_row_says_what_was_decided_and_its_scores_are_those_of_float32(busy: StateOf, pod_of: PodOf) -> None:
    record = decided(busy(), pod_of("p"))
    record.latency_us = 123.456
    row = msgspec.json.decode(msgspec.json.encode(decision_row(record, record.view)), type=DecisionRow)
    decision = record.decision
    assert np.array(row.scores, np.float32).tobytes() == decision.scores.tobytes()
    assert row.reply == [tuple(entry) for entry in decision.reply]
    assert (row.uid, row.source, row.mode, row.propensity, row.sequence) == ("p", "extender", "active", 1.0, 3)
    assert (row.latency_us, row.policy, row.digest) == (123.5, decision.policy, decision.digest)
    assert row.candidates == [record.names[k] for k in decision.candidates]


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e7, 1e30])
def test_scores_of_any_size_survive_as_decimals(busy: StateOf, pod_of: PodOf, scale: float) -> None:
    record = decided(busy(nodes=40), pod_of("p"))
    scores = (np.random.default_rng(0).normal(size=40) * scale).astype(np.float32)
    scores[:2] = 0.0, -0.0
    object.__setattr__(record.decision, "scores", scores)
    row = msgspec.json.decode(msgspec.json.encode(decision_row(record, None)), type=DecisionRow)
    assert np.array(row.scores, np.float32).tobytes() == scores.tobytes()
    assert np.median([len(repr(score)) for score in row.scores]) <= (15 if 1e-7 < scale < 1e8 else 25)


def test_a_decision_without_an_opinion_or_without_its_view_is_a_row_without_features(
    busy: StateOf, pod_of: PodOf
) -> None:
    silent = decided(busy(), pod_of("p", pinned=True))
    row = decision_row(silent, silent.view)
    assert (row.neutral, row.candidates, row.featured, row.features, row.winner) == (
        "pins-a-volume-or-device", [], [], b"", "",
    )  # fmt: skip
    late = decided(busy(), pod_of("p"))
    assert (decision_row(late, None).features, decision_row(late, None).columns) == (b"", [])
    assert decision_row(late, None).winner


def test_features_that_cannot_be_computed_cost_the_features_only(busy: StateOf, pod_of: PodOf) -> None:
    record = decided(busy(), pod_of("p"))
    record.columns = ("a column that was removed",)
    row = decision_row(record, record.view)
    assert (row.features, row.featured, bool(row.winner)) == (b"", [], True)


def test_when_the_writer_is_far_behind_rows_lose_their_features_before_they_are_lost(
    busy: StateOf, pod_of: PodOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = decided(busy(), pod_of("p"))
    monkeypatch.setattr("threading.Thread.start", lambda _: None)  # a writer that never gets to run
    journal = Journal(tmp_path / "journal", most=100)
    for _ in range(120):
        journal.append(record)
    assert (journal.without_features, journal.dropped, journal.waiting) == (56, 20, 100)


# --- an extender with its operator -----------------------------------------------------------------------------------


@pytest.fixture
def end(tmp_path: Path) -> Iterator[OperatorEnd]:
    store = Store.open(str(tmp_path / "nodewise.db"))
    yield OperatorEnd(store)
    store.close()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as made:
        for name in ("node-0", "node-1"):
            made.put("nodes", node(name))
        yield made


async def ask(extender: Running) -> list[str]:
    asked = {"/prioritize": request(pod("p"), ("node-0", "node-1"))}
    replies = await asyncio.to_thread(post, extender.port, asked)
    return hosts(replies["/prioritize"][1])


async def test_a_decision_of_an_extender_reaches_the_store_and_the_journal_alike(
    api: FakeApi, end: OperatorEnd, tmp_path: Path
) -> None:
    api.put("pods", pod("p"))
    folders: dict[str, Any] = {"spool": tmp_path / "spool", "journal": tmp_path / "file"}
    async with (
        end.serving() as port,
        serving(api, tmp_path, operator_url=f"http://127.0.0.1:{port}", **folders) as extender,
    ):
        assert await ask(extender)
        await eventually(lambda: end.uids() == ["uid-p"])
        await eventually(lambda: end.reports)
    (stored,) = end.store.decisions()
    (line,) = map(json.loads, (tmp_path / "file").read_text().splitlines())
    assert line.pop("v") == 2
    assert msgspec.convert(line, DecisionRow) == stored
    assert kept(stored).shape == (2, len(COLUMNS))
    assert end.reports[0].policy == "economic"
    assert list((tmp_path / "spool").iterdir()) == []


async def test_an_extender_believes_what_its_operator_learned_and_not_the_same_twice(
    api: FakeApi, end: OperatorEnd, tmp_path: Path
) -> None:
    """Its own watch shows two pods that finished; the operator has learned from one of them, and from another."""
    end.see(observation("gone-before"))
    end.see(observation("uid-seen"))
    api.put("pods", finished("seen", "node-0", 30))
    api.put("pods", finished("new", "node-0", 50))
    async with end.serving() as port, serving(api, tmp_path, operator_url=f"http://127.0.0.1:{port}") as extender:
        cache = extender.service.cache
        await eventually(lambda: cache.state.estimator.beliefs().observations.sum() > 1.9)
        assert cache.state.estimator.beliefs().observations.sum() < 2.1
        assert cache.learned == 2


async def test_an_extender_whose_operator_is_away_serves_as_ever(api: FakeApi, tmp_path: Path) -> None:
    api.put("pods", pod("p"))
    async with serving(api, tmp_path, operator_url="http://127.0.0.1:9", spool=tmp_path / "spool") as extender:
        assert await ask(extender)
        await eventually(lambda: list((tmp_path / "spool").rglob("*.json.gz")))
        extender.check()
