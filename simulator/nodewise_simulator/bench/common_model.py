"""The cluster on which engines are compared: of any size, and with nothing that a plain model could not have.

Nodes of 8 to 64 cores with 4 GiB each; Poisson arrivals at 75 % of their CPU; run times Pareto (2.5, from 10 s on), CPU
and memory log-normal (medians 1 core and 2 GiB, sigma 0.8), cut at the smallest node; a pod is slowed by its neighbours
by up to a tenth. Nothing is counted here but time, so none of it claims to be true of anybody's cluster.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat
from nodewise_simulator.world import QUANTUM_S, World, node_manifest, pod_manifest, quantised, sim_pod, world

_CORES = (8, 16, 32, 64)
_GIB = 2.0**30
_LOAD, _ALPHA, _LEAST_S, _SIGMA = 0.75, 2.5, 10.0, 0.8
_MEAN_RUN_S = _LEAST_S * _ALPHA / (_ALPHA - 1.0)
_MEAN_CORES = 1.36
"""Of the cut log-normal."""
_WORKLOADS = 10
_SLA = ("production", "batch", "best-effort")


def pods_per_node() -> float:
    """How many run at once on a node, on average."""
    return _LOAD * float(np.mean(_CORES)) / _MEAN_CORES


def _rate(nodes: int) -> float:
    return nodes * pods_per_node() / _MEAN_RUN_S


def common(nodes: int, pods: int, seed: int) -> World:
    """A world of this many nodes and pods."""
    rng = np.random.default_rng([seed, 23])
    manifests = [
        node_manifest(
            f"n{k:05d}", cpu_milli=1000.0 * _CORES[k % 4], memory_bytes=4.0 * _GIB * _CORES[k % 4],
            instance_type=f"c{_CORES[k % 4]}", price_usd_per_h=0.05 * _CORES[k % 4], idle_w=10.0, peak_w=10.0 + k % 90,
        )
        for k in range(nodes)
    ]  # fmt: skip
    created_s = np.cumsum(rng.exponential(1.0 / _rate(nodes), pods))
    run_s = _LEAST_S * (1.0 - rng.random(pods)) ** (-1.0 / _ALPHA)
    cpu = np.minimum(np.exp(rng.normal(0.0, _SIGMA, pods)), _CORES[0]) * 1000.0
    memory = np.minimum(np.exp(rng.normal(np.log(2.0), _SIGMA, pods)), 4.0 * _CORES[0]) * _GIB
    made = []
    for k in range(pods):
        said = {"nodewise.dev/sla-class": _SLA[k % 3], "nodewise.dev/workload": f"w{k % _WORKLOADS}"}
        manifest = pod_manifest(
            f"p{k:07d}", quantised(float(created_s[k])), said, {"cpu": f"{cpu[k]:.0f}m", "memory": f"{memory[k]:.0f}"},
            nodeSelector={"kubernetes.io/arch": "amd64"},
        )  # fmt: skip
        made.append(sim_pod(manifest, np.full(len(_CORES), run_s[k]), float(rng.uniform(0.0, 0.2))))
    return world("common", seed, manifests, tuple(f"c{c}" for c in _CORES), made, warm=0)


def longer(flat: Flat, pods: int, seed: int) -> Flat:
    """The same cluster with this many pods, drawn from those of `flat`, with names and arrivals of their own.

    Making a pod from its manifest takes a hundred times as long as playing it.
    """
    rng = np.random.default_rng([seed, 29])
    drawn = rng.integers(0, len(flat.pod_f), pods)
    pod_f, pod_i = flat.pod_f[drawn], flat.pod_i[drawn]
    arrivals_s = np.cumsum(rng.exponential(1.0 / _rate(len(flat.node_f)), pods))
    created_s = np.round(arrivals_s / QUANTUM_S) * QUANTUM_S
    pod_f[:, kn.DEADLINE] += created_s - pod_f[:, kn.CREATED]
    pod_f[:, kn.CREATED] = created_s
    pod_i[:, kn.RANK] = rng.permutation(pods)
    pod_i[:, kn.CRC] = rng.integers(0, 2**32, pods)
    return replace(flat, pod_f=pod_f, pod_i=pod_i, true_s=flat.true_s[drawn])
