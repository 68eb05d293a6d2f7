"""The messages of the channel between extender and operator, as JSON (msgspec); unknown fields are ignored."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from nodewise.core.estimator import Observation

VERSION = 1


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, as the extender's journal has it and as the operator keeps it. C candidates, F featured ones."""

    uid: str
    namespace: str
    pod: str
    time_s: float
    """Epoch seconds."""
    source: str
    """`extender`: a scheduler asked us; `observed`: the operator scored a binding that any scheduler made."""
    mode: str
    """`active`, `shadow`, `advise` or `off`: what became of the reply."""
    placement_policy: str = ""
    """The PlacementPolicy that applied; empty if none did."""
    policy: str
    digest: str
    fallback: str = ""
    neutral: str = ""
    """Why no opinion was given; empty if one was."""
    candidates: list[str] = []
    scores: list[float] = []  # [C]
    winner: str = ""
    reply: list[tuple[str, int]] = []
    propensity: float = 0.0
    """Probability with which the winner was chosen."""
    bound: str = ""
    """Where the pod was bound, where that is known when the row is written."""
    columns: list[str] = []  # [K] names of the features
    featured: list[int] = []  # [F] indices into `candidates`: the winner, the bound node, the best and a sample
    features: bytes = b""  # [F, K] little-endian float32
    latency_us: float = 0.0
    sequence: int = 0
    """Decisions taken on this cluster before this one."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that an extender uploads together; stored once, whatever is sent again."""

    v: int = VERSION
    extender: str
    """One life of one extender: pod name (or host) and a random part."""
    sequence: int
    """1, 2, 3 … for each extender."""
    rows: list[DecisionRow]
    dropped: int = 0
    """Decisions that this extender could not keep since it started: its spool was full."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator has on disk of one extender."""

    acknowledged: int
    """Every segment up to this sequence number is stored."""


class ObservationRow(msgspec.Struct, frozen=True, kw_only=True):
    """`nodewise.core.estimator.Observation` on the wire."""

    uid: str
    workload: str
    described: bool
    node_class: str
    run: float
    slowdown: float

    @classmethod
    def of(cls, seen: Observation) -> ObservationRow:
        """As it goes over the wire."""
        return cls(
            uid=seen.uid, workload=seen.workload, described=seen.described, node_class=seen.node_class, run=seen.run,
            slowdown=seen.slowdown,
        )  # fmt: skip

    def observation(self) -> Observation:
        """As it came from there."""
        return Observation(self.uid, self.workload, self.described, self.node_class, self.run, self.slowdown)


class EstimatorState(msgspec.Struct, frozen=True, kw_only=True):
    """`RunTimeEstimator.state()` on the wire; its tables as bytes, for numbers in JSON take long to read."""

    workloads: list[tuple[str, bool]]
    classes: list[str]
    tables: dict[str, bytes]
    """Little-endian float64, row by row."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> EstimatorState:
        """As it goes over the wire."""
        names = [name for name in state if name not in ("workloads", "classes")]
        tables = {name: np.array(state[name], "<f8").tobytes() for name in names}
        return cls(workloads=[(w, d) for w, d in state["workloads"]], classes=state["classes"], tables=tables)

    def state(self) -> dict[str, Any]:
        """What `RunTimeEstimator.restore` reads. Raises ValueError for tables that are none."""
        tables = {name: np.frombuffer(table, "<f8") for name, table in self.tables.items()}
        return {"workloads": self.workloads, "classes": self.classes, **tables}


class PredictorUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What an extender needs to hold the operator's estimator: all of it, or what came after a revision."""

    epoch: str
    """Names one line of revisions; another epoch, or a gap, means that everything is sent again."""
    revision: int
    state: EstimatorState | None = None
    """At `revision`; None where `observations` lead there from the revision asked about."""
    recent: list[str] = []
    """With `state`: uids of the pods learned from last, newest last, so that nobody learns from them again."""
    observations: list[ObservationRow] = []


class PolicyReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one PlacementPolicy fares on one extender."""

    name: str
    uid: str = ""
    """Of the PlacementPolicy, for another may have had its name; empty from extenders that do not tell."""
    generation: int
    """Of the PlacementPolicy that is in force here."""
    mode: str
    policy: str
    digest: str
    refused: str = ""
    """Why its bundle does not decide; empty if it does."""
    decisions: int = 0
    bound_winner: int = 0
    """Pods that were bound to the winner of ours."""
    bound_other: int = 0
    fallbacks: dict[str, int] = {}
    """By reason."""
    neutral: dict[str, int] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an extender says of itself every few seconds; counts are since it started."""

    extender: str
    time_s: float
    policy: str
    digest: str
    refused: str = ""
    placement_policies: list[PolicyReport] = []
    dropped: int = 0
    predictor_revision: int = 0
    ended: bool = False
    """It has ended in order, and this is its last report."""
    observations: list[ObservationRow] = []
    """What this extender saw finish and the operator did not tell of: it was not there, or has not learned it yet."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's reply to a report."""

    known: list[str] = []
    """Uids among the report's observations that were learned from before; the others follow as predictor updates."""
