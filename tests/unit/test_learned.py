"""A bundle is served only if it is what was exported; each way not to be has one sentence."""

import builtins
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nodewise.core.card import PolicyCard, column_now
from nodewise.core.columns import features
from nodewise.core.decide import PolicyRefusalError, decide
from nodewise.core.errors import UserError
from nodewise.core.state import ClusterState
from nodewise.core.types import Fallback, PodRequest
from nodewise.policies import DEFAULT
from nodewise.policies.bundle import read_bundle, write_bundle
from nodewise.policies.learned import load
from nodewise.policies.onnx_file import inspect

PodOf = Callable[..., PodRequest]
StateOf = Callable[..., ClusterState]
F32 = NDArray[np.float32]

NAMES = ("delay_cents", "room_cents", "energy_cents")
CARD = PolicyCard(
    name="linear", algorithm="by hand", columns=tuple(column_now(n) for n in NAMES), opset=17, commit="abc",
    command="none", scenarios=(), seeds=(), results={}, created="2026-11-21T00:00:00Z", files={},
)  # fmt: skip


def linear(
    weights: Any = (-1, -1, -1), *, inputs: str = "features", outputs: str = "score", opset: int = 17,
    width: int = 3, kind: int = TensorProto.FLOAT, shape: Sequence[Any] = ("M",), extra: Sequence[Any] = (),
) -> bytes:  # fmt: skip
    """score = features @ weights."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    node = helper.make_node("MatMul", [inputs, "weights"], [outputs])
    graph = helper.make_graph(
        [*extra, node], "g",
        [helper.make_tensor_value_info(inputs, kind, ["M", width])],
        [helper.make_tensor_value_info(outputs, kind, list(shape))],
        [numpy_helper.from_array(np.array(weights, dtype), "weights")],
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    )


def golden(weights: Sequence[float] = (-1, -1, -1)) -> list[tuple[F32, F32]]:
    rng = np.random.default_rng(0)
    pairs = []
    for m in (1, 3, 40):
        seen = rng.random((m, 3)).astype(np.float32)
        pairs.append((seen, (seen @ np.array(weights, np.float32)).astype(np.float32)))
    return pairs


def written(path: Path, model: bytes | None = None, card: PolicyCard = CARD, pairs: Any = None) -> Path:
    write_bundle(path, linear() if model is None else model, card, golden() if pairs is None else pairs)
    return path


def rewritten(path: Path, **changes: Any) -> Path:
    """The card changed after the fact, as an attacker or a bad tool would."""
    told = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps(told | changes))
    return path


def resigned(path: Path, name: str, data: bytes) -> Path:
    """A file replaced, and the card made to agree."""
    (path / name).write_bytes(data)
    told = json.loads((path / "card.json").read_text())
    return rewritten(path, files=told["files"] | {name: hashlib.sha256(data).hexdigest()})


def without(path: Path, name: str) -> Path:
    (path / name).unlink()
    return path


def archive(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_a_good_bundle_scores_like_numpy(tmp_path: Path, busy: StateOf, pod_of: PodOf) -> None:
    policy = load(written(tmp_path / "b"))
    pod, rows = pod_of("q"), np.array([5, 1, 7])
    view = busy().view(pod, 100.0)
    scores = policy.score(pod, view, rows)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, -features(NAMES, pod, view, rows).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(policy.score(pod, view, rows), scores)
    assert (policy.name, policy.digest) == ("linear", read_bundle(tmp_path / "b").card.digest)
    decision = decide(pod, view, rows, policy, DEFAULT)
    assert (decision.policy, decision.digest, decision.fallback) == ("linear", policy.digest, Fallback.NONE)


def test_the_order_of_columns_is_the_cards(tmp_path: Path, busy: StateOf, pod_of: PodOf) -> None:
    """The model takes columns by place, the card knows them by name: another order in it is another input."""
    pod, rows = pod_of("q"), np.arange(12)
    view = busy().view(pod, 100.0)
    weights = (-1, 0, 0)
    first = load(written(tmp_path / "a", linear(weights), pairs=golden(weights)))
    turned = replace(CARD, columns=CARD.columns[::-1])
    last = load(written(tmp_path / "b", linear(weights), turned, golden(weights)))
    np.testing.assert_array_equal(-first.score(pod, view, rows), features(["delay_cents"], pod, view, rows)[:, 0])
    np.testing.assert_array_equal(-last.score(pod, view, rows), features(["energy_cents"], pod, view, rows)[:, 0])


@pytest.mark.parametrize(("factor", "refused"), [(1.0, False), (1.04, False), (1.2, True)])
def test_what_lies_far_outside_of_what_training_saw_is_not_judged(
    tmp_path: Path, busy: StateOf, pod_of: PodOf, factor: float, refused: bool
) -> None:
    """The widening is a twentieth of the span: 0.04 of the upper end is inside, 0.2 is not."""
    pod, rows = pod_of("q"), np.arange(12)
    view = busy().view(pod, 100.0)
    top = float(features(["room_cents"], pod, view, rows).max())
    seen = (column_now("delay_cents"), column_now("room_cents", 0.0, top / factor), column_now("energy_cents"))
    policy = load(written(tmp_path / "b", card=replace(CARD, columns=seen)))
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
    never = replace(CARD, columns=(column_now("delay_cents", 0.0, 0.0), *CARD.columns[1:]))
    with pytest.raises(PolicyRefusalError, match="delay_cents"):
        load(written(tmp_path / "b", card=never)).score(pod, view, rows)


def graph_with(attribute_value: float) -> bytes:
    """A constant that hides inside a branch of an `If`."""

    def branch(name: str) -> Any:
        constant = helper.make_node("Constant", [], [name], value_float=attribute_value)
        return helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])])

    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True), ""))
    split = helper.make_node("If", ["yes"], ["hidden"], then_branch=branch("then"), else_branch=branch("else"))
    return linear(extra=[condition, split])


def external() -> bytes:
    model = onnx.load_from_string(linear())
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="elsewhere.bin")
    return bytes(model.SerializeToString())


def unpacked(value: float) -> bytes:
    model = onnx.load_from_string(linear())
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.float_data.extend([value, -1.0, -1.0])
    return bytes(model.SerializeToString())


NAN = float("nan")
GOOD = golden()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(
            lambda p: p / "nowhere", "nowhere is not a whole bundle: card.json cannot be read", id="no folder"
        ),
        pytest.param(
            lambda p: without(written(p), "policy.onnx"), "policy.onnx cannot be read (No such file", id="no model"
        ),
        pytest.param(lambda p: without(written(p), "golden.npz"), "golden.npz cannot be read", id="no golden"),
        pytest.param(
            lambda p: (written(p) / "card.json").write_bytes(b"\xff") and p, "the card is not UTF-8", id="card not text"
        ),
        pytest.param(
            lambda p: (written(p) / "card.json").write_text("{") and p, "the card is not JSON", id="card broken"
        ),
        pytest.param(
            lambda p: rewritten(written(p), files={}),
            "gives no sha256 for policy.onnx",
            id="nothing vouches for the model",
        ),
        pytest.param(
            lambda p: (written(p) / "policy.onnx").write_bytes(linear((-1, -1, -2))) and p,
            "policy.onnx is not the file that the card was written for",
            id="another model",
        ),
        pytest.param(
            lambda p: (written(p) / "golden.npz").write_bytes(b"") or p,
            "golden.npz is not the file that the card was written for",
            id="another golden",
        ),
        pytest.param(
            lambda p: written(
                p, card=replace(CARD, columns=(*CARD.columns[:2], replace(CARD.columns[2], name="gone")))
            ),
            "'linear' looks at column 'gone', which this version does not have",
            id="unknown column",
        ),
        pytest.param(
            lambda p: written(p, card=replace(CARD, columns=(replace(CARD.columns[0], high=9.0), *CARD.columns[1:]))),
            "column 'delay_cents' with high 9.0, which is 1000.0",
            id="edited column",
        ),
        pytest.param(
            lambda p: written(p, linear(opset=15)), "imports operator set 15 but its card says 17", id="wrong opset"
        ),
        pytest.param(
            lambda p: written(p, linear(opset=99), replace(CARD, opset=99)),
            "onnxruntime refuses policy.onnx",
            id="opset of the future",
        ),
        pytest.param(
            lambda p: written(p, linear((NAN, 0, 0))), "weight 'weights' of policy.onnx holds a nan", id="nan weight"
        ),
        pytest.param(
            lambda p: written(p, unpacked(NAN)),
            "weight 'weights' of policy.onnx holds a nan",
            id="nan weight, unpacked",
        ),
        pytest.param(
            lambda p: written(p, graph_with(NAN)), "weight 'else' of policy.onnx holds a nan", id="nan in a branch"
        ),
        pytest.param(
            lambda p: written(p, linear((float("inf"), -1, -1))),
            "gives scores that are not finite for features_0",
            id="infinite scores",
        ),
        pytest.param(
            lambda p: written(p, external()),
            "weight 'weights' of policy.onnx lies in another file",
            id="external weights",
        ),
        pytest.param(lambda p: written(p, b"not a model"), "the model is not an ONNX file", id="not a model"),
        pytest.param(
            lambda p: written(p, linear()[:-9]), "the model is not an ONNX file (it is cut short)", id="cut short"
        ),
        pytest.param(lambda p: written(p, b""), "imports operator set 0 but its card says 17", id="empty model"),
        pytest.param(
            lambda p: written(p, linear((-1, -1, -1.001))),
            "does not give scores_0 for features_0 again",
            id="other answers",
        ),
        pytest.param(
            lambda p: written(p, linear(inputs="x")),
            "the input of policy.onnx must be float32 'features' [M, 3], not tensor(float) 'x' [M, 3]",
            id="input name",
        ),
        pytest.param(
            lambda p: written(p, linear(outputs="y")),
            "the output of policy.onnx must be float32 'score' [M], not tensor(float) 'y' [M]",
            id="output name",
        ),
        pytest.param(
            lambda p: written(p, linear(kind=TensorProto.DOUBLE)),
            "not tensor(double) 'features' [M, 3]",
            id="input type",
        ),
        pytest.param(
            lambda p: written(p, linear((-1, -1), width=2)),
            "'features' [M, 3], not tensor(float) 'features' [M, 2]",
            id="input shape",
        ),
        pytest.param(
            lambda p: written(p, linear([[-1], [-1], [-1]], shape=("M", 1))),
            "'score' [M], not tensor(float) 'score' [M, 1]",
            id="output shape",
        ),
        pytest.param(
            lambda p: written(p, linear(shape=(1,))), "'score' [M], not tensor(float) 'score' [1]", id="one score only"
        ),
        pytest.param(lambda p: written(p, pairs=[]), "golden.npz is empty", id="no golden vectors"),
        pytest.param(
            lambda p: written(p, pairs=[(GOOD[0][0][:, :2], GOOD[0][1])]),
            "do not match the card's 3 columns",
            id="golden columns",
        ),
        pytest.param(
            lambda p: resigned(written(p), "golden.npz", archive(features_0=GOOD[0][0])),
            "lacks features_0 or scores_0",
            id="half a pair",
        ),
        pytest.param(
            lambda p: resigned(written(p), "golden.npz", archive(features_0=GOOD[0][0], scores_0=np.float32(1))),
            "do not match the card's 3 columns",
            id="golden scalar",
        ),
        pytest.param(
            lambda p: resigned(written(p), "golden.npz", archive(features_0=GOOD[0][0], scores_0=np.array(["x"]))),
            "must be float32",
            id="golden text",
        ),
        pytest.param(
            lambda p: resigned(
                written(p), "golden.npz", archive(features_0=np.array([[object()]]), scores_0=GOOD[0][1])
            ),
            "golden.npz is not an archive of arrays",
            id="golden pickle",
        ),
        pytest.param(
            lambda p: resigned(written(p), "golden.npz", b"PK"),
            "golden.npz is not an archive of arrays",
            id="golden no archive",
        ),
    ],
)
def test_a_bundle_that_is_not_what_was_exported_is_refused_in_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], Path], says: str
) -> None:
    with pytest.raises(UserError) as refused:
        load(spoil(tmp_path / "b"))
    sentence = str(refused.value)
    assert says in sentence
    assert "\n" not in sentence


def test_every_flipped_bit_is_caught(tmp_path: Path) -> None:
    """Most of them the runtime would load without a word."""
    path = written(tmp_path / "b")
    model = (path / "policy.onnx").read_bytes()
    for at in range(0, len(model), 7):
        (path / "policy.onnx").write_bytes(model[:at] + bytes([model[at] ^ 1]) + model[at + 1 :])
        with pytest.raises(UserError, match="not the file that the card was written for"):
            load(path)


def test_infinite_constants_may_be_meant(tmp_path: Path) -> None:
    assert load(written(tmp_path / "b", graph_with(float("-inf")))).name == "linear"


def test_without_the_runtime_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)

    path = written(tmp_path / "b")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"needs onnxruntime; install it with: pip install 'nodewise\[extender\]'"):
        load(path)


def test_a_bundle_is_written_in_one_step_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "runs" / "b")
    assert sorted(p.name for p in path.iterdir()) == ["card.json", "golden.npz", "policy.onnx"]
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


@given(st.binary(max_size=80) | st.integers(0, 200).map(lambda n: linear()[:n]))
def test_no_bytes_are_more_than_a_user_error(data: bytes) -> None:
    with suppress(UserError):
        inspect(data)
