"""The command line: what is imported, what is printed, and how bad use is told."""

import json
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nodewise import __version__
from nodewise.cli import main as cli
from nodewise.cli import output
from nodewise.core.errors import UserError
from nodewise.extender.settings import ExtenderSettings
from nodewise.policies import POLICIES
from nodewise_simulator.baselines import BASELINES
from nodewise_simulator.dag import PLANS

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


def test_the_list_of_commands_costs_no_heavy_import() -> None:
    code = (
        "import sys; from nodewise.cli import main; sys.argv = ['nodewise', '--help']\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "print('imported:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    listed, _, imported = said.partition("imported:")
    assert all(name in listed for name in cli.COMMANDS)
    heavy = {"numpy", "onnxruntime", "kubernetes", "fastapi", "torch", "nodewise_simulator", "pydantic_settings"}
    assert not heavy & set(imported.split())


def test_the_demo_and_the_extender_run_the_built_in_bundle_without_what_trained_it() -> None:
    code = (
        "import sys, nodewise_simulator.cluster_demo, nodewise_simulator.demo, nodewise.extender.server\n"
        "from nodewise_simulator.run import simulate\n"
        "simulate('hetero@pods=20,warm=0', 'learned', 1)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "onnxruntime" in imported
    assert not {"torch", "numba", "llvmlite", "onnx", "onnxscript", "tensorboard", "nodewise_training"} & set(imported)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_is_there_and_has_help(name: str, run: Run) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"nodewise {name}" in out


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"nodewise {__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("extender --policy nope", "nope"),
        ("extender --policy index --bundle models/a", "exclude each other"),
        ("extender --port 70000", "70000"),
        ("extender --bundle no/such/bundle", "no/such/bundle"),
        ("extender --kubeconfig no/such/file", "no/such/file"),
        ("explain a/b/c", "a/b/c"),
        ("explain a --admin localhost:8889", "localhost:8889"),
        ("explain a --admin http://127.0.0.1:x", "http://127.0.0.1:x"),
        ("simulate --scenario nope", "nope"),
        ("simulate --policy nope", "nope"),
        ("bundle nope", "nope"),
        ("bundle inspect no/such/bundle", "no/such/bundle"),
        ("bundle verify no/such/bundle", "no/such/bundle"),
        ("compare --policies , --seeds 1", "--policies"),
        ("compare --policies index,nope --seeds 1", "nope"),
        ("compare --policies index --baseline economic", "economic"),
        ("compare --policies index --seeds 3-1", "3-1"),
        ("compare --policies index,economic --bundle a/b", "'learned'"),
        ("compare --policies nope", ", learned "),
        ("compare --policies index --scenario hetero@load", "value of load is missing"),
        ("simulate --policy index --bundle a/b", "a/b"),
        ("simulate --scenario snapshot --trace no/such/file", "no/such/file"),
        ("simulate --trace no/such/file", "none of these does"),
        ("simulate --policy economic-oracle-cmu-defer", "write economic-defer-cmu-oracle"),
        ("compare --policies all,economic", "all stands alone"),
        ("demo --seeds x", "x"),
        ("bench nope", "nope"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_status_2(line: str, named: str, run: Run) -> None:
    status, out, err = run(*line.split())
    assert status == cli.USAGE_ERROR
    assert out == ""
    assert err.startswith("nodewise: ")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("extender --policy learned", "--bundle"),
        ("simulate --policy learned", "--bundle"),
        ("bundle inspect", "nodewise bundle inspect DIR"),
    ],
)
def test_a_bundle_must_be_named_where_none_is_built_in(
    line: str, named: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodewise.policies.BUILT_IN", None)
    status, out, err = run(*line.split())
    assert (status, out, err.count("\n")) == (cli.USAGE_ERROR, "", 1)
    assert "none is built in" in err or "no bundle is built in" in err
    assert named in err


def test_a_port_in_use_is_one_sentence(run: Run, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],"
        " contexts: [{name: c, context: {cluster: k, user: u}}], clusters: [{name: k, cluster: {server: http://[::1]:9}}]}"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = run("extender", "--kubeconfig", str(kubeconfig), "--port", port, "--admin-port", "0")
    assert status == cli.USAGE_ERROR
    assert err.startswith("nodewise: ")
    assert err.count("\n") == 1
    assert port in err


@pytest.mark.parametrize("line", ["nope", "simulate --seed -1", "simulate --seed x", "compare", "--nope"])
def test_a_line_that_cannot_be_read_ends_with_status_2(line: str, run: Run) -> None:
    status, _, err = run(*line.split())
    assert status == cli.USAGE_ERROR
    assert "Traceback" not in err


def test_ctrl_c_ends_with_a_word_and_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nodewise.cli.explain.fetch", interrupted)
    assert run("explain", "a") == (130, "", "interrupted\n")


def test_a_missing_extra_is_told_with_the_way_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'numba.core'", name="numba.core")

    monkeypatch.setattr("nodewise.cli.explain.fetch", absent)
    how = "run pip install '.[simulator]' in a clone of the repository"
    told = f"nodewise: this command needs the package numba: {how}\n"
    assert run("explain", "a") == (cli.USAGE_ERROR, "", told)


def test_each_module_is_named_with_an_extra_that_installs_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    distribution = {"prometheus_client": "prometheus-client", "yaml": "pyyaml"}
    for extra, modules in cli.EXTRAS.items():
        installed = {re.split(r"[<>=\[]", needed)[0] for needed in project["optional-dependencies"][extra]}
        assert {distribution.get(module, module) for module in modules} <= installed


def test_policies_lists_every_policy_with_its_line(run: Run) -> None:
    made = json.loads(run("policies", "--output", "json")[1])
    rows, only = made["rows"], {row["policy"]: row["says"] for row in made["only_simulated"]}
    assert {row["policy"]: row["says"] for row in rows[:-1]} == {name: rule.says for name, rule in POLICIES.items()}
    assert rows[-1]["policy"] == "learned"
    assert {*BASELINES, *PLANS, "bound"} == {*only}
    assert all(only.values())
    table = run("policies")[1]
    named = (*POLICIES, "learned", *only, "NAME-defer", "NAME-cmu", "NAME-defer-cmu", "NAME-oracle")
    assert all(re.search(rf"^ {name} ", table, re.MULTILINE) for name in named)


def test_the_list_of_policies_does_without_the_simulator(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nodewise_simulator.lab", None)
    status, table, _ = run("policies")
    assert status == 0
    assert "economic" in table
    assert "rollout-oracle" not in table


def test_every_setting_of_the_extender_is_a_flag_and_a_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    out = run("extender", "--help")[1]
    for name in ExtenderSettings.model_fields:
        assert f"--{name.replace('_', '-')} " in out
        assert f"[NODEWISE_{name.upper()}]" in out


def test_flags_reach_the_guard_and_the_environment_fills_in_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ExtenderSettings] = []

    def serve(settings: ExtenderSettings) -> int:
        served.append(settings)
        return 0

    monkeypatch.setattr("nodewise.extender.guard.run", serve)
    monkeypatch.setenv("NODEWISE_POLICY", "cheapest")
    monkeypatch.setenv("NODEWISE_PORT", "1")
    assert run("extender", "--port", "7000", "--no-guard", "--journal", "a.journal")[0] == 0
    chosen = {"port": 7000, "guard": False, "journal": Path("a.journal"), "policy": "cheapest"}
    assert [settings.model_dump(include=settings.model_fields_set) for settings in served] == [chosen]


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
    assert left == cli.USAGE_ERROR
    assert said in err


def test_explain_says_that_no_extender_is_there(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: the connection is refused
        status, _, err = run("explain", "a", "--admin", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert status == cli.USAGE_ERROR
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


@pytest.mark.parametrize("name", ["operator", "extender"])
def test_every_variable_is_readable_on_a_narrow_screen(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from nodewise.extender.settings import ExtenderSettings
    from nodewise_operator.settings import OperatorSettings

    monkeypatch.setenv("COLUMNS", "80")
    kind: type[OperatorSettings | ExtenderSettings] = OperatorSettings if name == "operator" else ExtenderSettings
    status, out, _ = run(name, "--help")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for field in kind.model_fields:
        assert f"[{kind.model_config['env_prefix']}{field.upper()}]" in out
