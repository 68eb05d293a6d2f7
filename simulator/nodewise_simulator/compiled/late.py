"""A scorer whose node half is kept: one hidden layer over node, request and, by node class, pair columns.

    score of i = w · relu(N n_i + R r + P p_class(i) + b)

N n_i changes only when node i does, R r + P p + b are made once for each class: what is left for each candidate is an
addition, a comparison and a product. Nothing is approximated; what the form cannot hold are columns of the pair that
depend on the node itself, columns that change with the clock, and a second layer. The served network
(`nodewise_simulator.scorer`) has all three, and its price is beside this one's in `nodewise bench simulator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.core.raw import Node, Pair, Pod
from nodewise.core.types import Floats
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import cycle, loop, view
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
    play(flat, state, policy, record, until, learns, False)
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
    """Decisions as they were taken, R at most; of nodes that were no candidates, `node` may be of an earlier time."""

    node: F32  # [R, N, Kn]
    pair: F32  # [R, C, Kr] by class
    request: F32  # [R, Kp]
    ok: NDArray[np.bool_]  # [R, N] the candidates
    choice: Ints  # [R, 2] pod, row
    logp: Floats  # [R]

    @classmethod
    def room(cls, size: int, flat: Flat, late: Late) -> Seen:
        """For `size` decisions on this world."""
        n, c = len(flat.node_f), len(flat.col_factor)
        return cls(
            np.zeros((size, n, len(late.node)), np.float32), np.zeros((size, c, len(late.pair)), np.float32),
            np.zeros((size, len(late.request)), np.float32), np.zeros((size, n), np.bool_),
            np.zeros((size, 2), np.int64), np.zeros(size),
        )  # fmt: skip


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
    n, hidden = len(flat.node_f), len(late.bias)
    kept_half = (
        np.zeros((n, len(late.node)), np.float32), np.zeros((n, hidden), np.float32),
        np.zeros((len(flat.col_factor), len(late.pair)), np.float32),
        np.zeros((len(flat.col_factor), hidden), np.float32), np.zeros(len(late.request), np.float32),
        np.zeros(n, np.bool_), np.zeros(n, np.float32),
    )  # fmt: skip
    seen = seen or Seen.room(0, flat, late)
    state.number[kn.RECORDED] = 0
    policy = (late.node, late.pair, late.request, late.bias, late.output, sharpness, uniforms, *kept_half)
    player(late.columns)(
        flat.arrays(), state.arrays(), policy, (seen.node, seen.pair, seen.request, seen.ok, seen.choice, seen.logp),
        until, learns,
    )  # fmt: skip


@cache
def player(names: tuple[str, ...]) -> Kernel:
    """`kernel(flat, state, policy, record, until, learns)`; compiled on its first call, or taken from disk."""
    kernel: Kernel = kept(_KERNEL.format(names=names), linked(names), OVERLOADS).kernel
    return kernel


_vectorised = njit(error_model="numpy", nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_vectorised
def product(x: F32, weight: F32, out: F32) -> None:
    """Out [H] += x [K] @ weight [K, H]."""
    for k in range(len(x)):
        v = x[k]
        for h in range(len(out)):
            out[h] += v * weight[k, h]


@_vectorised
def joined(half: F32, asked: F32, output: F32, ok: Any, node_i: Ints, out: F32) -> None:
    """W · relu(half + asked of the class) of each node that is `ok`, into out [N]."""
    zero, hidden = np.float32(0.0), len(output)
    for row in range(len(ok)):
        if ok[row]:
            c, total = node_i[kn.CLASS, row], zero
            for h in range(hidden):
                v = half[row, h] + asked[c, h]
                total += output[h] * (v if v > zero else zero)
            out[row] = total


@_vectorised
def copied(source: Any, target: Any) -> None:
    """One contiguous array into another: numba's own assignment takes ten times as long."""
    one, other = source.ravel(), target.ravel()
    for k in range(np.uint64(len(one))):
        other[k] = one[k]


@_vectorised
def exponential(x: F32) -> None:
    """Exp of x [N] <= 0 in place, within 2e-7 of itself: Cephes' `expf`, which a loop over it vectorises."""
    for k in range(len(x)):
        v = max(x[k], np.float32(-87.0))
        z = np.floor(np.float32(1.44269504088896341) * v + np.float32(0.5))
        r = v - z * np.float32(0.693359375) + z * np.float32(2.12194440e-4)
        y = np.float32(1.9875691500e-4)
        y = y * r + np.float32(1.3981999507e-3)
        y = y * r + np.float32(8.3334519073e-3)
        y = y * r + np.float32(4.1665795894e-2)
        y = y * r + np.float32(1.6666665459e-1)
        y = y * r + np.float32(5.0000001201e-1)
        y = y * r * r + r + np.float32(1.0)
        x[k] = y * np.int32((np.int32(z) + np.int32(127)) << np.int32(23)).view(np.float32)


@_vectorised
def drawn(scores: F32, ok: Any, sharpness: float, u: float) -> Any:
    """(row, log of its probability) drawn from softmax(sharpness × score) among those that are `ok`, by the uniform u.

    The scores are overwritten.
    """
    n, highest = len(ok), np.float32(-np.inf)
    for row in range(n):
        highest = max(highest, scores[row] if ok[row] else np.float32(-np.inf))
    for row in range(n):
        scores[row] = np.float32(sharpness) * (scores[row] - highest) if ok[row] else np.float32(-np.inf)
    exponential(scores)
    total = np.float32(0.0)
    for row in range(n):
        total += scores[row] if ok[row] else np.float32(0.0)
    wanted, so_far, last = np.float32(u) * total, np.float32(0.0), -1
    for row in range(n):
        if ok[row]:
            last = row
            so_far += scores[row]
            if so_far > wanted:
                break
    return last, np.log(np.float64(scores[last]) / np.float64(total))


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
        _, _, totals, in_row, in_column, present, _, _ = desk
        node_weight, pair_weight, request_weight, bias, output, sharpness, uniforms = policy[:7]
        see_n, half, see_c, asked, see_q, ok, scores = policy[7:]
        rec_node, rec_pair, rec_request, rec_ok, rec_i, rec_f = record
        n, classes = len(ok), len(asked)
        m, _, _ = cycle.window(pod_f, node, masks[pod_i[p, kn.MASK]], number, p, ok)
        if m == 0:
            return -1
        if m == 1:  # a single feasible node is taken without asking
            row = 0
            while not ok[row]:
                row += 1
            return row
        number[kn.ASKED] += 1
        asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
        told = write_pod(see_q, 0, asking)
        write_cluster(see_q, told, dk.of_cluster(n, totals, queued))
        asked[0] = bias
        product(see_q, request_weight, asked[0])
        if len(pair_weight) > 0:
            if number[kn.STALE]:
                bl.renew(
                    settings, described, cells, row_factor, col_factor, row_var, col_var, in_row, in_column
                )  # fmt: skip
                number[kn.STALE] = 0
            best_s = view.best_run_s(pod_f, pod_i, settings, cells, present, p)
            for c in range(classes - 1, -1, -1):
                both = view.of_pair(pod_f, pod_i, settings, cells, p, c, best_s, 0.0)
                write_pair(see_c[c], 0, view.of_node(node, 0), asking, both)
                asked[c] = asked[0]
                product(see_c[c], pair_weight, asked[c])
        else:
            for c in range(1, classes):
                asked[c] = asked[0]
        for row in range(n):
            if node_i[kn.CHANGED, row] and ok[row]:
                write_node(see_n[row], 0, view.of_node(node, row))
                half[row] = np.float32(0.0)
                product(see_n[row], node_weight, half[row])
                node_i[kn.CHANGED, row] = 0
        joined(half, asked, output, ok, node_i, scores)
        row, logp = drawn(scores, ok, sharpness, uniforms[p])
        at = number[kn.RECORDED]
        if at < len(rec_f):
            copied(see_n, rec_node[at])
            copied(see_c, rec_pair[at])
            copied(see_q, rec_request[at])
            copied(ok, rec_ok[at])
            rec_i[at, 0], rec_i[at, 1], rec_f[at] = p, row, logp
            number[kn.RECORDED] += 1
        return row

    return loop.looped(pick)
