"""What `late` does with float32, many lanes at a time: products, scores of candidates, a draw from their softmax.

Sums are added in any order, so results agree to rounding: log-probabilities to 1e-5, as a test holds them to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise_simulator.compiled.flat import Ints
from nodewise_simulator.compiled.fuse import Kernel, njit

F32 = NDArray[np.float32]

LANES, PART = 64, 16
"""Hidden units, and scores, are taken so many at a time: a number that is known is a loop that is not one."""

_vectorised: Callable[[Callable[..., Any]], Kernel] = njit(
    error_model="numpy", nogil=True, forceinline=True, fastmath={"contract", "reassoc", "nsz"}
)


@_vectorised
def product(base: F32, x: F32, weight: F32, out: F32) -> None:
    """Out [H] = base [H] + x [K] @ weight [K, H]; four columns at once, so that `out` is seldom stored and loaded."""
    hidden, one, two, three, four = np.uint64(len(out)), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    columns = np.uint64(len(x))
    if columns == 0:
        for h in range(hidden):
            out[h] = base[h]
        return
    zero = np.uint64(0)
    a, b, c, d = x[zero], x[one], x[two], x[three]
    for h in range(hidden):
        out[h] = base[h] + (a * weight[zero, h] + b * weight[one, h]) + (c * weight[two, h] + d * weight[three, h])
    for k in range(four, columns, four):
        a, b, c, d = x[k], x[k + one], x[k + two], x[k + three]
        for h in range(hidden):
            out[h] += (a * weight[k, h] + b * weight[k + one, h]) + (c * weight[k + two, h] + d * weight[k + three, h])


@_vectorised
def asked_of(base: F32, x: F32, weight: F32, output: F32, out: F32) -> Any:
    """Out [H] = -(base + x @ weight); returns w · of what is turned: relu(half + asked) = max(half, -asked) + asked."""
    product(base, x, weight, out)
    total = np.float32(0.0)
    for h in range(np.uint64(len(out))):
        total += output[h] * out[h]
        out[h] = -out[h]
    return total


@_vectorised
def listed(ok: Any, by_class: Ints, begins: Ints, rows: Ints, first: Ints) -> Any:
    """Rows of the nodes that are `ok`, those of class c from first[c] on; returns how many.

    `by_class` lists all nodes, those of class c from begins[c] on. Without a branch on `ok`: which nodes have room is
    not to be foreseen.
    """
    found = np.uint64(0)
    for c in range(np.uint64(len(first) - 1)):
        first[c] = found
        for at in range(np.uint64(begins[c]), np.uint64(begins[c + np.uint64(1)])):
            row = np.uint64(by_class[at])
            rows[found] = row
            found += np.uint64(ok[row])
    first[-1] = found
    return np.int64(found)


@_vectorised
def joined(half: F32, turned: F32, told: F32, output: F32, rows: Ints, first: Ints, out: F32) -> None:
    """W · relu(half + asked of the class) of each of the rows, into out [M]; four of a class at once share what is
    loaded.
    """
    one, lanes, hidden = np.uint64(1), np.uint64(LANES), np.uint64(len(output))
    for c in range(np.uint64(len(told))):
        k, end = np.uint64(first[c]), np.uint64(first[c + one])
        while k + np.uint64(4) <= end:
            i0, i1 = np.uint64(rows[k]), np.uint64(rows[k + one])
            i2, i3 = np.uint64(rows[k + np.uint64(2)]), np.uint64(rows[k + np.uint64(3)])
            t0 = t1 = t2 = t3 = told[c]
            for begin in range(np.uint64(0), hidden, lanes):
                for lane in range(lanes):
                    h = begin + lane
                    low, w = turned[c, h], output[h]
                    t0 += w * max(half[i0, h], low)
                    t1 += w * max(half[i1, h], low)
                    t2 += w * max(half[i2, h], low)
                    t3 += w * max(half[i3, h], low)
            out[k], out[k + one], out[k + np.uint64(2)], out[k + np.uint64(3)] = t0, t1, t2, t3
            k += np.uint64(4)
        while k < end:
            row, t0 = np.uint64(rows[k]), told[c]
            for begin in range(np.uint64(0), hidden, lanes):
                for lane in range(lanes):
                    h = begin + lane
                    t0 += output[h] * max(half[row, h], turned[c, h])
            out[k] = t0
            k += one


@_vectorised
def narrowed(rows: Ints, m: int, target: NDArray[np.uint16]) -> None:
    """The first m rows as they are kept."""
    for k in range(m):
        target[k] = rows[k]


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
def drawn(scores: F32, m: int, sharpness: float, u: float) -> Any:
    """(k, log of its probability) drawn from softmax(sharpness × score) of the first m, by the uniform u.

    The scores are overwritten; there is room for `LANES` more than m.
    """
    highest = scores[0]
    for k in range(np.uint64(m)):
        highest = max(highest, scores[k])
    whole = -(-m // PART) * PART
    for k in range(np.uint64(m), np.uint64(whole)):
        scores[k] = np.float32(-np.inf)
    sharp = np.float32(sharpness)
    for k in range(np.uint64(whole)):
        scores[k] = sharp * (scores[k] - highest)
    exponential(scores[:whole])
    total = np.float32(0.0)
    for k in range(np.uint64(m)):
        total += scores[k]
    # The part in which the wanted one is, then the one.
    wanted, so_far, last = np.float32(u) * total, np.float32(0.0), 0
    for begin in range(0, whole, PART):
        part, last = np.float32(0.0), begin
        for k in range(PART):
            part += scores[begin + k]
        if so_far + part > wanted:
            break
        so_far += part
    most = min(last + PART, m) - 1
    so_far += scores[last]
    while so_far <= wanted and last < most:
        last += 1
        so_far += scores[last]
    return last, np.log(np.float64(scores[last]) / np.float64(total))
