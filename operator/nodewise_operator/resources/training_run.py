"""TrainingRun: learn a policy from what this cluster recorded. Nothing acts on one yet, and its status says so."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from nodewise_operator.resources.base import (
    AGE,
    Column,
    Conditions,
    Count,
    Model,
    Name,
    Resource,
    Rule,
    rules,
)
from nodewise_operator.resources.placement_policy import Weights
from nodewise_operator.resources.policy_model import Algorithm, pending

Quantity = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class TrainingData(Model):
    """Which part of the record is learned from; all of it if nothing is given."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.since) || !has(self.until) || self.since < self.until",
                "since must be before until",
            ),
            Rule(
                "!has(self.lastHours) || (!has(self.since) && !has(self.until))",
                "lastHours excludes since and until: give a moving window or a fixed one",
            ),
        )
    )

    since: datetime | None = None
    """Only what happened from then on."""
    until: datetime | None = None
    """Only what happened before."""
    last_hours: Annotated[int, Field(ge=1, le=24 * 366)] | None = None
    """Only the last hours before the run starts."""
    holdout_percent: Annotated[int, Field(ge=5, le=50)] = 20
    """Part of the record, its end, that is kept for judging the result."""


class TrainingResources(Model):
    """What the Job that trains asks for."""

    cpu: Quantity = "2"
    """CPU, as a Kubernetes quantity."""
    memory: Quantity = "4Gi"
    """Memory, as a Kubernetes quantity."""


class TrainingRunSpec(Model):
    """What is learned, from what, and for how long. Immutable, as a Job's template is."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("self == oldSelf", "a TrainingRun cannot be changed: make a new one"),
            Rule(
                "has(self.decisions) || has(self.minutes)",
                "a TrainingRun needs an end: give decisions, minutes or both",
            ),
        )
    )

    algorithm: Algorithm = "PPO"
    """How to learn."""
    data: TrainingData = TrainingData()
    """What to learn from."""
    weights: Weights = Weights()
    """What is optimised, as in a PlacementPolicy."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    """Of everything that is random."""
    decisions: Annotated[int, Field(ge=1, le=10**10)] | None = None
    """Stop after so many decisions: reproducible."""
    minutes: Annotated[int, Field(ge=1, le=7 * 24 * 60)] | None = None
    """Stop after so long."""
    start_from: Name | None = None
    """The PolicyModel to go on from; from the economic rule if none is named."""
    resources: TrainingResources = TrainingResources()
    """What its Job asks for."""


class TrainingRunStatus(Model):
    """How it goes."""

    observed_generation: Count | None = None
    """The metadata.generation that this was made from."""
    conditions: Conditions | None = None
    """`Accepted`: this version of Nodewise acts on it. `Complete`: it has ended, and the reason says how."""
    job: Name | None = None
    """The Job that trains."""
    policy_model: Name | None = None
    """The PolicyModel that came of it."""
    started_at: datetime | None = None
    """When its Job started."""
    ended_at: datetime | None = None
    """When its Job ended."""


class TrainingRun(Resource):
    """Learn a policy from what this cluster recorded. No version acts on it yet: use `nodewise train`."""

    plural: ClassVar[str] = "trainingruns"
    short_names: ClassVar[tuple[str, ...]] = ("trun",)
    namespaced: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Algorithm", ".spec.algorithm"),
        Column("Accepted", '.status.conditions[?(@.type=="Accepted")].status'),
        Column("Reason", '.status.conditions[?(@.type=="Accepted")].reason'),
        Column("Model", ".status.policyModel"),
        Column("Job", ".status.job", wide=True),
        AGE,
    )

    api_version: Literal["nodewise.dev/v1alpha1"] = "nodewise.dev/v1alpha1"
    kind: Literal["TrainingRun"] = "TrainingRun"
    spec: TrainingRunSpec
    status: TrainingRunStatus | None = TrainingRunStatus(
        conditions=[
            pending(
                "Accepted",
                "NotSupported",
                "this version of Nodewise keeps TrainingRuns and does not run them: use `nodewise train`",
                "False",
            )
        ]
    )
