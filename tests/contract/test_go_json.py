"""The decoder that the other tests trust. Each row is what Go's encoding/json does with the bytes."""

from __future__ import annotations

import pytest

from .go_json import DropError, MisreadError, filter_result, priorities, strict_filter, strict_priorities


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b"[]", []),
        (b"null", []),
        (b'[{"Host":"a","Score":10}]', [("a", 10)]),
        (b'[{"host":"a","SCORE":10}]', [("a", 10)]),
        (b'[{"Host":"a","Score":-9223372036854775808}]', [("a", -(2**63))]),
        (b'[{"Host":"a","Score":-0}]', [("a", 0)]),
        (b'[{"Host":"a","Score":1,"Why":"cheap"}]', [("a", 1)]),
        (b'[{"Host":"a","Score":1,"Score":2}]', [("a", 2)]),
        (b'[{"Host":"a","Score":null},null]', [("a", 0), ("", 0)]),
        (b'[{"Host":"a","Score":1}] and more', [("a", 1)]),
        (b' \n[{"Host":"\\u0061","Score":1}]', [("a", 1)]),
    ],
)
def test_what_go_takes(body: bytes, read: list[tuple[str, int]]) -> None:
    assert priorities(body) == read


@pytest.mark.parametrize(
    "score",
    [
        b"7.0",
        b"7.5",
        b'"7"',
        b"1e3",
        b"1E0",
        b"9223372036854775808",
        b"1" * 5000,
        b"true",
        b"[7]",
        b"NaN",
        b"+7",
        b"07",
    ],
)
def test_a_score_that_is_no_int64_drops_the_whole_reply(score: bytes) -> None:
    with pytest.raises(DropError):
        priorities(b'[{"Host":"good","Score":1},{"Host":"bad","Score":%s}]' % score)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"HostPriorityList":[]}',
        b'{"error":"no"}',
        b'"[]"',
        b"0",
        b"[[]]",
        b'["a"]',
        b'[{"Host":7}]',
        b"[{'Host':'a'}]",
        b'[{"Host":"a","Score":1}',
        b"\xef\xbb\xbf[]",
        b"[" * 100_000,
    ],
)
def test_other_shapes_drop_the_whole_reply(body: bytes) -> None:
    with pytest.raises(DropError):
        priorities(body)


def test_a_filter_reply_is_read_in_either_case_and_nulls_are_absent() -> None:
    upper = filter_result(b'{"Nodes":null,"NodeNames":["a",null],"FailedNodes":{"b":"why"},"Error":""}')
    lower = filter_result(b'{"nodenames":["a",null],"failednodes":{"b":"why"}}')
    assert upper == lower
    assert (upper.node_names, upper.failed, upper.unresolvable, upper.error) == (["a", ""], {"b": "why"}, None, "")
    assert filter_result(b'{"Nodes":{"metadata":{},"items":[{"metadata":{"name":"n"}}]}}').nodes == ["n"]


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"NodeNames":"a"}',
        b'{"NodeNames":[1]}',
        b'{"NodeNames":{}}',
        b'{"Nodes":["a"]}',
        b'{"Nodes":{"items":{}}}',
        b'{"FailedNodes":["a"]}',
        b'{"FailedNodes":{"a":1}}',
        b'{"Error":{}}',
        b'{"Error":false}',
    ],
)
def test_filter_replies_that_go_drops(body: bytes) -> None:
    with pytest.raises(DropError):
        filter_result(body)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[null]",
        b'[{"host":"a","score":1}]',
        b'[{"Host":"a","Score":null}]',
        b'[{"Score":1,"Host":"a"}]',
        b'[{"Host":"a","Score":1,"Score":1}]',
        b'[{"Host":"a","Score":1},{"Host":"a","Score":1}]',
        b'[{"Host":"z","Score":1}]',
        b'[{"Host":"a","Score":11}]',
        b'[{"Host":"a","Score":-1}]',
        b"[] []",
        b'[{"Host":"a\xff","Score":1}]',
    ],
)
def test_replies_that_go_takes_but_ours_must_not_be(body: bytes) -> None:
    priorities(body)
    with pytest.raises(MisreadError):
        strict_priorities(body, ["a", "b"])


FIELDS = b'{"Nodes":%s,"NodeNames":%s,"FailedNodes":%s,"FailedAndUnresolvableNodes":{},"Error":%s}'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (FIELDS % (b"null", b"null", b"{}", b'""'), "no feasible node"),
        (FIELDS % (b'{"items":[]}', b"[]", b"{}", b'""'), "no feasible node"),
        (FIELDS % (b"null", b'["a"]', b"{}", b'""'), "asked for"),
        (FIELDS % (b"null", b'["a","b"]', b'{"b":"taken"}', b'""'), "asked for"),
        (FIELDS % (b"null", b'["a"]', b'{"b":""}', b'""'), "without a reason"),
        (FIELDS % (b"null", b'["a","b"]', b"{}", b'"down"'), "down"),
        (b'{"NodeNames":["a","b"]}', "the fields are"),
    ],
)
def test_filter_replies_that_go_takes_but_ours_must_not_be(body: bytes, why: str) -> None:
    filter_result(body)
    with pytest.raises(MisreadError, match=why):
        strict_filter(body, ["a", "b"])
    strict_filter(FIELDS % (b"null", b'["b"]', b'{"a":"taken"}', b'""'), ["a", "b"])
