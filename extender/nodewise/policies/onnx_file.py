"""The few facts about an ONNX file that its runtime does not tell: operator set, weights, references to other files.

Reads protobuf's wire format (https://protobuf.dev/programming-guides/encoding/) by the field numbers of `onnx.proto`;
serving does not need the `onnx` package for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nodewise.core.errors import UserError

Value = int | bytes

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTION = 7, 8, 25
_FUNCTION_NODE = 7
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OUTPUT, _NODE_ATTRIBUTE = 2, 5
_ATTRIBUTE_FLOAT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_FLOATS = 2, 5, 6, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 10, 11
_TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_DOUBLES, _TENSOR_LOCATION = 2, 4, 8, 9, 10, 14
_RAW_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}  # of TensorProto.DataType: FLOAT, FLOAT16, DOUBLE
_EXTERNAL = 1


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What was found in an ONNX model."""

    opset: int
    """Version of the default operator set; 0 if it imports none."""
    nans: tuple[str, ...]
    """Names of weights and constants that hold a nan; an infinity may be meant, as in a mask."""
    external: tuple[str, ...]
    """Names of weights that lie in other files, which no digest of this one covers."""


def inspect(data: bytes, file: str) -> OnnxFile:
    """Look into an ONNX model. Raises UserError naming `file` if the bytes are not one."""
    opset, nans, external = 0, [], []
    try:
        for field, value in _fields(data):
            if field == _MODEL_OPSET:
                parts = dict(_fields(_bytes(value)))
                if parts.get(_OPSET_DOMAIN, b"") in (b"", b"ai.onnx"):
                    opset = int(parts.get(_OPSET_VERSION, 0))
            elif field in (_MODEL_GRAPH, _MODEL_FUNCTION):
                found = _weights(_bytes(value)) if field == _MODEL_GRAPH else _function(_bytes(value))
                for name, has_nan, outside in found:
                    nans += [name] if has_nan else []
                    external += [name] if outside else []
    except (ValueError, IndexError, RecursionError) as error:
        raise UserError(f"{file} is not an ONNX file ({error}); export the bundle again") from error
    return OnnxFile(opset, tuple(nans), tuple(external))


def _weights(graph: bytes) -> Iterator[tuple[str, bool, bool]]:
    """(name, whether it holds a nan, whether it is in another file) of each weight of a graph; inner graphs too."""
    for field, value in _fields(graph):
        if field == _GRAPH_INITIALIZER:
            yield _tensor(_bytes(value), "")
        elif field == _GRAPH_NODE:
            yield from _node(_bytes(value))


def _function(function: bytes) -> Iterator[tuple[str, bool, bool]]:
    for field, value in _fields(function):
        if field == _FUNCTION_NODE:
            yield from _node(_bytes(value))


def _node(node: bytes) -> Iterator[tuple[str, bool, bool]]:
    parts = [(f, _bytes(v)) for f, v in _fields(node) if f in (_NODE_OUTPUT, _NODE_ATTRIBUTE)]
    name = next((v.decode(errors="replace") for f, v in parts if f == _NODE_OUTPUT), "")
    for field, attribute in parts:
        if field == _NODE_ATTRIBUTE:
            yield from _attribute(attribute, name)


def _attribute(attribute: bytes, node: str) -> Iterator[tuple[str, bool, bool]]:
    for field, value in _fields(attribute):
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield _tensor(_bytes(value), node)
        elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _weights(_bytes(value))
        elif field in (_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS):
            yield node, _has_nan(_bytes(value), "<f4"), False


def _tensor(tensor: bytes, node: str) -> tuple[str, bool, bool]:
    name, kind, outside, parts = node, 0, False, []
    for field, value in _fields(tensor):
        if field == _TENSOR_NAME:
            name = _bytes(value).decode(errors="replace") or node
        elif field == _TENSOR_TYPE:
            kind = int(value)
        elif field == _TENSOR_LOCATION:
            outside = value == _EXTERNAL
        elif field in (_TENSOR_FLOATS, _TENSOR_DOUBLES, _TENSOR_RAW):
            parts.append((field, _bytes(value)))
    types = {_TENSOR_FLOATS: "<f4", _TENSOR_DOUBLES: "<f8", _TENSOR_RAW: _RAW_TYPES.get(kind, "")}
    return name, any(_has_nan(part, types[field]) for field, part in parts), outside


def _has_nan(raw: bytes, dtype: str) -> bool:
    return bool(dtype) and bool(np.isnan(np.frombuffer(raw, dtype)).any())


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a message is expected")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """(field number, value) of each field of a message; a fixed-size number as its bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + size > len(message):
            raise ValueError("it is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
