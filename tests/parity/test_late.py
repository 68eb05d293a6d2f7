"""The scorer whose node half is kept: nothing in it is out of date, and draws follow its softmax."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from nodewise.core.columns import COLUMNS, features_by_scope
from nodewise.core.errors import UserError
from nodewise.core.types import ClusterView, PodRequest, Rows, Scores
from nodewise_simulator.bench.simulator import LATE
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.late import Late, Seen, check, collect
from nodewise_simulator.compiled.run import State

from .test_compiled import reference
from .worlds import odd_world

SHARPNESS = 3.0


class Follow:
    """Goes where it is told, and keeps what it was shown: node [M, Kn], pair [M, Kr], request [Kp], rows [M]."""

    name, digest = "follow", "test"

    def __init__(self, columns: tuple[str, ...], told: list[int]) -> None:
        self.columns, self.told = columns, iter(told)
        self.seen: list[tuple[NDArray[np.float32], ...]] = []
        self.rows: list[Rows] = []

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        self.seen.append(features_by_scope(self.columns, pod, view, rows))
        self.rows.append(rows)
        return np.asarray(rows == next(self.told), np.float32)


def test_what_is_recorded_is_what_a_policy_sees_and_draws_follow_the_softmax_of_its_scores() -> None:
    made = odd_world(3, nodes=120, pods=500)
    late, flat = Late.drawn(LATE, 24, 1), flatten(made)
    state, seen = State.start(flat), Seen.room(450, flat, late)
    uniforms = np.random.default_rng(2).random(len(made.pods))
    collect(flat, state, late, SHARPNESS, uniforms, seen, len(made.pods) + 1)
    asked = int(state.number[kn.ASKED])
    assert asked == state.number[kn.RECORDED] > 300
    follow = Follow(late.columns, seen.choice[:asked, 1].tolist())
    outcomes = reference(made, follow)[0]
    assert [o.node for o in state.outcomes(flat.names)] == [o.node for o in outcomes]
    nodes, ok = seen.dense(seen.versions(asked, len(made.nodes)), np.arange(asked))
    drawn = []
    for k, (rows, (node, pair, request)) in enumerate(zip(follow.rows, follow.seen, strict=True)):
        candidates = seen.rows[k, : seen.choice[k, 2]].astype(np.int64)
        np.testing.assert_array_equal(np.sort(candidates), rows)
        np.testing.assert_array_equal(np.flatnonzero(ok[k]), rows)
        np.testing.assert_allclose(nodes[k, rows, : node.shape[1]], node, rtol=3e-7)
        np.testing.assert_allclose(seen.pair[k, flat.node_class[rows], : pair.shape[1]], pair, rtol=3e-7, atol=1e-30)
        np.testing.assert_allclose(seen.request[k, : len(request)], request, rtol=3e-7)
        parts = (node, late.node), (pair, late.pair), (request, late.request)
        hidden = np.maximum(sum(shown.astype(float) @ weight for shown, weight in parts) + late.bias, 0.0)
        logits = np.full(len(made.nodes), -np.inf)
        logits[rows] = SHARPNESS * (hidden @ late.output.astype(float))
        share = np.exp(logits - logits.max())
        share /= share.sum()
        p, row = seen.choice[k, :2]
        at = int(np.flatnonzero(candidates == row)[0])
        before = share[candidates[:at]].sum()
        assert seen.logp[k] == pytest.approx(np.log(share[row]), abs=1e-5)
        assert before - 1e-4 <= uniforms[p] <= before + share[row] + 1e-4
        drawn.append(int((share > share[row]).sum()))
    assert 0 < np.count_nonzero(drawn) < asked


def test_a_recording_that_is_full_of_changes_ends_and_what_is_in_it_stands() -> None:
    made = odd_world(3, nodes=120, pods=300)
    late, flat = Late.drawn(LATE, 24, 1), flatten(made)
    uniforms = np.random.default_rng(2).random(len(made.pods))
    whole, short = Seen.room(450, flat, late), Seen.room(450, flat, late)
    short = replace(short, change=short.change[:300], change_row=short.change_row[:300])
    counts = []
    for seen in (whole, short):
        state = State.start(flat)
        collect(flat, state, late, SHARPNESS, uniforms, seen, len(made.pods) + 1)
        counts.append(int(state.number[kn.RECORDED]))
    most, fewer = counts
    assert 20 < fewer < most
    np.testing.assert_array_equal(short.logp[:fewer], whole.logp[:fewer])
    which = np.arange(fewer)
    nodes = [seen.dense(seen.versions(fewer, len(made.nodes)), which)[0] for seen in (whole, short)]
    np.testing.assert_array_equal(nodes[0], nodes[1])
    assert not short.choice[fewer:].any()


@pytest.mark.parametrize(
    ("name", "why"),
    [("log_work_remaining", "changes with the clock"), ("gpu_wasted", "depends on the node itself"),
     ("spread_cents", "depends on the node itself")],
)  # fmt: skip
def test_a_column_that_cannot_be_kept_is_refused_in_a_sentence(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"^column '{name}' {why}.*; leave it out$"):
        check((name,))


def test_every_other_column_of_nodes_and_requests_can_be_kept() -> None:
    clocked = {"log_work_remaining", "log_longest_remaining"}
    check(tuple(n for n, c in COLUMNS.items() if c.scope != "pair" and n not in clocked))
