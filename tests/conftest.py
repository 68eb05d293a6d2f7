"""Builders that many tests share, as session fixtures (so that property tests may use them too)."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.types import UNKNOWN_S, CostRates, Kind, PodRequest, SlaClass

os.environ.pop("COLUMNS", None)  # pytest-xdist tells its workers a width; commands are tested as in a pipe

HERE = Path(__file__).parent
GIB = 2.0**30

LONGEST_FILES = (
    "controlplane/test_operator_survives.py",
    "install/test_admission.py",
    "parity/test_every.py",
    "install/test_install.py",
    "controlplane/test_operator.py",
    "controlplane/test_kubectl.py",
    "controlplane/test_modes.py",
    "controlplane/test_placement.py",
    "chart/test_apply.py",
    "parity/test_served.py",
    "parity/test_published.py",
    "controlplane/test_nominated.py",
    "parity/test_waiting.py",
    "unit/test_store_damage.py",
    "unit/test_store.py",
    "unit/test_training.py",
    "unit/test_envs.py",
    "unit/test_training_learned.py",
    "unit/test_channel.py",
    "unit/test_extender_guard.py",
    "unit/test_kubectl_cli.py",
    "unit/test_watch.py",
    "unit/test_cli.py",
    "unit/test_kubectl_release.py",
)
"""What takes longest, longest first: begun last, one worker would work on it while the others have nothing left."""

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
StateOf = Callable[..., ClusterState]


def _pod(uid: str = "p", **changes: Any) -> PodRequest:
    made = PodRequest(
        uid=uid, namespace="default", name=uid, owner="", kind=Kind.JOB, cpu_milli=1000.0, cpu_nonzero_milli=1000.0,
        memory_bytes=GIB, memory_nonzero_bytes=GIB, gpus_milli=0.0, gpu_model="", archs=("amd64", "arm64"),
        preferred_node_terms=(), preferred_topologies=(), tolerations=(), pinned=False, sla=SlaClass.BATCH, priority=0,
        created_s=0.0, deadline_s=math.inf, workload="w", expected_run_s=UNKNOWN_S,
    )  # fmt: skip
    for name in ("cpu_milli", "memory_bytes"):
        if name in changes:
            changes.setdefault(name.replace("_", "_nonzero_", 1), changes[name])
    return replace(made, **changes)


def _node(name: str = "n", **changes: Any) -> NodeSpec:
    made = NodeSpec(
        name=name, node_class="plain", arch="amd64", zone="a", cpu_allocatable_milli=4000.0,
        memory_allocatable_bytes=16 * GIB, gpus_allocatable_milli=0.0, pods_allocatable=110.0, labels={},
        price_usd_per_h=0.2, idle_w=50.0, peak_w=150.0,
    )  # fmt: skip
    return replace(made, **changes)


_CLASSES: tuple[dict[str, Any], ...] = (
    {"node_class": "old", "cpu_allocatable_milli": 8000.0, "price_usd_per_h": 0.3, "peak_w": 250.0, "zone": "a"},
    {"node_class": "new", "cpu_allocatable_milli": 16000.0, "price_usd_per_h": 0.9, "peak_w": 300.0, "zone": "b"},
    {"node_class": "arm", "arch": "arm64", "cpu_allocatable_milli": 16000.0, "price_usd_per_h": 0.5, "zone": "b"},
    {"node_class": "gpu", "gpus_allocatable_milli": 4000.0, "price_usd_per_h": 3.0, "peak_w": 900.0, "zone": "c"},
)
_SPEED = {"old": 1.5, "new": 1.0, "arm": 0.8, "gpu": 0.6}


def _busy(nodes: int = 12, pods: int = 40, seed: int = 0, shift_s: float = 0.0) -> ClusterState:
    """A cluster of four classes, some of its pods run, some history learned; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    state = ClusterState(RunTimeEstimator(), CostRates())
    for k in range(nodes):
        state.put_node(_node(f"n{k:02d}", memory_allocatable_bytes=64 * GIB, **_CLASSES[k % len(_CLASSES)]))
    for k in range(pods):
        request = _pod(
            f"r{k}", sla=SlaClass(k % 3), kind=(Kind.JOB, Kind.SERVICE)[k % 5 == 0], workload=f"w{k % 4}",
            owner=f"ReplicaSet/o{k % 6}", cpu_milli=float(rng.integers(1, 8) * 250),
            memory_bytes=float(rng.integers(1, 8)) * GIB, gpus_milli=1000.0 * (k % 7 == 0), created_s=shift_s,
            expected_run_s=60.0 if k % 4 == 3 else UNKNOWN_S,
        )  # fmt: skip
        started_s = shift_s + float(rng.integers(0, 60)) if k % 3 else UNKNOWN_S
        state.place(request, f"n{int(rng.integers(nodes)):02d}", started_s)
        node_class = _CLASSES[k % len(_CLASSES)]["node_class"]
        ran = float(rng.lognormal(0.0, 0.3)) * _SPEED[node_class] * (1.0 if k % 4 == 3 else 90.0)
        state.estimator.observe(state.estimator.row(request), state.estimator.column(node_class), ran)
    state.queue(_pod("waits", sla=SlaClass.PRODUCTION))
    return state


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {HERE / name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def pod_of() -> PodOf:
    """Makes a pod: a batch job of one core and one GiB, but for what is told."""
    return _pod


@pytest.fixture(scope="session")
def node_of() -> NodeOf:
    """Makes a node: four cores and 16 GiB, but for what is told."""
    return _node


@pytest.fixture(scope="session")
def busy() -> StateOf:
    """Makes a cluster of four classes with residents and history."""
    return _busy
