"""What commands print: an explanation of a placement, numbers as tables and as documents, how far they are."""

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from rich.console import Console

from nodewise import __version__
from nodewise.cli import output
from nodewise.cli.compare import played_by
from nodewise.core.errors import UserError

Run = Callable[..., tuple[int, str, str]]

EXPLAINED: dict[str, Any] = {
    "pod": "train-1", "namespace": "ml", "policy": "economic", "winner": "fast", "bound": "fast", "fallback": None,
    "neutral": None, "words": "train-1 goes to fast: least believed cost 1.50 cents.",
    "candidates": [
        {"node": "fast", "score": -1.5, "believed_cents": 1.5, "cents": {"delay_cents": 1.0, "room_cents": 0.5}},
        {"node": "slow", "score": -2.5, "believed_cents": 2.5, "cents": {"delay_cents": 2.0, "room_cents": 0.5}},
    ],
}  # fmt: skip


@contextmanager
def answering(status: int, body: bytes, asked: list[str] | None = None) -> Iterator[str]:
    """The address of an HTTP server that says one thing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_explain_asks_for_the_pod_and_prints_what_decided(run: Run) -> None:
    asked: list[str] = []
    with answering(200, json.dumps(EXPLAINED).encode(), asked) as admin:
        status, out, _ = run("explain", "ml/train-1", "--admin", admin)
        document = json.loads(run("explain", "train-1", "--admin", admin, "--output", "json")[1])
    assert status == 0
    assert asked == ["/explain/ml/train-1", "/explain/default/train-1"]
    assert EXPLAINED["words"] in out
    assert re.search(r"fast\s+│\s+-1\.500\s+│\s+1\.500\s+│\s+1\.000", out)
    assert re.search(r"delay\s+┃\s+room", out)  # what is equal for all is shown too, or the parts would not add up
    assert document["rows"] == EXPLAINED["candidates"]
    assert document["winner"] == "fast"


def test_explain_shows_what_a_learned_policy_adds_to_the_believed_cost(run: Run) -> None:
    told = EXPLAINED | {"candidates": [c | {"correction_cents": 0.25} for c in EXPLAINED["candidates"]]}
    with answering(200, json.dumps(told).encode()) as admin:
        out = run("explain", "ml/train-1", "--admin", admin)[1]
    assert re.search(r"score\s+┃\s+correction\s+┃\s+cost, cents\s+┃\s+delay", out)
    assert re.search(r"fast\s+│\s+-1\.500\s+│\s+0\.2500\s+│\s+1\.500\s+│\s+1\.000", out)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{"error": "nothing is known of pod default/a"}', "nodewise: nothing is known of pod default/a\n"),
        (200, b"<html>", "is not an extender's admin port"),
        (404, b'{"detail": "Not Found"}', "is not an extender's admin port"),
    ],
)
def test_explain_says_what_is_wrong_with_the_answer(status: int, body: bytes, said: str, run: Run) -> None:
    with answering(status, body) as admin:
        left, _, err = run("explain", "a", "--admin", admin)
    assert left == output.USAGE_ERROR
    assert said in err


def test_explain_says_that_no_extender_is_there(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: the connection is refused
        status, _, err = run("explain", "a", "--admin", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert status == output.USAGE_ERROR
    assert "no extender answers at" in err


@pytest.mark.parametrize(
    ("text", "meant"), [("3", (3,)), ("1-4", (1, 2, 3, 4)), ("1,3,7-9", (1, 3, 7, 8, 9)), (" 5 , 2 ", (5, 2))]
)
def test_seeds_are_numbers_and_ranges(text: str, meant: tuple[int, ...]) -> None:
    assert output.seeds(text) == meant


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "3-1", "1,1", "1-3,2", "1.5", "0-99999999", "٣"])
def test_other_seeds_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        output.seeds(text)


@dataclass
class Row:
    scenario: str = "tiny"
    policy: str = "index"
    metric: str = "cost"
    unit: str = "cents per pod"
    mean: float = 1.23456
    low: float = 1.0
    high: float = float("inf")
    seeds: int = 3


def test_the_document_holds_the_rows_and_how_to_make_them_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nodewise", "compare", "--scenario", "a b"])
    output.document([Row()], explanation=None)
    made = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert made["command"] == "nodewise compare --scenario 'a b'"
    assert re.fullmatch(rf"[0-9a-f]{{40}}(-dirty)?|{re.escape(__version__)}", made["commit"])
    assert made["rows"] == [asdict(Row()) | {"high": None}]
    assert made["explanation"] is None


def test_the_table_shows_the_chosen_metrics_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(metric=metric) for metric in ("energy", "cost", "wait")]
    output.table(rows, metrics=("wait", "cost"))
    out = capsys.readouterr().out
    assert out.index("wait") < out.index("cost")
    assert "energy" not in out
    assert "1.235" in out
    assert "[1.000, –]" in out


def test_a_metric_in_two_units_is_two_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([Row(unit="to one", mean=2.0), Row(unit="to other", mean=3.0)])
    out = capsys.readouterr().out
    assert all(told in out for told in ("to one", "2.000", "to other", "3.000"))


def test_five_policies_with_intervals_fit_into_120_columns_with_their_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "console", Console(width=120, highlight=False))
    policies = ("kube-default", "least-work-remaining", "earliest-finish-time", "economic", "learned")
    wide = asdict(Row(unit="to kube-default", mean=0.8338, low=0.8137, high=0.8536))
    output.table([wide | {"policy": policy, "metric": f"completion_{k}"} for policy in policies for k in range(5)])
    out = capsys.readouterr().out
    assert "…" not in out
    assert re.search(r"┃ +┃ +least-work- ┃ earliest-finish- ┃ +┃ +┃\n", out)
    assert re.search(r"┃ +kube-default ┃ +remaining ┃ +time ┃ +economic ┃ +learned ┃\n", out)


@pytest.mark.parametrize("metrics", [7, 25])
def test_what_is_wider_than_the_terminal_comes_in_tables_with_every_name_and_interval_whole(
    metrics: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "console", Console(width=80, highlight=False, markup=False))
    rows = [
        Row("hetero", f"rule{p}", f"metric{m}", "cents per pod", -10.5 - p, -11.25 - p - m / 100, -10.25 - p)
        for p in range(20) for m in range(metrics)
    ]  # fmt: skip
    output.table(rows)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for row in rows:
        assert len(re.findall(rf" {row.policy} ", out)) == (1 if metrics == 25 else out.count("policy "))
        assert f" [{row.low:.2f}, {row.high:.2f}] " in out
    blocks = len(re.findall(r"^hetero \(\d+ of \d+\)", out, re.MULTILINE))
    assert blocks > 1
    if metrics == 25:
        assert len(re.findall(r"│ metric7 ", out)) == blocks


def test_a_name_longer_than_the_terminal_is_folded_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "console", Console(width=40, highlight=False, markup=False))
    output.table([Row(policy="abcdefghij" * 10, metric=metric) for metric in ("cost", "wait")])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 40
    assert "abcdefghij" * 10 in re.sub(r"[^a-j]", "", out.partition("┡")[0])
    assert "[1.000, –]" in out


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("compiled", "engine: compiled for a; reference for b"),
        ("reference", "engine in S0: compiled for a; reference for b\nengine in S1: reference for a"),
    ],
)
def test_the_engines_are_told_by_scenario_where_a_policy_had_several(other: str, said: str) -> None:
    played = [("S0", "a", "compiled"), ("S0", "b", "reference"), ("S1", "a", other)]
    assert played_by([{"scenario": s, "policy": p, "simulator": by} for s, p, by in played]) == said


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ("1", "1 seed: no interval can be told from it; take 10 or more"),
        ("1-4", "4 seeds: intervals over so few seeds say little; take 10 or more"),
        ("1-5", None),
    ],
)
def test_a_comparison_over_few_seeds_says_that_it_tells_little(numbers: str, note: str | None, run: Run) -> None:
    engine = ("--simulator", "reference")  # which has nothing to compile
    line = ("compare", "--policies", "index", "--scenario", "hetero@pods=5,warm=0", "--seeds", numbers, *engine)
    _, out, err = run(*line)
    assert "1.000" in out  # the ratio to itself
    assert out.splitlines()[-1] == note or note is None
    assert ("seeds say little" in out or "1 seed:" in out) is (note is not None)
    assert re.fullmatch(r"1 policy on hetero@pods=5,warm=0: (1 world|[45] worlds) to do\n", err)
    assert json.loads(run(*line, "-o", "json")[1]).get("note") == note


def test_in_a_pipe_notes_come_no_oftener_than_asked_for_but_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress(1e9) as tell:
        for done, note in enumerate(("a", "b", "c", "d")):
            tell("work", done, 3, note, "%")
    assert capsys.readouterr().err == "work: a (0% done)\nwork: d (100% done)\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (1.23456, "1.235"),
        (-98.765, "-98.77"),
        (123456.7, "123,457"),
        (None, "–"),
        (0.000567, "0.00057"),
        (1e-15, "0"),
    ],
)
def test_numbers_keep_four_digits_without_an_exponent(value: float | None, text: str) -> None:
    assert output.number(value) == text
