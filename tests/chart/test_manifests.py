"""Files that are made from others are as they would be made now; `--write-rendered` makes them."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from nodewise.policies import LEARNED, POLICIES

from .conftest import CHART, FEATURES, MINORS, NAMESPACE, ROOT, Helm, Render
from .documents import explained, granted, uncommented, values_table, with_section

INSTALL = ROOT / "manifests" / "install"
README = CHART / "README.md"
COMMAND = "pytest tests/chart/test_manifests.py --write-rendered"
VALUES = {"advise": {}, "scheduling": {"scheduling": {"enabled": True}}}


@pytest.fixture
def same(request: pytest.FixtureRequest) -> "Same":
    return Same(bool(request.config.getoption("--write-rendered")))


class Same:
    """Compares a file with what it should hold, or writes it."""

    def __init__(self, write: bool) -> None:
        self.write = write

    def __call__(self, path: Path, text: str) -> None:
        if self.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path.name} is missing: {COMMAND}"
        assert path.read_text() == text, f"{path.name} is old: {COMMAND}"


@pytest.mark.parametrize("name", VALUES)
def test_the_rendered_manifests_are_those_of_the_chart(name: str, helm: Helm, same: Same) -> None:
    done = helm.template(VALUES[name], "1.36", "--no-hooks")
    assert done.returncode == 0, done.stderr
    version = MINORS["1.36"]
    head = f"# Rendered from charts/nodewise for Kubernetes {version} by `{COMMAND}`; the namespace must exist.\n"
    text = re.sub(r"(?m)^( *app\.kubernetes\.io/managed-by:) Helm$", r"\1 kubectl", done.stdout)
    same(INSTALL / f"{name}.yaml", head + text)


def test_the_chart_installs_the_generated_definitions(same: Same) -> None:
    generated = {path.name: path.read_text() for path in (ROOT / "manifests" / "crds").glob("*.yaml")}
    assert len(generated) == 4
    for name, text in generated.items():
        same(CHART / "files" / "crds" / name, text)
    assert {path.name for path in (CHART / "files" / "crds").iterdir()} == generated.keys()


def test_the_schema_takes_every_policy_there_is_and_no_other(same: Same) -> None:
    """With another name the pods would not start, and the message would be in their logs only."""
    path = CHART / "values.schema.json"
    schema = json.loads(path.read_text())
    schema["definitions"]["policy"] = {"enum": ["", *POLICIES, LEARNED]}
    same(path, json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


def test_every_value_stands_in_the_readme(same: Same) -> None:
    text = (CHART / "values.yaml").read_text()
    assert uncommented(text) == []
    same(README, with_section(README.read_text(), "values", values_table(text)))


def test_every_verb_stands_in_the_readme_with_its_reason(render: Render) -> None:
    named = (values for values in FEATURES.values() if "fullnameOverride" not in values)
    given = set().union(*(granted(render(values), NAMESPACE) for values in named))
    told = explained(README.read_text())
    assert given == told.keys()
    assert min(map(len, told.values())) > 20
    assert "*" not in {part for verb in given for part in verb}


def test_the_table_of_kube_schedulers_stands_in_the_readme() -> None:
    table = yaml.safe_load((CHART / "files" / "kube-scheduler.yaml").read_text())
    rows = [f"| {minor} | {of['tag']} | {'yes' if of['tested'] else 'no'} |" for minor, of in table.items()]
    assert "\n".join(rows) in README.read_text()
    assert {minor: of["tag"] for minor, of in table.items()} == MINORS


def test_the_chart_is_of_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project, project)
