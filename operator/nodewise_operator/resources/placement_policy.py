"""PlacementPolicy: what Nodewise may do with which pods, and how that goes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from nodewise_operator.resources.base import (
    AGE,
    AS_SET,
    Column,
    Conditions,
    Count,
    LabelSelector,
    Model,
    Name,
    Namespace,
    Percent,
    Resource,
    Rule,
    Sentence,
    Word,
    condition_column,
    list_map,
    rules,
)

Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
Mode = Literal["Advise", "Shadow", "Active", "Off"]


class Weights(Model):
    """How much each part of a pod's cost counts; 1 is as priced, 0 leaves it out, 2 counts it double."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.latency + self.sla + self.energy + self.cost > 0.0",
                "at least one weight must be above 0: with none, every node would be as good as any other",
            )
        )
    )

    latency: Weight = 1.0
    """Weight of delay: the time from a pod's creation to its end."""
    sla: Weight = 1.0
    """Weight of missed deadlines."""
    energy: Weight = 1.0
    """Weight of energy drawn."""
    cost: Weight = 1.0
    """Weight of the price of the nodes used."""


class PlacementPolicySpec(Model):
    """Which pods, what may be done with them, and what decides."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.policy) || !has(self.bundle)",
                "policy and bundle exclude each other: a bundle is a learned policy, so name one of the two",
            ),
            Rule(
                "!has(self.namespaces) || size(self.namespaces) == 0 || !has(self.namespaceSelector)",
                "namespaces and namespaceSelector exclude each other: list namespaces or select them by labels",
            ),
        )
    )

    mode: Mode = "Advise"
    """Advise: watch only, whatever scheduler places the pods. Shadow: decide at each scheduling, and change nothing.
    Active: decide where the pods run. Off: nothing (in YAML "Off" in quotes, or it is read as false)."""
    namespaces: Annotated[list[Namespace], Field(max_length=64, json_schema_extra=AS_SET)] | None = None
    """Only pods of these namespaces; all if neither these nor a namespaceSelector are given."""
    namespace_selector: LabelSelector | None = None
    """Only pods of namespaces with these labels."""
    pod_selector: LabelSelector | None = None
    """Only pods with these labels."""
    policy: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] | None = (
        None
    )
    """Name of the rule that decides, as in `nodewise policies`, or `learned`; what the extenders were started with if
    neither this nor a bundle is named."""
    bundle: Name | None = None
    """Name of the bundle that decides, as the extenders hold it."""
    weights: Weights = Weights()
    """What is optimised."""
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Where several policies select a pod, the highest priority holds, then most conditions, then the first by name."""


class ExtenderStatus(Model):
    """How the policy fares on one extender, as that reported last; counts are since it started."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The extender: pod (or host) and one of its lives."""
    mode: Mode
    """The mode in force there."""
    policy: Word
    """The policy that decides there."""
    digest: Annotated[str, Field(max_length=128)]
    """Identifies exactly what decides."""
    generation: Count
    """The metadata.generation of this object that is in force there."""
    decisions: Count
    """Decisions taken."""
    bound_winner: Count = 0
    """Pods that were bound to the node that won."""
    bound_other: Count = 0
    """Pods that were bound to another node."""
    agreement: Percent | None = None
    """Share of pods that were bound to the node that won; absent before the first."""
    fallbacks: Annotated[dict[str, Count], Field(max_length=32)] | None = None
    """Decisions that the fallback rule took, by reason."""
    neutral: Annotated[dict[str, Count], Field(max_length=32)] | None = None
    """Decisions without an opinion, by reason."""
    refused: Sentence | None = None
    """Why the named policy or bundle does not decide; absent if it does."""
    reported_at: datetime
    """When it last reported."""


class PlacementPolicyStatus(Model):
    """What is in force, and how it goes."""

    observed_generation: Count | None = None
    """The metadata.generation that this was made from."""
    conditions: Conditions | None = None
    """`Ready`: in force as written on every extender; Unknown with reason NotHeard where extenders do not report, as
    without a channel. `Degraded`: something else than was named decides, somewhere. `Stale`: an extender was silent
    for half a minute."""
    policy: Word | None = None
    """What decides; several, with commas, where extenders differ."""
    in_force: Annotated[str, Field(max_length=32)] | None = None
    """How many of the extenders hold this object as it is written, such as 2/2."""
    agreement: Percent | None = None
    """Share of pods that were bound to the node that won, over all extenders."""
    decisions: Count | None = None
    """Decisions taken, over all extenders."""
    fallbacks: Count | None = None
    """Decisions that the fallback rule took, over all extenders."""
    extenders: Annotated[list[ExtenderStatus], Field(max_length=16, json_schema_extra=list_map("name"))] | None = None
    """By extender."""


class PlacementPolicy(Resource):
    """What Nodewise may do with which pods: advise, shadow, active or off, by which policy, and for which objective."""

    plural: ClassVar[str] = "placementpolicies"
    short_names: ClassVar[tuple[str, ...]] = ("ppol",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Mode", ".spec.mode"),
        Column("Policy", ".status.policy", says="what decides"),
        condition_column("Ready"),
        Column("In-force", ".status.inForce", says="extenders that hold it as it is written"),
        Column("Agreement", ".status.agreement", says="pods bound to the node that won"),
        Column("Decisions", ".status.decisions", "integer", wide=True),
        Column("Fallbacks", ".status.fallbacks", "integer", wide=True),
        condition_column("Degraded", wide=True),
        condition_column("Stale", wide=True),
        Column("Priority", ".spec.priority", "integer", wide=True),
        AGE,
    )

    api_version: Literal["nodewise.dev/v1alpha1"] = "nodewise.dev/v1alpha1"
    kind: Literal["PlacementPolicy"] = "PlacementPolicy"
    spec: PlacementPolicySpec
    status: PlacementPolicyStatus | None = None
