"""What every column promises to the compiled engine: the same function there, to the last bit that a policy sees."""

from typing import Any

import numpy as np
import pytest

from nodewise.core.columns import COLUMNS, Column, Scope, arguments, clipped
from nodewise.core.raw import Cluster, Node, Pair, Pod, Raw
from nodewise.core.types import Floats
from nodewise.policies.economic import TERMS
from nodewise_simulator.compiled.fuse import compiled, fuse, of_scope, priced

SCOPES: tuple[Scope, ...] = ("node", "pod", "pair", "cluster")
ODD = (0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1e308, -1.0, 60.0)
M = 900

each = pytest.mark.parametrize("col", COLUMNS.values(), ids=list(COLUMNS))


def drawn() -> Raw:
    """Ordinary values [M]; in the middle third some, in the last third most are odd ones."""
    rng = np.random.default_rng(0)
    share = np.repeat([0.0, 0.05, 0.6], M // 3)

    def column() -> Floats:
        return np.where(rng.random(M) < share, rng.choice(ODD, M), rng.lognormal(3.0, 3.0, M))

    made: dict[type, Any] = {kind: kind(*(column() for _ in kind._fields)) for kind in (Node, Pod, Pair, Cluster)}
    flags = (rng.random(M) < 0.5).astype(float)
    return Raw(made[Node], made[Pod]._replace(ends=flags, contention=rng.random(M)), made[Pair], made[Cluster])


RAW = drawn()


def one_by_one(kernel: Any, col: Column, *before: Any) -> list[Any]:
    """What a kernel of the column's scope returns for each of the M."""
    given = arguments(col, RAW)
    rows = [tuple(type(part)(*(float(v[k]) for v in part)) for part in given) for k in range(M)]
    return [kernel(*(b[k] if isinstance(b, np.ndarray) else b for b in before), *row) for k, row in enumerate(rows)]


@pytest.fixture(scope="module")
def fused() -> dict[str, Floats]:
    """The float64 that the fused kernels write for each column [M]."""
    found: dict[str, Floats] = {}
    for scope in SCOPES:
        names = of_scope(tuple(COLUMNS), scope)
        out = np.full((M, len(names) + 2), -7.0)
        behind = one_by_one(fuse(names), COLUMNS[names[0]], out, 1)
        assert set(behind) == {len(names) + 1}
        assert (out[:, [0, -1]] == -7.0).all()  # it writes where it is told to, and nowhere else
        found |= {name: out[:, 1 + k] for k, name in enumerate(names)}
    return found


def by_numpy(col: Column) -> Floats:
    with np.errstate(all="ignore"):
        return np.asarray(clipped(col, col.fn(*arguments(col, RAW))), float)


@each
def test_a_column_compiles_to_float64(col: Column, fused: dict[str, Floats]) -> None:
    """A column that were an integer or a float32 in between would round otherwise than numpy does."""
    signatures: Any = compiled(col.fn)
    assert {str(s.return_type) for s in signatures.nopython_signatures} == {"float64"}


@each
def test_a_compiled_column_is_the_column_of_numpy(col: Column, fused: dict[str, Floats]) -> None:
    own, other = fused[col.name], by_numpy(col)
    np.testing.assert_array_equal(own.astype(np.float32), other.astype(np.float32))
    # Before the cast they may differ by what numpy's vectorised logarithm and exponential (chosen by processor) differ
    # from libm's, which compiled code calls; where numpy calls libm too, as without AVX-512, not one bit does.
    np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-12)
    assert len(np.unique(own)) > 1


def test_the_price_of_a_pair_is_that_of_rules_and_its_columns_are_written_too(fused: dict[str, Floats]) -> None:
    weights, names = np.array([1.0, 0.5, 3.0, 1.0, 0.0, 7.0, 1.0]), ("lateness", "room_cents", "gpu_wasted")
    out = np.full((M, 5), -7.0)
    own = np.array(one_by_one(priced(names, TERMS), COLUMNS["lateness"], out, 1, tuple(weights)))
    with np.errstate(all="ignore"):
        terms = [COLUMNS[name].fn(*arguments(COLUMNS[name], RAW)) for name in TERMS]
        expected = sum(w * t for w, t in zip(weights, terms, strict=True))
        np.testing.assert_array_equal(own.astype(np.float32), expected.astype(np.float32))
    assert np.isfinite(expected).sum() > M / 2
    np.testing.assert_array_equal(out[:, 1:4].T, [fused[name] for name in names])
    assert (out[:, [0, -1]] == -7.0).all()


def test_an_unknown_column_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nope"):
        fuse(("nope",))
