"""The bytes of `k8s.io/kube-scheduler/extender/v1`, both ways.

Its structs carry no JSON tags, so names are the Go ones, capitalised, and nothing is omitted when empty. A reply with
one wrong element is dropped whole by Go's decoder: scores are written as integers here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

NEUTRAL = b"[]"
"""No opinion: the in-tree ranking stands."""

_NULL = b"null"


class _Meta(msgspec.Struct, gc=False):
    name: str


class _Node(msgspec.Struct, gc=False):
    metadata: _Meta


class _NodeList(msgspec.Struct, gc=False):
    items: list[_Node]


class PrioritizeArgs(msgspec.Struct, gc=False, frozen=True):
    """ExtenderArgs of `prioritize`: the pod, and node names in whichever form they came."""

    pod: dict[str, Any] = msgspec.field(name="Pod")
    node_names: list[str] | None = msgspec.field(name="NodeNames", default=None)
    nodes: _NodeList | None = msgspec.field(name="Nodes", default=None)

    def names(self) -> Sequence[str]:
        """Names of the candidates, as they came."""
        if self.node_names is not None:
            return self.node_names
        return [n.metadata.name for n in self.nodes.items] if self.nodes is not None else ()


class _FilterArgs(msgspec.Struct, gc=False):
    node_names: msgspec.Raw = msgspec.field(name="NodeNames", default_factory=lambda: msgspec.Raw(_NULL))
    nodes: msgspec.Raw = msgspec.field(name="Nodes", default_factory=lambda: msgspec.Raw(_NULL))


class _HostPriority(msgspec.Struct, gc=False):
    Host: str
    Score: int


_prioritize = msgspec.json.Decoder(PrioritizeArgs)
_filter = msgspec.json.Decoder(_FilterArgs)
_names = msgspec.json.Decoder(list[str])
_node_list = msgspec.json.Decoder(_NodeList)
_encode = msgspec.json.Encoder().encode


def read_prioritize(body: bytes) -> PrioritizeArgs:
    """Decode the body of a prioritize request. Raises msgspec.MsgspecError, UnicodeDecodeError or RecursionError."""
    return _prioritize.decode(body)


def write_prioritize(reply: Iterable[tuple[str, int]]) -> bytes:
    """HostPriorityList: a bare array of {"Host", "Score"}."""
    return _encode([_HostPriority(host, int(score)) for host, score in reply])


def pass_all(body: bytes) -> bytes:
    """ExtenderFilterResult that keeps every node, in the form in which they came, byte for byte.

    Raises what `read_prioritize` raises, and msgspec.ValidationError if there are no nodes in either form: both null
    in a reply would read as "no feasible node", which is never what is meant.
    """
    args = _filter.decode(body)
    names, nodes = bytes(args.node_names), bytes(args.nodes)
    if names != _NULL:
        _names.decode(names)
        nodes = _NULL
    elif nodes != _NULL:
        _node_list.decode(nodes)
    else:
        raise msgspec.ValidationError("neither NodeNames nor Nodes is given")
    return b'{"Nodes":%s,"NodeNames":%s,"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":""}' % (nodes, names)
