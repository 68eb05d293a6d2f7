"""The real API server takes every sample, as a cluster that enforces Pod Security `restricted` would."""

import itertools
from pathlib import Path

import pytest
import yaml

from nodewise.core.annotations import PREFIX, hints
from nodewise.core.types import SlaClass
from nodewise_simulator.controlplane import ApiError, ControlPlane

from .conftest import Json

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples" / "pods"
FILES = sorted(SAMPLES.glob("*.yaml"))
PATHS = {"Pod": "api/v1", "Deployment": "apis/apps/v1", "Job": "apis/batch/v1", "CronJob": "apis/batch/v1"}

_numbers = itertools.count()


@pytest.fixture
def restricted(plane: ControlPlane) -> str:
    """A namespace whose admission refuses every pod that is not restricted."""
    name = f"samples-{next(_numbers)}"
    plane.create_namespace(name, {"pod-security.kubernetes.io/enforce": "restricted"})
    return name


def pod_of(manifest: Json) -> Json:
    """The pod that comes of it."""
    made = manifest
    while made["kind"] != "Pod":
        inner = made["spec"].get("jobTemplate") or made["spec"]["template"]
        made = {"kind": "Job" if "jobTemplate" in made["spec"] else "Pod", **inner}
    meta = {"name": "made", **made.get("metadata", {})}
    spec = {"restartPolicy": "Always", **made["spec"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def dry(plane: ControlPlane, namespace: str, manifest: Json) -> Json:
    path = f"/{PATHS[manifest['kind']]}/namespaces/{namespace}/{manifest['kind'].lower()}s"
    return plane.call("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_sample_and_its_pod_are_admitted_and_its_annotations_read(
    file: Path, plane: ControlPlane, restricted: str
) -> None:
    for manifest in yaml.safe_load_all(file.read_text()):
        dry(plane, restricted, manifest)
        pod = pod_of(manifest)
        assert dry(plane, restricted, pod)["spec"]["schedulerName"] == "default-scheduler"  # the label's to change
        annotations = pod["metadata"]["annotations"]
        assert all(key.startswith(PREFIX) for key in annotations)
        told = hints(annotations, priority=0, qos_best_effort=False)
        assert told.ignored == ()
        assert told.sla == SlaClass[file.stem.rpartition("-")[0].upper().replace("-", "_")]


def test_the_samples_show_every_class_and_stand_in_the_readme() -> None:
    shown = {file.stem.rpartition("-")[0] for file in FILES}
    assert {name.upper().replace("-", "_") for name in shown} == set(SlaClass.__members__)
    assert all(f"`{file.name}`" in (SAMPLES.parent / "README.md").read_text() for file in FILES)


def test_that_namespace_would_refuse_a_pod_that_is_not_restricted(plane: ControlPlane, restricted: str) -> None:
    pod = pod_of(yaml.safe_load((SAMPLES / "best-effort-pod.yaml").read_text()))
    pod["spec"]["securityContext"].pop("runAsNonRoot")
    with pytest.raises(ApiError, match="restricted"):
        dry(plane, restricted, pod)
