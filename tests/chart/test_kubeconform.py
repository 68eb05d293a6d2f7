"""kubeconform on the rendered chart, with the schemas that the API server itself publishes at /openapi/v3."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import ControlPlane, program

from .conftest import FEATURES, Render, skip_or_fail

Json = dict[str, Any]
FOREIGN = {"Certificate", "PrometheusRule", "ServiceMonitor"}
"""Not Kubernetes' own: `foreign.yaml` stands for them, in another test."""


@pytest.fixture(scope="module")
def schemas(plane: ControlPlane, render: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each kind of ours: all schemas of its group, and a reference to its own."""
    folder = tmp_path_factory.mktemp("schemas")
    wanted = {(each["apiVersion"], each["kind"]) for values in FEATURES.values() for each in render(values)}
    for version in {version for version, kind in wanted if kind not in FOREIGN}:
        path = f"apis/{version}" if "/" in version else f"api/{version}"
        known = plane.call("GET", f"/openapi/v3/{path}")["components"]["schemas"]
        for schema in known.values():
            _close(schema)
        for name, schema in known.items():
            for kind in schema.get("x-kubernetes-group-version-kind", ()):
                if (version, kind["kind"]) in wanted and version == f"{kind['group']}/{kind['version']}".lstrip("/"):
                    group = kind["group"] or kind["version"]  # as kubeconform has it
                    file = folder / f"{group}-{kind['version']}-{kind['kind'].lower()}.json"
                    whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": known}}
                    file.write_text(json.dumps(whole))
    return folder


def test_kubeconform_finds_nothing(render: Render, schemas: Path, tmp_path: Path) -> None:
    for name, values in FEATURES.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(render(values)))
    told = conform(schemas, tmp_path)
    assert [each["msg"] for each in told["resources"]] == []
    assert told["summary"]["skipped"] == sum(
        each["kind"] in FOREIGN for values in FEATURES.values() for each in render(values)
    )
    assert told["summary"]["valid"] > 100


def test_kubeconform_can_find_something(render: Render, schemas: Path, tmp_path: Path) -> None:
    (deployment,) = (each for each in render({}) if each["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["automountToken"] = False
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(deployment))
    (found,) = conform(schemas, tmp_path)["resources"]
    assert "automountToken" in found["msg"]


def conform(schemas: Path, folder: Path) -> Json:
    """What kubeconform says of all files of a folder."""
    try:
        kubeconform = program("kubeconform")
    except UserError as missing:
        skip_or_fail(missing)
    location = f"{schemas}/{{{{.Group}}}}-{{{{.ResourceAPIVersion}}}}-{{{{.ResourceKind}}}}.json"
    words = ("-strict", "-summary", "-output", "json", "-skip", ",".join(FOREIGN), "-schema-location", location)
    done = subprocess.run([kubeconform, *words, folder], capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    told: Json = json.loads(done.stdout)
    return told


def _close(schema: Any) -> None:
    """Refuse fields that are not named; a schema of Kubernetes leaves them to the server."""
    if isinstance(schema, list):
        for each in schema:
            _close(each)
    elif isinstance(schema, dict):
        for each in schema.values():
            _close(each)
        open_ = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_:
            schema["additionalProperties"] = False
