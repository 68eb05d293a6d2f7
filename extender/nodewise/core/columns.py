"""The columns of what a policy sees: each is defined once, here, for numpy, the compiled simulator and ONNX cards.

A column takes raw values as NamedTuples of float64 (arrays over nodes in numpy, scalars in a compiled loop) and uses
arithmetic, comparisons, `& | ~`, elementwise `np.*` and `select`; never if/and/or/min/max/np.where/np.clip or
aggregates. Its scope says what it takes, and so what a cache may keep:

- "node": (node), refreshed when that node changes;
- "pod": (pod), once a request;
- "pair": (node, pod, pair), once a request and candidate; `pair` holds what exists only for both together, the beliefs
  on this pod on that node's class;
- "cluster": (cluster), once a request, over the whole cluster and never over the candidates.

Values are clipped to [low, high] and cast to float32 once, on writing. What cannot be computed (nan) reads as
`low`, so that no nan ever reaches a policy; a column for which that would be the wrong guess must choose its own by
`select`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core import cost
from nodewise.core.raw import Cluster, F, Node, Pair, Pod, Raw, raw
from nodewise.core.registry import COLUMNS, Column, Scope, column, in_scope, select
from nodewise.core.types import ClusterView, PodRequest, Rows

__all__ = ["COLUMNS", "Column", "Scope", "column", "in_scope", "select"]


# --- node ------------------------------------------------------------------------------------------------------------


@column("node", unit="ratio", low=0, high=2)
def cpu_pressure(node: Node) -> F:
    """CPU in use (or requested, without fresh metrics) over allocatable."""
    busy = select(node.metrics_age_s < 60.0, node.cpu_used_milli, node.cpu_requested_milli)
    return select(node.cpu_allocatable_milli > 0.0, busy / node.cpu_allocatable_milli, 0.0)


@column("node", unit="ratio", low=0, high=2)
def memory_pressure(node: Node) -> F:
    """Memory in use (or requested, without fresh metrics) over allocatable."""
    busy = select(node.metrics_age_s < 60.0, node.memory_used_bytes, node.memory_requested_bytes)
    return select(node.memory_allocatable_bytes > 0.0, busy / node.memory_allocatable_bytes, 0.0)


@column("node", unit="ratio", low=0, high=1)
def cpu_requested_share(node: Node) -> F:
    """CPU requested over allocatable."""
    return select(node.cpu_allocatable_milli > 0.0, node.cpu_requested_milli / node.cpu_allocatable_milli, 1.0)


@column("node", unit="ratio", low=0, high=1)
def memory_requested_share(node: Node) -> F:
    """Memory requested over allocatable."""
    return select(node.memory_allocatable_bytes > 0.0, node.memory_requested_bytes / node.memory_allocatable_bytes, 1.0)


@column("node", unit="ratio", low=0, high=1)
def gpu_requested_share(node: Node) -> F:
    """GPUs requested over allocatable; 1 on a node without GPUs."""
    return select(node.gpus_allocatable_milli > 0.0, node.gpus_requested_milli / node.gpus_allocatable_milli, 1.0)


@column("node", unit="bool", low=0, high=1)
def has_gpu(node: Node) -> F:
    """Whether the node has GPUs."""
    return select(node.gpus_allocatable_milli > 0.0, 1.0, 0.0)


@column("node", unit="bool", low=0, high=1)
def empty(node: Node) -> F:
    """Whether no pod runs on the node."""
    return select(node.production_pods + node.batch_pods + node.best_effort_pods > 0.0, 0.0, 1.0)


@column("node", unit="log(1+s)", low=0, high=12)
def log_work_remaining(node: Node) -> F:
    """Believed work left on the node, in seconds of all its cores."""
    return np.log1p(node.work_remaining_s)


@column("node", unit="log(1+s)", low=0, high=12)
def log_longest_remaining(node: Node) -> F:
    """Believed time until the last resident ends."""
    return np.log1p(node.longest_remaining_s)


@column("node", unit="log(1+s)", low=0, high=12)
def log_start_wait(node: Node) -> F:
    """Believed time from binding to start."""
    return np.log1p(node.start_wait_s)


@column("node", unit="USD per core-hour", low=0, high=2)
def price_per_core(node: Node) -> F:
    """Price of a core of the node."""
    return select(node.cpu_allocatable_milli > 0.0, node.price_usd_per_h * 1000.0 / node.cpu_allocatable_milli, 0.0)


@column("node", unit="W per core", low=0, high=100)
def dynamic_w_per_core(node: Node) -> F:
    """Power that one more busy core draws."""
    span = np.maximum(node.peak_w - node.idle_w, 0.0)
    return select(node.cpu_allocatable_milli > 0.0, span * 1000.0 / node.cpu_allocatable_milli, 0.0)


@column("node", unit="ratio", low=0, high=1)
def production_share(node: Node) -> F:
    """Share of production pods among the residents."""
    pods = node.production_pods + node.batch_pods + node.best_effort_pods
    return select(pods > 0.0, node.production_pods / np.maximum(pods, 1.0), 0.0)


@column("node", unit="cents per s", low=0, high=10)
def resident_delay_rate(node: Node) -> F:
    """What a second of delay to all residents would cost."""
    return node.resident_delay_cents_per_s


# --- pod -------------------------------------------------------------------------------------------------------------


@column("pod", unit="bool", low=0, high=1)
def production(pod: Pod) -> F:
    """Whether the pod is of SLA class production."""
    return pod.production


@column("pod", unit="bool", low=0, high=1)
def best_effort(pod: Pod) -> F:
    """Whether the pod is of SLA class best-effort."""
    return pod.best_effort


@column("pod", unit="bool", low=0, high=1)
def ends(pod: Pod) -> F:
    """Whether the pod has a run time; a service has none."""
    return pod.ends


@column("pod", unit="log(1+milli)", low=0, high=12)
def log_cpu(pod: Pod) -> F:
    """CPU requested by the pod."""
    return np.log1p(pod.cpu_milli)


@column("pod", unit="log(1+s)", low=0, high=16)
def log_waited(pod: Pod) -> F:
    """Time since the pod was created."""
    return np.log1p(np.maximum(pod.waited_s, 0.0))


@column("pod", unit="log(1+s)", low=0, high=16)
def log_slack(pod: Pod) -> F:
    """Time left until the pod's deadline; the upper bound without one."""
    return np.log1p(np.maximum(pod.slack_s, 0.0))


# --- pair ------------------------------------------------------------------------------------------------------------


def contended_run_s(node: Node, pod: Pod, pair: Pair) -> F:
    """Believed run time beside the node's residents, seconds."""
    return pair.run_mean_s * (1.0 + pod.contention * node.pressure)


def flow_s(node: Node, pod: Pod, pair: Pair) -> F:
    """Believed time from binding to the end; for a service to the start, plus what contention takes of its horizon."""
    slowed_s = pair.run_mean_s * pod.contention * node.pressure
    return node.start_wait_s + slowed_s + select(pod.ends > 0.0, pair.run_mean_s, 0.0)


def late_probability(node: Node, pod: Pod, pair: Pair) -> F:
    """Believed probability of missing the deadline, the run being log-normal.

    The normal distribution function is taken as logistic(1.702 z), within 0.0095 of it (Camilli 1994).
    """
    left_s = np.maximum(pod.slack_s - node.start_wait_s, 1e-3)
    spread = pair.run_std_s / np.maximum(pair.run_mean_s, 1e-9)
    log_var = np.log1p(spread * spread)
    log_mean = np.log(np.maximum(contended_run_s(node, pod, pair), 1e-9)) - 0.5 * log_var
    z = (np.log(left_s) - log_mean) / np.sqrt(np.maximum(log_var, 1e-6))
    told = (pod.ends > 0.0) & (pod.slack_s < np.inf)
    z = select(told, np.minimum(np.maximum(z, -40.0), 40.0), 40.0)
    return select(told, 1.0 / (1.0 + np.exp(1.702 * z)), 0.0)


def node_share(node: Node, pod: Pod) -> F:
    """The largest share of the node's CPU, memory or GPUs that the pod takes."""
    share = pod.cpu_milli / np.maximum(node.cpu_allocatable_milli, 1.0)
    share = np.maximum(share, pod.memory_bytes / np.maximum(node.memory_allocatable_bytes, 1.0))
    gpus = select(node.gpus_allocatable_milli > 0.0, pod.gpus_milli / np.maximum(node.gpus_allocatable_milli, 1.0), 0.0)
    return np.minimum(np.maximum(share, gpus), 1.0)


@column("pair", unit="cents", low=0, high=1000)
def energy_cents(node: Node, pod: Pod, pair: Pair) -> F:
    """Expected price of the energy the pod draws there."""
    run_s = contended_run_s(node, pod, pair)
    joules = cost.dynamic_joules(pod.cpu_milli, node.cpu_allocatable_milli, node.idle_w, node.peak_w, run_s)
    return joules * pod.energy_cents_per_j


@column("pair", unit="cents", low=0, high=1000)
def room_cents(node: Node, pod: Pod, pair: Pair) -> F:
    """Expected price of the node-hours the pod takes there."""
    return cost.node_cents(node_share(node, pod), node.price_usd_per_h, contended_run_s(node, pod, pair))


@column("pair", unit="cents", low=0, high=1000)
def delay_cents(node: Node, pod: Pod, pair: Pair) -> F:
    """Expected price of the time until the pod is done there."""
    return pod.delay_cents_per_s * flow_s(node, pod, pair)


@column("pair", unit="cents", low=0, high=1000)
def late_cents(node: Node, pod: Pod, pair: Pair) -> F:
    """Expected price of missing the deadline there."""
    return pod.late_cents * late_probability(node, pod, pair)


@column("pair", unit="cents", low=0, high=1000)
def slowdown_cents(node: Node, pod: Pod, pair: Pair) -> F:
    """Expected price of the delay that the pod causes to the node's residents."""
    added = pod.cpu_milli / np.maximum(node.cpu_allocatable_milli, 1.0)
    # Both must run for it to hurt: the shorter of the pod's stay and the residents'.
    together_s = np.minimum(contended_run_s(node, pod, pair), node.resident_exposure_s)
    return pod.contention * added * together_s * node.resident_delay_cents_per_s


@column("pair", unit="cents", low=0, high=1000)
def spread_cents(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001  one signature for all of a scope
    """Expected price of losing several replicas of one owner together."""
    return pod.loss_cents * pair.same_owner_pods


@column("pair", unit="log ratio", low=0, high=6)
def log_slower_than_best(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """How much longer the pod runs there than on the best node class."""
    return np.log(np.maximum(pair.run_mean_s, 1e-9) / np.maximum(pair.best_run_mean_s, 1e-9))


@column("pair", unit="probability", low=0, high=1)
def lateness(node: Node, pod: Pod, pair: Pair) -> F:
    """Probability of missing the deadline there."""
    return late_probability(node, pod, pair)


@column("pair", unit="log(1+runs)", low=0, high=12)
def log_observations(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """How many runs of this workload on this node class were seen, old ones counting less."""
    return np.log1p(pair.observations)


@column("pair", unit="ratio", low=0, high=4)
def run_uncertainty(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Standard deviation over mean of the believed run time."""
    return pair.run_std_s / np.maximum(pair.run_mean_s, 1e-9)


@column("pair", unit="ratio", low=0, high=1)
def cpu_free_after(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Share of the node's CPU that is left when the pod is there."""
    left = node.cpu_allocatable_milli - node.cpu_requested_milli - pod.cpu_milli
    return select(node.cpu_allocatable_milli > 0.0, left / node.cpu_allocatable_milli, 0.0)


@column("pair", unit="ratio", low=0, high=1)
def memory_free_after(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Share of the node's memory that is left when the pod is there."""
    left = node.memory_allocatable_bytes - node.memory_requested_bytes - pod.memory_bytes
    return select(node.memory_allocatable_bytes > 0.0, left / node.memory_allocatable_bytes, 0.0)


@column("pair", unit="bool", low=0, high=1)
def gpu_wasted(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Whether a pod without GPUs would sit on a node with GPUs."""
    return select((node.gpus_allocatable_milli > 0.0) & (pod.gpus_milli <= 0.0), 1.0, 0.0)


@column("pair", unit="cents", low=0, high=1000)
def shadow_cents(node: Node, pod: Pod, pair: Pair) -> F:  # noqa: ARG001
    """Price of the room itself, from the shadow prices of the cluster's resources."""
    return pair.shadow_price_cents


# --- cluster ---------------------------------------------------------------------------------------------------------


@column("cluster", unit="ratio", low=0, high=1)
def cluster_cpu_share(cluster: Cluster) -> F:
    """CPU requested over allocatable, whole cluster."""
    return cluster.cpu_requested_milli / np.maximum(cluster.cpu_allocatable_milli, 1.0)


@column("cluster", unit="ratio", low=0, high=1)
def cluster_memory_share(cluster: Cluster) -> F:
    """Memory requested over allocatable, whole cluster."""
    return cluster.memory_requested_bytes / np.maximum(cluster.memory_allocatable_bytes, 1.0)


@column("cluster", unit="ratio", low=0, high=1)
def cluster_gpu_share(cluster: Cluster) -> F:
    """GPUs requested over allocatable, whole cluster."""
    return cluster.gpus_requested_milli / np.maximum(cluster.gpus_allocatable_milli, 1.0)


@column("cluster", unit="log(1+pods per node)", low=0, high=8)
def log_queued(cluster: Cluster) -> F:
    """Pods waiting for a node, for each node."""
    waiting = cluster.queued_production + cluster.queued_batch + cluster.queued_best_effort
    return np.log1p(waiting / np.maximum(cluster.nodes, 1.0))


def arguments(col: Column, values: Raw) -> tuple[Any, ...]:
    """What `col.fn` takes, by its scope."""
    match col.scope:
        case "node":
            return (values.node,)
        case "pod":
            return (values.pod,)
        case "cluster":
            return (values.cluster,)
    return (values.node, values.pod, values.pair)


def clipped(col: Column, value: F) -> F:
    """A column's value in its range; nan gives `low`."""
    return np.fmin(np.fmax(value, col.low), col.high)


def split(names: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Positions of the named columns by what they depend on: the node, node and pod (pair), the request (pod, cluster).

    Raises KeyError for an unknown one.
    """
    parts: dict[str, list[int]] = {"node": [], "pair": [], "request": []}
    for k, name in enumerate(names):
        scope = COLUMNS[name].scope
        parts["request" if scope in ("pod", "cluster") else scope].append(k)
    return parts["node"], parts["pair"], parts["request"]


def features(names: Sequence[str], pod: PodRequest, view: ClusterView, rows: Rows) -> NDArray[np.float32]:
    """The named columns of each candidate, clipped to their ranges (nan to `low`), [M, K].

    Raises KeyError for an unknown one.
    """
    return _computed(names, raw(pod, view, rows), len(rows))


def features_by_scope(
    names: Sequence[str], pod: PodRequest, view: ClusterView, rows: Rows
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The columns of `features`, apart as `split` has them: node [M, Kn], pair [M, Kr], request [Kp].

    Raises KeyError for an unknown one.
    """
    values = raw(pod, view, rows)
    node, pair, request = ([names[k] for k in part] for part in split(names))
    m = len(rows)
    return _computed(node, values, m), _computed(pair, values, m), _computed(request, values, 1)[0]


def _computed(names: Sequence[str], values: Raw, m: int) -> NDArray[np.float32]:
    out = np.empty((m, len(names)), np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for k, name in enumerate(names):
            col = COLUMNS[name]
            out[:, k] = clipped(col, col.fn(*arguments(col, values)))
    return out
