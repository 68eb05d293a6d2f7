"""A real Kubernetes control plane on this machine, without containers, and a small kubelet.

The tests of `tests/controlplane`, `nodewise demo --cluster` and `nodewise bench scheduler` stand on it. Everything
listens on 127.0.0.1 at free ports, lives in one temporary folder, and ends with the Python process that started it.
"""

from nodewise_simulator.controlplane.api import Api, ApiError
from nodewise_simulator.controlplane.cluster import ControlPlane
from nodewise_simulator.controlplane.commands import Exit, run_command
from nodewise_simulator.controlplane.kubelet import FinishedPod, Kubelet
from nodewise_simulator.controlplane.nodes import node, taint
from nodewise_simulator.controlplane.pods import pod
from nodewise_simulator.controlplane.process import Process
from nodewise_simulator.controlplane.profile import scheduler_config
from nodewise_simulator.controlplane.programs import program, program_version, programs
from nodewise_simulator.controlplane.scheduler import Scheduler, parse_metrics, total
from nodewise_simulator.controlplane.toy import ToyExtender, neutral, winner_only

__all__ = [
    "Api",
    "ApiError",
    "ControlPlane",
    "Exit",
    "FinishedPod",
    "Kubelet",
    "Process",
    "Scheduler",
    "ToyExtender",
    "neutral",
    "node",
    "parse_metrics",
    "pod",
    "program",
    "program_version",
    "programs",
    "run_command",
    "scheduler_config",
    "taint",
    "total",
    "winner_only",
]
