"""The commands of the README's "Install", each as it stands there, on a cluster where nothing was prepared for them."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.install.images import REPOSITORY
from tests.install.plane import GIB, HOSTS, Plane
from tests.install.release import bound_by, user

from nodewise_simulator.controlplane import node, program, taint

pytestmark = pytest.mark.timeout(300)


def commands() -> list[str]:
    """Of the first block of the section."""
    section = (REPOSITORY / "README.md").read_text().partition("\n## Install\n")[2]
    block = re.search(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert block
    return block[1].splitlines()


@pytest.fixture(scope="module")
def plane(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A cluster whose only nodes run real processes, until the release is there."""
    with Plane(tmp_path_factory.mktemp("plane")) as started:
        started.add_hosts()
        started.start_default_scheduler()
        started.namespace("team-a")
        yield started


def shell(plane: Plane, line: str, *, may_fail: bool = False) -> str:
    """What a user's shell prints for the line, in a clone with our programs on the path."""
    path = plane.folder / "path"
    path.mkdir(exist_ok=True)
    for each in ("helm", "kubectl"):
        if not (path / each).exists():
            (path / each).symlink_to(program(each))
    env = {
        "PATH": f"{path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(plane.folder / "home"),
        "KUBECONFIG": str(plane.control.kubeconfig),
    }
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, env=env, cwd=REPOSITORY, timeout=200)
    assert may_fail or done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{plane.runner.describe()}"
    return done.stdout + done.stderr


def test_the_six_commands_install_advise_opt_in_and_explain(plane: Plane) -> None:
    install, advise, schedule, opt_in, apply, explain = commands()
    assert "STATUS: deployed" in shell(plane, install)
    # A cluster that was installed a moment ago has nothing to be advised about, and is told so in a sentence.
    told = shell(plane, advise, may_fail=True)
    assert told.startswith("kubectl-nodewise: the recording has no finished or waiting pods")
    assert "STATUS: deployed" in shell(plane, schedule)

    size: dict[str, Any] = {"cpu_milli": 8000, "memory_bytes": 32 * GIB, "zone": "a"}
    plane.control.create_nodes(node(f"node-{k}", instance_type="m5.2xlarge", **size) for k in range(6))
    for name in HOSTS:  # from here on nobody else is to come to the nodes that run real processes
        change = {"spec": {"taints": [taint("example.com/runs-processes", "true")]}}
        plane.call("PATCH", f"/api/v1/nodes/{name}", change, "application/merge-patch+json")
    shell(plane, opt_in)
    plane.wait(lambda: _ours(plane), 20, "the label is in force")
    shell(plane, apply)
    plane.wait(lambda: "scratch" in bound_by(plane, "team-a"), 60, "the sample is placed")
    assert bound_by(plane, "team-a")["scratch"][0] == user("nodewise-scheduler")

    found = plane.call("GET", "/api/v1/namespaces/team-a/pods/scratch")["spec"]["nodeName"]
    said = ""
    for _ in range(120):
        said = shell(plane, explain)
        if "succeeded" in said:
            break
        time.sleep(0.5)
    print(said)
    assert found in said
    assert "score" in said, said
    assert "succeeded" in said, said


def _ours(plane: Plane) -> bool:
    """Whether the admission policy is in force, as it is a second or so after it was made."""
    probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    made = plane.call("POST", "/api/v1/namespaces/team-a/pods?dryRun=All", probe)
    return bool(made["spec"]["schedulerName"] == "nodewise")


def test_without_a_channel_a_policy_says_that_nobody_can_tell_or_that_its_name_is_no_policys(plane: Plane) -> None:
    """The operator of the test before, which knows that a scheduler leads, and hears no extender."""
    path = "/apis/nodewise.dev/v1alpha1/placementpolicies"
    for name, spec in (("right", {"policy": "economic"}), ("wrong", {"policy": "nonsense"})):
        policy = {"apiVersion": "nodewise.dev/v1alpha1", "kind": "PlacementPolicy", "metadata": {"name": name}}
        plane.call("POST", path, {**policy, "spec": {"mode": "Active", "namespaces": [name], **spec}})

    def ready(name: str) -> dict[str, str]:
        told = plane.call("GET", f"{path}/{name}").get("status", {}).get("conditions", [{}])[0]
        return {key: told.get(key, "") for key in ("status", "reason", "message")}

    plane.wait(lambda: ready("wrong")["reason"] and ready("right")["reason"] == "NotHeard", 60, "the status of both")
    assert ready("right")["status"] == "Unknown"
    assert "see `kubectl nodewise status`" in ready("right")["message"]
    assert (ready("wrong")["status"], ready("wrong")["reason"]) == ("False", "UnknownPolicy")
    assert ready("wrong")["message"].startswith("there is no policy 'nonsense'; choose one of ")
