"""What kube-scheduler's JSON decoder makes of an extender's reply, and a stricter reading for our own replies.

Go's `json.NewDecoder(body).Decode(&result)` (`pkg/scheduler/extender.go`, send) takes the first JSON value, matches
field names without regard to case, ignores unknown ones, leaves a field alone for `null`, and drops the whole reply for
one value of a wrong type. `priorities` and `filter_result` do that; `strict_…` also refuse what Go takes and the
scheduler then misreads. Fields of v1.Node other than its name are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

_INT64 = range(-(2**63), 2**63)
_TYPES = {str: "string", int: "int64", list: "slice"}


class DropError(Exception):
    """Go's decoder fails: kube-scheduler drops the whole reply."""


class MisreadError(AssertionError):
    """Go takes the reply, but it says something that no reply of ours may say."""


class Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, in order, duplicates kept."""


def first_value(body: bytes) -> Any:
    """The first JSON value of the body, as `Object`, list, str, int, bool or None. Numbers with a fraction or an
    exponent stay `float`, whatever their value: Go reads none of them into an integer."""
    text = body.decode(errors="replace").lstrip(" \t\r\n")
    decoder = json.JSONDecoder(object_pairs_hook=Object, parse_float=float, parse_int=_int, parse_constant=_constant)
    try:
        value, _ = decoder.raw_decode(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DropError(f"not JSON: {error}") from error
    return value


def _int(digits: str) -> int:
    # strconv.ParseInt fails out of range; so does Python on very long ones, with another error
    value = int(digits) if len(digits) < 30 else 2**64
    return value if value in _INT64 else _refuse(f"{digits[:30]} is out of int64")


def _constant(name: str) -> NoReturn:
    raise DropError(f"{name} is not JSON")


def _refuse(why: str) -> NoReturn:
    raise DropError(why)


def priorities(body: bytes) -> list[tuple[str, int]]:
    """HostPriorityList as Go reads it: (host, score); an element or a field that is null is its zero value."""
    value = first_value(body)
    if value is None:
        return []
    return [_host_priority(each) for each in _typed(value, list)]


def _host_priority(value: Any) -> tuple[str, int]:
    fields = _fields(value, {"host": _string, "score": _integer})
    return fields.get("host", ""), fields.get("score", 0)


@dataclass(frozen=True, slots=True)
class FilterResult:
    """ExtenderFilterResult as Go reads it; None where a pointer or a map stays nil."""

    nodes: list[str] | None
    """Names of `Nodes.items`."""
    node_names: list[str] | None
    failed: dict[str, str] | None
    unresolvable: dict[str, str] | None
    error: str


def filter_result(body: bytes) -> FilterResult:
    """ExtenderFilterResult as Go reads it."""
    takes: dict[str, Callable[[Any], Any]] = {
        "nodes": _node_list,
        "nodenames": lambda v: ["" if each is None else _string(each) for each in _typed(v, list)],
        "failednodes": _string_map,
        "failedandunresolvablenodes": _string_map,
        "error": _string,
    }
    got = _fields(first_value(body), takes)
    return FilterResult(
        got.get("nodes"),
        got.get("nodenames"),
        got.get("failednodes"),
        got.get("failedandunresolvablenodes"),
        got.get("error", ""),
    )


def _fields(value: Any, takes: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The fields of a struct that are not null; the last of several spellings wins."""
    if value is None:
        return {}
    if not isinstance(value, Object):
        raise DropError(f"cannot unmarshal {type(value).__name__} into a struct")
    found = {}
    for key, each in value:
        name = key.lower().replace("\u017f", "s")  # Go folds these two alike
        if name in takes and each is not None:
            found[name] = takes[name](each)
    return found


def _node_list(value: Any) -> list[str]:
    items = _fields(value, {"items": lambda v: _typed(v, list)}).get("items", [])
    metas = [_fields(item, {"metadata": lambda m: _fields(m, {"name": _string})}) for item in items]
    return [meta.get("metadata", {}).get("name", "") for meta in metas]


def _string_map(value: Any) -> dict[str, str]:
    if not isinstance(value, Object):
        raise DropError(f"cannot unmarshal {type(value).__name__} into map[string]string")
    return {key: "" if each is None else _string(each) for key, each in value}


def _string(value: Any) -> str:
    return str(_typed(value, str))


def _integer(value: Any) -> int:
    return int(_typed(value, int))


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:  # bool is no int, Object is no list
        raise DropError(f"cannot unmarshal {type(value).__name__} into {_TYPES[wanted]}")
    return value


# --- what our own replies must be


def strict_priorities(body: bytes, asked: Collection[str]) -> list[tuple[str, int]]:
    """A reply of ours: an array of {"Host", "Score"} and nothing else, hosts among `asked`, each once, 0 to 10."""
    value = first_value(body)
    _whole(body)
    got = priorities(body)
    if value is None:
        raise MisreadError("null: say [] instead")
    for each in value:
        if each is None or [key for key, _ in each] != ["Host", "Score"] or None in [v for _, v in each]:
            raise MisreadError(f"{each!r} is not exactly Host and Score")
    hosts = [host for host, _ in got]
    if len(set(hosts)) < len(hosts):
        raise MisreadError("a host stands there twice: its scores would add up")
    if unknown := set(hosts) - set(asked):
        raise MisreadError(f"{sorted(unknown)} were not asked for: they would be ignored")
    if wrong := [score for _, score in got if not 0 <= score <= 10]:
        raise MisreadError(f"{wrong} are outside 0 to 10: they would not be clamped")
    return got


def strict_filter(body: bytes, asked: Collection[str]) -> FilterResult:
    """A reply of ours to a filter request that succeeds: every node of `asked` is kept, or refused with a reason."""
    value = first_value(body)
    _whole(body)
    if not isinstance(value, Object):
        raise MisreadError("not an object")
    if [key for key, _ in value] != ["Nodes", "NodeNames", "FailedNodes", "FailedAndUnresolvableNodes", "Error"]:
        raise MisreadError(f"the fields are {[key for key, _ in value]}")
    got = filter_result(body)
    if got.error:
        raise MisreadError(f"an error: {got.error}")
    if (got.nodes is None) == (got.node_names is None):
        raise MisreadError("exactly one of Nodes and NodeNames must be there; neither reads as: no feasible node")
    kept = got.node_names if got.node_names is not None else got.nodes
    refused = {**(got.failed or {}), **(got.unresolvable or {})}
    if not all(refused.values()):
        raise MisreadError("a node is refused without a reason")
    if set(kept or ()) | set(refused) != set(asked) or set(kept or ()) & set(refused):
        raise MisreadError("kept and refused nodes are not, each once, those that were asked for")
    return got


def _whole(body: bytes) -> None:
    """Nothing follows the value, the bytes are UTF-8, and no object has a key twice."""
    try:
        json.loads(body.decode(), object_pairs_hook=_no_duplicates)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MisreadError(str(error)) from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key.lower() for key, _ in pairs}) < len(pairs):
        raise MisreadError(f"a key stands twice among {[key for key, _ in pairs]}")
    return dict(pairs)
