"""A bundle is served only if it is what was exported; each way not to be has one sentence."""

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nodewise.core.errors import UserError
from nodewise.policies.learned import load
from nodewise.policies.onnx_file import inspect

from .bundles import NAMES, OPSET, card_of, encoder, golden, head, models
from .learned_objects import CARD, GOOD, written

NAN = float("nan")


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


def test_a_card_without_columns_of_a_scope_is_refused(tmp_path: Path) -> None:
    for part, names in (("node", NAMES[2:4]), ("pair", NAMES[1:3]), ("request", NAMES[:2])):
        card, pairs = card_of(names), golden((1, 1), names)
        with pytest.raises(UserError, match=f"the card names no column for input '{part}'"):
            load(written(tmp_path / part, models((1, 1), names), card, pairs))


@pytest.mark.parametrize("name", ["economic", "economic-oracle", "learned", "a b", "p" * 64])
def test_a_name_that_is_anothers_or_none_is_refused_wherever_it_comes_from(tmp_path: Path, name: str) -> None:
    from nodewise_training.ppo import export

    with pytest.raises(UserError, match=r" policy cannot be called .* another --name"):
        written(tmp_path / "new", card=replace(CARD, name=name))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r" policy cannot be called .* another --name"):
        load(rewritten(written(tmp_path / "old"), name=name))
    with pytest.raises(UserError, match=r" policy cannot be called .* another --name"):
        export(tmp_path / "no run", tmp_path / "new", name)


def hidden(attribute_value: float) -> list[Any]:
    """Nodes with a constant that hides inside a branch of an `If`."""

    def branch(name: str) -> Any:
        constant = helper.make_node("Constant", [], [name], value_float=attribute_value)
        return helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])])

    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True), ""))
    split = helper.make_node("If", ["yes"], ["hidden"], then_branch=branch("then"), else_branch=branch("else"))
    return [condition, split]


def with_function(attribute_value: float) -> bytes:
    """A constant that hides inside a function of the file."""
    made = onnx.load_from_string(head())
    constant = helper.make_node("Constant", [], ["inside"], value_float=attribute_value)
    imports = [helper.make_opsetid("", OPSET)]
    made.functions.append(helper.make_function("own", "f", [], ["inside"], [constant], imports))
    return bytes(made.SerializeToString())


def external(model: bytes) -> bytes:
    made = onnx.load_from_string(model)
    weights = made.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="elsewhere.bin")
    return bytes(made.SerializeToString())


def unpacked(value: float) -> bytes:
    made = onnx.load_from_string(encoder())
    weights = made.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.float_data.append(value)
    return bytes(made.SerializeToString())


def two_requests() -> Any:
    seen, scores = (part.copy() for part in GOOD[1])
    seen[1, 2] += 1
    return [(seen, scores)]


SPOILT_GRAPHS = [  # (what is in the bundle, what is said of it, the card's operator set)
    ({"encoder.onnx": encoder(opset=15)}, "encoder.onnx imports operator set 15 but its card says 18", OPSET),
    ({"head.onnx": head(opset=15)}, "head.onnx imports operator set 15 but its card says 18", OPSET),
    ({"encoder.onnx": b""}, "encoder.onnx imports operator set 0 but its card says 18", OPSET),
    (
        {"encoder.onnx": encoder(opset=99), "head.onnx": head(opset=99)},
        "onnxruntime refuses encoder.onnx",
        99,
    ),
    ({"encoder.onnx": encoder((NAN,))}, "weight 'weights' of encoder.onnx holds a nan", OPSET),
    ({"encoder.onnx": unpacked(NAN)}, "weight 'weights' of encoder.onnx holds a nan", OPSET),
    ({"head.onnx": head((-1, NAN))}, "weight 'of_pair' of head.onnx holds a nan", OPSET),
    ({"head.onnx": head(request=(NAN, 0))}, "weight 'of_request' of head.onnx holds a nan", OPSET),
    ({"head.onnx": head(extra=hidden(NAN))}, "weight 'else' of head.onnx holds a nan", OPSET),
    ({"head.onnx": with_function(NAN)}, "weight 'inside' of head.onnx holds a nan", OPSET),
    ({"encoder.onnx": external(encoder())}, "weight 'weights' of encoder.onnx lies in another file", OPSET),
    ({"head.onnx": external(head())}, "weight 'of_encoding' of head.onnx lies in another file", OPSET),
    ({"encoder.onnx": b"not a model"}, "encoder.onnx is not an ONNX file", OPSET),
    ({"head.onnx": head()[:-9]}, "head.onnx is not an ONNX file (it is cut short)", OPSET),
    ({"head.onnx": head((float("inf"), -1))}, "gives scores that are not finite for features_0", OPSET),
    ({"encoder.onnx": encoder((-2.001,))}, "does not give scores_0 for features_0 again", OPSET),
    ({"head.onnx": head((-1, -1.0001))}, "does not give scores_1 for features_1 again", OPSET),
    (
        {"encoder.onnx": encoder(node="x")},
        "the input of encoder.onnx must be tensor(float) 'node' [M, 1], not tensor(float) 'x' [M, 1]",
        OPSET,
    ),
    (
        {"encoder.onnx": encoder(encoding="y")},
        "the output of encoder.onnx must be tensor(float) 'encoding' [M, 1], not tensor(float) 'y' [M, 1]",
        OPSET,
    ),
    ({"encoder.onnx": encoder((-2, 0))}, "'node' [M, 1], not tensor(float) 'node' [M, 2]", OPSET),
    ({"encoder.onnx": encoder(kind=TensorProto.DOUBLE)}, "not tensor(double) 'node' [M, 1]", OPSET),
    (
        {"encoder.onnx": encoder(columns=[-2], shape=("M",))},
        "'encoding' [M, H], not tensor(float) 'encoding' [M]",
        OPSET,
    ),
    (
        {"encoder.onnx": encoder(columns=[[-2, 0]], shape=("M", 2))},
        "must be tensor(float) 'encoding' [M, 2], tensor(float) 'pair' [M, 2], tensor(float) 'request' [2], not",
        OPSET,
    ),
    (
        {"head.onnx": head(names=("encoding", "pairs", "request"))},
        "'pair' [M, 2], tensor(float) 'request' [2], not tensor(float) 'encoding' [M, 1], tensor(float) 'pairs' [M, 2]",
        OPSET,
    ),
    ({"head.onnx": head((-1, -1, 0))}, "not tensor(float) 'encoding' [M, 1], tensor(float) 'pair' [M, 3]", OPSET),
    ({"head.onnx": head(request=(1,))}, "'request' [2], not", OPSET),
    (
        {"head.onnx": head(score="y")},
        "the output of head.onnx must be tensor(float) 'score' [M], not tensor(float) 'y' [M]",
        OPSET,
    ),
    ({"head.onnx": head(shape=(1,))}, "'score' [M], not tensor(float) 'score' [1]", OPSET),
    ({"head.onnx": head(kind=TensorProto.DOUBLE)}, "not tensor(double) 'encoding' [M, 1]", OPSET),
]


@pytest.mark.parametrize(("changed", "says", "opset"), SPOILT_GRAPHS, ids=[says[-50:] for _, says, _ in SPOILT_GRAPHS])
def test_a_graph_that_must_not_decide_is_refused_in_one_sentence(
    tmp_path: Path, changed: dict[str, bytes], says: str, opset: int
) -> None:
    with pytest.raises(UserError) as refused:
        load(written(tmp_path / "b", changed, replace(CARD, opset=opset)))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(
            lambda p: p / "nowhere", "nowhere is not a whole bundle: card.json cannot be read", id="no folder"
        ),
        pytest.param(
            lambda p: without(written(p), "head.onnx"), "head.onnx cannot be read (No such file", id="no model"
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
            "gives no sha256 for encoder.onnx",
            id="nothing vouches for the model",
        ),
        pytest.param(
            lambda p: (written(p) / "head.onnx").write_bytes(head((-1, -2))) and p,
            "head.onnx is not the file that the card was written for",
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
            lambda p: without(written(p), "encoder.onnx"), "encoder.onnx cannot be read (No such file", id="no encoder"
        ),
        pytest.param(
            lambda p: (written(p) / "encoder.onnx").write_bytes(encoder((-3,))) and p,
            "encoder.onnx is not the file that the card was written for",
            id="another encoder",
        ),
        pytest.param(
            lambda p: rewritten(written(p), format=1),
            "the card is of format 1 and this version reads 2",
            id="format 1",
        ),
        pytest.param(
            lambda p: written(p, pairs=two_requests()),
            "features_0 of golden.npz holds several values of column 'log_cpu', which has one for a whole request",
            id="golden of two requests",
        ),
        pytest.param(lambda p: written(p, pairs=[]), "golden.npz is empty", id="no golden vectors"),
        pytest.param(
            lambda p: written(p, pairs=[(GOOD[0][0][:, :2], GOOD[0][1])]),
            "do not match the card's 5 columns",
            id="golden columns",
        ),
        pytest.param(
            lambda p: resigned(written(p), "golden.npz", archive(features_0=GOOD[0][0])),
            "lacks features_0 or scores_0",
            id="half a pair",
        ),
        pytest.param(
            lambda p: resigned(written(p), "golden.npz", archive(features_0=GOOD[0][0], scores_0=np.float32(1))),
            "do not match the card's 5 columns",
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
    for name in ("encoder.onnx", "head.onnx"):
        model = (path / name).read_bytes()
        for at in range(0, len(model), 7):
            (path / name).write_bytes(model[:at] + bytes([model[at] ^ 1]) + model[at + 1 :])
            with pytest.raises(UserError, match="not the file that the card was written for"):
                load(path)
        (path / name).write_bytes(model)
    assert load(path).name == "linear"


def test_infinite_constants_may_be_meant(tmp_path: Path) -> None:
    assert load(written(tmp_path / "b", {"head.onnx": head(extra=hidden(float("-inf")))})).name == "linear"


@given(st.binary(max_size=80) | st.integers(0, 400).map(lambda n: head()[:n]))
def test_no_bytes_are_more_than_a_user_error(data: bytes) -> None:
    with suppress(UserError):
        inspect(data, "head.onnx")
