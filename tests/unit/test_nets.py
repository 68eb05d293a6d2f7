"""The network: its weights by seed, its columns by name, and what it does not look at."""

import numpy as np
import pytest
import torch

from nodewise.core.errors import UserError
from nodewise_training.export import scores_of
from nodewise_training.nets import Scorer

NAMES = (
    "delay_cents",
    "cpu_requested_share",
    "log_cpu",
    "run_uncertainty",
    "empty",
    "log_queued",
    "log_slower_than_best",
)
"""Of every scope, and mixed: pair (a cost term), node, pod, pair, node, cluster, pair."""


def test_a_seed_gives_the_same_weights_again_and_another_seed_others() -> None:
    one, same, other = (Scorer(NAMES, 16, seed).pool_weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_column_that_no_input_can_hold_is_named() -> None:
    with pytest.raises(UserError, match="no column 'delay_dollars'"):
        Scorer((*NAMES, "delay_dollars"))
    with pytest.raises(UserError, match="at least one column of scope node"):
        Scorer(("delay_cents", "log_cpu"))


@pytest.mark.parametrize("name", ["cpu_requested_share", "log_cpu", "run_uncertainty", "log_queued"])
def test_a_column_that_hardly_varied_in_training_changes_no_score(name: str) -> None:
    at, random = NAMES.index(name), np.random.default_rng(0)
    means, stds = np.full(len(NAMES), 0.5), np.full(len(NAMES), 0.3)
    scorer = Scorer(NAMES, 16, 3)
    with torch.no_grad():
        scorer.output_weight.normal_(generator=torch.Generator().manual_seed(1))
    seen = random.random((5, len(NAMES))).astype(np.float32)
    seen[:, [2, 5]] = seen[0, [2, 5]]  # one request
    moved = seen.copy()
    moved[:, at] += 0.5 if name in ("log_cpu", "log_queued") else 0.1 * np.arange(5.0)
    for std, same in ((9e-3, True), (0.0, True), (0.3, False)):
        stds[at] = std
        scorer.set_scale(means, stds)
        assert np.array_equal(scores_of(scorer, seen), scores_of(scorer, moved)) == same
