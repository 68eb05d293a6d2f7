"""What must stay true of the tree itself."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("extender", "operator", "simulator", "training")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = {contract["name"]: contract for contract in CONFIG["tool"]["importlinter"]["contracts"]}

VIOLATIONS = {
    "one way": ("extender/nodewise/core/planted.py", "import nodewise.policies"),
    "serving needs no lab": ("operator/nodewise_operator/planted.py", "import torch"),
    "the lab needs no serving": ("simulator/nodewise_simulator/planted.py", "import nodewise.extender"),
    "core and policies are pure": ("extender/nodewise/policies/planted.py", "import time"),
}


def files() -> Iterator[Path]:
    """Every file of ours; what tools leave behind is hidden or in __pycache__."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        left_behind = any(part.startswith(".") and part != ".ci" for part in parts[:-1]) or "__pycache__" in parts
        left_behind = left_behind or parts[-1].startswith(".coverage")  # of `make check`, with absolute paths in it
        if path.is_file() and not left_behind:
            yield path


def test_nothing_replaces_the_standard_librarys_operator() -> None:
    # either file is found before the standard library's module as soon as Python is started above it
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not [path for path in (ROOT / "tests").rglob("*") if path.stem == "operator"]


def test_no_file_names_a_place_of_the_workplace_it_was_written_in() -> None:
    foreign = re.compile(rf"\.\./{'shared'}|(?<![\w.])/{'work'}/")
    naming = [path for path in files() if foreign.search(path.read_text(errors="replace"))]
    assert [str(path.relative_to(ROOT)) for path in naming] in ([".ci/run"], [])


@pytest.mark.parametrize("package", ["core", "policies", "extender"])
def test_what_decides_in_production_does_not_know_of_simulations(package: str) -> None:
    # one decision path and no mode flag: simulated and real clusters must not be told apart
    for path in sorted((ROOT / "extender" / "nodewise" / package).rglob("*.py")):
        assert "simulat" not in code_of(path.read_text()).lower(), path


def test_the_search_for_words_in_code_ignores_prose_and_nothing_else() -> None:
    assert "simulat" not in code_of(
        '"""simulated"""\nx = 1  # simulated\n"""simulated"""\ndef f():\n    """simulated"""'
    )
    for code in ("simulated = 1", "f(simulate=1)", "x.simulator", "from simulator import f", "x == 'simulated'"):
        assert "simulat" in code_of(code)


def code_of(source: str) -> str:
    """The source without comments and strings that stand alone (docstrings)."""

    class Prose(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
            alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            return None if alone else self.generic_visit(node)

    return ast.unparse(Prose().visit(ast.parse(source)))


def test_every_import_contract_has_a_violation_below() -> None:
    assert VIOLATIONS.keys() == CONTRACTS.keys()


def test_the_import_contracts_hold_here(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", VIOLATIONS)
def test_an_import_contract_breaks_when_it_is_violated(name: str, copy: Path) -> None:
    path, text = VIOLATIONS[name]
    (copy / path).write_text(f'"""Planted."""\n\n{text}\n')
    try:
        done = lint_imports(copy)
    finally:
        (copy / path).unlink()
    assert done.returncode == 1
    assert f"{name} BROKEN" in done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with our sources and configuration, to be spoiled."""
    made = tmp_path_factory.mktemp("tree")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, made / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


def lint_imports(tree: Path) -> "subprocess.CompletedProcess[str]":
    paths = [str(tree / folder) for folder in SOURCES]  # before the installed package, which is the real tree
    code = "import sys; sys.path[:0] = sys.argv[1:]; from importlinter.cli import lint_imports_command as run; run([])"
    asked: list[Any] = [sys.executable, "-P", "-c", code, *paths]
    return subprocess.run(asked, cwd=tree, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("demo", "[extender,operator,simulator]"),
        ("demo-cluster", "[extender,operator,simulator]"),
        ("demo-advise", "[extender,operator,simulator]"),
        ("test", "[dev]"),
    ],
)
def test_a_target_sets_itself_up_with_the_extras_that_it_needs(target: str, extras: str, tmp_path: Path) -> None:
    """What `make` would run is shell that parses, and installs just those extras."""
    recipe = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    subprocess.run(["bash", "-n"], input=recipe, text=True, check=True)
    assert f"--editable '.{extras}'" in recipe
    assert "torch" not in recipe
