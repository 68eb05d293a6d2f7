"""kube-controller-manager's command line: the controllers that a cluster of made-up nodes can use."""

from pathlib import Path

from nodewise_simulator.controlplane.access import free_ports
from nodewise_simulator.controlplane.programs import program

NOT_RUN = (
    # Nobody renews the leases of the nodes, and each would be tainted after 40 s.
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "device-taint-eviction-controller",
    "node-ipam-controller",
    "node-route-controller",
    "service-lb-controller",
    "cloud-node-lifecycle-controller",
)


def controller_manager(folder: Path, kubeconfig: Path, ca_file: Path) -> list[str | Path]:
    """The program and its arguments; `folder` is the control plane's, with the key of its service accounts."""
    (port,) = free_ports(1)
    return [
        program("kube-controller-manager"),
        *("--kubeconfig", kubeconfig, "--leader-elect=false"),
        *("--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig),
        *("--service-account-private-key-file", folder / "sa.key", "--root-ca-file", ca_file),
        *("--secure-port", str(port), "--bind-address", "127.0.0.1", "--cert-dir", folder / "controller-manager"),
        *("--controllers", ",".join(("*", *(f"-{name}" for name in NOT_RUN)))),
        # The default of 20 requests a second holds up the pods of a Job.
        *("--kube-api-qps", "500", "--kube-api-burst", "1000"),
    ]
