"""One network three times: torch trains it, onnxruntime serves it, the compiled scorer plays it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nodewise.core.columns import COLUMNS, features
from nodewise.core.errors import UserError
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView, PodRequest, Rows, Scores, SlaClass
from nodewise.policies import rule
from nodewise.policies.economic import TERMS
from nodewise.policies.learned import load
from nodewise_simulator import scenarios
from nodewise_simulator.run import play
from nodewise_simulator.scorer import score, weights_of
from nodewise_training import export
from nodewise_training.nets import Scorer, transformed

F32 = NDArray[np.float32]
PodOf = Callable[..., PodRequest]
StateOf = Callable[..., ClusterState]

ALL = tuple(COLUMNS)
FEW = ("log_cpu", "delay_cents", "empty", "late_cents", "log_queued", "room_cents")
SIZES = (1, 2, 3, 8, 9, 17, 60, 1000)


@pytest.fixture(scope="module")
def seen(busy: StateOf, pod_of: PodOf) -> F32:
    """All columns of 60 candidates for each of nine pods, [540, K]."""
    view_of, rows = busy(60, 200).view, np.arange(60)
    pods = [
        pod_of(f"q{k}", sla=SlaClass(k % 3), workload=f"w{k % 5}", cpu_milli=250.0 * 2**k, deadline_s=150.0 + 40 * k)
        for k in range(9)
    ]
    return np.concatenate([features(ALL, pod, view_of(pod, 100.0), rows) for pod in pods])


def trained(columns: tuple[str, ...], seen: F32, hidden: int = 32, spread: float = 1.0) -> Scorer:
    """As if trained: every weight matters, and columns are scaled by what was seen."""
    made, random = Scorer(columns, hidden), torch.Generator().manual_seed(7)
    values = transformed(columns, seen)
    made.set_scale(values.mean(axis=0), values.std(axis=0) * spread)
    with torch.no_grad():
        for parameter in (made.hidden_bias, made.second_bias, made.skip, made.output_weight):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return made


def of_one(scorer: Scorer, seen: F32, size: int) -> F32:
    """Candidates of one decision [size, K], from rows of several."""
    drawn = seen[np.random.default_rng(size).integers(len(seen), size=size)]
    drawn[:, scorer.places["request"]] = drawn[0, scorer.places["request"]]
    return drawn


def compiled(scorer: Scorer, seen: F32) -> F32:
    out = np.empty(len(seen), np.float32)
    score(*weights_of(scorer.arrays()), *scorer.split(seen), out)
    return out


def close(one: F32, other: F32) -> None:
    np.testing.assert_array_less(np.abs(one - other) / np.maximum(1.0, np.abs(other)), 1e-5)


@pytest.mark.parametrize(("columns", "hidden"), [(ALL, 32), (ALL, 16), (FEW, 30), (FEW[1:], 7)])
@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_the_compiled_scorer_scores_as_torch_does(
    seen: F32, columns: tuple[str, ...], hidden: int, spread: float
) -> None:
    """A spread of a twentieth has most of what is seen cut off at the limit."""
    seen = np.ascontiguousarray(seen[:, [ALL.index(name) for name in columns]])
    scorer = trained(columns, seen, hidden, spread)
    for size in SIZES:
        drawn = of_one(scorer, seen, size)
        expected = export.scores_of(scorer, drawn)
        assert size < 3 or np.ptp(expected) > 0.1
        close(compiled(scorer, drawn), expected)


def test_a_written_bundle_serves_the_scores_of_torch_and_of_the_compiled_scorer(seen: F32, tmp_path: Path) -> None:
    scorer = trained(ALL, seen)
    card = export.write(
        tmp_path / "b", scorer, np.split(seen, 9), name="net", algorithm="none", ranges=export.observed([seen]),
        command="test", commit="abc", scenarios=("hetero",), seeds=(1,), results={"cost": 1.0},
    )  # fmt: skip
    served = load(tmp_path / "b")
    assert served.digest == card.digest
    for size in SIZES:
        drawn = of_one(scorer, seen, size)
        close(served.run(drawn), export.scores_of(scorer, drawn))
        close(served.run(drawn), compiled(scorer, drawn))


def test_graphs_of_other_weights_are_refused(seen: F32) -> None:
    scorer = trained(ALL, seen)
    models = export.export(scorer)
    with torch.no_grad():
        scorer.second_weight[3, 4] += 0.01
    with pytest.raises(UserError, match="onnxruntime and torch score"):
        export.check_parity(scorer, models, [seen])


def test_untrained_it_is_economic() -> None:
    class Recorder:
        name, digest = "economic", "test"

        def __init__(self) -> None:
            self.told: list[tuple[F32, Scores]] = []

        def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
            scores = rule("economic").score(pod, view, rows)
            self.told.append((features(ALL, pod, view, rows), scores))
            return scores

    recorder = Recorder()
    play(scenarios.make("hetero@pods=50,warm=50", 1), recorder)
    assert len(recorder.told) > 60
    scorer = Scorer(ALL)
    for seen, scores in recorder.told:
        close(export.scores_of(scorer, seen), scores)
        close(compiled(scorer, seen), scores)
        for own in (export.scores_of(scorer, seen), compiled(scorer, seen)):
            assert scores[own.argmax()] >= scores.max() - 1e-5 * abs(scores.max())


def test_in_a_batch_what_is_no_candidate_is_not_seen(seen: F32) -> None:
    scorer = trained(ALL, seen)
    node, pair, request = map(torch.from_numpy, scorer.split(seen))
    batch = [t.reshape(9, 60, -1) for t in (node, pair)]
    requests = torch.stack([request * k for k in range(9)])
    mask = torch.rand(9, 60, generator=torch.Generator().manual_seed(1)) < torch.linspace(0.02, 1.1, 9)[:, None]
    mask[:, 5] = True
    scores = scorer(*batch, requests, mask)
    for k, own in enumerate(mask):
        alone = scorer(batch[0][k, own], batch[1][k, own], requests[k])
        torch.testing.assert_close(scores[k, own], alone, rtol=1e-5, atol=1e-5)
        assert (scores[k, ~own] == -torch.inf).all()


def test_the_order_of_candidates_does_not_matter(seen: F32) -> None:
    scorer = trained(ALL, seen)
    drawn = of_one(scorer, seen, 60)
    turned = np.random.default_rng(3).permutation(60)
    for run in (export.scores_of, compiled):
        close(run(scorer, drawn[turned]), run(scorer, drawn)[turned])


def test_what_a_candidate_is_worth_depends_on_the_others(seen: F32) -> None:
    """Else the pools are disconnected, and every other test holds."""
    scorer = trained(ALL, seen)
    drawn = of_one(scorer, seen, 60)
    assert np.abs(compiled(scorer, drawn[:30]) - compiled(scorer, drawn)[:30]).max() > 1e-2


def test_gradients_are_those_of_the_plain_operators(seen: F32, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them of candidates that are alike, and of what is no candidate."""
    scorer = trained(ALL, seen)
    node, pair, request = map(torch.from_numpy, scorer.split(seen))
    mask = torch.ones(9, 60, dtype=torch.bool)
    mask[:, 40:] = False
    node, pair = node.reshape(9, 60, -1).clone(), pair.reshape(9, 60, -1).clone()
    node[:, 1:5], pair[:, 1:5] = node[:, :1], pair[:, :1]

    def gradients() -> list[torch.Tensor]:
        scores = scorer(node, pair, request.expand(9, -1), mask)
        loss = torch.log_softmax(scores, 1)[:, :3].sum()
        return list(torch.autograd.grad(loss, list(scorer.parameters())))

    own = gradients()
    monkeypatch.setattr("nodewise_training.nets._most", lambda x: x.amax(-2))
    for mine, plain in zip(own, gradients(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)
        assert mine.abs().sum() > 0


def test_a_weight_that_is_not_finite_is_refused(seen: F32) -> None:
    arrays = trained(ALL, seen).arrays()
    arrays["pool_weight"][2, 3] = np.nan
    with pytest.raises(UserError, match="'pool_weight' is not finite"):
        weights_of(arrays)


def test_only_the_terms_of_economic_go_around_the_network(seen: F32) -> None:
    told = Scorer(ALL).arrays()["pair_skip"]
    pair = [name for name in ALL if COLUMNS[name].scope == "pair"]
    assert {name for name, weight in zip(pair, told, strict=True) if weight == 1.0} == set(TERMS)
    assert told.sum() == len(TERMS)
