"""A bundle's policy scores as its card says and judges nothing far from what training saw; how a bundle is written."""

import builtins
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodewise.core.card import PolicyCard, column_now
from nodewise.core.columns import features, features_by_scope, split
from nodewise.core.decide import PolicyRefusalError, decide
from nodewise.core.errors import UserError
from nodewise.core.state import ClusterState
from nodewise.core.types import Fallback, PodRequest
from nodewise.policies import DEFAULT
from nodewise.policies.bundle import read_bundle
from nodewise.policies.learned import load

from .bundles import NAMES, WEIGHTS, card_of, golden, models
from .learned_objects import CARD, written

PodOf = Callable[..., PodRequest]
StateOf = Callable[..., ClusterState]


def test_a_good_bundle_scores_like_numpy(tmp_path: Path, busy: StateOf, pod_of: PodOf) -> None:
    policy = load(written(tmp_path / "b"))
    pod, rows = pod_of("q"), np.array([5, 1, 7])
    view = busy().view(pod, 100.0)
    scores = policy.score(pod, view, rows)
    assert scores.dtype == np.float32
    seen = features(NAMES, pod, view, rows)
    assert (np.ptp(seen, axis=0) > 0).sum() >= 3  # else a mixed-up column might not show
    np.testing.assert_allclose(scores, seen @ np.array(WEIGHTS, np.float32), rtol=1e-5)
    np.testing.assert_array_equal(policy.score(pod, view, rows), scores)
    np.testing.assert_array_equal(policy.run(seen), scores)  # what golden vectors show is what serves
    assert (policy.name, policy.digest) == ("linear", read_bundle(tmp_path / "b").card.digest)
    decision = decide(pod, view, rows, policy, DEFAULT)
    assert (decision.policy, decision.digest, decision.fallback) == ("linear", policy.digest, Fallback.NONE)


def test_features_by_scope_are_the_features_bit_for_bit(busy: StateOf, pod_of: PodOf) -> None:
    pod, rows = pod_of("q"), np.array([5, 1, 7])
    view = busy().view(pod, 100.0)
    seen = features(NAMES, pod, view, rows)
    parts = features_by_scope(NAMES, pod, view, rows)
    assert [list(part) for part in split(NAMES)] == [[1], [0, 3], [2, 4]]
    assert [part.shape for part in parts] == [(3, 1), (3, 2), (2,)]
    for part, positions in zip(parts, split(NAMES), strict=True):
        assert part.dtype == np.float32
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(np.broadcast_to(part, (3, len(positions))), seen[:, positions])


def test_the_order_of_columns_is_the_cards(tmp_path: Path, busy: StateOf, pod_of: PodOf) -> None:
    """The model takes columns by place, the card knows them by name: another order in it is another input."""
    pod, rows = pod_of("q"), np.arange(12)
    view = busy().view(pod, 100.0)
    weights = (-1, 0, 0, 0, 0)
    turned = (NAMES[3], *NAMES[1:3], NAMES[0], NAMES[4])
    for folder, names in (("a", NAMES), ("b", turned)):
        policy = load(written(tmp_path / folder, models(weights), card_of(names), golden(weights)))
        np.testing.assert_array_equal(-policy.score(pod, view, rows), features(names[:1], pod, view, rows)[:, 0])


@pytest.mark.parametrize(("factor", "refused"), [(1.0, False), (1.04, False), (1.2, True)])
def test_what_lies_far_outside_of_what_training_saw_is_not_judged(
    tmp_path: Path, busy: StateOf, pod_of: PodOf, factor: float, refused: bool
) -> None:
    """The widening is a twentieth of the span: 0.04 of the upper end is inside, 0.2 is not."""
    pod, rows = pod_of("q"), np.arange(12)
    view = busy().view(pod, 100.0)
    top = float(features(["room_cents"], pod, view, rows).max())
    policy = load(written(tmp_path / "b", card=observing("room_cents", 0.0, top / factor)))
    if not refused:
        assert policy.score(pod, view, rows).shape == (12,)
        return
    with pytest.raises(PolicyRefusalError, match=r"room_cents is .* on n\d\d; the policy was trained on 0 to"):
        policy.score(pod, view, rows)
    decision = decide(pod, view, rows, policy, DEFAULT)
    assert (decision.fallback, decision.policy) == (Fallback.OUT_OF_RANGE, "economic")


def test_a_column_that_never_varied_in_training_must_not_vary(tmp_path: Path, busy: StateOf, pod_of: PodOf) -> None:
    pod, rows = pod_of("q"), np.arange(12)
    view = busy().view(pod, 100.0)
    with pytest.raises(PolicyRefusalError, match="delay_cents"):
        load(written(tmp_path / "b", card=observing("delay_cents", 0.0, 0.0))).score(pod, view, rows)


@pytest.mark.parametrize(
    ("name", "says"),
    [("log_cpu", r"log_cpu is 6.9\d+; the policy"), ("cpu_requested_share", r"share is .* on n\d\d; the policy")],
)
def test_the_range_of_every_scope_is_checked(
    tmp_path: Path, busy: StateOf, pod_of: PodOf, name: str, says: str
) -> None:
    pod, rows = pod_of("q"), np.arange(12)
    with pytest.raises(PolicyRefusalError, match=says):
        load(written(tmp_path / "b", card=observing(name, -2.0, -1.0))).score(pod, busy().view(pod, 100.0), rows)


def observing(name: str, low: float, high: float) -> PolicyCard:
    return replace(CARD, columns=tuple(column_now(n, low, high) if n == name else column_now(n) for n in NAMES))


def test_without_the_runtime_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)

    path = written(tmp_path / "b")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"needs onnxruntime: run pip install '.\[extender\]' in a clone"):
        load(path)


def test_a_bundle_is_written_in_one_step_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "runs" / "b")
    assert sorted(p.name for p in path.iterdir()) == ["card.json", "encoder.onnx", "golden.npz", "head.onnx"]
    assert [p.name for p in path.parent.iterdir()] == ["b"]
    with pytest.raises(UserError, match="exists already"):
        written(path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"c cannot be written: No space left on device"):
        written(tmp_path / "runs" / "c")
    assert [p.name for p in path.parent.iterdir()] == ["b"]


def test_a_bundle_cannot_be_written_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        written(tmp_path / "file" / "b")


def test_the_same_export_gives_the_same_digest(tmp_path: Path) -> None:
    digests = {read_bundle(written(tmp_path / name)).card.digest for name in "ab"}
    assert len(digests) == 1
