"""The scheduler configuration that the README prints starts the stock kube-scheduler, which binds by the extender."""

import re
from pathlib import Path

import yaml

from nodewise_simulator.controlplane import ControlPlane, node, pod, scheduler_config
from nodewise_simulator.processes import ExtenderProcess

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_printed_configuration_works_and_is_our_profile(
    plane: ControlPlane, tmp_path: Path, namespace: str
) -> None:
    found = re.search(r"```yaml\n(apiVersion: kubescheduler.*?)```", README.read_text(), re.DOTALL)
    assert found
    printed = yaml.safe_load(found[1])
    ours = scheduler_config(plane.kubeconfig, "http://127.0.0.1:8888")
    assert printed["profiles"] == ours["profiles"]
    assert printed["extenders"] == ours["extenders"]
    plane.create_namespace("nodewise")
    plane.create_nodes([node(f"n{k}", cpu_milli=4000, memory_bytes=2**33) for k in range(3)])
    with ExtenderProcess(plane.kubeconfig, tmp_path) as extender:
        printed["clientConnection"]["kubeconfig"] = str(plane.kubeconfig)
        printed["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{extender.port}"
        scheduler = plane.start_scheduler(printed)
        plane.create_pods([pod("p", namespace=namespace, cpu_milli=500, memory_bytes=2**28)])
        bound = plane.wait_bound(1, namespace)
        told = extender.get(f"/explain/{namespace}/p")
        scheduler.stop()
    assert told["winner"] == bound["p"]
