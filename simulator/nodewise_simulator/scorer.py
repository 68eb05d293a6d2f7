"""The learned policy's network, compiled: scores of one decision, as a rollout asks for by the hundred thousand.

The network is `nodewise_training.nets.Scorer`; a test holds the two and the exported graphs to each other. Candidates
are normalised column by column, [K, M] with M rounded up to whole vectors, and go through the layers [M, H]. Indices
are unsigned: numba then leaves out its check for negative ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from nodewise.core.errors import UserError
from nodewise_simulator.compiled import fuse

F32 = NDArray[np.float32]

CENT_SCALE = 100.0
"""A column of cents goes in as log(1 + 100 x), so that hundredths of a cent and whole dollars are both told apart."""
LIMIT = 6.0
"""Normalised values are cut at this many standard deviations."""

_PARTS = ("request_log", "request_shift", "request_factor", "request_weight", "hidden_bias",
          "input_log", "input_shift", "input_factor", "input_skip", "input_weight",
          "second_weight", "pool_weight", "second_bias", "output_weight")  # fmt: skip
"""The flat array's parts in their order, so named in `weights_of`."""

_LANES = 16
"""Hidden units are filled up with zeros to a multiple of these."""
_SQRT_HALF_BITS = np.int32(0x3F3504F3)


def weights_of(arrays: Mapping[str, NDArray[Any]]) -> tuple[F32, NDArray[np.int64]]:
    """Pack the arrays of `nodewise_training.nets.Scorer.arrays()` for `score`: (weights, sizes).

    `sizes` is [Kn, Kr, Kp, H]. Raises UserError if a weight is not finite.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"weight {name!r} is not finite; train again with a smaller learning rate")
    kn, kr, kp = (arrays[f"{scope}_shift"].size for scope in ("node", "pair", "request"))
    hidden = arrays["hidden_bias"].size
    inputs, units = kn + kr, -(-hidden // _LANES) * _LANES

    def both(part: str) -> F32:
        return _filled(np.concatenate([arrays[f"node_{part}"], arrays[f"pair_{part}"]]), inputs)

    made = {name: arrays[name] for name in ("request_log", "request_shift", "request_factor")}
    pool = np.asarray(arrays["pool_weight"])  # [H, 2 H]: of the mean, then of the maximum
    made |= {
        "request_weight": _filled(arrays["request_weight"].T, kp, units),
        "hidden_bias": _filled(arrays["hidden_bias"], units),
        "input_log": both("log"),
        "input_shift": both("shift"),
        "input_factor": both("factor"),
        "input_skip": _filled(np.concatenate([np.zeros(kn), arrays["pair_skip"]]), inputs),
        "input_weight": _filled(np.hstack([arrays["node_weight"], arrays["pair_weight"]]).T, inputs, units),
        "second_weight": _filled(arrays["second_weight"].T, units, units),
        "pool_weight": np.vstack([_filled(half.T, units, units) for half in (pool[:, :hidden], pool[:, hidden:])]),
        "second_bias": _filled(arrays["second_bias"], units),
        "output_weight": _filled(arrays["output_weight"], units),
    }
    flat = np.concatenate([np.asarray(made[name], np.float32).ravel() for name in _PARTS])
    return flat, np.array([kn, kr, kp, hidden], np.int64)


def _filled(array: NDArray[Any], *shape: int) -> F32:
    out = np.zeros(shape, np.float32)
    out[tuple(slice(size) for size in array.shape)] = array
    return out


def _tile(rows: int) -> Any:
    """Compiles to y [rows, 16] += x [rows, K] @ w [K, 16], all the while in registers.

    Arguments: y, x and w flat, each with the place of its first element and its strides (of y by row, of x by row and
    by k, of w by k), and K. LLVM's own vectoriser would go through memory at every k, at twice the time.
    """

    @intrinsic
    def tile(_: Any, y: Any, at_y: Any, step_y: Any, x: Any, at_x: Any, step_x: Any, next_x: Any,
             w: Any, at_w: Any, next_w: Any, size: Any) -> Any:  # fmt: skip
        if any(array.dtype != types.float32 or array.layout != "C" for array in (y, x, w)):
            return None  # numba then says which types were given
        given = (y, at_y, step_y, x, at_x, step_x, next_x, w, at_w, next_w, size)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            (y, at_y, step_y, x, at_x, step_x, next_x, w, at_w, next_w, size) = values
            of = signature.args
            y, x, w = (context.make_array(of[k])(context, builder, values[k]).data for k in (0, 3, 7))
            vector, lane = ir.VectorType(ir.FloatType(), _LANES), ir.IntType(32)

            def place(base: Any, at: Any, kind: Any) -> Any:
                return builder.bitcast(builder.gep(base, [at]), kind.as_pointer())

            ys = [place(y, builder.add(at_y, builder.mul(step_y, size.type(r))), vector) for r in range(rows)]
            start = [builder.load(at, align=4) for at in ys]
            sums = [cgutils.alloca_once_value(builder, v) for v in start]  # type: ignore[no-untyped-call]
            with cgutils.for_range(builder, size) as loop:
                weight = builder.load(place(w, builder.add(at_w, builder.mul(next_w, loop.index)), vector), align=4)
                first = builder.add(at_x, builder.mul(next_x, loop.index))
                for r in range(rows):
                    one = builder.load(builder.gep(x, [builder.add(first, builder.mul(step_x, size.type(r)))]))
                    one = builder.insert_element(ir.Constant(vector, ir.Undefined), one, lane(0))
                    all_ = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(lane, _LANES), [0] * _LANES))
                    product = builder.fmul(all_, weight, flags=("contract",))
                    builder.store(builder.fadd(builder.load(sums[r]), product, flags=("contract",)), sums[r])
            for at, total in zip(ys, sums, strict=True):
                builder.store(builder.load(total), at, align=4)
            return context.get_dummy_value()

        return types.void(*given), generate

    return tile


_FOUR, _ONE = _tile(4), _tile(1)


@njit(error_model="numpy", nogil=True)
def _add_product(y: F32, m: Any, units: Any, x: F32, step: Any, following: Any, w: F32, at: Any, size: Any) -> None:
    """Add x [M, K] @ W [K, H] to y [M, H]; x[i, k] lies at i step + k following, W at `at` of w."""
    lanes, four = np.uint64(_LANES), np.uint64(4)
    for h in range(np.uint64(0), units, lanes):
        whole = m // four * four
        for i in range(np.uint64(0), whole, four):
            _FOUR(y, i * units + h, units, x, i * step, step, following, w, at + h, units, size)
        for i in range(whole, m):
            _ONE(y, i * units + h, units, x, i * step, step, following, w, at + h, units, size)


@njit(error_model="numpy", nogil=True, fastmath={"contract"})
def _log(x: Any) -> Any:
    """Natural logarithm of a normal positive float32, within 1e-6: Cephes' `logf`, which a loop over it vectorises."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - _SQRT_HALF_BITS) >> np.int32(23))
    z = np.int32(bits - np.int32(exponent << np.int32(23))).view(np.float32) - np.float32(1.0)
    p = np.float32(7.0376836292e-2)
    p = p * z - np.float32(1.1514610310e-1)
    p = p * z + np.float32(1.1676998740e-1)
    p = p * z - np.float32(1.2420140846e-1)
    p = p * z + np.float32(1.4249322787e-1)
    p = p * z - np.float32(1.6668057665e-1)
    p = p * z + np.float32(2.0000714765e-1)
    p = p * z - np.float32(2.4999993993e-1)
    p = p * z + np.float32(3.3333331174e-1)
    e, square = np.float32(exponent), z * z
    y = p * z * square - np.float32(2.12194440e-4) * e - np.float32(0.5) * square
    return z + y + np.float32(0.693359375) * e


@njit(error_model="numpy", nogil=True, fastmath={"contract"})
def _normalised(weights: F32, parts: Any, count: Any, k: Any, x: F32) -> None:
    """Transform, normalise and cut one column's values x [*], in place.

    `parts` is where its scope's log, shift and factor, each of `count` columns, begin in the weights.
    """
    shift, factor = weights[parts + count + k], weights[parts + count + count + k]
    low, high, one = np.float32(-LIMIT), np.float32(LIMIT), np.float32(1.0)
    if weights[parts + k] > np.float32(0.0):
        for i in range(np.uint64(x.size)):
            x[i] = _log(one + np.float32(CENT_SCALE) * x[i])
    for i in range(np.uint64(x.size)):
        v = (x[i] - shift) * factor
        v = low if v < low else v
        x[i] = high if v > high else v


@njit(error_model="numpy", nogil=True, fastmath={"reassoc"})
def _relu_pooled(y: F32, m: Any, pool: F32) -> None:
    """Relu in place of y [M, H]; mean and maximum of its rows into pool [2 H].

    Both maxima are taken of the bits, which for floats that are not negative are in the same order: LLVM turns a choice
    between floats into masked stores, which take ten times as long.
    """
    units, four = np.uint64(pool.size // 2), np.uint64(4)
    bits, pool_bits, zero = y.view(np.int32), pool.view(np.int32), np.int32(0)
    pool[:] = np.float32(0.0)
    for i in range(m * units):
        bits[i] = max(bits[i], zero)
    whole = m // four * four
    for i in range(np.uint64(0), whole, four):
        a = i * units
        b, c, d = a + units, a + units + units, a + units + units + units
        for h in range(units):
            pool[h] += (y[a + h] + y[b + h]) + (y[c + h] + y[d + h])
        for h in range(units):
            most = max(bits[a + h], bits[b + h], bits[c + h], bits[d + h])
            pool_bits[units + h] = max(pool_bits[units + h], most)
    for i in range(whole, m):
        for h in range(units):
            pool[h] += y[i * units + h]
            pool_bits[units + h] = max(pool_bits[units + h], bits[i * units + h])
    for h in range(units):
        pool[h] /= np.float32(m)


@njit(error_model="numpy", nogil=True, fastmath={"contract", "reassoc"})
def _residuals(y: F32, m: Any, weights: F32, at: Any, units: Any, out: F32) -> None:
    """Relu of y [M, H] times the output weights, into out [M]."""
    zero = np.float32(0.0)
    for i in range(m):
        total, a = zero, i * units
        for h in range(units):
            v = y[a + h]
            total += weights[at + h] * (v if v > zero else zero)
        out[i] = total


@fuse.njit(error_model="numpy", nogil=True, fastmath={"contract"})
def score(weights: F32, sizes: NDArray[np.int64], node: F32, pair: F32, request: F32, out: F32) -> None:
    """Write the score of each candidate to `out` [M >= 1]; higher is better, in cents.

    `weights` and `sizes` come from `weights_of`. `node` [M, Kn], `pair` [M, Kr] and `request` [Kp] hold raw columns,
    clipped but not normalised; they are not written to.
    """
    zero, one, two, three = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
    lanes, wide = np.uint64(_LANES), np.uint64(8)
    kn, kr, kp = np.uint64(sizes[0]), np.uint64(sizes[1]), np.uint64(sizes[2])
    inputs = kn + kr
    units = (np.uint64(sizes[3]) + lanes - one) // lanes * lanes
    m = np.uint64(out.size)
    width = (m + wide - one) // wide * wide

    at_request_weight = three * kp
    at_hidden_bias = at_request_weight + kp * units
    at_input = at_hidden_bias + units
    at_skip = at_input + three * inputs
    at_input_weight = at_skip + inputs
    at_second_weight = at_input_weight + inputs * units
    at_pool_weight = at_second_weight + units * units
    at_second_bias = at_pool_weight + two * units * units
    at_output_weight = at_second_bias + units

    # One allocation for all.
    scratch = np.empty(inputs * width + two * m * units + width + three * units + kp, np.float32)
    x, rest = scratch[: inputs * width], scratch[inputs * width :]
    first, second, rest = rest[: m * units], rest[m * units : two * m * units], rest[two * m * units :]
    skip, rest = rest[:width], rest[width:]
    bias, pool, asked = rest[:units], rest[units : three * units], rest[three * units :]

    for k in range(kp):
        asked[k] = request[k]
        _normalised(weights, zero, kp, k, asked[k : k + one])
    for h in range(units):
        bias[h] = weights[at_hidden_bias + h]
    _add_product(bias, one, units, asked, zero, one, weights, at_request_weight, kp)
    for i in range(m):
        for h in range(units):
            first[i * units + h] = bias[h]

    skip[:] = np.float32(0.0)
    for k in range(inputs):
        row = x[k * width : (k + one) * width]
        if k < kn:
            for i in range(m):
                row[i] = node[i, k]
        else:
            for i in range(m):
                row[i] = pair[i, k - kn]
        for i in range(m, width):
            row[i] = np.float32(0.0)
        price = weights[at_skip + k]
        if price != np.float32(0.0):
            for i in range(width):
                skip[i] += price * row[i]
        _normalised(weights, at_input, inputs, k, row)
    _add_product(first, m, units, x, one, width, weights, at_input_weight, inputs)
    _relu_pooled(first, m, pool)

    for h in range(units):
        bias[h] = weights[at_second_bias + h]
    _add_product(bias, one, units, pool, zero, one, weights, at_pool_weight, two * units)
    for i in range(m):
        for h in range(units):
            second[i * units + h] = bias[h]
    _add_product(second, m, units, first, units, one, weights, at_second_weight, units)
    _residuals(second, m, weights, at_output_weight, units, out)
    for i in range(m):
        out[i] -= skip[i]
