"""What a policy is told, and what it answers. Every class is frozen; arrays in them are never written to.

A name ends in its unit; the shape of an array stands behind it. N nodes, R resident pods, W workload rows, C node
classes, M candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Rows = NDArray[np.int64]

UNKNOWN_S = math.nan
"""A time that nobody knows (not yet started, not told)."""


class SlaClass(IntEnum):
    """How much delay and lateness of a pod cost; the order is that of the columns of `NodeTable.pods_by_sla`."""

    PRODUCTION = 0
    BATCH = 1
    BEST_EFFORT = 2


class Kind(StrEnum):
    """What sort of pod this is; `nodewise.core.kinds` says how each is treated."""

    JOB = "job"
    INDEXED = "indexed"
    BARE = "bare"
    SERVICE = "service"
    DAEMON = "daemon"
    STATIC = "static"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class PodRequest:
    """One pod that asks for a node, in the scheduler's own counting of requests (`nodewise.core.requests`)."""

    uid: str
    namespace: str
    name: str
    owner: str
    """Name of the controlling object, with its kind: `ReplicaSet/web-5d9`; empty for a bare pod."""
    kind: Kind
    cpu_milli: float
    cpu_nonzero_milli: float
    """As `cpu_milli`, with the scheduler's 100m for a container that asks for none."""
    memory_bytes: float
    memory_nonzero_bytes: float
    """As `memory_bytes`, with the scheduler's 200 MiB for a container that asks for none."""
    gpus_milli: float
    gpu_model: str
    archs: tuple[str, ...]
    """The architectures that the pod says it can run on; empty if it does not say."""
    preferred_node_terms: tuple[Mapping[str, Any], ...]
    """`preference` of each preferred node affinity term, as in the pod."""
    preferred_topologies: tuple[str, ...]
    """Topology keys of preferred inter-pod (anti-)affinity and ScheduleAnyway spread: there, other pods decide what is
    preferred."""
    tolerations: tuple[Mapping[str, Any], ...]
    pinned: bool
    """Placing it would also pin a volume's zone or a device, so no opinion is given."""
    sla: SlaClass
    priority: int
    created_s: float
    deadline_s: float
    """Absolute time at which the pod counts as late; inf if it cannot be late."""
    workload: str
    """What it runs: pods of one workload are expected to run alike."""
    expected_run_s: float
    """Run time on an ordinary node as its author sees it; nan if not told."""


@dataclass(frozen=True, slots=True)
class NodeTable:
    """Columns over the whole cluster; row i is one node. Every field is required."""

    name: tuple[str, ...]  # [N]
    row: Mapping[str, int]  # name -> row
    node_class: Rows  # [N] column of `Beliefs`
    arch: Rows  # [N] index into `archs`
    archs: tuple[str, ...]
    labels: tuple[Mapping[str, str], ...]  # [N]
    soft_taints: tuple[tuple[Mapping[str, Any], ...], ...]  # [N] taints of effect PreferNoSchedule
    cpu_allocatable_milli: Floats  # [N]
    cpu_requested_milli: Floats  # [N] assumed pods included, as are all `requested`
    cpu_nonzero_milli: Floats  # [N] requested, counted with the scheduler's non-zero defaults
    cpu_used_milli: Floats  # [N] measured; nan if `metrics_age_s` is inf
    memory_allocatable_bytes: Floats  # [N]
    memory_requested_bytes: Floats  # [N]
    memory_nonzero_bytes: Floats  # [N]
    memory_used_bytes: Floats  # [N]
    gpus_allocatable_milli: Floats  # [N]
    gpus_requested_milli: Floats  # [N]
    work_remaining_s: Floats  # [N] believed core-seconds left of the residents ÷ cores
    longest_remaining_s: Floats  # [N] believed time until the last resident ends
    start_wait_s: Floats  # [N] believed time from binding to start
    pressure: Floats  # [N] share of the node's CPU requested by its residents
    resident_delay_cents_per_s: Floats  # [N] what a second of delay to all residents would cost
    resident_exposure_s: Floats  # [N] believed remaining time of a resident, weighted by what its delay costs
    metrics_age_s: Floats  # [N] inf = no metrics
    price_usd_per_h: Floats  # [N] 0 = unknown
    idle_w: Floats  # [N]
    peak_w: Floats  # [N]
    pods_by_sla: Floats  # [N, 3]
    resident_offsets: Rows  # [N + 1] residents of row i are `residents[offsets[i]:offsets[i + 1]]`
    residents: Floats  # [R, len(nodewise.core.table.Resident)]
    resident_owner: Rows  # [R] id of the owner, for `ClusterView.owner_id`


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What the estimator holds of run times; row w is a workload, column c a node class.

    A row is in seconds, or, for workloads whose pods tell `expected_run_s`, in seconds per expected second.
    """

    run_mean: Floats  # [W, C]
    run_std: Floats  # [W, C] of one run: its own scatter and our ignorance of the mean
    observations: Floats  # [W, C]


@dataclass(frozen=True, slots=True)
class Weights:
    """What the objectives count for, beside each other: factors of the terms of the one cost function, 0 or more."""

    latency: float = 1.0
    """Of delay: the pod's own, and what it causes to the residents of its node."""
    sla: float = 1.0
    """Of missed deadlines, and of losing several replicas with one node."""
    energy: float = 1.0
    cost: float = 1.0
    """Of the room taken on nodes that have a price."""


@dataclass(frozen=True, slots=True)
class CostRates:
    """Prices of the one cost function (`nodewise.core.cost`), in US cents."""

    value_cents: tuple[float, float, float] = (10.0, 3.0, 1.0)
    """Value of a pod of each SLA class: lost once if it is late, and a tenth of it for each `reference_s` of delay."""
    reference_s: float = 60.0
    energy_cents_per_kwh: float = 12.0
    overhead: float = 1.2
    """Power usage effectiveness: facility power ÷ machine power."""
    service_horizon_s: float = 3600.0
    """Time over which the placement of a service (a pod without end) is costed."""
    contention: float = 0.3
    """Believed slowdown of a pod on a node whose co-residents request all of its CPU. A guess, to be learned."""
    node_loss_probability: float = 0.02
    """Believed chance that a node is lost while a pod that must not fail runs on it; prices correlated loss."""
    weights: Weights = Weights()
    """Prices in a `NodeTable` (of nodes, of its residents' delay) are weighted already."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Everything a policy may know, and nothing else."""

    now_s: float
    nodes: NodeTable
    beliefs: Beliefs
    rates: CostRates
    belief_row: int
    """Row of `beliefs` for the pod that is being placed."""
    owner_id: int
    """Id of the pod's owner in `nodes.resident_owner`; -1 if it has none."""
    arch_starts: Floats  # [len(nodes.archs)] pods of this workload that were seen to work there
    shadow_price_cents: Floats  # [N] price of the room itself; zeros until a solver passes it in
    queued_by_sla: Floats  # [3] pods that wait for a node
    sequence: int
    """How many decisions were taken on this cluster before this one."""


class Policy(Protocol):
    """A rule or a learned model. Pure: the same arguments give the same scores."""

    @property
    def name(self) -> str:
        """As in `nodewise policies`."""
        ...

    @property
    def digest(self) -> str:
        """Identifies exactly what scores: the bundle's sha256, or the rule's name and version of Nodewise."""
        ...

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M]; finite, higher is better."""
        ...


class Fallback(StrEnum):
    """Why a decision was not the policy's own."""

    NONE = ""
    DEADLINE = "deadline"
    ERROR = "policy-error"
    NON_FINITE = "non-finite-scores"
    WRONG_SHAPE = "wrong-shape"
    OUT_OF_RANGE = "features-out-of-range"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was answered for a pod, and why. Its latency belongs to the journal."""

    pod: PodRequest
    candidates: Rows  # [M] rows of the node table
    scores: Scores  # [M]; empty if the decision is neutral
    reply: tuple[tuple[str, int], ...]
    """(node name, 0..10) as sent; empty if neutral."""
    winner: int
    """Row of the node we expect to be bound; -1 if neutral."""
    propensities: Floats  # [M] probability with which each candidate was chosen
    policy: str
    digest: str
    fallback: Fallback
    neutral: str
    """Why no opinion was given; empty if one was."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """For people: after a fallback, `nodewise.core.decide.REFUSED` and `WHY`."""
