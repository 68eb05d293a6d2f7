"""The rendered chart before a real API server: every field exists, every pod is restricted, helm comes and goes."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodewise_operator.resources import NodeProfile
from nodewise_simulator.controlplane import ApiError, ControlPlane, program

from .conftest import CHART, FEATURES, HERE, NAMESPACE, RELEASE, ROOT, Helm, Render, pod_specs

Json = dict[str, Any]
Apply = Callable[..., subprocess.CompletedProcess[str]]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CLAIM = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/nodewise-operator"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


@pytest.fixture(scope="module")
def restricted(plane: ControlPlane) -> ControlPlane:
    """With the namespace, which takes restricted pods only, and with definitions of others."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
    path = f"/api/v1/namespaces/{NAMESPACE}?fieldManager=test"  # another file's tests may have made it
    plane.call("PATCH", path, namespace, "application/apply-patch+yaml")
    for each in yaml.safe_load_all((HERE / "foreign.yaml").read_text()):
        plane.call("POST", DEFINITIONS, each)
    return plane


@pytest.fixture(scope="module")
def apply(restricted: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Apply:
    """Server-side apply, strict about fields and about warnings."""
    folder = tmp_path_factory.mktemp("kubectl")
    env = {"HOME": str(folder), "KUBECONFIG": str(restricted.kubeconfig), "PATH": os.environ["PATH"]}

    def run(objects: list[Json], *more: str) -> subprocess.CompletedProcess[str]:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-")
        return subprocess.run(
            [program("kubectl"), *words, *more], input=text, capture_output=True, text=True, env=env, timeout=120
        )

    return run


@pytest.mark.parametrize(("name", "minor"), [*((name, "1.36") for name in FEATURES), ("scheduling", "1.34")])
def test_the_api_server_takes_everything_without_a_warning(name: str, minor: str, render: Render, apply: Apply) -> None:
    objects = render(FEATURES[name], minor)
    done = apply(objects)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(objects)


@pytest.mark.parametrize("name", FEATURES)
def test_pod_security_admits_every_pod_as_restricted(name: str, render: Render, restricted: ControlPlane) -> None:
    for pod, spec in pod_specs(render(FEATURES[name])).items():
        body = {"metadata": {"name": pod}, "spec": spec}
        restricted.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", body)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("securityContext", "seccompProfile"), None, "seccompProfile"),
        (("containers", 0, "securityContext", "capabilities"), None, "unrestricted capabilities"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "allowPrivilegeEscalation != false"),
        (("containers", 0, "securityContext", "readOnlyRoot"), True, "unknown field"),
    ],
)
def test_the_two_tests_above_can_fail(
    path: tuple[Any, ...], value: object, why: str, render: Render, apply: Apply
) -> None:
    (deployment,) = (each for each in render({}) if each["kind"] == "Deployment")
    inner = deployment["spec"]["template"]["spec"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    done = apply([deployment])
    assert done.returncode != 0
    assert why in done.stderr


class Installed:
    """A release on the API server."""

    def __init__(self, plane: ControlPlane, helm: Helm) -> None:
        self.plane, self.helm = plane, helm

    def __call__(self, verb: str, values: Json) -> str:
        """Install or upgrade; what NOTES say. The pods need not run."""
        reset = ("--reset-values",) if verb == "upgrade" else ()  # values that are empty would mean: as before
        told = self.helm(verb, RELEASE, CHART, "--namespace", NAMESPACE, *reset, *self.helm.values(values))
        return told.partition("NOTES:\n")[2]

    def kinds(self) -> set[tuple[str, str]]:
        """Kind and name of what the release says that it holds."""
        text = self.helm("get", "manifest", RELEASE, "--namespace", NAMESPACE)
        return {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(text) if each}

    def exists(self, path: str) -> bool:
        """Whether it is there and is to stay: nobody collects what other objects own here, and helm waits for that."""
        found = self.found(path)
        return found is not None and "deletionTimestamp" not in found["metadata"]

    def found(self, path: str) -> Json | None:
        """The object, if there is one, though it may be about to go."""
        try:
            return self.plane.call("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None


@pytest.fixture
def installed(restricted: ControlPlane, tmp_path: Path) -> Iterator[Installed]:
    helm = Helm(tmp_path, restricted.kubeconfig)
    installed = Installed(restricted, helm)
    yield installed
    helm.run("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found")
    restricted.call("PATCH", CLAIM, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    restricted.call("DELETE", CLAIM)
    for each in (path.stem.removeprefix("nodewise.dev_") for path in (CHART / "files" / "crds").iterdir()):
        kept = f"{DEFINITIONS}/{each}.nodewise.dev"
        restricted.call("DELETE", kept)
        while installed.found(kept) is not None:  # the API server deletes its objects first
            time.sleep(0.05)


def test_a_release_grows_shrinks_goes_and_comes_back_and_what_is_worth_it_outlives_it(installed: Installed) -> None:
    profile = {**NodeProfile.head(), "metadata": {"name": "m6i"}, "spec": {"nodeClass": "m6i", "priceUsdPerHour": 0.3}}
    notes = installed("install", FEATURES["advise"])
    assert "in advise mode: it watches and learns, and places nothing" in notes
    assert "  kubectl nodewise advise\n" in notes
    assert "WARNING" not in notes  # the API server is of a minor version that was tested
    _once_established(lambda: installed.plane.call("POST", NodeProfile.path(), profile))

    notes = installed("upgrade", FEATURES["scheduling-cert-manager-all"])
    assert f"kubectl -n {NAMESPACE} rollout status deployment/nodewise-scheduler" in notes
    assert "kubectl label namespace NAMESPACE nodewise.dev/scheduling=enabled" in notes
    assert "this version does not defer pods" in notes
    assert ("Deployment", "nodewise-scheduler") in installed.kinds()
    notes = installed("upgrade", FEATURES["scheduling-shared"])
    assert "WARNING: scheduling.sharedNodes" in notes
    assert "kubectl taint" not in notes
    notes = installed("upgrade", FEATURES["advise"])
    assert "WARNING: this upgrade takes the scheduler away" in notes
    assert "  kubectl nodewise release -A --remove-label --scheduler-name nodewise\n" in notes
    assert not installed.exists(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/nodewise-scheduler")
    assert not installed.exists("/apis/rbac.authorization.k8s.io/v1/clusterroles/nodewise-extender")

    installed.helm("uninstall", RELEASE, "--namespace", NAMESPACE)
    assert installed.exists(CLAIM)
    assert not installed.exists(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/nodewise-operator")
    assert installed.plane.call("GET", f"{NodeProfile.path()}/m6i")["spec"] == profile["spec"]
    installed("install", FEATURES["advise"])
    assert installed.plane.call("GET", f"{NodeProfile.path()}/m6i")["spec"] == profile["spec"]


def test_a_secret_that_is_missing_or_lacks_a_key_is_named_by_the_notes(
    restricted: ControlPlane, tmp_path: Path
) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    helm = Helm(tmp_path, restricted.kubeconfig)
    postgres = {"store": {"postgres": {"existingSecret": {"name": "database"}}}}
    values = helm.values({**FEATURES["scheduling-existing-secret"], "operator": postgres})

    def warnings() -> list[str]:
        told = helm("install", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=server", *values)
        return [line for line in told.splitlines() if line.startswith("WARNING: Secret ")]

    channel = (
        "WARNING: Secret channel (channel.tls.existingSecret.name) {}: operator and schedulers do not start until it"
    )
    first, second = warnings()
    assert first == channel.format("does not exist")
    assert second.startswith(
        "WARNING: Secret database (operator.store.postgres.existingSecret.name) does not exist: the operator"
    )
    try:
        data = {"tls.crt": "", "tls.key": ""}
        restricted.call("POST", path, {"metadata": {"name": "channel"}, "data": data})
        restricted.call("POST", path, {"metadata": {"name": "database"}, "data": {"url": ""}})
        assert warnings() == [channel.format("has no ca.crt")]
        patch = {"data": {"ca.crt": ""}}
        restricted.call("PATCH", f"{path}/channel", patch, "application/merge-patch+json")
        assert warnings() == []
    finally:
        for name in ("channel", "database"):
            restricted.call("DELETE", f"{path}/{name}")


def test_a_second_release_cannot_opt_in_by_the_same_label(installed: Installed) -> None:
    installed("install", {"scheduling": {"enabled": True}})

    def second(opt_in: bool) -> subprocess.CompletedProcess[str]:
        values = {
            "scheduling": {"enabled": True, "schedulerName": "second"},
            "admission": {"optIn": {"enabled": opt_in}},
            "monitoring": {"prometheusRule": {"enabled": True}},
            "crds": {"install": False},
        }
        words = ("install", "second", CHART, "--namespace", NAMESPACE, "--dry-run=server")
        return installed.helm.run(*words, *installed.helm.values(values))

    refused = second(True)
    assert refused.returncode == 1
    assert f"release {NAMESPACE}/{RELEASE} opts namespaces in by the same label already" in refused.stderr
    taken = second(False)
    assert taken.returncode == 0, taken.stderr
    assert "NOTE: without monitoring.serviceMonitor.enabled nobody names the scrape jobs" in taken.stdout
    again = installed(
        "upgrade", {"scheduling": {"enabled": True, "schedulerName": "other", "dedicatedNodes": {"key": "k"}}}
    )
    assert "release -n NAMESPACE --remove-label --scheduler-name other --dedicated-key k\n" in again


@pytest.mark.parametrize("name", ["advise", "scheduling"])
def test_the_rendered_manifests_can_be_applied_without_helm(name: str, apply: Apply) -> None:
    text = (ROOT / "manifests" / "install" / f"{name}.yaml").read_text()
    done = apply(list(yaml.safe_load_all(text)))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def _once_established(work: Callable[[], object]) -> None:
    until_s = time.monotonic() + 20
    while True:
        try:
            work()
        except ApiError as error:
            if error.status != 404 or time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return
