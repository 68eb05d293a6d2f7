"""The command line: what is imported, what there is, and how bad use is told."""

import json
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from nodewise import __version__
from nodewise.cli import main as cli
from nodewise.cli.output import USAGE_ERROR
from nodewise.extender.settings import ExtenderSettings
from nodewise.policies import POLICIES
from nodewise_simulator.baselines import BASELINES
from nodewise_simulator.dag import PLANS

Run = Callable[..., tuple[int, str, str]]


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


def test_policies_are_listed_and_a_wrong_name_is_refused_without_a_heavy_import() -> None:
    code = (
        "import sys; from nodewise.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    sys.argv = ['nodewise', *line.split()]\n"
        "    try: main.main()\n"
        "    except SystemExit as left: print('left:', left.code)\n"
        "print('imported:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    lines = (
        "policies", "simulate --policy nope", "simulate --scenario nope", "simulate --scenario hetero@",
        "compare --policies index --scenario hetero@loud=1", "train --scenario nope --decisions 1 --out no",
        "sim stable --policies nope", "sim replay no --policy nope",
    )  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True, check=True)
    listed, _, imported = ran.stdout.partition("imported:")
    assert re.findall("left: (.*)", listed) == ["0", *["2"] * 7]
    assert ran.stderr.count("nodewise: ") == 7
    heavy = {"numba", "torch", "pandas", "scipy", "matplotlib", "polars", "kubernetes", "aiohttp", "onnxruntime"}
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


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("sim", "--output"),
        ("sim import", "--output"),
        ("sim replay", "--bundle --output --policy"),
        ("sim stable", "--bundle --jobs --output --policies --scenario --seeds --simulator --step"),
        ("bench fidelity", "--output"),
        ("bench memory", "--output --pods"),
        ("bench training", "--output --rounds"),
    ],
)
def test_the_help_of_a_verb_tells_of_the_options_that_it_takes_and_of_no_others(line: str, own: str, run: Run) -> None:
    status, out, _ = run(*line.split(), "--help")
    assert status == 0
    assert sorted(re.findall(r"^│ (--[a-z]+)", out, re.MULTILINE)) == sorted([*own.split(), "--help"])


@pytest.mark.parametrize("name", ["sim", "bench"])
def test_a_command_of_several_verbs_lists_them_and_its_output_is_theirs(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(run(name, "-o", "json")[1])["rows"]
    width = max(len(row["action"]) for row in rows)
    assert run(name)[1].splitlines() == [f"nodewise {name} {row['action']:<{width}} {row['says']}" for row in rows]
    monkeypatch.setattr("nodewise_simulator.bench.memory.bench_memory", lambda pods, progress: [{"pods": pods}])
    for line in ("-o json memory --pods 3000", "memory --pods 3000 -o json"):
        assert json.loads(run("bench", *line.split())[1])["rows"] == [{"pods": 3000}]


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
        (
            "simulate --scenario hetero@",
            "a setting is missing in scenario 'hetero@'; write hetero, or hetero@key=value",
        ),
        ("compare --policies index --scenario hetero@load=0.7,", "a setting is missing in scenario 'hetero@load=0.7,'"),
        ("bench nope", "nope"),
        ("sim nope", "choose one of import, replay, stable"),
        ("sim import", "reads a file that `nodewise snapshot` wrote: name it"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_status_2(line: str, named: str, run: Run) -> None:
    status, out, err = run(*line.split())
    assert status == USAGE_ERROR
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
    assert (status, out, err.count("\n")) == (USAGE_ERROR, "", 1)
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
    assert status == USAGE_ERROR
    assert err.startswith("nodewise: ")
    assert err.count("\n") == 1
    assert port in err


@pytest.mark.parametrize("line", ["nope", "simulate --seed -1", "simulate --seed x", "compare", "--nope"])
def test_a_line_that_cannot_be_read_ends_with_status_2(line: str, run: Run) -> None:
    status, _, err = run(*line.split())
    assert status == USAGE_ERROR
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
    assert run("explain", "a") == (USAGE_ERROR, "", told)


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


def test_too_little_memory_is_told_in_a_sentence(run: Run) -> None:
    code, _, err = run("simulate", "--scenario", "hetero@pods=9999999999999999")  # more than any address
    assert code == 1
    assert re.fullmatch(r"nodewise: there is not enough memory for this \(Unable to allocate .*\); ask for less\n", err)
