"""The chart as the real helm renders it, and a real API server that says what it thinks of the result."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import ControlPlane, program, programs

Json = dict[str, Any]
Render = Callable[..., list[Json]]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts" / "nodewise"
RELEASE, NAMESPACE = "nodewise", "nodewise-system"
MINORS = {"1.34": "v1.34.4", "1.35": "v1.35.5", "1.36": "v1.36.3"}

_SCHEDULING: Json = {"scheduling": {"enabled": True}}
_SECRET: Json = {"tls": {"mode": "existingSecret", "existingSecret": {"name": "channel"}}}
_ISSUER: Json = {"tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "ca"}}}}
_POSTGRES: Json = {"replicas": 2, "store": {"postgres": {"existingSecret": {"name": "database"}}}}
_FLAGS: Json = {
    "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")},
    "admission": {"slaProduction": {"enabled": True, "groups": ["sre"], "serviceAccounts": ["ci/deployer"]}},
    "commonLabels": {"team": "platform"},
    "imagePullSecrets": [{"name": "pull"}],
}
_EGRESS: Json = {"enabled": True, "operatorEgress": [{"ports": [{"protocol": "TCP", "port": 5432}]}]}
_ALL: Json = {**_FLAGS, "networkPolicy": _EGRESS, "operator": {**_POSTGRES, "source": "informer", "policy": "economic"}}
_PLACED: Json = {
    "tolerations": [{"key": "control", "operator": "Exists"}],
    "nodeSelector": {"pool": "system"},
    "affinity": {"podAntiAffinity": {}},
    "podAnnotations": {"reviewed": "yes"},
}

FEATURES: dict[str, Json] = {
    "advise": {},
    "advise-all": _ALL,
    "scheduling": _SCHEDULING,
    "scheduling-shared": {"scheduling": {"enabled": True, "sharedNodes": True, "defer": True}, "crds": {"keep": False}},
    "scheduling-cert-manager": {**_SCHEDULING, "channel": _ISSUER},
    "scheduling-existing-secret": {**_SCHEDULING, "channel": _SECRET},
    "scheduling-cert-manager-all": {
        **_ALL,
        "channel": _ISSUER,
        "scheduling": {
            **_PLACED,
            "enabled": True,
            "replicas": 3,
            "defer": True,
            "priorityClassName": "system-cluster-critical",
            "extender": {"policy": "economic", "defaultMode": "shadow", "extraArgs": ["--assumed-ttl-s=60"]},
            "scheduler": {"image": {"digest": "sha256:" + "0" * 64}},
        },
    },
    "scheduling-existing-secret-all": {
        **_FLAGS,
        "networkPolicy": {"enabled": True},
        "channel": _SECRET,
        "scheduling": {"enabled": True, "sharedNodes": True, "podDisruptionBudget": {"enabled": False}, "replicas": 1},
        "operator": {**_PLACED, "store": {"existingClaim": "mine"}, "extraEnv": [{"name": "TZ", "value": "UTC"}]},
        "fullnameOverride": "placement",
    },
}
"""Values by name: every TLS mode with and without everything else that can be switched."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-rendered",
        action="store_true",
        help="write manifests/install, the chart's copy of the definitions and its README's tables instead of "
        "comparing them (`pytest tests/chart/test_manifests.py` only)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.controlplane)


def skip_or_fail(missing: UserError) -> None:
    """Where the programs must be there (CI), their absence is a failure: a skip would look green."""
    if os.environ.get("NODEWISE_REQUIRE_CONTROLPLANE") == "1":
        pytest.fail(f"NODEWISE_REQUIRE_CONTROLPLANE=1, but: {missing}")
    pytest.skip(str(missing))


class Helm:
    """The real helm, away from anybody's settings; without a kubeconfig it cannot find a cluster."""

    def __init__(self, folder: Path, kubeconfig: Path | str = os.devnull) -> None:
        self.folder, self._kubeconfig = folder, kubeconfig
        self._program = program("helm")

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Whatever comes of it."""
        env = {"HOME": str(self.folder), "KUBECONFIG": str(self._kubeconfig), "PATH": os.environ["PATH"]}
        argv = [str(self._program), *map(str, words)]
        return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120)

    def __call__(self, *words: str | Path) -> str:
        """What it prints; it must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, f"helm {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        return done.stdout

    def values(self, values: Json) -> tuple[str | Path, ...]:
        """Words that give a chart these values."""
        file = self.folder / "values.json"
        file.write_text(json.dumps(values))
        return ("--values", file)

    def template(self, values: Json, minor: str | None = "1.36", *more: str) -> subprocess.CompletedProcess[str]:
        """Render as for a cluster of this minor version, or of none that is known."""
        version = ("--kube-version", MINORS.get(minor, minor)) if minor else ()
        return self.run("template", RELEASE, CHART, "--namespace", NAMESPACE, *version, *self.values(values), *more)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    try:
        return Helm(tmp_path_factory.mktemp("helm"))
    except UserError as missing:
        skip_or_fail(missing)
        raise


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Makes the objects that these values give, for this minor version of Kubernetes."""
    known: dict[str, list[Json]] = {}

    def rendered(values: Json, minor: str = "1.36", *more: str) -> list[Json]:
        key = json.dumps([values, minor, more])
        if key not in known:
            done = helm.template(values, minor, *more)
            assert done.returncode == 0, done.stderr
            known[key] = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]
        return json.loads(json.dumps(known[key]))  # type: ignore[no-any-return]

    return rendered


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """One etcd and API server for all tests."""
    try:
        programs()
        for each in ("helm", "kubectl"):
            program(each)
    except UserError as missing:
        skip_or_fail(missing)
    with ControlPlane() as started:
        yield started


def find(objects: list[Json], kind: str, ending: str = "") -> Json:
    """The one object of this kind whose name ends so."""
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(ending))
    return found


def pod_specs(objects: list[Json]) -> dict[str, Json]:
    """PodSpec by name of what makes or is the pod."""
    specs = {}
    for each in objects:
        if each["kind"] == "Deployment":
            specs[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            specs[each["metadata"]["name"]] = each["spec"]
    return specs
