"""A scorer whose node half is kept: one hidden layer over node, request and, by node class, pair columns.

    score of i = w · relu(N n_i + R r + P p_class(i) + b)

N n_i changes only when node i does, R r + P p + b are made once for each class: what is left for each candidate is an
addition, a comparison and a product. Nothing is approximated; what the form cannot hold are columns of the pair that
depend on the node itself, columns that change with the clock, and a second layer. The served network
(`nodewise_simulator.scorer`) has all three, and its price is beside this one's in `nodewise bench simulator`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.core.raw import Node, Pair, Pod
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import cycle, lanes, loop, view
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, Ints
from nodewise_simulator.compiled.fuse import OVERLOADS, Kernel, fuse, of_scope, spliced
from nodewise_simulator.compiled.kept import kept
from nodewise_simulator.compiled.run import State

F32 = NDArray[np.float32]

_CLOCKED = ("work_remaining_s", "longest_remaining_s", "resident_exposure_s")
_OF_NODE = ("same_owner_pods",)

_KERNEL = """# Written by nodewise_simulator.compiled.late; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.compiled.late import linked

play = linked({names!r})


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(flat, state, policy, record, until, learns):
    play(flat, state, policy, record, until, learns)
"""


@dataclass(frozen=True, slots=True)
class Late:
    """Weights, of columns as they are: a normalisation is folded into them. Parts in the order of `columns`.

    Raises UserError for columns that this form cannot hold.
    """

    columns: tuple[str, ...]
    node: F32  # [Kn, H]
    pair: F32  # [Kr, H]
    request: F32  # [Kp, H] of scope pod, then of scope cluster
    bias: F32  # [H]
    output: F32  # [H]

    def __post_init__(self) -> None:
        check(self.columns)

    @classmethod
    def drawn(cls, columns: tuple[str, ...], hidden: int, seed: int) -> Late:
        """Random weights."""
        rng = np.random.default_rng(seed)
        sizes = [len(of_scope(columns, *scopes)) for scopes in (("node",), ("pair",), ("pod", "cluster"))]
        made = [rng.normal(0.0, (2.0 / len(columns)) ** 0.5, (size, hidden)).astype(np.float32) for size in sizes]
        output = rng.normal(0.0, hidden**-0.5, hidden).astype(np.float32)
        return cls(columns, made[0], made[1], made[2], np.zeros(hidden, np.float32), output)


@dataclass(frozen=True, slots=True)
class Seen:
    """Decisions as they were taken, R at most, and what of the nodes had changed before each.

    Rows of columns are padded with zeros to whole fours. The first of the L changes is none: a node that nobody has
    looked at. Recording ends when there might be more.
    """

    change: F32  # [L, Kn] columns of a node
    change_row: NDArray[np.int32]  # [L] which node
    pair: F32  # [R, C, Kr] by class
    request: F32  # [R, Kp]
    rows: NDArray[np.uint16]  # [R, M] the candidates, by class, in the order in which one of them was drawn
    choice: Ints  # [R, 4] pod, row, how many candidates, changes up to here
    logp: Floats  # [R]

    @classmethod
    def room(cls, size: int, flat: Flat, late: Late) -> Seen:
        """For `size` decisions on this world. Raises UserError for more than 65535 nodes."""
        n, c = len(flat.node_f), len(flat.col_factor)
        if n > np.iinfo(np.uint16).max:
            raise UserError(f"a recording holds at most 65535 nodes, and this cluster has {n}")
        changes = 4 * size + 2 * n + 1 if size else 0
        return cls(
            np.zeros((changes, _fours(late.node)), np.float32), np.zeros(changes, np.int32),
            np.zeros((size, c, _fours(late.pair)), np.float32), np.zeros((size, _fours(late.request)), np.float32),
            np.zeros((size, cycle.most_scored(n)), np.uint16), np.zeros((size, 4), np.int64), np.zeros(size),
        )  # fmt: skip

    def versions(self, recorded: int, nodes: int) -> NDArray[np.int32]:
        """Which row of `change` says what each node showed at each decision [recorded, nodes]."""
        upto = self.choice[:recorded, 3]
        made = np.zeros((recorded, nodes), np.int32)
        changes = np.arange(1, upto[-1] if recorded else 1, dtype=np.int32)
        made[np.searchsorted(upto, changes, side="right"), self.change_row[changes]] = changes
        for k in range(1, recorded):  # ten times as fast as `accumulate`
            np.maximum(made[k - 1], made[k], out=made[k])
        return made

    def dense(self, versions: NDArray[np.int32], which: Ints) -> tuple[F32, NDArray[np.bool_]]:
        """(node [B, N, Kn], ok [B, N]) of these decisions [B]: what every node showed, and which were candidates."""
        ok = np.zeros((len(which), versions.shape[1]), np.bool_)
        counts = self.choice[which, 2]
        candidates = np.arange(self.rows.shape[1]) < counts[:, None]
        ok[np.repeat(np.arange(len(which)), counts), self.rows[which][candidates]] = True
        # As an index it would take ten times as long; no version is out of bounds.
        return np.take(self.change, versions[which], axis=0, mode="clip"), ok


def _fours(weights: F32) -> int:
    return -(-len(weights) // 4) * 4


def check(columns: tuple[str, ...]) -> None:
    """Raises UserError for columns that change with the clock, or of the pair and yet of the node."""
    rng = np.random.default_rng(0)

    def some() -> np.float64:
        return np.float64(rng.lognormal(1.0, 1.0) * (rng.random() < 0.7))

    def varies(name: str, part: Any, fields: tuple[str, ...]) -> bool:
        """Whether a column changes when these raw values do, and nothing else."""
        col = COLUMNS[name]
        for _ in range(100):
            base = {kind: kind(*(some() for _ in kind._fields)) for kind in (Node, Pod, Pair)}
            other = {**base, part: base[part]._replace(**{f: some() for f in fields})}
            with np.errstate(all="ignore"):
                one, two = (col.fn(*(g if col.scope == "pair" else g[:1])) for g in map(_in_order, (base, other)))
            if not np.array_equal(one, two, equal_nan=True):
                return True
        return False

    for name in columns:
        scope = COLUMNS[name].scope
        if scope == "node" and varies(name, Node, _CLOCKED):
            raise UserError(f"column {name!r} changes with the clock, so no half of it can be kept; leave it out")
        if scope == "pair" and (varies(name, Node, Node._fields) or varies(name, Pair, _OF_NODE)):
            raise UserError(f"column {name!r} depends on the node itself, not only on its class; leave it out")


def _in_order(values: dict[Any, Any]) -> tuple[Any, ...]:
    return values[Node], values[Pod], values[Pair]


def collect(
    flat: Flat, state: State, late: Late, sharpness: float, uniforms: Floats, seen: Seen | None, until: int,
    *, learns: bool = True,
) -> None:  # fmt: skip
    """Play on with nodes drawn from softmax(sharpness × score), by uniforms [P], and record until `seen` is full.

    With `learns` off beliefs stay as they are in `state`: right where no column looks at them, and else a shortcut that
    whoever takes it must tell.
    """
    n, c, hidden = len(flat.node_f), len(flat.col_factor), -(-len(late.bias) // lanes.LANES) * lanes.LANES

    def wide(weights: F32) -> F32:
        """With zeros for hidden units up to a whole number of lanes, and for columns up to a whole number of fours."""
        rows = ((0, _fours(weights) - len(weights)),) if weights.ndim > 1 else ()
        return np.pad(weights, (*rows, (0, hidden - weights.shape[-1])))

    by_class = np.argsort(flat.node_class, kind="stable")
    scratch = (
        np.zeros(_fours(late.node), np.float32), np.zeros((c, _fours(late.pair)), np.float32),
        np.zeros(_fours(late.request), np.float32), np.zeros(hidden, np.float32), np.zeros((n, hidden), np.float32),
        np.zeros((c, hidden), np.float32), np.zeros(c, np.float32), by_class,
        np.searchsorted(flat.node_class[by_class], np.arange(c + 1)),
        np.zeros(n, np.bool_), np.zeros(n + 1, np.int64), np.zeros(c + 1, np.int64),
        np.zeros(n + lanes.LANES, np.float32), np.zeros(state.cells.shape[1:], np.bool_),
    )  # fmt: skip
    seen = seen or Seen.room(0, flat, late)
    state.number[kn.RECORDED] = 0
    weights = (wide(late.node), wide(late.pair), wide(late.request), wide(late.bias), wide(late.output))
    player(late.columns)(
        flat.arrays(), state.arrays(), (*weights, sharpness, uniforms, *scratch),
        tuple(getattr(seen, f.name) for f in fields(seen)), until, learns,
    )  # fmt: skip


@cache
def player(names: tuple[str, ...]) -> Kernel:
    """`kernel(flat, state, policy, record, until, learns)`; compiled on its first call, or taken from disk."""
    kernel: Kernel = kept(_KERNEL.format(names=names), linked(names), OVERLOADS).kernel
    return kernel


@cache
def linked(names: tuple[str, ...]) -> Kernel:
    """The kernel of `player`, not kept."""
    write_node, write_pair, write_pod, write_cluster = (
        fuse(of_scope(names, scope)) for scope in ("node", "pair", "pod", "cluster")
    )

    @spliced
    def pick(flat: Any, state: Any, desk: Any, policy: Any, record: Any, until: int, p: int, now_s: float) -> Any:  # noqa: ARG001
        pod_f, pod_i, _, _, _, masks, settings, described, _ = flat
        node, node_i, _, _, _, _, _, queued, number = state[:9]
        cells, row_factor, col_factor, row_var, col_var = state[9:]
        _, _, totals, in_row, in_column, present, _, _ = desk[:8]
        changed = desk[12]
        node_weight, pair_weight, request_weight, bias, output, sharpness, uniforms = policy[:7]
        see_n, see_c, see_q, nothing, half, asked, told, by_class, begins, ok, rows, first, scores, stale = policy[7:]
        change, change_row, rec_pair, rec_request, rec_rows, rec_i, rec_f = record
        cycle.window(pod_f, node, masks[pod_i[p, kn.MASK]], number, p, ok)
        m = lanes.listed(ok, by_class, begins, rows, first)
        if m <= 1:  # a single feasible node is taken without asking
            return rows[0] if m == 1 else -1
        number[kn.ASKED] += 1
        at = number[kn.RECORDED]
        changes = rec_i[at - 1, 3] if 0 < at <= len(rec_f) else 1
        records = at < len(rec_f) and changes + len(ok) <= len(change)  # once not, never again
        request = rec_request[at] if records else see_q
        asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
        end = write_pod(request, 0, asking)
        write_cluster(request, end, dk.of_cluster(len(ok), totals, queued))
        for k in range(changed[-1]):
            row = changed[k]
            seen = change[changes] if records else see_n
            write_node(seen, 0, view.of_node(node, row))
            lanes.product(nothing, seen, node_weight, half[row])
            node_i[kn.CHANGED, row] = 0
            if records:
                change_row[changes] = row
                changes += 1
        changed[-1] = 0
        base = asked[len(told) - 1]
        lanes.product(bias, request, request_weight, base)
        if len(pair_weight) > 0 and number[kn.STALE]:
            bl.renew_row(
                settings, described, cells, row_factor, col_factor, row_var, col_var, in_row, in_column, stale,
                pod_i[p, kn.WORKLOAD],
            )  # fmt: skip
        best_s = view.best_run_s(pod_f, pod_i, settings, cells, present, p)
        for c in range(len(told)):
            pair = rec_pair[at, c] if records else see_c[c]
            both = view.of_pair(pod_f, pod_i, settings, cells, p, c, best_s, 0.0)
            write_pair(pair, 0, view.of_node(node, 0), asking, both)
            told[c] = lanes.asked_of(base, pair, pair_weight, output, asked[c])
        lanes.joined(half, asked, told, output, rows, first, scores)
        k, logp = lanes.drawn(scores, m, sharpness, uniforms[p])
        if records:
            lanes.narrowed(rows, m, rec_rows[at])
            rec_i[at, 0], rec_i[at, 1], rec_i[at, 2], rec_i[at, 3], rec_f[at] = p, rows[k], m, changes, logp
            number[kn.RECORDED] += 1
        return rows[k]

    return loop.looped(pick, residents=False)
